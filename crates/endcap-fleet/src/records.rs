//! The JSON values behind the coordination keys. Each carries a `format` number; a reader refuses one it doesn't know.

use std::collections::BTreeMap;

use endcap_types::{Alias, Digest, ModelName, ShardCount, Version};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use thiserror::Error;

/// The format that this build writes.
pub const FORMAT: u32 = 1;

/// Why a stored value could not be read.
#[derive(Debug, Error)]
#[error("the value of {key} is not a {kind} of format {FORMAT}")]
pub struct RecordError {
    pub key: String,
    pub kind: &'static str,
    #[source]
    pub source: serde_json::Error,
}

/// A value stored under a key.
pub trait Record: Serialize + DeserializeOwned {
    const KIND: &'static str;

    fn to_json(&self) -> Vec<u8> {
        // Records are plain structs with string keys, which always serialise.
        serde_json::to_vec(&Versioned { format: FORMAT, record: self }).unwrap_or_default()
    }

    fn from_json(key: &str, bytes: &[u8]) -> Result<Self, RecordError> {
        let refused = |source| RecordError { key: key.to_owned(), kind: Self::KIND, source };
        let Versioned { format, record } = serde_json::from_slice(bytes).map_err(refused)?;
        if format == FORMAT {
            Ok(record)
        } else {
            Err(refused(serde::de::Error::custom(format!("its format is {format}"))))
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Versioned<R> {
    format: u32,
    #[serde(flatten)]
    record: R,
}

/// The life of a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VersionState {
    /// Stored and verified; no worker holds it.
    Registered,
    /// Workers are to hold it; not all shards have been ready yet.
    Validating,
    /// Every shard was ready when last validated.
    Validated,
    /// A worker refused it.
    Failed,
}

/// `models/{model}/versions/{version}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct VersionRecord {
    pub digest: Digest,
    pub shard_count: ShardCount,
    pub items_total: u64,
    pub size_bytes: u64,
    /// RFC 3339.
    pub registered_at: String,
    pub state: VersionState,
    /// Counts the validations, so that a failure of an earlier one is not taken for this one's.
    #[serde(default)]
    pub attempt: u64,
    #[serde(default)]
    pub failure: String,
    #[serde(default)]
    pub evaluation: BTreeMap<String, f64>,
    #[serde(default)]
    pub lineage: BTreeMap<String, String>,
}

/// `models/{model}/rollout`: the compare-and-set target of every alias move.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolloutRecord {
    /// Counts the edits, from 1; 0 means never edited.
    pub revision: u64,
    #[serde(default)]
    pub aliases: BTreeMap<Alias, Version>,
    /// Share of shoppers on the candidate, 0 to 1000.
    #[serde(default)]
    pub candidate_permille: u16,
    /// Entries in the model's history; the next one gets this plus 1.
    #[serde(default)]
    pub history_length: u64,
}

/// What a history entry tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    Registered,
    Validated,
    ValidationFailed,
    Promoted,
    RolledBack,
}

impl Action {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Registered => "registered",
            Self::Validated => "validated",
            Self::ValidationFailed => "validation_failed",
            Self::Promoted => "promoted",
            Self::RolledBack => "rolled_back",
        }
    }
}

/// `models/{model}/history/{sequence}`. Never changed once written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryRecord {
    pub sequence: u64,
    /// RFC 3339.
    pub at: String,
    pub action: Action,
    pub actor: String,
    /// `stable` before.
    pub from: Option<Version>,
    /// The version concerned; for moves, `stable` after.
    pub to: Version,
    pub digest: Digest,
    #[serde(default)]
    pub reason: String,
}

/// `evaluations/{model}/{version}`: what the last run of labelled queries through the fleet measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EvaluationRecord {
    /// RFC 3339.
    pub at: String,
    pub actor: String,
    /// By name, e.g. "ndcg@10".
    pub metrics: BTreeMap<String, f64>,
}

/// `assignments/{model}/{version}/{shard}`, written by the controller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AssignmentRecord {
    pub digest: Digest,
    /// The version's `attempt`: a worker that failed at an earlier one tries again.
    #[serde(default)]
    pub attempt: u64,
    /// Worker ids, ascending.
    pub workers: Vec<String>,
    /// Workers that are to keep the replica they have until all of `workers` are ready: a move never takes one away
    /// before there is another.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub leaving: Vec<String>,
}

impl AsRef<[String]> for AssignmentRecord {
    fn as_ref(&self) -> &[String] {
        &self.workers
    }
}

/// `ready/{model}/{version}/{shard}/{worker}`, under the worker's lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadyRecord {
    pub digest: Digest,
    /// host:port of the worker's ShardService.
    pub endpoint: String,
}

/// `failed/{model}/{version}/{shard}/{worker}`, under the worker's lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedRecord {
    pub digest: Digest,
    #[serde(default)]
    pub attempt: u64,
    pub reason: String,
}

/// `workers/{worker}`, under its lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerRecord {
    pub endpoint: String,
    /// "cpu" or "cuda:0".
    pub device: String,
    pub memory_budget_bytes: u64,
    pub memory_used_bytes: u64,
    pub build: String,
    /// What fails together with this worker, such as its node or zone; may be empty.
    #[serde(default)]
    pub topology: String,
}

/// `gateways/{gateway}` and `feature-caches/{node}`, under their leases.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberRecord {
    pub endpoint: String,
    pub build: String,
}

impl Record for VersionRecord {
    const KIND: &'static str = "version";
}
impl Record for RolloutRecord {
    const KIND: &'static str = "rollout";
}
impl Record for HistoryRecord {
    const KIND: &'static str = "history entry";
}
impl Record for EvaluationRecord {
    const KIND: &'static str = "evaluation";
}
impl Record for AssignmentRecord {
    const KIND: &'static str = "assignment";
}
impl Record for ReadyRecord {
    const KIND: &'static str = "ready record";
}
impl Record for FailedRecord {
    const KIND: &'static str = "failure record";
}
impl Record for WorkerRecord {
    const KIND: &'static str = "worker";
}
impl Record for MemberRecord {
    const KIND: &'static str = "member";
}

/// The versions that workers should hold: those with an alias, and those being or having been validated since.
pub fn is_wanted(version: Version, record: &VersionRecord, rollout: &RolloutRecord) -> bool {
    let aliased = rollout.aliases.values().any(|target| *target == version);
    aliased || matches!(record.state, VersionState::Validating | VersionState::Validated)
}

/// A model's versions and rollout, as read from the coordinator.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ModelView {
    pub rollout: RolloutRecord,
    pub versions: BTreeMap<Version, VersionRecord>,
}

/// All models by name.
pub type Models = BTreeMap<ModelName, ModelView>;
