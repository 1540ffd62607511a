//! Everything that can be wrong with a bundle. Every message says which file, what was found, what was expected and
//! what to do about it.

use std::path::{Path, PathBuf};

use endcap_types::{Coded, DType, Digest, ErrorCode, FeatureName, ItemId, ShardIndex};
use thiserror::Error;

/// Why a bundle, its source or its archive was refused, or could not be stored.
#[derive(Debug, Error)]
pub enum BundleError {
    // Getting at the bytes.
    #[error("could not {action} {}; check that it exists, the permissions and the free space", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{} already exists and is not empty; choose another place or remove it", path.display())]
    DestinationExists { path: PathBuf },

    // The archive.
    #[error(
        "the archive is not a bundle: {detail}; expected a tar in zstd, as `endcap bundle pack` writes it"
    )]
    NotAnArchive { detail: String },
    #[error("the archive ends too early, {after}; it was cut on its way: send it again")]
    Truncated { after: String },
    #[error(
        "the path {path:?} is absolute or climbs out of the bundle; expected a path such as \"ranker.onnx\""
    )]
    UnsafePath { path: String },
    #[error(
        "{path:?} in the archive is a {kind}; expected regular files only: pack it with `endcap bundle pack`"
    )]
    NotAFile { path: String, kind: String },
    #[error(
        "the archive begins with {found:?}; expected bundle.json first: pack it with `endcap bundle pack`"
    )]
    ManifestNotFirst { found: String },
    #[error("{file:?} is not a file that bundle.json lists; remove it, or pack the bundle again")]
    UnknownFile { file: String },
    #[error("{file:?} is in the archive twice; pack the bundle again")]
    DuplicateFile { file: String },
    #[error("{file} is missing; add it and pack the bundle again")]
    MissingFile { file: String },
    #[error("{file} has {found} bytes, more than the limit of {limit}; make it smaller or raise the limit")]
    TooLarge { file: String, found: u64, limit: u64 },

    // Bytes that are not what was promised.
    #[error(
        "{file} is damaged: expected SHA-256 {expected}, found {found}; fetch it again or pack the bundle again"
    )]
    DigestMismatch { file: String, expected: Digest, found: Digest },
    #[error(
        "{file} is damaged: expected {expected} bytes, found {found}; fetch it again or pack the bundle again"
    )]
    SizeMismatch { file: String, expected: u64, found: u64 },

    // bundle.json, model.json and the other JSON files.
    #[error("{file} is not the JSON that was expected: {detail}; mend it and pack the bundle again")]
    Json { file: String, detail: String },
    #[error("bundle.json has format {found}, this build reads {expected}; pack it again with this build")]
    Format { found: u32, expected: u32 },
    #[error("{field} in {file} is {found}; expected {expected}: mend it and pack the bundle again")]
    Manifest { file: &'static str, field: String, found: String, expected: String },

    // ONNX.
    #[error("{file} is not an ONNX model: {detail}; export the model again")]
    NotOnnx { file: String, detail: String },
    #[error(
        "tensor {tensor:?} of {file} is external data; expected all weights inside the file: save the model as one file"
    )]
    ExternalData { file: String, tensor: String },
    #[error(
        "the inputs of {file} are {found:?}, model.json binds {expected:?}; bind every graph input once, by its name"
    )]
    OnnxInputs { file: String, found: Vec<String>, expected: Vec<String> },
    #[error("{file} has the outputs {found:?}, model.json names {expected:?}; name one of the outputs")]
    OnnxOutput { file: String, found: Vec<String>, expected: String },
    #[error(
        "{value:?} of {file} has element type {found}; expected {expected}: change the graph or the features"
    )]
    OnnxType { file: String, value: String, found: String, expected: String },
    #[error("{value:?} of {file} has shape {found}; expected {expected}: change the graph or the features")]
    OnnxShape { file: String, value: String, found: String, expected: String },
    #[error(
        "tensor {tensor:?} of {file} holds {found} at position {position}; expected finite weights: train or export the model again"
    )]
    OnnxNotFinite { file: String, tensor: String, found: f64, position: usize },
    #[error(
        "{file} uses {op} (node {node:?}), with which a row's score depends on its neighbours in the batch; quantize statically or weights only"
    )]
    DynamicQuantization { file: String, node: String, op: String },

    // features.json.
    #[error("input {input:?} of the ranker needs {feature}, which features.json lacks; declare it there")]
    FeatureMissing { input: String, feature: FeatureName },
    #[error("features.json declares {feature} twice; keep one")]
    FeatureDuplicate { feature: FeatureName },
    #[error("features.json gives {feature} the width {found}; expected {expected}")]
    FeatureWidth { feature: FeatureName, found: usize, expected: &'static str },
    #[error("features.json gives {feature} a default of {found} numbers; expected {expected}, its width")]
    DefaultWidth { feature: FeatureName, found: usize, expected: usize },
    #[error("features.json gives {feature} a default of type {found:?}; expected {expected:?}, its dtype")]
    DefaultType { feature: FeatureName, found: DType, expected: DType },
    #[error("features.json gives {feature} a default that is not finite; expected finite numbers")]
    DefaultNotFinite { feature: FeatureName },
    #[error(
        "features.json does not say how to compute {feature}; every match.* and query.* feature needs `compute`"
    )]
    ComputeMissing { feature: FeatureName },
    #[error(
        "features.json gives {feature} a `compute`; only match.* and query.* features are computed: remove it"
    )]
    ComputeNotAllowed { feature: FeatureName },
    #[error("features.json computes {feature} by {found}; expected {expected}")]
    ComputeWrong { feature: FeatureName, found: String, expected: String },
    #[error(
        "input {input:?} of the ranker mixes {first:?} and {feature} of {found:?}; expected one dtype per input"
    )]
    MixedTypes { input: String, first: DType, feature: FeatureName, found: DType },
    #[error(
        "{file} has no column {column:?}, which {needed_by} needs; it has {found:?}: add it, or change features.json"
    )]
    ColumnMissing { file: String, column: String, needed_by: String, found: Vec<String> },
    #[error(
        "column {column:?} of {file} is {found}; expected {expected}: convert it, or change features.json"
    )]
    ColumnType { file: String, column: String, found: String, expected: String },

    #[error(
        "lexical.json has no statistics of {columns}, which features.json or model.json needs; pack again"
    )]
    LexicalMissing { columns: String },
    #[error("lexical.json's statistics of {columns} are not those of the items; pack again")]
    LexicalStats { columns: String },

    // Items.
    #[error("{file} is not a readable parquet file: {detail}; write it again")]
    Parquet { file: String, detail: String },
    #[error("{file} has no items; a bundle needs at least one")]
    NoItems { file: String },
    #[error("row {row} of {file} has the item_id {found:?}; expected 1 to 512 bytes of text")]
    ItemId { file: String, row: usize, found: Option<String> },
    #[error("item {item_id:?} is in {file} more than once; expected unique item ids: remove the others")]
    DuplicateItem { file: String, item_id: ItemId },
    #[error("item {item_id:?} is out of order in {file}; expected ascending item ids: pack the bundle again")]
    ItemOrder { file: String, item_id: ItemId },
    #[error(
        "item {item_id:?} is in {file} but hashes to shard {expected}; partition with `endcap bundle pack`"
    )]
    WrongShard { file: String, item_id: ItemId, expected: ShardIndex },
    #[error("{file} has {found} rows, bundle.json says {expected}; pack the bundle again")]
    RowCount { file: String, found: u64, expected: u64 },
    #[error("{file} has no `vector` column, which {needed_by} needs; add it")]
    VectorsMissing { file: String, needed_by: String },
    #[error("the vector of item {item_id:?} in {file} has {found} numbers; expected {expected}")]
    VectorDimension { file: String, item_id: ItemId, found: usize, expected: usize },
    #[error(
        "the vector of item {item_id:?} in {file} holds {found} at position {position}; expected finite numbers"
    )]
    VectorNotFinite { file: String, item_id: ItemId, found: f32, position: usize },

    // popular.json, golden.jsonl, evaluation.json, labels.jsonl, tokenizer.json.
    #[error("popular.json names {item_id:?} ({list}), which is not in the catalogue; remove it")]
    PopularUnknown { list: String, item_id: ItemId },
    #[error("popular.json names {item_id:?} twice in {list}; expected distinct items")]
    PopularDuplicate { list: String, item_id: ItemId },
    #[error("popular.json has no items in `overall`; it answers when nothing else can: add some")]
    PopularEmpty,
    #[error("golden.jsonl has no requests; a replica proves itself by them: record at least one")]
    GoldenEmpty,
    #[error("line {line} of {file} cannot be read: {detail}; mend it")]
    Line { file: &'static str, line: usize, detail: String },
    #[error("line {line} of golden.jsonl has {found} {field}; expected {expected}")]
    GoldenLength { line: usize, field: String, found: usize, expected: usize },
    #[error("line {line} of golden.jsonl: {field} is {found}; expected {expected}")]
    GoldenValue { line: usize, field: String, found: String, expected: String },
    #[error("line {line} of golden.jsonl names item {item_id:?}, which is not in the catalogue")]
    GoldenUnknownItem { line: usize, item_id: ItemId },

    // The store.
    #[error("the bundle store could not {action} {what}: {}", reason(source))]
    Store {
        action: &'static str,
        what: String,
        #[source]
        source: object_store::Error,
    },
    #[error("there is no bucket {bucket:?} at {endpoint}; make it, or mend store.url and store.s3.endpoint")]
    NoBucket { bucket: String, endpoint: String },
    #[error(
        "{endpoint:?} is not encrypted and on another machine; expected https:// in store.s3.endpoint, or store.s3.allow_http = true"
    )]
    PlainEndpoint { endpoint: String },
    #[error(
        "{file} of bundle {digest} is not in the store, but its bundle.json is; register the bundle again, which completes it"
    )]
    Hole { digest: Digest, file: String },
    #[error("{} has been locked for too long by a process that evicts the bundle; end that process", path.display())]
    CacheLocked { path: PathBuf },
    #[error("{url:?} names no bundle store; expected a folder's path, file:///… or s3://bucket/prefix")]
    StoreUrl { url: String },
    #[error("no bundle {digest} is in the store; register it first")]
    NotInStore { digest: Digest },
    #[error("shard {shard} was asked for, the bundle has {count}")]
    NoSuchShard { shard: ShardIndex, count: u32 },
    #[error("a background task of the bundle store ended early: {detail}")]
    TaskEnded { detail: String },
}

/// What to look at; the source says the rest.
fn reason(error: &object_store::Error) -> &'static str {
    use object_store::Error;
    match error {
        Error::NotFound { .. } => "it is not there; see store.url",
        Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => {
            "the credentials are refused; see store.s3.access_key_id"
        }
        Error::Generic { .. } => "it cannot be reached, or broke off; see store.url and store.s3.endpoint",
        _ => "it refuses",
    }
}

impl BundleError {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io { action, path: path.to_owned(), source }
    }

    /// Of opening a file of a bundle or its source: one that is not there is a mistake of whoever made it.
    pub(crate) fn open(path: &Path, file: &str) -> impl FnOnce(std::io::Error) -> Self {
        move |source| match source.kind() {
            std::io::ErrorKind::NotFound => Self::MissingFile { file: file.to_owned() },
            _ => Self::io("open", path)(source),
        }
    }

    pub(crate) fn json(file: &str) -> impl FnOnce(serde_json::Error) -> Self {
        move |error| Self::Json { file: file.to_owned(), detail: error.to_string() }
    }
}

impl Coded for BundleError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Io { .. } | Self::TaskEnded { .. } => ErrorCode::Internal,
            Self::DestinationExists { .. } => ErrorCode::AlreadyExists,
            // Damage on the way or on the disk, not a mistake of whoever made the bundle: fetching again may mend it.
            Self::Truncated { .. } | Self::DigestMismatch { .. } | Self::SizeMismatch { .. } => {
                ErrorCode::DataLoss
            }
            Self::NotInStore { .. } => ErrorCode::NotFound,
            Self::Store { .. } | Self::NoBucket { .. } | Self::Hole { .. } | Self::CacheLocked { .. } => {
                ErrorCode::Unavailable
            }
            _ => ErrorCode::InvalidArgument,
        }
    }
}
