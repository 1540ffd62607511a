//! Exact search: every vector is looked at, the best are kept.

use std::cmp::Ordering;

/// Independent sums, so that the compiler can use whole vector registers.
const LANES: usize = 16;

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

/// The `depth` rows of `vectors` (row-major, `query.len()` wide) with the largest inner product, best first. Equal
/// ones in the order of rows.
pub(crate) fn top(vectors: &[f32], query: &[f32], depth: usize) -> Vec<(u32, f32)> {
    if query.is_empty() || depth == 0 {
        return Vec::new();
    }
    let scores = vectors.chunks_exact(query.len()).map(|vector| dot(vector, query));
    let mut found: Vec<(u32, f32)> = (0_u32..).zip(scores).collect();
    if found.len() > depth {
        found.select_nth_unstable_by(depth - 1, better);
        found.truncate(depth);
    }
    found.sort_unstable_by(better);
    found
}

fn better(left: &(u32, f32), right: &(u32, f32)) -> Ordering {
    right.1.total_cmp(&left.1).then(left.0.cmp(&right.0))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn top_equals_sorting_everything(
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
            oracle.sort_by(better);
            oracle.truncate(depth);
            prop_assert_eq!(top(&vectors, &query, depth), oracle);
        }
    }
}
