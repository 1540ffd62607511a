//! How candidates are found when the caller sends none.

use serde::{Deserialize, Serialize};

/// One way to order the whole catalogue for a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Retriever {
    /// By the inner product with the query's vector.
    Dense,
    /// By BM25 over the version's lexical columns.
    Lexical,
}

/// What a version's candidates come from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RetrievalMode {
    #[default]
    Dense,
    Lexical,
    /// The dense and the lexical list, fused by reciprocal ranks.
    Fused,
}

impl RetrievalMode {
    pub fn reads(self, retriever: Retriever) -> bool {
        match self {
            Self::Dense => retriever == Retriever::Dense,
            Self::Lexical => retriever == Retriever::Lexical,
            Self::Fused => true,
        }
    }
}

/// Where some items stand in the whole catalogue's lists for a query. No shard can know it alone.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Standing {
    /// The best inner product of any item; 0 without a query vector.
    pub dense_top: f32,
    /// The best BM25 of any item; 0 if no item has any of the query's tokens.
    pub lexical_top: f32,
    /// One per item: its rank by inner product, from 1; 0 outside the list.
    pub dense_ranks: Vec<u32>,
    /// One per item: its rank by BM25, from 1; 0 outside the list.
    pub lexical_ranks: Vec<u32>,
}
