//! Why a gateway's request was not done.

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
    #[error("{0}")]
    Invalid(#[from] Violations),
    #[error("{0}")]
    Infer(#[from] InferError),
    #[error("the deadline passed before the work began")]
    Expired,
    #[error("the scan ended early: {detail}")]
    ScanEnded { detail: String },
}

impl Coded for WorkError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::NotHeld { .. } | Self::ShardNotHeld { .. } => ErrorCode::FailedPrecondition,
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
