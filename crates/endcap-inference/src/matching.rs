//! `match.*` features: what a shard computes for a query and its items.

use std::collections::HashMap;

use endcap_bundle::LexicalStats;
use endcap_types::{Compute, Retriever, Standing};

use crate::{
    binding::{QueryFeatures, Slot, count},
    shard::ShardTable,
};

/// Where a shard's rows stand in the whole catalogue's lists.
#[derive(Debug, Clone, Default)]
pub(crate) struct Places {
    dense_top: f32,
    lexical_top: f32,
    /// By row: its ranks by vector and by words, from 1; 0 outside the list.
    ranks: HashMap<u32, [u32; 2]>,
}

impl Places {
    /// `rows` are those that the standing speaks of, in its order.
    pub(crate) fn of(standing: &Standing, rows: impl Iterator<Item = Option<u32>>) -> Self {
        let ranks = standing.dense_ranks.iter().zip(&standing.lexical_ranks);
        let known = rows.zip(ranks).filter_map(|(row, (dense, lexical))| Some((row?, [*dense, *lexical])));
        Self { dense_top: standing.dense_top, lexical_top: standing.lexical_top, ranks: known.collect() }
    }

    /// A row's rank in a list that ends at `depth`.
    fn rank(&self, row: u32, list: Retriever, depth: u32) -> Option<u32> {
        let [dense, lexical] = self.ranks.get(&row)?;
        let rank = match list {
            Retriever::Dense => *dense,
            Retriever::Lexical => *lexical,
        };
        (1..=depth).contains(&rank).then_some(rank)
    }
}

/// A match feature made ready for one query on one shard.
pub(crate) enum Lookup<'a> {
    Constant(f32),
    /// The inner product, less the best one.
    Vector {
        vector: &'a [f32],
        top: f32,
    },
    Found {
        columns: Vec<usize>,
        tokens: Vec<u32>,
    },
    /// Each token's weight, and their sum.
    Share {
        columns: Vec<usize>,
        weights: Vec<(u32, f64)>,
        total: f64,
    },
    Bigrams {
        column: usize,
        bigrams: Vec<String>,
    },
    Missing {
        columns: Vec<usize>,
        tokens: Vec<u32>,
        nowhere: usize,
    },
    /// BM25 as a share of the best one.
    Bm25 {
        field: usize,
        tokens: Vec<u32>,
        top: f32,
    },
    Rank {
        places: &'a Places,
        list: Retriever,
        depth: u32,
    },
    Fusion {
        places: &'a Places,
        k: u32,
        depth: u32,
    },
}

impl<'a> Lookup<'a> {
    pub(crate) fn of(
        slot: &Slot,
        shard: &ShardTable,
        query: &'a QueryFeatures,
        stats: &LexicalStats,
    ) -> Self {
        let tokens = &query.tokens;
        let Some(compute) = &slot.spec.compute else { return Self::Constant(0.0) };
        // Nobody said where the items stand: then the feature is missing.
        if compute.list_depth().is_some() && !query.is_placed {
            return Self::Constant(slot.default());
        }
        let places = &query.places;
        let vector = |top| match &query.vector {
            Some(vector) => Self::Vector { vector, top },
            None => Self::Constant(0.0),
        };
        let bm25 = |columns: &[String], top| match shard.lexical_field(columns) {
            Some(field) if top > 0.0 => Self::Bm25 { field, tokens: shard.known_tokens(&tokens.all), top },
            _ => Self::Constant(0.0),
        };
        match compute {
            Compute::VectorScore => vector(0.0),
            Compute::VectorBelowTop => vector(places.dense_top),
            Compute::TokenOverlap { column } => Self::Found {
                columns: shard.token_columns(std::slice::from_ref(column)),
                tokens: shard.known_tokens(&tokens.distinct),
            },
            Compute::NegatedOverlap { columns } => Self::Found {
                columns: shard.token_columns(columns),
                tokens: shard.known_tokens(&tokens.negated),
            },
            Compute::MissingTokens { columns } => {
                let known = shard.known_tokens(&tokens.distinct);
                let nowhere = tokens.distinct.len() - known.len();
                Self::Missing { columns: shard.token_columns(columns), tokens: known, nowhere }
            }
            Compute::TokenShare { columns } => share(shard, columns, &tokens.distinct, |_| 1.0),
            Compute::IdfShare { columns, unknown_idf } => {
                let field = stats.field(columns);
                share(shard, columns, &tokens.distinct, |token| match (field, unknown_idf) {
                    (Some(field), Some(idf)) if !field.document_frequency.contains_key(token) => *idf,
                    (Some(field), _) => field.idf(token),
                    (None, _) => 0.0,
                })
            }
            Compute::BigramShare { column } => {
                let pairs = tokens.all.array_windows::<2>();
                let bigrams = pairs.map(|[one, two]| format!("{one} {two}")).collect();
                Self::Bigrams { column: shard.joined_column(column), bigrams }
            }
            Compute::Bm25 { columns } => bm25(columns, 1.0),
            Compute::LexicalOverTop => bm25(shard.listed_columns(), places.lexical_top),
            Compute::ReciprocalRank { list, depth } => Self::Rank { places, list: *list, depth: *depth },
            Compute::ReciprocalRankFusion { k, depth } => Self::Fusion { places, k: *k, depth: *depth },
            Compute::TokenCount => Self::Constant(0.0),
        }
    }

    pub(crate) fn value(&self, shard: &ShardTable, row: u32) -> f32 {
        let found =
            |columns: &[usize], token: u32| columns.iter().any(|column| shard.has_token(*column, row, token));
        match self {
            Self::Constant(value) => *value,
            Self::Vector { vector, top } => shard.similarity(row, vector) - top,
            Self::Found { columns, tokens } => {
                count(tokens.iter().filter(|token| found(columns, **token)).count())
            }
            Self::Share { columns, weights, total } => {
                let held = weights.iter().filter(|(token, _)| found(columns, *token));
                narrow(held.map(|(_, weight)| weight).sum::<f64>() / total)
            }
            Self::Bigrams { column, bigrams } => {
                let text = shard.joined(*column, row);
                let held = bigrams.iter().filter(|bigram| text.contains(bigram.as_str())).count();
                if bigrams.is_empty() { 0.0 } else { count(held) / count(bigrams.len()) }
            }
            Self::Missing { columns, tokens, nowhere } => {
                count(nowhere + tokens.iter().filter(|token| !found(columns, **token)).count())
            }
            Self::Bm25 { field, tokens, top } => shard.bm25(*field, row, tokens) / top,
            Self::Rank { places, list, depth } => {
                places.rank(row, *list, *depth).map_or(0.0, |rank| narrow(1.0 / f64::from(rank)))
            }
            Self::Fusion { places, k, depth } => {
                let part = |list| places.rank(row, list, *depth).map(|rank| 1.0 / f64::from(k + rank));
                let parts = [Retriever::Dense, Retriever::Lexical].into_iter().filter_map(part);
                narrow(f64::from(*k) * parts.fold(0.0, |sum, part| sum + part))
            }
        }
    }
}

/// The weighted share of the tokens that a row has.
fn share<'a>(
    shard: &ShardTable,
    columns: &[String],
    tokens: &[String],
    weight: impl Fn(&str) -> f64,
) -> Lookup<'a> {
    let total: f64 = tokens.iter().map(|token| weight(token)).sum();
    if total <= 0.0 {
        return Lookup::Constant(0.0);
    }
    let weighted = |token: &String| Some((shard.known_token(token)?, weight(token)));
    Lookup::Share {
        columns: shard.token_columns(columns),
        weights: tokens.iter().filter_map(weighted).collect(),
        total,
    }
}

#[expect(clippy::cast_possible_truncation, reason = "features are f32")]
fn narrow(value: f64) -> f32 {
    value as f32
}
