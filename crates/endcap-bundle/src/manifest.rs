//! `bundle.json` and `model.json`: what a bundle says of itself.

use std::collections::BTreeMap;

use endcap_types::{Digest, FeatureName, ModelName, RetrievalMode, ShardCount, ShardIndex};
use serde::{Deserialize, Serialize};

/// The format this build writes and the only one it reads.
pub const FORMAT: u32 = 1;

/// `bundle.json`. Its SHA-256 is the version's digest; through `files` it covers every byte of the bundle.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    pub format: u32,
    /// RFC 3339.
    pub created: String,
    pub spec: ModelSpec,
    pub shard_count: ShardCount,
    pub items_total: u64,
    /// Rows per shard, by shard index.
    pub shard_rows: Vec<u64>,
    /// Every file but `bundle.json` itself, by path relative to the bundle with `/` between folders.
    pub files: BTreeMap<String, FileEntry>,
}

/// One file of the bundle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    pub sha256: Digest,
    pub size: u64,
}

/// `model.json` of a bundle source, and the same part of `bundle.json`: how the parts fit together.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSpec {
    pub model: ModelName,
    pub ranker: RankerSpec,
    /// Absent for a model that only reranks and uses no vector.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoder: Option<EncoderSpec>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retrieval: Option<RetrievalSpec>,
    /// Where it came from: git commit, data digest, training run.
    #[serde(default)]
    pub lineage: BTreeMap<String, String>,
}

/// How `ranker.onnx` is fed and read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RankerSpec {
    /// File name in the bundle: `ranker.onnx`.
    pub file: String,
    /// Every input of the ONNX graph, once.
    pub inputs: Vec<InputBinding>,
    /// The output that holds one f32 score per row, shaped `[N]` or `[N, 1]`.
    pub output: String,
}

/// One ONNX input: one or more features, concatenated in this order to `[N, sum of widths]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InputBinding {
    pub name: String,
    pub features: Vec<FeatureName>,
}

/// How the query encoder is fed and read. Inputs are i64 `[batch, tokens]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EncoderSpec {
    /// `encoder.onnx`.
    pub file: String,
    /// `tokenizer.json`, in the format of Hugging Face tokenizers.
    pub tokenizer: String,
    /// Input of token ids.
    pub input_ids: String,
    /// Input of ones for tokens and zeros for padding.
    pub attention_mask: String,
    /// Output `[batch, dim]`, f32, of unit length.
    pub output: String,
    /// Length of the vectors, equal to the items'.
    pub dim: usize,
    /// Tokens beyond this are cut.
    pub max_tokens: usize,
}

/// How candidates are found when the caller sends none.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RetrievalSpec {
    #[serde(default)]
    pub mode: RetrievalMode,
    /// Items retrieved from the whole catalogue, then ranked.
    pub depth: u32,
    /// Items of each list that are fused.
    #[serde(default = "fused")]
    pub list_depth: u32,
    /// Text columns of the lexical list, read as one text in this order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lexical_columns: Vec<String>,
    /// What vectors are scanned as.
    #[serde(default)]
    pub precision: Precision,
}

/// What vectors are scanned as. Scores are always those of the f32 vectors.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    #[default]
    F32,
    F16,
    Int8,
}

/// Reciprocal ranks beyond this add next to nothing.
fn fused() -> u32 {
    1000
}

/// Name of a shard's file in a bundle.
pub fn shard_file(shard: ShardIndex, count: ShardCount) -> String {
    format!("items/shard-{shard:05}-of-{:05}.parquet", count.get())
}

/// A manifest is a page of JSON; anything near this is not one.
pub(crate) const LARGEST_MANIFEST: u64 = 16 << 20;

/// Names of the other files.
pub(crate) const MANIFEST: &str = "bundle.json";
pub(crate) const FEATURES: &str = "features.json";
pub(crate) const POPULAR: &str = "popular.json";
pub(crate) const GOLDEN: &str = "golden.jsonl";
pub(crate) const EVALUATION: &str = "evaluation.json";
pub(crate) const LABELS: &str = "labels.jsonl";
pub(crate) const LEXICAL: &str = "lexical.json";
