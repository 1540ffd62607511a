//! Why the registry did not do what it was asked.

use endcap_bundle::BundleError;
use endcap_coordination::CoordinationError;
use endcap_fleet::{MoveError, RecordError};
use endcap_service::status::RemoteError;
use endcap_types::{Coded, ErrorCode, FieldViolation, ModelName, Version, Violations};
use thiserror::Error;

#[derive(Debug, Error)]
pub(crate) enum RegistryError {
    #[error("{0}")]
    Invalid(#[from] Violations),
    #[error("the bundle is refused: {0}")]
    Bundle(#[from] BundleError),
    #[error("the bundle is of model {found}, not {expected}")]
    WrongModel { expected: ModelName, found: ModelName },
    #[error("the bundle is larger than registry.max_bundle, {limit} bytes")]
    TooLarge { limit: u64 },
    #[error("the upload broke off: {0}")]
    Upload(RemoteError),
    #[error("{0}")]
    Move(#[from] MoveError),
    #[error("there is no model {model}")]
    UnknownModel { model: ModelName },
    #[error("model {model} has no alias {alias} yet")]
    NoAlias { model: ModelName, alias: &'static str },
    #[error("version {version} of {model} is not ready: {reasons}")]
    ValidationFailed { model: ModelName, version: Version, reasons: String },
    #[error("version {version} of {model} is still loading ({waiting_for}); the workers go on, ask again")]
    StillLoading { model: ModelName, version: Version, waiting_for: String },
    #[error("others keep editing {model}; try again")]
    Contended { model: ModelName },
    #[error("the coordinator's data are being rebuilt from the ledger; try again")]
    Rebuilding,
    #[error("{0}")]
    Coordination(#[from] CoordinationError),
    #[error("a stored record cannot be read")]
    Record(#[from] RecordError),
    #[error("could not {action}")]
    Io {
        action: &'static str,
        #[source]
        source: std::io::Error,
    },
    #[error("a background task ended early: {detail}")]
    Ended { detail: String },
}

impl Coded for RegistryError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Invalid(_) | Self::WrongModel { .. } | Self::TooLarge { .. } => ErrorCode::InvalidArgument,
            Self::Bundle(error) => error.code(),
            Self::Upload(error) => error.code(),
            Self::Move(error) => error.code(),
            Self::UnknownModel { .. } | Self::NoAlias { .. } => ErrorCode::NotFound,
            Self::ValidationFailed { .. } => ErrorCode::FailedPrecondition,
            Self::StillLoading { .. } => ErrorCode::DeadlineExceeded,
            Self::Contended { .. } => ErrorCode::Aborted,
            Self::Rebuilding => ErrorCode::Unavailable,
            Self::Coordination(error) => error.code(),
            Self::Record(_) | Self::Io { .. } | Self::Ended { .. } => ErrorCode::Internal,
        }
    }

    fn violations(&self) -> &[FieldViolation] {
        match self {
            Self::Invalid(violations) => &violations.0,
            _ => &[],
        }
    }
}

/// A request's model name.
pub(crate) fn model_name(text: &str) -> Result<ModelName, RegistryError> {
    text.parse().map_err(|error: endcap_types::IdError| invalid("model", &error))
}

/// A request's version number.
pub(crate) fn version_number(number: u64) -> Result<Version, RegistryError> {
    Version::try_from(number).map_err(|error| invalid("version", &error))
}

pub(crate) fn invalid(field: &str, error: &dyn std::fmt::Display) -> RegistryError {
    let mut violations = Violations::default();
    violations.push(field, error.to_string());
    RegistryError::Invalid(violations)
}
