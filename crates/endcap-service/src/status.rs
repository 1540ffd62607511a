//! The one mapping between domain errors and gRPC statuses, in both directions.

use std::{collections::HashMap, error::Error, time::Duration};

use endcap_proto::pb;
use endcap_types::{Coded, ErrorCode, FieldViolation};
use thiserror::Error;
use tonic::{Code, Status, metadata::MetadataMap};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::RequestId;

/// Metadata by which gRPC clients learn when to retry (gRFC A6).
const PUSHBACK: &str = "grpc-retry-pushback-ms";
/// Whose reasons the reasons in an `ErrorInfo` are.
const DOMAIN: &str = "endcap";
/// What a caller who was turned away waits when the error does not say.
const DEFAULT_RETRY: Duration = Duration::from_millis(100);

/// Turns an error into what the caller sees. An internal one shows a fixed text and the request id; its cause is
/// logged here, once.
pub fn to_status(error: &(impl Coded + ?Sized), request_id: &RequestId) -> Status {
    let code = error.code();
    let message = if code == ErrorCode::Internal {
        tracing::error!(request.id = %request_id, error = %chain(error), "internal error");
        format!("internal error; the log has the cause under request id {request_id}")
    } else {
        error.to_string()
    };
    let mut details = ErrorDetails::new();
    for violation in error.violations() {
        details.add_bad_request_violation(&violation.field, &violation.description);
    }
    details.set_request_info(request_id.as_str(), "");
    if let Some(reason) = error.reason() {
        let numbers = reason.details.into_iter().map(|(name, value)| (name.to_owned(), value));
        details.set_error_info(reason.name, DOMAIN, numbers.collect::<HashMap<_, _>>());
    }
    let mut metadata = MetadataMap::new();
    if matches!(code, ErrorCode::Overloaded | ErrorCode::Unavailable) {
        let after = error.retry_after().unwrap_or(DEFAULT_RETRY);
        details.set_retry_info(Some(after));
        if let Ok(value) = after.as_millis().to_string().parse() {
            metadata.insert(PUSHBACK, value);
        }
    }
    Status::with_error_details_and_metadata(grpc_code(code), message, details, metadata)
}

/// The error of a remote service, as a domain error again.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{message}")]
pub struct RemoteError {
    pub code: ErrorCode,
    pub message: String,
    pub violations: Vec<FieldViolation>,
    pub retry_after: Option<Duration>,
}

impl Coded for RemoteError {
    fn code(&self) -> ErrorCode {
        self.code
    }

    fn violations(&self) -> &[FieldViolation] {
        &self.violations
    }

    fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }
}

/// Reads a status that a remote service, or the transport, gave.
pub fn from_status(status: &Status) -> RemoteError {
    let details = status.get_error_details();
    let violations = details.bad_request().map(|bad| &bad.field_violations[..]).unwrap_or_default();
    let code = if connection_broke(status) { ErrorCode::Unavailable } else { error_code(status.code()) };
    RemoteError {
        code,
        message: status.message().to_owned(),
        violations: violations
            .iter()
            .map(|v| FieldViolation { field: v.field.clone(), description: v.description.clone() })
            .collect(),
        retry_after: details.retry_info().and_then(|info| info.retry_delay),
    }
}

/// Whether a call failed because its connection went, before or after it left: what can be done twice may be asked of
/// another member. tonic tells that as INTERNAL, CANCELLED, UNKNOWN or UNAVAILABLE, by how far the call came; only a
/// status that the client made itself has a cause, and its own timer is one of its own.
pub fn connection_broke(status: &Status) -> bool {
    let named_so =
        matches!(status.code(), Code::Internal | Code::Cancelled | Code::Unknown | Code::Unavailable);
    let mut cause = status.source();
    let is_own = cause.is_some();
    while let Some(error) = cause {
        if error.is::<tonic::TimeoutExpired>() {
            return false;
        }
        cause = error.source();
    }
    named_so && is_own
}

/// A status as it travels on a stream: all that [`from_status`] reads of it.
pub fn to_call_error(status: &Status) -> pb::CallError {
    pb::CallError {
        code: status.code().into(),
        message: status.message().to_owned(),
        details: status.details().to_vec().into(),
    }
}

/// The error of a remote service that came on a stream; the same as by a call of its own.
pub fn from_call_error(error: pb::CallError) -> RemoteError {
    from_status(&Status::with_details(Code::from(error.code), error.message, error.details))
}

/// Every cause, outermost first.
pub fn chain(error: &(impl Error + ?Sized)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

fn grpc_code(code: ErrorCode) -> Code {
    match code {
        ErrorCode::InvalidArgument => Code::InvalidArgument,
        ErrorCode::NotFound => Code::NotFound,
        ErrorCode::AlreadyExists => Code::AlreadyExists,
        ErrorCode::FailedPrecondition => Code::FailedPrecondition,
        ErrorCode::Aborted => Code::Aborted,
        ErrorCode::Overloaded => Code::ResourceExhausted,
        ErrorCode::DeadlineExceeded => Code::DeadlineExceeded,
        ErrorCode::Unavailable => Code::Unavailable,
        ErrorCode::DataLoss => Code::DataLoss,
        ErrorCode::Unauthenticated => Code::Unauthenticated,
        ErrorCode::Forbidden => Code::PermissionDenied,
        ErrorCode::Internal => Code::Internal,
    }
}

fn error_code(code: Code) -> ErrorCode {
    match code {
        Code::InvalidArgument | Code::OutOfRange => ErrorCode::InvalidArgument,
        Code::NotFound => ErrorCode::NotFound,
        Code::AlreadyExists => ErrorCode::AlreadyExists,
        Code::FailedPrecondition => ErrorCode::FailedPrecondition,
        Code::Aborted => ErrorCode::Aborted,
        Code::ResourceExhausted => ErrorCode::Overloaded,
        // A client's own deadline shows as cancelled.
        Code::DeadlineExceeded | Code::Cancelled => ErrorCode::DeadlineExceeded,
        // Transport faults arrive as unknown.
        Code::Unavailable | Code::Unknown => ErrorCode::Unavailable,
        Code::DataLoss => ErrorCode::DataLoss,
        Code::Unauthenticated => ErrorCode::Unauthenticated,
        Code::PermissionDenied => ErrorCode::Forbidden,
        Code::Internal | Code::Unimplemented | Code::Ok => ErrorCode::Internal,
    }
}

#[cfg(test)]
mod tests {
    use endcap_types::{Reason, Violations};

    use super::*;

    #[test]
    fn violations_survive_the_wire() {
        let mut violations = Violations::default();
        violations.push("candidates[7]", "repeats candidates[2]");
        let remote = from_status(&to_status(&violations, &RequestId::new()));
        assert_eq!(remote.code, ErrorCode::InvalidArgument);
        assert_eq!(remote.violations, violations.0);
    }

    #[test]
    fn an_overloaded_service_says_when_to_come_back() {
        let error = RemoteError {
            code: ErrorCode::Overloaded,
            message: "full".into(),
            violations: Vec::new(),
            retry_after: Some(Duration::from_millis(70)),
        };
        let status = to_status(&error, &RequestId::new());
        assert_eq!(status.metadata().get(PUSHBACK).unwrap(), "70");
        assert_eq!(from_status(&status), error);
        assert_eq!(from_call_error(to_call_error(&status)), error);
    }

    #[test]
    fn a_refusal_carries_its_reason_and_the_numbers_behind_it() {
        #[derive(Debug, Error)]
        #[error("too late")]
        struct Refused;
        impl Coded for Refused {
            fn code(&self) -> ErrorCode {
                ErrorCode::Overloaded
            }
            fn reason(&self) -> Option<Reason> {
                Some(Reason { name: "PREDICTED_TOO_LATE", details: vec![("remaining_ms", "7.5".to_owned())] })
            }
        }
        let details = to_status(&Refused, &RequestId::new()).get_error_details();
        let info = details.error_info().unwrap();
        assert_eq!((info.reason.as_str(), info.domain.as_str()), ("PREDICTED_TOO_LATE", DOMAIN));
        assert_eq!(info.metadata["remaining_ms"], "7.5");
        assert!(details.retry_info().is_some());
    }

    #[test]
    fn internal_causes_stay_inside() {
        #[derive(Debug, Error)]
        #[error("the disk of host 7 is on fire")]
        struct Secret;
        impl Coded for Secret {
            fn code(&self) -> ErrorCode {
                ErrorCode::Internal
            }
        }
        let id = RequestId::new();
        let status = to_status(&Secret, &id);
        assert!(!status.message().contains("fire") && status.message().contains(id.as_str()));
    }
}
