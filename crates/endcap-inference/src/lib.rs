//! Running models: ONNX Runtime sessions on threads of their own, row batches, features bound to model inputs, and the
//! index that finds items.
//!
//! The only crate that names `ort`. It is *not* concerned with who asks: no RPC, no coordination. Read
//! [`VersionModel`] and [`ShardTable`] first.

mod binding;
mod encoder;
mod error;
mod executor;
mod golden;
mod graph;
mod index;
mod item_ids;
mod lexical;
mod matching;
mod metrics;
mod raw;
mod runtime;
mod scan;
mod shard;
mod statistics;
mod text;
mod thread;
mod version;
mod words;

pub use binding::QueryFeatures;
pub use encoder::Encoder;
pub use error::{GoldenMismatch, InferError, LoadError, RuntimeError};
pub use executor::{Executor, ExecutorOptions, Ran, Tensor, TensorData};
pub use index::{VectorIndex, VectorOptions};
pub use metrics::METRICS;
pub use raw::{InputSignature, Part, Signature, Width};
pub use runtime::{DeviceChoice, Runtime, RuntimeOptions};
pub use shard::{Listed, ShardTable};
pub use statistics::{Statistics, Sum};
pub use version::{ModelOptions, Ranked, VersionModel};
