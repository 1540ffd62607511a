//! The scans with the registers of AVX2, by hand: left to itself the compiler spends more on the sum of a short vector than
//! on its products. Wider registers are no faster, since memory is what a scan waits for. Nothing is added in another order
//! than by [`super::product`], and no multiplication joined with an addition, so that scores are the same bits.

use std::arch::x86_64::{
    __m256, __m256i, _mm_add_epi32, _mm_add_ps, _mm_add_ss, _mm_cvtsi128_si32, _mm_cvtss_f32,
    _mm_loadu_si128, _mm_movehl_ps, _mm_shuffle_epi32, _mm_shuffle_ps, _mm_unpackhi_epi64, _mm256_add_epi32,
    _mm256_add_ps, _mm256_castps256_ps128, _mm256_castsi256_si128, _mm256_cvtepi8_epi16, _mm256_cvtph_ps,
    _mm256_extractf128_ps, _mm256_extracti128_si256, _mm256_loadu_ps, _mm256_loadu_si256, _mm256_madd_epi16,
    _mm256_mul_ps, _mm256_setzero_ps, _mm256_setzero_si256,
};

use half::f16;

use super::{Best, LANES, rest, rest_of_bytes, widen};

/// Whether this CPU has what the functions below need.
pub(super) fn is_here() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("f16c")
}

#[target_feature(enable = "avx2,f16c")]
pub(super) fn scan_f32(vectors: &[f32], query: &[f32], best: &mut Best<'_>) {
    for vector in vectors.chunks_exact(query.len()) {
        best.offer(dot_f32(vector, query));
    }
}

#[target_feature(enable = "avx2,f16c")]
pub(super) fn scan_f16(vectors: &[f16], query: &[f32], best: &mut Best<'_>) {
    for vector in vectors.chunks_exact(query.len()) {
        best.offer(dot_f16(vector, query));
    }
}

#[target_feature(enable = "avx2,f16c")]
pub(super) fn scan_bytes(codes: &[i8], scales: &[f32], query: &[i16], best: &mut Best<'_>) {
    for (codes, scale) in codes.chunks_exact(query.len()).zip(scales) {
        #[expect(clippy::cast_precision_loss, reason = "a coarse score")]
        best.offer(dot_bytes(codes, query) as f32 * scale);
    }
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
fn dot_f32(vector: &[f32], query: &[f32]) -> f32 {
    let ((vector, vector_rest), (query, query_rest)) =
        (vector.as_chunks::<LANES>(), query.as_chunks::<LANES>());
    let (mut low, mut high) = (_mm256_setzero_ps(), _mm256_setzero_ps());
    for (vector, query) in vector.iter().zip(query) {
        let ([a, b], [c, d]) = (load(vector), load(query));
        low = _mm256_add_ps(low, _mm256_mul_ps(a, c));
        high = _mm256_add_ps(high, _mm256_mul_ps(b, d));
    }
    sum(low, high) + rest(vector_rest, query_rest, |value| value)
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
fn dot_f16(vector: &[f16], query: &[f32]) -> f32 {
    let ((vector, vector_rest), (query, query_rest)) =
        (vector.as_chunks::<LANES>(), query.as_chunks::<LANES>());
    let (mut low, mut high) = (_mm256_setzero_ps(), _mm256_setzero_ps());
    for (vector, query) in vector.iter().zip(query) {
        let ([a, b], [c, d]) = (load_wide(vector), load(query));
        low = _mm256_add_ps(low, _mm256_mul_ps(a, c));
        high = _mm256_add_ps(high, _mm256_mul_ps(b, d));
    }
    sum(low, high) + rest(vector_rest, query_rest, widen)
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
fn dot_bytes(codes: &[i8], query: &[i16]) -> i32 {
    let ((codes, codes_rest), (query, query_rest)) = (codes.as_chunks::<LANES>(), query.as_chunks::<LANES>());
    let mut sums = _mm256_setzero_si256();
    for (codes, query) in codes.iter().zip(query) {
        let (codes, query) = load_bytes(codes, query);
        sums = _mm256_add_epi32(sums, _mm256_madd_epi16(codes, query));
    }
    let four = _mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1));
    let two = _mm_add_epi32(four, _mm_unpackhi_epi64(four, four));
    _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32(two, 1))) + rest_of_bytes(codes_rest, query_rest)
}

/// By halves.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn sum(low: __m256, high: __m256) -> f32 {
    let eight = _mm256_add_ps(low, high);
    let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)))
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
#[expect(unsafe_code, reason = "sixteen numbers are there, in two times eight")]
fn load(values: &[f32; LANES]) -> [__m256; 2] {
    let first = values.as_ptr();
    unsafe { [_mm256_loadu_ps(first), _mm256_loadu_ps(first.add(LANES / 2))] }
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
#[expect(unsafe_code, reason = "sixteen numbers are there, in two times eight")]
fn load_wide(values: &[f16; LANES]) -> [__m256; 2] {
    let first = values.as_ptr();
    let halves = unsafe { [_mm_loadu_si128(first.cast()), _mm_loadu_si128(first.add(LANES / 2).cast())] };
    [_mm256_cvtph_ps(halves[0]), _mm256_cvtph_ps(halves[1])]
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
#[expect(unsafe_code, reason = "sixteen numbers are there in each")]
fn load_bytes(codes: &[i8; LANES], query: &[i16; LANES]) -> (__m256i, __m256i) {
    let codes = unsafe { _mm_loadu_si128(codes.as_ptr().cast()) };
    (_mm256_cvtepi8_epi16(codes), unsafe { _mm256_loadu_si256(query.as_ptr().cast()) })
}
