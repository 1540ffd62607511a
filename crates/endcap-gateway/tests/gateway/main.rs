//! The whole gateway over gRPC, with workers and a feature-cache that do as they are told.
#![expect(clippy::disallowed_methods, reason = "fakes make statuses and run as long as the test")]
#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

mod answers;
mod degraded;
mod errors;
mod fleet;
mod fused;
mod versions;
mod worker;

/// How workers are asked. The target `gateway_unary` runs the same tests the other way.
const SHARD_STREAM: &str = "true";
