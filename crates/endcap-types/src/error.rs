//! The closed set of error codes. Every crate's error enum says which one it is; `endcap-service` alone turns them
//! into gRPC statuses.

use std::time::Duration;

/// What kind of failure a caller sees. Deliberately few: introduce a new one only with a new way to react to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorCode {
    InvalidArgument,
    NotFound,
    AlreadyExists,
    /// The request is well formed but the fleet is not in a state to do it, e.g. the version is not routable.
    FailedPrecondition,
    /// Somebody else edited first.
    Aborted,
    Overloaded,
    DeadlineExceeded,
    Unavailable,
    /// Bytes are not what their digest says.
    DataLoss,
    Unauthenticated,
    Forbidden,
    /// A fault of ours. The caller gets a fixed text and the request id; the cause goes to the log.
    Internal,
}

/// Whether the same call may succeed if made again, provided that it is idempotent.
pub fn is_retryable(code: ErrorCode) -> bool {
    match code {
        // Another replica may have room, or be alive.
        ErrorCode::Overloaded | ErrorCode::Unavailable => true,
        // One replica's fault is no proof against the next.
        ErrorCode::Internal | ErrorCode::DataLoss => true,
        // A replica that has let the version go; another may still hold it.
        ErrorCode::FailedPrecondition => true,
        // The caller must read again and decide again.
        ErrorCode::Aborted => false,
        // There is no time left.
        ErrorCode::DeadlineExceeded => false,
        // The same request fails the same way.
        ErrorCode::InvalidArgument
        | ErrorCode::NotFound
        | ErrorCode::AlreadyExists
        | ErrorCode::Unauthenticated
        | ErrorCode::Forbidden => false,
    }
}

/// One field of a request and what is wrong with it: what was found, what was expected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldViolation {
    /// Path in the request, e.g. `candidates[7]`.
    pub field: String,
    pub description: String,
}

/// Everything wrong with a request, collected so that the caller sees it all at once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Violations(pub Vec<FieldViolation>);

impl Violations {
    pub fn push(&mut self, field: impl Into<String>, description: impl Into<String>) {
        self.0.push(FieldViolation { field: field.into(), description: description.into() });
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// `value` if nothing was found wrong.
    pub fn or<T>(self, value: T) -> Result<T, Self> {
        if self.is_empty() { Ok(value) } else { Err(self) }
    }
}

impl std::fmt::Display for Violations {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (i, violation) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("; ")?;
            }
            write!(f, "{}: {}", violation.field, violation.description)?;
        }
        Ok(())
    }
}

impl std::error::Error for Violations {}

/// A cause from a closed set, in capitals, and the numbers that led to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    pub name: &'static str,
    pub details: Vec<(&'static str, String)>,
}

/// An error that knows its code. Implemented by each crate's error enum; `Display` is the public message.
pub trait Coded: std::error::Error {
    fn code(&self) -> ErrorCode;

    /// Which fields are at fault, for `InvalidArgument`.
    fn violations(&self) -> &[FieldViolation] {
        &[]
    }

    /// Why, for programs, where the code does not say it all.
    fn reason(&self) -> Option<Reason> {
        None
    }

    /// When to come back, for `Overloaded` and `Unavailable`.
    fn retry_after(&self) -> Option<Duration> {
        None
    }
}

impl Coded for Violations {
    fn code(&self) -> ErrorCode {
        ErrorCode::InvalidArgument
    }

    fn violations(&self) -> &[FieldViolation] {
        &self.0
    }
}
