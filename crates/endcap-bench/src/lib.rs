//! Measures a running fleet: an open-loop load generator, its reports and its plots.
//!
//! Requests are sent when a schedule says, whether or not earlier ones were answered, and every latency is measured
//! from the *intended* send time. A stall of the server (or of this process) is thus felt by every request that was due
//! during it, as shoppers would feel it, and not only by the one that happened to be in flight: the measure is free of
//! coordinated omission (Gil Tene, "How NOT to Measure Latency"; wrk2). It is *not* a benchmark of parts: those are in the
//! crates that own the parts. Read [`Schedule`], [`Target`] and [`open_loop`] first.

mod closed;
mod driver;
mod error;
mod infer;
mod objective;
mod pace;
mod plot;
mod queries;
mod recommend;
mod record;
mod report;
mod schedule;
mod search;
mod shard;
mod target;

pub use closed::closed_loop;
pub use driver::{Limits, Load, Progress, open_loop};
pub use error::BenchError;
pub use infer::{InferConfig, InferTarget};
pub use objective::Objective;
pub use plot::svg;
pub use queries::{Queries, read_queries};
pub use recommend::{RecommendConfig, RecommendTarget, collect_items};
pub use record::Recorder;
pub use report::{Found, Latency, Report, Setup, Step, Window};
pub use schedule::{Arrivals, Ramp, Schedule};
pub use search::{Probe, Search, find_highest};
pub use shard::{ShardConfig, ShardTarget};
pub use target::{Answer, Target};
