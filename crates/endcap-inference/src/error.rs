//! What can go wrong with a runtime, a load, a run.

use std::time::Duration;

use endcap_bundle::BundleError;
use endcap_types::{Coded, ErrorCode, FieldViolation, Reason, Violations};
use thiserror::Error;

/// Why ONNX Runtime cannot be used.
#[derive(Debug, Error)]
pub enum RuntimeError {
    #[error(
        "ONNX Runtime's library was not found or is not usable ({tried}: {detail}); `make setup` fetches it, or set \
         ORT_DYLIB_PATH to a libonnxruntime.so of version 1.24 or newer"
    )]
    Library { tried: String, detail: String },
    #[error("ONNX Runtime did not start: {detail}")]
    Start { detail: String },
    #[error(
        "worker.device is \"cuda\", but this ONNX Runtime has no CUDA provider; use its GPU build, or \"auto\""
    )]
    NoCuda,
    #[error("worker.device is \"cuda\", but CUDA does not work here: {detail}; mend it, or use \"auto\"")]
    Cuda { detail: String },
}

/// Why a version, or a shard of it, could not be loaded.
#[derive(Debug, Error)]
pub enum LoadError {
    #[error("{0}")]
    Bundle(#[from] BundleError),
    #[error("ONNX Runtime refuses {file}: {detail}")]
    Session { file: String, detail: String },
    #[error("{file} cannot be run on sample rows: {detail}")]
    WarmUp { file: String, detail: String },
    #[error("tokenizer {file} cannot be read: {detail}")]
    Tokenizer { file: String, detail: String },
    #[error("input {input:?} of the ranker needs {feature}, which features.json does not declare")]
    MissingFeature { input: String, feature: String },
    #[error("{feature} needs the {expected} column {column:?}; the shard file has {found}")]
    Column { feature: String, column: String, expected: &'static str, found: String },
    #[error("lexical.json has no statistics of {columns}, which {needed_by} needs; pack the bundle again")]
    Lexical { columns: String, needed_by: String },
    #[error("{feature} needs item vectors of {expected} numbers; the shard file has {found}")]
    Vectors { feature: String, expected: String, found: String },
    #[error(
        "a row's score depends on its neighbours: {batched} in a batch of {rows}, {otherwise} {how}; quantize \
         statically or not at all"
    )]
    BatchDependent { batched: f32, rows: usize, otherwise: f32, how: &'static str },
    #[error("no graph over the vectors: {detail}; raise worker.graph_min_items to do without")]
    Graph { detail: String },
    #[error("{0}")]
    Golden(#[from] GoldenMismatch),
}

impl Coded for LoadError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Bundle(error) => error.code(),
            _ => ErrorCode::FailedPrecondition,
        }
    }
}

/// A golden request that was not answered as recorded.
#[derive(Debug, Clone, PartialEq, Error)]
#[error("golden request {line} ({query:?}): {what}: expected {expected}, found {found}")]
pub struct GoldenMismatch {
    /// Line of golden.jsonl, from 1.
    pub line: usize,
    pub query: String,
    pub what: String,
    pub expected: String,
    pub found: String,
}

/// Why a run gave no result.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum InferError {
    #[error("{rows} rows wait for the model already and {asked} more were asked; the limit is {limit}")]
    Overloaded { rows: usize, asked: usize, limit: usize },
    #[error(
        "{rows} rows are ahead: the answer would take {} ms by what runs took lately, and {} ms remain",
        millis(*predicted),
        millis(*remaining)
    )]
    TooLate { rows: usize, predicted: Duration, remaining: Duration },
    #[error("the deadline passed, or would have before an answer, after {} ms in the queue", queued.as_millis())]
    Expired { queued: Duration },
    #[error("the request does not fit the model: {0}")]
    Invalid(#[from] Violations),
    #[error("this version has no query encoder; send candidates to rank")]
    NoEncoder,
    #[error("the model gave a score that is not a number for item {item_id}")]
    NotFinite { item_id: String },
    #[error("the model failed: {detail}")]
    Failed { detail: String },
    /// Names, types and shapes were right: it is the values, such as an id that an embedding table does not have.
    #[error("the model refuses the values of its inputs: {detail}")]
    Refused { detail: String },
    #[error("the model is being unloaded")]
    Closed,
}

impl InferError {
    /// Why ONNX Runtime did not run a model. An operator that refuses what it is given says so by its code, which is
    /// passed on; everything else is a fault of ours.
    pub(crate) fn of_run(error: &ort::Error) -> Self {
        let detail = error.to_string();
        match error.code() {
            ort::ErrorCode::InvalidArgument => Self::Refused { detail },
            _ => Self::Failed { detail },
        }
    }
}

impl Coded for InferError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Overloaded { .. } | Self::TooLate { .. } => ErrorCode::Overloaded,
            Self::Expired { .. } => ErrorCode::DeadlineExceeded,
            Self::Invalid(_) | Self::NoEncoder => ErrorCode::InvalidArgument,
            // The rows of a ranking are made by the worker, so refused values are its fault, or its bundle's.
            Self::NotFinite { .. } | Self::Failed { .. } | Self::Refused { .. } => ErrorCode::Internal,
            Self::Closed => ErrorCode::Unavailable,
        }
    }

    fn violations(&self) -> &[FieldViolation] {
        match self {
            Self::Invalid(violations) => &violations.0,
            _ => &[],
        }
    }
    fn reason(&self) -> Option<Reason> {
        match self {
            Self::Overloaded { rows, limit, .. } => Some(Reason {
                name: "QUEUE_FULL",
                details: vec![("pending_rows", rows.to_string()), ("limit_rows", limit.to_string())],
            }),
            Self::TooLate { rows, predicted, remaining } => Some(Reason {
                name: "PREDICTED_TOO_LATE",
                details: vec![
                    ("pending_rows", rows.to_string()),
                    ("predicted_ms", millis(*predicted)),
                    ("remaining_ms", millis(*remaining)),
                ],
            }),
            _ => None,
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            // By then enough of what is ahead is done, if nothing else comes.
            Self::TooLate { predicted, remaining, .. } => {
                Some(predicted.saturating_sub(*remaining).max(SOONEST_RETRY))
            }
            _ => None,
        }
    }
}

/// Retrying is counted in whole milliseconds.
const SOONEST_RETRY: Duration = Duration::from_millis(1);

fn millis(duration: Duration) -> String {
    format!("{:.1}", duration.as_secs_f64() * 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_what_was_predicted_and_when_to_come_back() {
        let [predicted, remaining] = [70, 25].map(Duration::from_millis);
        let error = InferError::TooLate { rows: 900, predicted, remaining };
        assert_eq!(error.code(), ErrorCode::Overloaded);
        assert_eq!(error.retry_after(), Some(Duration::from_millis(45)));
        let details = error.reason().unwrap().details;
        assert!(
            details.contains(&("predicted_ms", "70.0".into()))
                && details.contains(&("remaining_ms", "25.0".into()))
        );
        assert!(error.to_string().contains("70.0 ms") && error.to_string().contains("25.0 ms"), "{error}");
    }
}
