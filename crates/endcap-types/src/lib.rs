//! The vocabulary that every other crate shares: names, numbers and digests of models and shards, features, the
//! quality of an answer, and the closed set of error codes.
//!
//! It is *not* a place for behaviour: no I/O, no runtime, no wire format, no clock. Read [`ModelName`] and its
//! neighbours in `ids`, then [`Quality`].

mod error;
mod feature;
mod ids;
mod metric;
mod quality;
mod retrieval;

pub use error::{Coded, ErrorCode, FieldViolation, Reason, Violations, is_retryable};
pub use feature::{Compute, DType, FeatureName, FeatureNameError, FeatureSpec, FeatureValue, Namespace};
pub use ids::{
    Alias, Digest, IdError, ItemId, ModelName, ShardCount, ShardIndex, Version, VersionPin, shard_of,
};
pub use metric::{Metric, MetricKind};
pub use quality::{Arm, Coverage, DegradationReason, Quality, Rung, ShardOutcome, StageTiming};
pub use retrieval::{RetrievalMode, Retriever, Standing};
