//! Why a request gets no answer.

use std::time::Duration;

use endcap_fleet::RouteError;
use endcap_service::status::RemoteError;
use endcap_types::{Coded, Coverage, ErrorCode, FieldViolation, ModelName, VersionPin, Violations};
use thiserror::Error;

/// Loading a version and replacing a worker take seconds, not milliseconds.
const NOT_LOADED_RETRY: Duration = Duration::from_secs(1);
/// A shard that failed or was late is worth asking again soon.
const COVERAGE_RETRY: Duration = Duration::from_millis(100);
/// As for a full server: requests last milliseconds.
const SHARE_RETRY: Duration = Duration::from_millis(50);

#[derive(Debug, Error)]
pub(crate) enum RecommendError {
    #[error("{0}")]
    Invalid(#[from] Violations),
    #[error("{0}")]
    Route(RouteError),
    /// The shards found a fault in what the caller sent, e.g. an unknown column.
    #[error("{0}")]
    Refused(RemoteError),
    #[error("the deadline had passed before the work began")]
    Expired,
    #[error(
        "the gateway is nearly full, and client {client} has {own} requests in flight; its fair share is {share}"
    )]
    OverShare { client: String, own: usize, share: usize },
    #[error("model {model} cannot answer yet: {detail}")]
    NothingLoaded { model: ModelName, detail: String },
    #[error(
        "{} of {} items of {pin} were scored, a share of {:.3}; minimum_coverage asks for {minimum}; missing shards: {:?}",
        coverage.items_scored, coverage.items_total, coverage.ratio(), shown(coverage)
    )]
    BelowCoverage { pin: VersionPin, coverage: Box<Coverage>, minimum: f64 },
}

impl Coded for RecommendError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Invalid(violations) => violations.code(),
            Self::Route(error) => error.code(),
            Self::Refused(error) => error.code(),
            Self::Expired => ErrorCode::DeadlineExceeded,
            Self::OverShare { .. } => ErrorCode::Overloaded,
            Self::NothingLoaded { .. } | Self::BelowCoverage { .. } => ErrorCode::Unavailable,
        }
    }

    fn violations(&self) -> &[FieldViolation] {
        match self {
            Self::Invalid(violations) => violations.violations(),
            Self::Refused(error) => error.violations(),
            Self::Route(_)
            | Self::Expired
            | Self::OverShare { .. }
            | Self::NothingLoaded { .. }
            | Self::BelowCoverage { .. } => &[],
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::NothingLoaded { .. } => Some(NOT_LOADED_RETRY),
            Self::BelowCoverage { .. } => Some(COVERAGE_RETRY),
            Self::OverShare { .. } => Some(SHARE_RETRY),
            Self::Invalid(_) | Self::Route(_) | Self::Refused(_) | Self::Expired => None,
        }
    }
}

/// A version may have thousands of shards; an error message has room for some.
fn shown(coverage: &Coverage) -> &[u32] {
    &coverage.missing[..coverage.missing.len().min(16)]
}
