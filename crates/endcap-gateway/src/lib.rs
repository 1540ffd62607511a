//! The gateway: `RecommendService` over a sharded fleet.
//!
//! It routes by one immutable snapshot per request, fetches features, encodes the query, asks every shard of one
//! version, and merges what comes back into one list that says how good it is. It does *not* run models and keeps no
//! state that it could not read again: what it lost, the next snapshot brings. Read `recommend.rs` (a request walked
//! through) and `replicas.rs` (who is asked, and who next) first.

mod admission;
mod answer;
mod app;
mod clients;
mod config;
mod encode;
mod error;
mod features;
mod forecast;
mod gather;
mod grpc;
mod metrics;
mod pace;
mod placement;
mod ports;
mod recommend;
mod replicas;
mod request;
mod routed;
mod routing;
mod scatter;
mod shortlist;

pub use app::{App, Deps};
pub use config::Config;
pub use metrics::METRICS;
