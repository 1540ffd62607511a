//! How a shard finds its nearest vectors: exactly as f32, or first in a smaller form or a graph and then exactly among
//! what that found. Similarities are those of the f32 vectors whatever found them.

use std::collections::HashSet;

use endcap_bundle::{Precision, Vectors};

use crate::{LoadError, graph::Graph, scan};

/// A coarse search brings this many times what is wanted, for the exact one to choose from.
const OVERSAMPLING: usize = 2;

/// How vectors are searched.
#[derive(Debug, Clone, Copy)]
pub struct VectorOptions {
    pub precision: Precision,
    /// Items from which a graph is built.
    pub graph_min_items: usize,
}

/// The vectors of a shard.
#[derive(Debug)]
pub struct VectorIndex {
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
    Graph(Graph),
}

impl VectorIndex {
    /// Builds what the vectors are searched with. A graph takes a while.
    pub fn build(vectors: Vectors, options: VectorOptions) -> Result<Self, LoadError> {
        let Vectors { dim, data } = vectors;
        let items = data.len() / dim.max(1);
        let coarse = match options.precision {
            _ if items >= options.graph_min_items => Coarse::Graph(Graph::build(dim, &data)?),
            Precision::F32 => Coarse::Exact,
            Precision::F16 => Coarse::Half(data.iter().map(|value| half_of(*value)).collect()),
            Precision::Int8 => Coarse::Int8(scan::Quantized::of(&data, dim)),
        };
        Ok(Self { dim, vectors: data, coarse })
    }

    pub fn dim(&self) -> usize {
        self.dim
    }

    /// What it takes.
    pub fn bytes(&self) -> u64 {
        let coarse = match &self.coarse {
            Coarse::Exact => 0,
            Coarse::Half(values) => values.len() as u64 * 2,
            Coarse::Int8(quantized) => quantized.bytes(),
            Coarse::Graph(graph) => graph.bytes(),
        };
        self.vectors.len() as u64 * 4 + coarse
    }

    /// Inner product of a row and `vector`, which must be [`VectorIndex::dim`] long.
    pub fn similarity(&self, row: u32, vector: &[f32]) -> f32 {
        let start = row as usize * self.dim;
        scan::dot(&self.vectors[start..start + self.dim], vector)
    }

    /// The `depth` rows with the largest inner product, best first, equal ones in the order of rows. Excluded ones don't
    /// count.
    pub fn top(&self, query: &[f32], depth: usize, excluded: &HashSet<u32>) -> Vec<(u32, f32)> {
        if query.is_empty() || depth == 0 || self.vectors.is_empty() {
            return Vec::new();
        }
        let mut coarse = scan::Best::new(depth.saturating_mul(OVERSAMPLING), excluded);
        let coarse = match &self.coarse {
            Coarse::Exact => return self.exact(query, depth, excluded),
            Coarse::Half(values) => {
                scan::scan_f16(values, query, &mut coarse);
                coarse.into_ordered()
            }
            Coarse::Int8(quantized) => {
                quantized.scan(query, &mut coarse);
                coarse.into_ordered()
            }
            Coarse::Graph(graph) => match graph.search(query, depth.saturating_mul(OVERSAMPLING), excluded) {
                Some(found) => found,
                None => return self.exact(query, depth, excluded),
            },
        };
        let exactly = coarse.into_iter().map(|(row, _)| (row, self.similarity(row, query)));
        scan::ordered(exactly.collect(), depth)
    }

    fn exact(&self, query: &[f32], depth: usize, excluded: &HashSet<u32>) -> Vec<(u32, f32)> {
        let mut best = scan::Best::new(depth, excluded);
        scan::scan_f32(&self.vectors, query, &mut best);
        best.into_ordered()
    }
}

/// The nearest f16 that is a number: an infinite one would be found by no query.
fn half_of(value: f32) -> half::f16 {
    half::f16::from_f32(value.clamp(half::f16::MIN.to_f32(), half::f16::MAX.to_f32()))
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

    fn index(items: usize, precision: Precision, graph_min_items: usize) -> VectorIndex {
        VectorIndex::build(vectors(items), VectorOptions { precision, graph_min_items }).unwrap()
    }

    /// The share of the exact best hundred that is found, over some items as queries; every third item is excluded in
    /// the second half of them. What is found must have its exact similarity.
    fn recall(items: usize, found: &VectorIndex) -> f64 {
        let exact = index(items, Precision::F32, usize::MAX);
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
    fn numbers_too_large_for_f16_are_found_all_the_same() {
        let data = vec![1.0, 0.0, 100_000.0, 0.0, -100_000.0, 1.0];
        let options = VectorOptions { precision: Precision::F16, graph_min_items: usize::MAX };
        let index = VectorIndex::build(Vectors { dim: 2, data }, options).unwrap();
        let found = index.top(&[1.0, 0.0], 3, &HashSet::new());
        assert_eq!(found, [(1, 100_000.0), (0, 1.0), (2, -100_000.0)]);
    }

    #[test]
    fn smaller_numbers_find_nearly_the_same_items() {
        let half = recall(6_000, &index(6_000, Precision::F16, usize::MAX));
        assert!(half >= 0.999, "f16: {half}");
        let bytes = recall(6_000, &index(6_000, Precision::Int8, usize::MAX));
        assert!(bytes >= 0.99, "int8: {bytes}");
    }

    #[test]
    fn a_graph_finds_nearly_the_same_items_and_no_excluded_one() {
        let graph = index(6_000, Precision::F32, 6_000);
        assert!(matches!(graph.coarse, Coarse::Graph(_)));
        let found = recall(6_000, &graph);
        assert!(found >= 0.97, "{found}");
    }

    #[test]
    fn a_graph_that_is_nearly_all_excluded_still_finds_what_is_left() {
        let graph = index(2_000, Precision::F32, 1);
        let query = vectors(2_000).data[..DIM].to_vec();
        let excluded: HashSet<u32> = (0..1_990).collect();
        let rows: HashSet<u32> = graph.top(&query, 100, &excluded).into_iter().map(|(row, _)| row).collect();
        assert_eq!(rows, (1_990..2_000).collect());
    }
}
