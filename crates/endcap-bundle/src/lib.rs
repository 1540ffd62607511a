//! The bundle: one immutable version of a model with everything that must agree in it (ranker, encoder, items, feature
//! schema, golden requests, reports), as a folder, as one packed file, and in a store.
//!
//! It does *not* run models: [`Bundle::check`] reads ONNX files as structures, and the workers run them. Read
//! [`Bundle`] and [`Manifest`] first.

mod archive;
mod assemble;
mod background;
mod bundle;
mod check;
mod digest;
mod error;
mod items;
mod journal;
mod lexical;
mod manifest;
mod onnx;
mod parts;
mod store;
#[cfg(feature = "test-util")]
pub mod test_util;

pub use archive::{MAX_BUNDLE_BYTES, PackedFile, pack, unpack, unpack_within};
pub use assemble::{PackOptions, Progress, assemble};
pub use background::{background, in_background};
pub use bundle::{Bundle, Parts};
pub use error::BundleError;
pub use items::{Column, ItemTable, Vectors};
pub use journal::Journal;
pub use lexical::{FieldStats, LexicalStats, tokens};
pub use manifest::{
    EncoderSpec, FORMAT, FileEntry, InputBinding, Manifest, ModelSpec, Precision, RankerSpec, RetrievalSpec,
    shard_file,
};
pub use parts::{Evaluation, FeatureSchema, GoldenRequest, LabelledQuery, Popular};
pub use store::{BundleStore, S3Options, StoreOptions};
