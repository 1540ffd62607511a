//! Approximate search in a large shard: a hierarchical navigable small-world graph (Malkov and Yashunin, 2016).

use std::collections::HashSet;

use usearch::{Index, IndexOptions, MetricKind, ScalarKind};

use crate::LoadError;

/// Neighbours per item.
const CONNECTIVITY: usize = 16;
/// Candidates looked at for an item that is added, and at least for a query.
const EXPANSION: usize = 128;
/// Searches at once.
const SEARCHES: usize = 64;
/// Above this share of excluded items a graph may be cut into pieces that a search does not cross.
const MOST_EXCLUDED: f64 = 0.5;

/// The graph over a shard's vectors.
pub(crate) struct Graph {
    index: Index,
    items: usize,
}

impl Graph {
    /// Adds every vector; about 0.2 ms each.
    pub(crate) fn build(dim: usize, vectors: &[f32]) -> Result<Self, LoadError> {
        let refused = |error: &dyn std::fmt::Display| LoadError::Graph { detail: error.to_string() };
        let options = IndexOptions {
            dimensions: dim,
            metric: MetricKind::IP,
            quantization: ScalarKind::F32,
            connectivity: CONNECTIVITY,
            expansion_add: EXPANSION,
            expansion_search: EXPANSION,
            multi: false,
        };
        let index = Index::new(&options).map_err(|e| refused(&e))?;
        let items = vectors.len() / dim.max(1);
        index.reserve_capacity_and_threads(items, SEARCHES).map_err(|e| refused(&e))?;
        for (row, vector) in (0_u64..).zip(vectors.chunks_exact(dim)) {
            index.add(row, vector).map_err(|e| refused(&e))?;
        }
        Ok(Self { index, items })
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.index.memory_usage() as u64
    }

    /// Rows near the query, in any order; nothing if a graph will not do: too many are excluded for it, no place is free
    /// for another search, or it reaches fewer than there are, as where many vectors are equal.
    #[expect(clippy::cast_precision_loss, reason = "a share")]
    pub(crate) fn search(
        &self,
        query: &[f32],
        depth: usize,
        excluded: &HashSet<u32>,
    ) -> Option<Vec<(u32, f32)>> {
        if excluded.len() as f64 > self.items as f64 * MOST_EXCLUDED {
            return None;
        }
        let allowed = |row: u64| u32::try_from(row).is_ok_and(|row| !excluded.contains(&row));
        let found = if excluded.is_empty() {
            self.index.search(query, depth)
        } else {
            self.index.filtered_search(query, depth, allowed)
        };
        let found = found.inspect_err(|error| tracing::warn!(%error, "the graph did not answer")).ok()?;
        if found.keys.len() < depth.min(self.items.saturating_sub(excluded.len())) {
            return None;
        }
        let rows = found.keys.into_iter().zip(found.distances);
        Some(rows.filter_map(|(row, distance)| Some((u32::try_from(row).ok()?, 1.0 - distance))).collect())
    }
}

impl std::fmt::Debug for Graph {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Graph").field("items", &self.items).finish_non_exhaustive()
    }
}
