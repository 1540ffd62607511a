//! The gateway's tests once more, with `gateway.shard_stream = false`: every worker is asked by a call each time.
#![expect(clippy::disallowed_methods, reason = "fakes make statuses and run as long as the test")]
#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

#[path = "../gateway/answers.rs"]
mod answers;
#[path = "../gateway/degraded.rs"]
mod degraded;
#[path = "../gateway/errors.rs"]
mod errors;
#[path = "../gateway/fleet.rs"]
mod fleet;
#[path = "../gateway/versions.rs"]
mod versions;
#[path = "../gateway/worker.rs"]
mod worker;

/// How workers are asked.
const SHARD_STREAM: &str = "false";
