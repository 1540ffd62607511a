//! Exact search: every vector is looked at, the best are kept.

use std::{cmp::Ordering, collections::HashSet};

use half::{f16, slice::HalfFloatSliceExt as _};

/// Independent sums, so that the compiler can use whole vector registers.
const LANES: usize = 16;
/// Vectors that are widened together.
const ROWS_AT_ONCE: usize = 16;

/// The inner product of two vectors of equal length. Never −0: the sums begin at +0, so that two products of nothing
/// are a tie under `total_cmp`.
pub(crate) fn dot(left: &[f32], right: &[f32]) -> f32 {
    let (left_chunks, left_rest) = left.as_chunks::<LANES>();
    let (right_chunks, right_rest) = right.as_chunks::<LANES>();
    let mut sums = [0.0_f32; LANES];
    for (a, b) in left_chunks.iter().zip(right_chunks) {
        for lane in 0..LANES {
            sums[lane] += a[lane] * b[lane];
        }
    }
    let rest: f32 = left_rest.iter().zip(right_rest).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f32>() + rest
}

/// Offers the inner product of every vector (row-major, `query.len()` wide) and the query.
pub(crate) fn scan_f32(vectors: &[f32], query: &[f32], best: &mut Best<'_>) {
    best.offer_all(vectors.chunks_exact(query.len()).map(|vector| dot(vector, query)));
}

/// The same of vectors that are stored as f16: half the memory to read.
pub(crate) fn scan_f16(vectors: &[f16], query: &[f32], best: &mut Best<'_>) {
    // A few rows at a time, so that the widened ones stay in the nearest cache. `half` uses the CPU's own conversion.
    let block = query.len() * ROWS_AT_ONCE;
    let mut wide = vec![0.0; block];
    for narrow in vectors.chunks(block) {
        let wide = &mut wide[..narrow.len()];
        narrow.convert_to_f32_slice(wide);
        best.offer_all(wide.chunks_exact(query.len()).map(|vector| dot(vector, query)));
    }
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
        let (query, _) = quantize(query);
        wide_scan(&self.codes, &self.scales, &query, best);
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

/// Written so that the compiler can use whatever registers the caller is compiled for.
#[inline(always)]
fn byte_scan(codes: &[i8], scales: &[f32], query: &[i8], best: &mut Best<'_>) {
    let product = |codes: &[i8]| {
        codes.iter().zip(query).map(|(a, b)| i32::from(i16::from(*a) * i16::from(*b))).sum::<i32>()
    };
    #[expect(clippy::cast_precision_loss, reason = "a coarse score")]
    let scores =
        codes.chunks_exact(query.len()).zip(scales).map(|(codes, scale)| product(codes) as f32 * scale);
    best.offer_all(scores);
}

/// [`byte_scan`] with the widest registers that this CPU has.
fn wide_scan(codes: &[i8], scales: &[f32], query: &[i8], best: &mut Best<'_>) {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
        fn with_avx512(codes: &[i8], scales: &[f32], query: &[i8], best: &mut Best<'_>) {
            byte_scan(codes, scales, query, best);
        }
        #[target_feature(enable = "avx2")]
        fn with_avx2(codes: &[i8], scales: &[f32], query: &[i8], best: &mut Best<'_>) {
            byte_scan(codes, scales, query, best);
        }
        let has_avx512 = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vnni");
        if has_avx512 {
            #[expect(unsafe_code, reason = "the CPU has just been asked for what the function needs")]
            return unsafe { with_avx512(codes, scales, query, best) };
        }
        if is_x86_feature_detected!("avx2") {
            #[expect(unsafe_code, reason = "the CPU has just been asked for what the function needs")]
            return unsafe { with_avx2(codes, scales, query, best) };
        }
    }
    byte_scan(codes, scales, query, best);
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

    #[inline(always)]
    fn offer_all(&mut self, scores: impl Iterator<Item = f32>) {
        for score in scores {
            if score > self.threshold {
                self.keep(score);
            }
            self.next_row += 1;
        }
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
        fn bytes_score_the_same_with_and_without_wide_registers(
            dim in 1_usize..70, codes in prop::collection::vec(-127_i8..=127, 0..800),
            query in prop::collection::vec(-127_i8..=127, 70),
        ) {
            let (scales, nothing) = (vec![0.5; codes.len() / dim], HashSet::new());
            let codes = &codes[..codes.len() / dim * dim];
            let [mut wide, mut narrow] = [(); 2].map(|()| Best::new(10, &nothing));
            wide_scan(codes, &scales, &query[..dim], &mut wide);
            byte_scan(codes, &scales, &query[..dim], &mut narrow);
            prop_assert_eq!(wide.into_ordered(), narrow.into_ordered());
        }
    }
}
