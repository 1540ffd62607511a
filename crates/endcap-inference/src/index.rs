//! How a shard finds its nearest vectors: exactly as f32, or first in a smaller form and then exactly among what that
//! found. Similarities are those of the f32 vectors whatever found them.

use std::collections::HashSet;

use endcap_bundle::{Precision, Vectors};

use crate::scan;

/// A coarse search brings this many times what is wanted, for the exact one to choose from.
const OVERSAMPLING: usize = 2;

/// The vectors of a shard.
#[derive(Debug)]
pub(crate) struct VectorIndex {
    dim: usize,
    /// Row-major.
    vectors: Vec<f32>,
    coarse: Coarse,
}

#[derive(Debug)]
enum Coarse {
    /// None: every f32 is looked at.
    Exact,
    Half(Vec<half::f16>),
    Int8(scan::Quantized),
}

impl VectorIndex {
    /// Makes what the vectors are searched with.
    pub(crate) fn new(vectors: Vectors, precision: Precision) -> Self {
        let Vectors { dim, data } = vectors;
        let coarse = match precision {
            Precision::F32 => Coarse::Exact,
            Precision::F16 => Coarse::Half(data.iter().map(|value| half::f16::from_f32(*value)).collect()),
            Precision::Int8 => Coarse::Int8(scan::Quantized::of(&data, dim)),
        };
        Self { dim, vectors: data, coarse }
    }

    pub(crate) fn dim(&self) -> usize {
        self.dim
    }

    /// What it takes.
    pub(crate) fn bytes(&self) -> u64 {
        let coarse = match &self.coarse {
            Coarse::Exact => 0,
            Coarse::Half(values) => values.len() as u64 * 2,
            Coarse::Int8(quantized) => quantized.bytes(),
        };
        self.vectors.len() as u64 * 4 + coarse
    }

    /// Inner product of a row and `vector`, which must be [`VectorIndex::dim`] long.
    pub(crate) fn similarity(&self, row: u32, vector: &[f32]) -> f32 {
        let start = row as usize * self.dim;
        scan::dot(&self.vectors[start..start + self.dim], vector)
    }

    /// The `depth` rows with the largest inner product, best first, equal ones in the order of rows. Excluded ones don't
    /// count.
    pub(crate) fn top(&self, query: &[f32], depth: usize, excluded: &HashSet<u32>) -> Vec<(u32, f32)> {
        if query.is_empty() || depth == 0 || self.vectors.is_empty() {
            return Vec::new();
        }
        let wanted = depth.saturating_mul(OVERSAMPLING);
        let exact = || scan::best(scan::scores(&self.vectors, query), depth, excluded);
        let coarse = match &self.coarse {
            Coarse::Exact => return exact(),
            Coarse::Half(values) => scan::best(scan::scores_f16(values, query), wanted, excluded),
            Coarse::Int8(quantized) => scan::best(quantized.scores(query), wanted, excluded),
        };
        let exactly = coarse.into_iter().map(|(row, _)| (row, self.similarity(row, query)));
        scan::ordered(exactly.collect(), depth)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIM: usize = 48;

    /// Unit vectors around a few centres, so that neighbours are near and ranks not arbitrary.
    fn vectors(items: usize) -> Vectors {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            f32::from(u16::try_from(state >> 48).unwrap()) / 32_768.0 - 1.0
        };
        let centres: Vec<f32> = (0..64 * DIM).map(|_| next()).collect();
        let mut data = Vec::with_capacity(items * DIM);
        for item in 0..items {
            let centre = &centres[item % 64 * DIM..][..DIM];
            let row: Vec<f32> = centre.iter().map(|value| value + next()).collect();
            let norm = row.iter().map(|value| value * value).sum::<f32>().sqrt();
            data.extend(row.iter().map(|value| value / norm));
        }
        Vectors { dim: DIM, data }
    }

    fn index(items: usize, precision: Precision) -> VectorIndex {
        VectorIndex::new(vectors(items), precision)
    }

    /// The share of the exact best hundred that is found, over some items as queries; every third item is excluded in
    /// the second half of them. What is found must have its exact similarity.
    fn recall(items: usize, found: &VectorIndex) -> f64 {
        let exact = index(items, Precision::F32);
        let third: HashSet<u32> = (0..u32::try_from(items).unwrap()).step_by(3).collect();
        let (mut hits, mut of) = (0, 0);
        for (i, query) in exact.vectors.chunks_exact(DIM).step_by(items / 20).enumerate() {
            let none = HashSet::new();
            let excluded = if i % 2 == 0 { &none } else { &third };
            let expected = exact.top(query, 100, excluded);
            let found = found.top(query, 100, excluded);
            assert_eq!(found.len(), 100);
            assert!(found.iter().all(|(row, _)| !excluded.contains(row)), "an excluded item was found");
            assert!(found.iter().all(|(row, score)| *score == exact.similarity(*row, query)));
            of += expected.len();
            hits += expected.iter().filter(|item| found.contains(item)).count();
        }
        f64::from(u32::try_from(hits).unwrap()) / f64::from(u32::try_from(of).unwrap())
    }

    #[test]
    fn smaller_numbers_find_nearly_the_same_items() {
        let half = recall(6_000, &index(6_000, Precision::F16));
        assert!(half >= 0.999, "f16: {half}");
        let bytes = recall(6_000, &index(6_000, Precision::Int8));
        assert!(bytes >= 0.99, "int8: {bytes}");
    }
}
