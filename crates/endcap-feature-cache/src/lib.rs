//! The feature-cache: user and session features with a time to live, in memory or in a Redis.
//!
//! It is *not* a source of truth: what it has lost is missing, and the gateway ranks with defaults and says so. Read
//! [`App`] and the `FeatureService` proto first.

mod app;
mod config;
mod grpc;
mod metrics;
mod request;
mod store;
#[cfg(any(test, feature = "test-util"))]
pub mod test_util;

pub use app::{App, Deps};
pub use config::Config;
pub use metrics::METRICS;
