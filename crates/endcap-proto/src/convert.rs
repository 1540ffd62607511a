//! Conversions between wire and domain types that more than one crate needs.

use std::collections::BTreeSet;

use endcap_types::{
    Arm, Coverage, DegradationReason, Digest, ModelName, Quality, Rung, StageTiming, Standing, Version,
    VersionPin,
};
use thiserror::Error;

use crate::pb;

/// A message that breaks the contract. Between our own services it means a bug or a version skew.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum WireError {
    #[error("{field} is missing")]
    Missing { field: &'static str },
    #[error("{field}: {detail}")]
    Invalid { field: &'static str, detail: String },
}

impl WireError {
    fn invalid(field: &'static str, detail: impl ToString) -> Self {
        Self::Invalid { field, detail: detail.to_string() }
    }
}

impl From<&VersionPin> for pb::VersionPin {
    fn from(pin: &VersionPin) -> Self {
        Self { model: pin.model.to_string(), version: pin.version.get(), digest: pin.digest.to_hex() }
    }
}

impl TryFrom<&pb::VersionPin> for VersionPin {
    type Error = WireError;

    fn try_from(wire: &pb::VersionPin) -> Result<Self, WireError> {
        Ok(Self {
            model: wire.model.parse::<ModelName>().map_err(|e| WireError::invalid("pin.model", e))?,
            version: Version::try_from(wire.version).map_err(|e| WireError::invalid("pin.version", e))?,
            digest: wire.digest.parse::<Digest>().map_err(|e| WireError::invalid("pin.digest", e))?,
        })
    }
}

impl From<Rung> for pb::Rung {
    fn from(rung: Rung) -> Self {
        match rung {
            Rung::Full => Self::Full,
            Rung::Reduced => Self::Reduced,
            Rung::RetrievalOnly => Self::RetrievalOnly,
            Rung::Cached => Self::Cached,
            Rung::Popular => Self::Popular,
        }
    }
}

/// The domain's rung, or nothing for `UNSPECIFIED`.
pub fn rung_from_wire(wire: pb::Rung) -> Option<Rung> {
    Rung::ALL.into_iter().find(|rung| pb::Rung::from(*rung) == wire)
}

impl From<DegradationReason> for pb::DegradationReason {
    fn from(reason: DegradationReason) -> Self {
        match reason {
            DegradationReason::FeaturesMissing => Self::FeaturesMissing,
            DegradationReason::FeaturesTimedOut => Self::FeaturesTimedOut,
            DegradationReason::FeaturesUnavailable => Self::FeaturesUnavailable,
            DegradationReason::ShardTimedOut => Self::ShardTimedOut,
            DegradationReason::ShardFailed => Self::ShardFailed,
            DegradationReason::ShardShed => Self::ShardShed,
            DegradationReason::EncoderFailed => Self::EncoderFailed,
            DegradationReason::DeadlineTooShort => Self::DeadlineTooShort,
            DegradationReason::NotRoutable => Self::NotRoutable,
            DegradationReason::UnknownCandidates => Self::UnknownCandidates,
        }
    }
}

impl From<Coverage> for pb::Coverage {
    fn from(coverage: Coverage) -> Self {
        Self {
            items_scored: coverage.items_scored,
            items_total: coverage.items_total,
            shards_total: coverage.shards_total,
            shards_ok: coverage.shards_ok,
            shards_timed_out: coverage.shards_timed_out,
            shards_failed: coverage.shards_failed,
            shards_shed: coverage.shards_shed,
            missing_shards: coverage.missing,
        }
    }
}

impl From<StageTiming> for pb::Timing {
    fn from(timing: StageTiming) -> Self {
        Self {
            plan_us: timing.plan_us,
            features_us: timing.features_us,
            encode_us: timing.encode_us,
            scatter_us: timing.scatter_us,
            merge_us: timing.merge_us,
            total_us: timing.total_us,
        }
    }
}

impl From<Quality> for pb::Quality {
    fn from(quality: Quality) -> Self {
        let reasons: BTreeSet<_> = quality.reasons.into_iter().collect();
        Self {
            rung: pb::Rung::from(quality.rung).into(),
            model: quality.pin.model.to_string(),
            version: quality.pin.version.get(),
            digest: quality.pin.digest.to_hex(),
            arm: Arm::as_str(quality.arm).to_owned(),
            coverage: Some(quality.coverage.into()),
            degradation_reasons: reasons.into_iter().map(|r| pb::DegradationReason::from(r).into()).collect(),
            timing: Some(quality.timing.into()),
        }
    }
}

impl From<Standing> for pb::Standing {
    fn from(standing: Standing) -> Self {
        let Standing { dense_top, lexical_top, dense_ranks, lexical_ranks } = standing;
        Self { dense_top, lexical_top, dense_ranks, lexical_ranks }
    }
}

impl From<pb::Standing> for Standing {
    fn from(wire: pb::Standing) -> Self {
        let pb::Standing { dense_top, lexical_top, dense_ranks, lexical_ranks } = wire;
        Self { dense_top, lexical_top, dense_ranks, lexical_ranks }
    }
}
