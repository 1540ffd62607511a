//! How good an answer is.

use serde::{Deserialize, Serialize};

use crate::{ShardIndex, VersionPin};

/// The step of the degradation ladder that an answer stands on, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Rung {
    Full,
    Reduced,
    RetrievalOnly,
    Cached,
    Popular,
}

impl Rung {
    pub const ALL: [Self; 5] = [Self::Full, Self::Reduced, Self::RetrievalOnly, Self::Cached, Self::Popular];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Full => "FULL",
            Self::Reduced => "REDUCED",
            Self::RetrievalOnly => "RETRIEVAL_ONLY",
            Self::Cached => "CACHED",
            Self::Popular => "POPULAR",
        }
    }
}

/// Why an answer is less than it could be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum DegradationReason {
    FeaturesMissing,
    FeaturesTimedOut,
    FeaturesUnavailable,
    ShardTimedOut,
    ShardFailed,
    ShardShed,
    EncoderFailed,
    DeadlineTooShort,
    NotRoutable,
    UnknownCandidates,
}

impl DegradationReason {
    pub const ALL: [Self; 10] = [
        Self::FeaturesMissing,
        Self::FeaturesTimedOut,
        Self::FeaturesUnavailable,
        Self::ShardTimedOut,
        Self::ShardFailed,
        Self::ShardShed,
        Self::EncoderFailed,
        Self::DeadlineTooShort,
        Self::NotRoutable,
        Self::UnknownCandidates,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::FeaturesMissing => "FEATURES_MISSING",
            Self::FeaturesTimedOut => "FEATURES_TIMED_OUT",
            Self::FeaturesUnavailable => "FEATURES_UNAVAILABLE",
            Self::ShardTimedOut => "SHARD_TIMED_OUT",
            Self::ShardFailed => "SHARD_FAILED",
            Self::ShardShed => "SHARD_SHED",
            Self::EncoderFailed => "ENCODER_FAILED",
            Self::DeadlineTooShort => "DEADLINE_TOO_SHORT",
            Self::NotRoutable => "NOT_ROUTABLE",
            Self::UnknownCandidates => "UNKNOWN_CANDIDATES",
        }
    }
}

/// Which arm of a rollout a request is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Arm {
    Stable,
    Candidate,
    /// The caller named a version or an alias.
    Pinned,
}

impl Arm {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stable => "stable",
            Self::Candidate => "candidate",
            Self::Pinned => "pinned",
        }
    }
}

/// What became of one shard's part of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ShardOutcome {
    Ok,
    TimedOut,
    Failed,
    Shed,
}

/// How much the answer was chosen from. Missing shards are data: an answer is never silently thinner.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Coverage {
    pub items_scored: u64,
    pub items_total: u64,
    pub shards_total: u32,
    pub shards_ok: u32,
    pub shards_timed_out: u32,
    pub shards_failed: u32,
    pub shards_shed: u32,
    /// Ascending.
    pub missing: Vec<ShardIndex>,
}

impl Coverage {
    /// Share of the items that were scored, 0 to 1; 1 when there was nothing to score.
    #[expect(clippy::cast_precision_loss, reason = "a ratio of counts far below 2^52")]
    pub fn ratio(&self) -> f64 {
        if self.items_total == 0 { 1.0 } else { self.items_scored as f64 / self.items_total as f64 }
    }
}

/// Wall time of each stage, in microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StageTiming {
    pub plan_us: u64,
    pub features_us: u64,
    pub encode_us: u64,
    pub scatter_us: u64,
    pub merge_us: u64,
    pub total_us: u64,
}

/// The label on every answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Quality {
    pub rung: Rung,
    pub pin: VersionPin,
    pub arm: Arm,
    pub coverage: Coverage,
    /// Distinct, in enum order.
    pub reasons: Vec<DegradationReason>,
    pub timing: StageTiming,
}
