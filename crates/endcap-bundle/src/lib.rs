//! The bundle: read, write, verify, partition, store.

mod manifest;

pub use manifest::{
    EncoderSpec, FORMAT, FileEntry, InputBinding, Manifest, ModelSpec, RankerSpec, RetrievalSpec,
};
