//! Features: what a ranker reads, by name.

use std::{fmt, str::FromStr, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::Retriever;

/// Where a feature's value comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Namespace {
    /// A column of the shard files.
    Item,
    /// The feature-cache, by user id.
    User,
    /// The feature-cache, by session id.
    Session,
    /// Computed from the query alone.
    Query,
    /// Sent by the caller.
    Context,
    /// Computed on the shard for a query and an item.
    Match,
}

impl Namespace {
    pub const ALL: [Self; 6] =
        [Self::Item, Self::User, Self::Session, Self::Query, Self::Context, Self::Match];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Item => "item",
            Self::User => "user",
            Self::Session => "session",
            Self::Query => "query",
            Self::Context => "context",
            Self::Match => "match",
        }
    }
}

/// Why a feature name was refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "a feature name is item., user., session., query., context. or match. and then a-z, 0-9 and '_'; found {found:?}"
)]
pub struct FeatureNameError {
    pub found: String,
}

/// A full feature name, e.g. `item.rating`. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct FeatureName {
    namespace: Namespace,
    full: Arc<str>,
}

impl FeatureName {
    pub fn namespace(&self) -> Namespace {
        self.namespace
    }

    pub fn as_str(&self) -> &str {
        &self.full
    }

    /// The part after the namespace: for `item.*` the column's name.
    pub fn local(&self) -> &str {
        &self.full[self.namespace.as_str().len() + 1..]
    }
}

impl FromStr for FeatureName {
    type Err = FeatureNameError;

    fn from_str(text: &str) -> Result<Self, FeatureNameError> {
        let refused = || FeatureNameError { found: text.chars().take(80).collect() };
        let (space, local) = text.split_once('.').ok_or_else(refused)?;
        let namespace = Namespace::ALL.into_iter().find(|n| n.as_str() == space).ok_or_else(refused)?;
        let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        if local.is_empty() || local.len() > 100 || !local.chars().all(legal) {
            return Err(refused());
        }
        Ok(Self { namespace, full: text.into() })
    }
}

impl TryFrom<String> for FeatureName {
    type Error = FeatureNameError;

    fn try_from(text: String) -> Result<Self, FeatureNameError> {
        text.parse()
    }
}

impl From<FeatureName> for String {
    fn from(name: FeatureName) -> Self {
        name.full.to_string()
    }
}

impl fmt::Display for FeatureName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.full)
    }
}

/// Element type of a feature and of a model's tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DType {
    F32,
    I64,
}

/// A feature's numbers, row-major over its shape.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum FeatureValue {
    // Integers first: serde tries the variants in order, and every integer would also read as a float.
    I64(Vec<i64>),
    F32(Vec<f32>),
}

impl FeatureValue {
    pub fn dtype(&self) -> DType {
        match self {
            Self::I64(_) => DType::I64,
            Self::F32(_) => DType::F32,
        }
    }

    pub fn len(&self) -> usize {
        match self {
            Self::I64(values) => values.len(),
            Self::F32(values) => values.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The same numbers as `dtype`: integers widen to floats, floats never narrow to integers.
    pub fn into_dtype(self, dtype: DType) -> Option<Self> {
        match (self, dtype) {
            (value @ Self::F32(_), DType::F32) | (value @ Self::I64(_), DType::I64) => Some(value),
            #[expect(clippy::cast_precision_loss, reason = "a declared f32 feature has f32 precision")]
            (Self::I64(values), DType::F32) => {
                Some(Self::F32(values.into_iter().map(|v| v as f32).collect()))
            }
            (Self::F32(values), DType::I64) if values.is_empty() => Some(Self::I64(Vec::new())),
            (Self::F32(_), DType::I64) => None,
        }
    }
}

/// One entry of a bundle's feature schema.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FeatureSpec {
    pub name: FeatureName,
    pub dtype: DType,
    /// Numbers per value; 1 for a scalar.
    #[serde(default = "scalar")]
    pub width: usize,
    /// Used when the value is missing; `width` numbers.
    pub default: FeatureValue,
    /// How long a cached value may be used, in seconds; for `user.*` and `session.*`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_s: Option<u64>,
    /// How the shard computes it; required for `match.*` and `query.*`, absent for all others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compute: Option<Compute>,
}

fn scalar() -> usize {
    1
}

impl FeatureSpec {
    pub fn ttl(&self) -> Option<Duration> {
        self.ttl_s.map(Duration::from_secs)
    }
}

/// The closed set of features that a shard computes itself. Tokens are the lower-cased runs of `[a-z0-9]`; several
/// columns are read as one text, in their order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Compute {
    /// `match`: cosine of the query vector and the item vector, 0 without a query vector.
    VectorScore,
    /// `match`: distinct query tokens found in an item text column.
    TokenOverlap { column: String },
    /// `match`: the share of the distinct query tokens that is found in the columns; 0 without tokens.
    TokenShare { columns: Vec<String> },
    /// `match`: the same with each token weighted by its idf in the columns. A token that no item of the catalogue has
    /// weighs `unknown_idf`, or if that is absent what Lucene's formula gives it.
    IdfShare {
        columns: Vec<String>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        unknown_idf: Option<f64>,
    },
    /// `match`: the share of the query's pairs of neighbouring tokens that occur in the column, as text: its tokens
    /// joined by spaces hold the pair's two joined by a space. 0 with fewer than two tokens.
    BigramShare { column: String },
    /// `match`: distinct query tokens found in none of the item text columns.
    MissingTokens { columns: Vec<String> },
    /// `match`: distinct tokens after "without", "no" or "not" in the query that an item text column has.
    NegatedOverlap { columns: Vec<String> },
    /// `match`: BM25 of the query and the columns, with the statistics of the whole catalogue.
    Bm25 { columns: Vec<String> },
    /// `match`: 1 / rank in the whole catalogue's list, from 1; 0 for items beyond `depth`.
    ReciprocalRank { list: Retriever, depth: u32 },
    /// `match`: `k` times the sum of 1 / (`k` + rank) over both of the whole catalogue's lists, each cut at `depth`.
    ReciprocalRankFusion { k: u32, depth: u32 },
    /// `match`: the item's vector score less the best one in the whole catalogue.
    VectorBelowTop,
    /// `match`: the item's BM25 over the version's lexical columns as a share of the best one in the whole catalogue.
    LexicalOverTop,
    /// `query`: tokens in the query, repeats counted.
    TokenCount,
}

impl Compute {
    /// The item text columns that it reads, apart from the version's lexical columns.
    pub fn columns(&self) -> &[String] {
        match self {
            Self::TokenOverlap { column } | Self::BigramShare { column } => std::slice::from_ref(column),
            Self::TokenShare { columns }
            | Self::IdfShare { columns, .. }
            | Self::MissingTokens { columns }
            | Self::NegatedOverlap { columns }
            | Self::Bm25 { columns } => columns,
            Self::VectorScore
            | Self::ReciprocalRank { .. }
            | Self::ReciprocalRankFusion { .. }
            | Self::VectorBelowTop
            | Self::LexicalOverTop
            | Self::TokenCount => &[],
        }
    }

    /// Whether it reads item text columns of its own.
    pub fn has_columns(&self) -> bool {
        matches!(
            self,
            Self::TokenOverlap { .. }
                | Self::TokenShare { .. }
                | Self::IdfShare { .. }
                | Self::BigramShare { .. }
                | Self::MissingTokens { .. }
                | Self::NegatedOverlap { .. }
                | Self::Bm25 { .. }
        )
    }

    /// How deep the whole catalogue's lists must be known: 1 when only their tops are, nothing when the shard's own
    /// items are enough.
    pub fn list_depth(&self) -> Option<u32> {
        match self {
            Self::ReciprocalRank { depth, .. } | Self::ReciprocalRankFusion { depth, .. } => Some(*depth),
            Self::VectorBelowTop | Self::LexicalOverTop => Some(1),
            _ => None,
        }
    }

    /// Whether it follows from this way to order the catalogue.
    pub fn reads(&self, retriever: Retriever) -> bool {
        match self {
            Self::VectorScore | Self::VectorBelowTop => retriever == Retriever::Dense,
            Self::LexicalOverTop => retriever == Retriever::Lexical,
            Self::ReciprocalRank { list, .. } => *list == retriever,
            Self::ReciprocalRankFusion { .. } => true,
            _ => false,
        }
    }
}
