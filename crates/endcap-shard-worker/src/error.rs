//! Why a gateway's request, or a raw call, was not done.

use std::time::Duration;

use endcap_inference::InferError;
use endcap_types::{Coded, ErrorCode, FieldViolation, Reason, ShardIndex, VersionPin, Violations};
use thiserror::Error;

#[derive(Debug, Error)]
pub(crate) enum WorkError {
    #[error("this worker does not hold {asked}; it holds {held}")]
    NotHeld { asked: VersionPin, held: String },
    #[error("this worker does not hold shard {shard} of {pin}; it holds shards {held}")]
    ShardNotHeld { pin: VersionPin, shard: ShardIndex, held: String },
    #[error("this worker holds no model {asked:?}; it holds {held}")]
    UnknownModel { asked: String, held: String },
    #[error("this worker does not hold version {asked} of {model}; it holds {held}")]
    UnknownVersion { model: String, asked: u64, held: String },
    #[error("there is no repository {asked:?}; the only one has no name")]
    UnknownRepository { asked: String },
    #[error("{0}")]
    Invalid(#[from] Violations),
    #[error("{0}")]
    Infer(#[from] InferError),
    #[error("the deadline passed before the work began")]
    Expired,
    #[error("the scan ended early: {detail}")]
    ScanEnded { detail: String },
}

impl WorkError {
    /// Whether the model that a raw call asked for is simply not here.
    pub(crate) fn is_absence(&self) -> bool {
        matches!(self, Self::UnknownModel { .. } | Self::UnknownVersion { .. })
    }
}

impl Coded for WorkError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::NotHeld { .. } | Self::ShardNotHeld { .. } => ErrorCode::FailedPrecondition,
            Self::UnknownModel { .. } | Self::UnknownVersion { .. } | Self::UnknownRepository { .. } => {
                ErrorCode::NotFound
            }
            Self::Invalid(_) => ErrorCode::InvalidArgument,
            Self::Infer(error) => error.code(),
            Self::Expired => ErrorCode::DeadlineExceeded,
            Self::ScanEnded { .. } => ErrorCode::Internal,
        }
    }

    fn violations(&self) -> &[FieldViolation] {
        match self {
            Self::Invalid(violations) => &violations.0,
            Self::Infer(error) => error.violations(),
            _ => &[],
        }
    }

    fn reason(&self) -> Option<Reason> {
        match self {
            Self::Infer(error) => error.reason(),
            _ => None,
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Infer(error) => error.retry_after(),
            _ => None,
        }
    }
}
