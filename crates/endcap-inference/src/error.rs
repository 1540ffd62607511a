//! What can go wrong with a runtime, a load, a run.

use std::time::Duration;

use endcap_bundle::BundleError;
use endcap_types::{Coded, ErrorCode, FieldViolation, Violations};
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
        "a row's score depends on its neighbours: {alone} alone, {batched} in a batch of {rows}; quantize statically \
         or not at all"
    )]
    BatchDependent { alone: f32, batched: f32, rows: usize },
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
    #[error("the deadline passed after {} ms in the queue", queued.as_millis())]
    Expired { queued: Duration },
    #[error("the request does not fit the model: {0}")]
    Invalid(#[from] Violations),
    #[error("this version has no query encoder; send candidates to rank")]
    NoEncoder,
    #[error("the model gave a score that is not a number for item {item_id}")]
    NotFinite { item_id: String },
    #[error("the model failed: {detail}")]
    Failed { detail: String },
    #[error("the model is being unloaded")]
    Closed,
}

impl Coded for InferError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Overloaded { .. } => ErrorCode::Overloaded,
            Self::Expired { .. } => ErrorCode::DeadlineExceeded,
            Self::Invalid(_) | Self::NoEncoder => ErrorCode::InvalidArgument,
            Self::NotFinite { .. } | Self::Failed { .. } => ErrorCode::Internal,
            Self::Closed => ErrorCode::Unavailable,
        }
    }

    fn violations(&self) -> &[FieldViolation] {
        match self {
            Self::Invalid(violations) => &violations.0,
            _ => &[],
        }
    }
}
