//! Why a raw call was not done.

use std::time::Duration;

use endcap_inference::InferError;
use endcap_types::{Coded, ErrorCode, FieldViolation, Reason, Violations};
use thiserror::Error;

#[derive(Debug, Error)]
pub(crate) enum OpenInferenceError {
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
}

impl OpenInferenceError {
    /// Whether what was asked for is simply not here.
    pub(crate) fn is_absence(&self) -> bool {
        matches!(self, Self::UnknownModel { .. } | Self::UnknownVersion { .. })
    }
}

impl Coded for OpenInferenceError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::UnknownModel { .. } | Self::UnknownVersion { .. } | Self::UnknownRepository { .. } => {
                ErrorCode::NotFound
            }
            Self::Invalid(_) => ErrorCode::InvalidArgument,
            Self::Infer(error) => error.code(),
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
