//! The shard worker: holds shards of versions, proves them ready, and encodes, retrieves and ranks for gateways.
//!
//! Its models can also be called raw, by the Open Inference Protocol (`open_inference.rs`).
//! It does *not* decide what it holds (the registry's controller assigns) nor merge (the gateway does). Read
//! [`App`], `holdings.rs` (what is held) and `assignment.rs` (how that changes) first.

mod app;
mod assignment;
mod config;
mod encode;
mod error;
mod grpc;
mod holdings;
mod load;
mod metrics;
mod open_inference;
mod progress;
mod publish;
mod score;

pub use app::{App, Deps};
pub use config::Config;
pub use metrics::METRICS;
