//! The moves of a rollout, as functions from one record to the next.

use endcap_types::{Alias, Coded, ErrorCode, ModelName, ShardIndex, Version};
use thiserror::Error;

use crate::{ModelView, ReadyReplicas, RolloutRecord, VersionRecord, missing_shards, snapshot::shards};

/// Why an alias does not move.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum MoveError {
    #[error("model {model} has no version {version}")]
    UnknownVersion { model: ModelName, version: Version },
    #[error(
        "version {version} of {model} is not routable: no ready replica of shard {}; \
         `endcap model validate {model} {version}` loads it",
        shards(missing)
    )]
    NotRoutable { model: ModelName, version: Version, missing: Vec<ShardIndex> },
    #[error("version {version} of {model} is stable already")]
    AlreadyStable { model: ModelName, version: Version },
    #[error("model {model} has no last_good version to roll back to")]
    NoLastGood { model: ModelName },
    #[error(
        "the rollout of {model} is at revision {current}, not {expected}: read it again and decide again"
    )]
    Stale { model: ModelName, expected: u64, current: u64 },
}

impl Coded for MoveError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::UnknownVersion { .. } => ErrorCode::NotFound,
            Self::NotRoutable { .. } | Self::AlreadyStable { .. } | Self::NoLastGood { .. } => {
                ErrorCode::FailedPrecondition
            }
            Self::Stale { .. } => ErrorCode::Aborted,
        }
    }
}

/// `stable` moves to a routable version; the old one becomes `last_good`.
pub fn promote(
    model: &ModelName,
    view: &ModelView,
    ready: &ReadyReplicas,
    target: Version,
) -> Result<RolloutRecord, MoveError> {
    let stable = view.rollout.aliases.get(&Alias::Stable).copied();
    if stable == Some(target) {
        return Err(MoveError::AlreadyStable { model: model.clone(), version: target });
    }
    routable(model, view, ready, target)?;
    let mut next = next(&view.rollout);
    next.aliases.insert(Alias::Stable, target);
    if let Some(stable) = stable {
        next.aliases.insert(Alias::LastGood, stable);
    }
    if next.aliases.get(&Alias::Candidate) == Some(&target) {
        next.aliases.remove(&Alias::Candidate);
        next.candidate_permille = 0;
    }
    Ok(next)
}

/// `stable` moves back to `last_good`, and the other way round.
pub fn rollback(
    model: &ModelName,
    view: &ModelView,
    ready: &ReadyReplicas,
) -> Result<RolloutRecord, MoveError> {
    let aliases = &view.rollout.aliases;
    let target = aliases.get(&Alias::LastGood).copied();
    let target = target.ok_or_else(|| MoveError::NoLastGood { model: model.clone() })?;
    routable(model, view, ready, target)?;
    let mut next = next(&view.rollout);
    if let Some(stable) = aliases.get(&Alias::Stable) {
        next.aliases.insert(Alias::LastGood, *stable);
    }
    next.aliases.insert(Alias::Stable, target);
    Ok(next)
}

/// Refuses an editor who decided on another revision. 0 stands for "whatever it is".
pub fn check_revision(model: &ModelName, rollout: &RolloutRecord, expected: u64) -> Result<(), MoveError> {
    if expected == 0 || expected == rollout.revision {
        return Ok(());
    }
    Err(MoveError::Stale { model: model.clone(), expected, current: rollout.revision })
}

fn routable(
    model: &ModelName,
    view: &ModelView,
    ready: &ReadyReplicas,
    target: Version,
) -> Result<(), MoveError> {
    let record: &VersionRecord = view
        .versions
        .get(&target)
        .ok_or_else(|| MoveError::UnknownVersion { model: model.clone(), version: target })?;
    let missing = missing_shards(ready, model, target, record.digest, record.shard_count);
    if missing.is_empty() {
        return Ok(());
    }
    Err(MoveError::NotRoutable { model: model.clone(), version: target, missing })
}

fn next(rollout: &RolloutRecord) -> RolloutRecord {
    RolloutRecord { revision: rollout.revision + 1, ..rollout.clone() }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use endcap_types::{Digest, ShardCount};

    use super::*;
    use crate::{ReadyRecord, ShardKey, VersionState};

    fn version(number: u64) -> Version {
        Version::try_from(number).unwrap()
    }

    fn world(ready_versions: &[u64]) -> (ModelName, ModelView, ReadyReplicas) {
        let model: ModelName = "m".parse().unwrap();
        let digest = Digest::from_bytes([1; 32]);
        let record = VersionRecord {
            digest,
            shard_count: ShardCount::try_from(2).unwrap(),
            items_total: 1,
            size_bytes: 1,
            registered_at: String::new(),
            state: VersionState::Validated,
            attempt: 1,
            failure: String::new(),
            evaluation: BTreeMap::new(),
            lineage: BTreeMap::new(),
        };
        let versions = [1, 2, 3].map(|n| (version(n), record.clone())).into();
        let mut ready = ReadyReplicas::new();
        for (number, shard) in ready_versions.iter().flat_map(|n| [(*n, 0), (*n, 1)]) {
            let key = ShardKey { model: model.clone(), version: version(number), shard };
            let replica = ReadyRecord { digest, endpoint: "w:1".into() };
            ready.entry(key).or_default().insert("w".into(), replica);
        }
        (model, ModelView { rollout: RolloutRecord::default(), versions }, ready)
    }

    #[test]
    fn promotions_and_rollbacks_swap_stable_and_last_good() {
        let (model, mut view, ready) = world(&[1, 2]);
        view.rollout = promote(&model, &view, &ready, version(1)).unwrap();
        assert_eq!(rollback(&model, &view, &ready), Err(MoveError::NoLastGood { model: model.clone() }));
        view.rollout = promote(&model, &view, &ready, version(2)).unwrap();
        assert_eq!(view.rollout.aliases[&Alias::LastGood], version(1));
        view.rollout = rollback(&model, &view, &ready).unwrap();
        let aliases = [(Alias::Stable, version(1)), (Alias::LastGood, version(2))];
        assert_eq!(
            view.rollout,
            RolloutRecord { revision: 3, aliases: aliases.into(), ..RolloutRecord::default() }
        );
    }

    #[test]
    fn an_unroutable_version_is_refused_with_its_missing_shards() {
        let (model, view, mut ready) = world(&[1]);
        ready.remove(&ShardKey { model: model.clone(), version: version(1), shard: 1 });
        let error = promote(&model, &view, &ready, version(1)).unwrap_err();
        assert!(error.to_string().contains("no ready replica of shard 1;"), "{error}");
        assert!(matches!(promote(&model, &view, &ready, version(9)), Err(MoveError::UnknownVersion { .. })));
    }

    #[test]
    fn a_stale_editor_is_told_the_current_revision() {
        let (model, mut view, _) = world(&[]);
        view.rollout.revision = 7;
        assert_eq!(check_revision(&model, &view.rollout, 0), Ok(()));
        assert_eq!(check_revision(&model, &view.rollout, 7), Ok(()));
        let error = check_revision(&model, &view.rollout, 6).unwrap_err();
        assert!(error.to_string().contains("revision 7, not 6"));
    }
}
