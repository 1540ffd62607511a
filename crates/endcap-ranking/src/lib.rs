//! Ranking decisions as pure functions: how shards' answers become one list, what an answer's coverage is, which rung
//! is within reach, which arm a shopper is on, and how good a ranking is.
//!
//! It is *not* allowed I/O, a runtime or a clock. Read [`merge_retrieved`] and [`CoverageBuilder`] first.

mod arms;
mod coverage;
mod fusion;
mod ladder;
mod merge;
pub mod quality;

pub use arms::arm;
pub use coverage::CoverageBuilder;
pub use fusion::{CatalogueLists, Listed, PoolOptions, RRF_K, reciprocal_rank_fusion};
pub use ladder::{Estimates, plan};
pub use merge::{Popular, Scored, fallback, merge_ranked, merge_retrieved};
