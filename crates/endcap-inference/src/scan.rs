//! Exact search: every vector is looked at, the best are kept.

#[cfg(target_arch = "x86_64")]
mod avx2;

use std::{cmp::Ordering, collections::HashSet};

use half::f16;

/// Independent sums, so that whole vector registers can be used.
const LANES: usize = 16;

/// The inner product of two vectors of equal length. Never −0: the sums begin at +0, so that two products of nothing
/// are a tie under `total_cmp`.
pub(crate) fn dot(left: &[f32], right: &[f32]) -> f32 {
    product(left, right, |value| value)
}

/// The inner product with a vector whose numbers are to be widened.
#[inline]
fn product<T: Copy>(narrow: &[T], right: &[f32], widen: impl Fn(T) -> f32) -> f32 {
    let ((narrow, narrow_rest), (right, right_rest)) =
        (narrow.as_chunks::<LANES>(), right.as_chunks::<LANES>());
    let mut sums = [0.0_f32; LANES];
    for (a, b) in narrow.iter().zip(right) {
        for lane in 0..LANES {
            sums[lane] += widen(a[lane]) * b[lane];
        }
    }
    // By halves, which takes four additions one after another instead of sixteen.
    for half in [8, 4, 2, 1] {
        for lane in 0..half {
            sums[lane] += sums[lane + half];
        }
    }
    sums[0] + rest(narrow_rest, right_rest, widen)
}

/// What is left of two vectors after the last full register.
#[inline]
fn rest<T: Copy>(narrow: &[T], right: &[f32], widen: impl Fn(T) -> f32) -> f32 {
    narrow.iter().zip(right).map(|(a, b)| widen(*a) * b).sum()
}

/// Offers the inner product of every vector (row-major, `query.len()` wide) and the query.
pub(crate) fn scan_f32(vectors: &[f32], query: &[f32], best: &mut Best<'_>) {
    #[cfg(target_arch = "x86_64")]
    if avx2::is_here() {
        #[expect(unsafe_code, reason = "the CPU has just been asked")]
        return unsafe { avx2::scan_f32(vectors, query, best) };
    }
    scan_f32_anywhere(vectors, query, best);
}

fn scan_f32_anywhere(vectors: &[f32], query: &[f32], best: &mut Best<'_>) {
    for vector in vectors.chunks_exact(query.len()) {
        best.offer(dot(vector, query));
    }
}

/// The same of vectors that are stored as f16: half the memory to read.
pub(crate) fn scan_f16(vectors: &[f16], query: &[f32], best: &mut Best<'_>) {
    #[cfg(target_arch = "x86_64")]
    if avx2::is_here() {
        #[expect(unsafe_code, reason = "the CPU has just been asked")]
        return unsafe { avx2::scan_f16(vectors, query, best) };
    }
    scan_f16_anywhere(vectors, query, best);
}

fn scan_f16_anywhere(vectors: &[f16], query: &[f32], best: &mut Best<'_>) {
    for vector in vectors.chunks_exact(query.len()) {
        best.offer(product(vector, query, widen));
    }
}

/// A finite number as f32, without a branch, so that many are widened at once: exponent and fraction are where those of
/// an f32 are, and the exponent counts from another zero.
#[inline]
fn widen(narrow: f16) -> f32 {
    /// 2^(127 − 15).
    const EXPONENTS: f32 = f32::from_bits((127 + 127 - 15) << 23);
    let bits = u32::from(narrow.to_bits());
    let size = f32::from_bits((bits & 0x7fff) << 13) * EXPONENTS;
    f32::from_bits(size.to_bits() | (bits & 0x8000) << 16)
}

/// Vectors as bytes, each with its own scale: a quarter of the memory to read.
#[derive(Debug)]
pub(crate) struct Quantized {
    codes: Vec<i8>,
    scales: Vec<f32>,
}

impl Quantized {
    pub(crate) fn of(vectors: &[f32], dim: usize) -> Self {
        let mut quantized = Self { codes: Vec::with_capacity(vectors.len()), scales: Vec::new() };
        for vector in vectors.chunks_exact(dim.max(1)) {
            let (codes, scale) = quantize(vector);
            quantized.codes.extend(codes);
            quantized.scales.push(scale);
        }
        quantized
    }

    /// Offers nearly the inner products with the query, up to one factor for all.
    pub(crate) fn scan(&self, query: &[f32], best: &mut Best<'_>) {
        scan_bytes(&self.codes, &self.scales, &query_codes(query), best);
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.codes.len() as u64 + self.scales.len() as u64 * 4
    }
}

#[expect(clippy::cast_possible_truncation, reason = "rounded to -127 to 127")]
fn quantize(vector: &[f32]) -> (Vec<i8>, f32) {
    let largest = vector.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
    let scale = largest / 127.0;
    let code = |value: &f32| if scale > 0.0 { (value / scale).round() as i8 } else { 0 };
    (vector.iter().map(code).collect(), scale)
}

/// The codes of a query, already as wide as their products are.
fn query_codes(query: &[f32]) -> Vec<i16> {
    quantize(query).0.into_iter().map(i16::from).collect()
}

fn scan_bytes(codes: &[i8], scales: &[f32], query: &[i16], best: &mut Best<'_>) {
    #[cfg(target_arch = "x86_64")]
    if avx2::is_here() {
        #[expect(unsafe_code, reason = "the CPU has just been asked")]
        return unsafe { avx2::scan_bytes(codes, scales, query, best) };
    }
    scan_bytes_anywhere(codes, scales, query, best);
}

fn scan_bytes_anywhere(codes: &[i8], scales: &[f32], query: &[i16], best: &mut Best<'_>) {
    for (codes, scale) in codes.chunks_exact(query.len()).zip(scales) {
        #[expect(clippy::cast_precision_loss, reason = "a coarse score")]
        best.offer(rest_of_bytes(codes, query) as f32 * scale);
    }
}

#[inline]
fn rest_of_bytes(codes: &[i8], query: &[i16]) -> i32 {
    codes.iter().zip(query).map(|(a, b)| i32::from(i16::from(*a) * *b)).sum()
}

/// The `depth` best rows of scores that are offered in the order of rows, in little memory: what cannot be among them any
/// more costs one comparison.
#[derive(Debug)]
pub(crate) struct Best<'a> {
    depth: usize,
    excluded: &'a HashSet<u32>,
    next_row: u32,
    /// At most twice `depth`; those beyond it are cut off when it is full.
    found: Vec<(u32, f32)>,
    /// Below or at this, later rows are not among the best: equal ones that came before stand before them.
    threshold: f32,
}

impl<'a> Best<'a> {
    pub(crate) fn new(depth: usize, excluded: &'a HashSet<u32>) -> Self {
        let threshold = if depth == 0 { f32::INFINITY } else { f32::NEG_INFINITY };
        Self { depth, excluded, next_row: 0, found: Vec::new(), threshold }
    }

    /// The score of the next row.
    #[inline(always)]
    fn offer(&mut self, score: f32) {
        if score > self.threshold {
            self.keep(score);
        }
        self.next_row += 1;
    }

    #[inline(never)]
    fn keep(&mut self, score: f32) {
        if self.excluded.contains(&self.next_row) {
            return;
        }
        self.found.push((self.next_row, score));
        if self.found.len() >= self.depth.saturating_mul(2) {
            self.found.select_nth_unstable_by(self.depth - 1, better);
            self.found.truncate(self.depth);
            self.threshold = self.found[self.depth - 1].1;
        }
    }

    /// Best first, equal ones in the order of rows.
    pub(crate) fn into_ordered(self) -> Vec<(u32, f32)> {
        ordered(self.found, self.depth)
    }
}

/// The `depth` best, best first, equal ones in the order of rows.
pub(crate) fn ordered(mut found: Vec<(u32, f32)>, depth: usize) -> Vec<(u32, f32)> {
    if depth == 0 {
        return Vec::new();
    }
    if found.len() > depth {
        found.select_nth_unstable_by(depth - 1, better);
        found.truncate(depth);
    }
    found.sort_unstable_by(better);
    found
}

pub(crate) fn better(left: &(u32, f32), right: &(u32, f32)) -> Ordering {
    right.1.total_cmp(&left.1).then(left.0.cmp(&right.0))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_best_equal_sorting_everything(
            dim in 1_usize..40,
            depth in 0_usize..30,
            // Few distinct values, so that ties are frequent.
            values in prop::collection::vec(-2_i8..3, 0..600),
            query in prop::collection::vec(-2_i8..3, 40),
        ) {
            let query: Vec<f32> = query[..dim].iter().map(|v| f32::from(*v)).collect();
            let vectors: Vec<f32> = values[..values.len() / dim * dim].iter().map(|v| f32::from(*v)).collect();
            // A fold from +0, because `sum` begins at −0.
            let product = |v: &[f32]| v.iter().zip(&query).fold(0.0, |sum, (a, b)| sum + a * b);
            let mut oracle: Vec<(u32, f32)> = (0..).zip(vectors.chunks_exact(dim).map(product)).collect();
            let excluded: HashSet<u32> = (0..40).step_by(3).collect();
            oracle.retain(|(row, _)| !excluded.contains(row));
            oracle.sort_by(better);
            oracle.truncate(depth);
            let mut best = Best::new(depth, &excluded);
            scan_f32(&vectors, &query, &mut best);
            prop_assert_eq!(&best.into_ordered(), &oracle);

            // Numbers this small are the same as f16.
            let halves: Vec<f16> = vectors.iter().map(|value| f16::from_f32(*value)).collect();
            let mut best = Best::new(depth, &excluded);
            scan_f16(&halves, &query, &mut best);
            prop_assert_eq!(best.into_ordered(), oracle);
        }

        #[test]
        fn scores_are_the_same_bits_with_and_without_wide_registers(
            dim in 1_usize..70, values in prop::collection::vec(-2.0_f32..2.0, 0..800),
            query in prop::collection::vec(-2.0_f32..2.0, 70),
        ) {
            let (query, nothing) = (&query[..dim], HashSet::new());
            let values = &values[..values.len() / dim * dim];
            let found = |scan: &dyn Fn(&mut Best<'_>)| {
                let mut best = Best::new(10, &nothing);
                scan(&mut best);
                let bits = |(row, score): (u32, f32)| (row, score.to_bits());
                best.into_ordered().into_iter().map(bits).collect::<Vec<_>>()
            };
            let narrow = found(&|best| scan_f32_anywhere(values, query, best));
            prop_assert_eq!(found(&|best| scan_f32(values, query, best)), narrow);

            let halves: Vec<f16> = values.iter().map(|value| f16::from_f32(*value)).collect();
            let narrow = found(&|best| scan_f16_anywhere(&halves, query, best));
            prop_assert_eq!(found(&|best| scan_f16(&halves, query, best)), narrow);

            let Quantized { codes, scales } = Quantized::of(values, dim);
            let query = query_codes(query);
            let narrow = found(&|best| scan_bytes_anywhere(&codes, &scales, &query, best));
            prop_assert_eq!(found(&|best| scan_bytes(&codes, &scales, &query, best)), narrow);
        }
    }

    #[test]
    fn every_finite_half_is_widened_as_its_library_does() {
        for narrow in (0..=u16::MAX).map(f16::from_bits).filter(|narrow| narrow.is_finite()) {
            assert_eq!(widen(narrow).to_bits(), narrow.to_f32().to_bits(), "{narrow}");
        }
    }
}
