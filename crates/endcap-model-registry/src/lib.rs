//! The model registry: what an ML engineer tells the fleet, and the controller that places shards on workers.
//!
//! It does *not* run models: workers prove that a version answers its golden requests. Read `ledger.rs` (every edit
//! is one transaction with its history entry) and `controller.rs` first.

mod app;
mod archive;
mod catalogue;
mod config;
mod controller;
mod convert;
mod error;
mod evaluation;
mod grpc;
mod ledger;
mod metrics;
mod rebuild;
mod register;
mod rollout;
mod validate;
mod watch;
mod world;

pub use app::{App, Deps};
pub use config::Config;
pub use metrics::METRICS;
