//! The small files of a bundle, as values.

use std::collections::BTreeMap;

use endcap_types::{FeatureName, FeatureSpec, FeatureValue, ItemId, Standing};
use serde::{Deserialize, Serialize};

/// `features.json`: every feature that the ranker reads.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FeatureSchema {
    pub features: Vec<FeatureSpec>,
}

impl FeatureSchema {
    pub fn get(&self, name: &FeatureName) -> Option<&FeatureSpec> {
        self.iter().find(|spec| spec.name == *name)
    }

    pub fn iter(&self) -> impl Iterator<Item = &FeatureSpec> {
        self.features.iter()
    }
}

/// `popular.json`: what is shown when nothing better can be.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Popular {
    /// Best first.
    pub overall: Vec<ItemId>,
    #[serde(default)]
    pub segments: BTreeMap<String, Vec<ItemId>>,
}

/// A line of `golden.jsonl`: a complete request and what it must give, taken from ONNX Runtime on the final files.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GoldenRequest {
    pub query: String,
    /// Values of user, session and context features; the others have their defaults.
    #[serde(default)]
    pub features: BTreeMap<FeatureName, FeatureValue>,
    /// What the encoder must make of the query.
    #[serde(default)]
    pub query_vector: Option<Vec<f32>>,
    pub item_ids: Vec<ItemId>,
    /// Where the items stand in the whole catalogue, if the ranker reads that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standing: Option<Standing>,
    /// By ONNX input, one row per item.
    pub inputs: BTreeMap<String, Vec<FeatureValue>>,
    /// One per item.
    pub scores: Vec<f32>,
}

/// `evaluation.json`: what was measured offline.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    #[serde(default)]
    pub metrics: BTreeMap<String, f64>,
    /// Fingerprints, distributions and whatever else the training side records.
    #[serde(flatten)]
    pub rest: serde_json::Map<String, serde_json::Value>,
}

/// A line of `labels.jsonl`: a query with the gains of its judged items. A gain of 1 or more is relevant.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LabelledQuery {
    pub query_id: String,
    pub query: String,
    pub gains: BTreeMap<ItemId, f64>,
}
