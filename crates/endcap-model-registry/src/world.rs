//! The fleet as the coordinator's keys tell it.

use std::{collections::BTreeMap, sync::Arc};

use endcap_coordination::{CoordinationError, Coordinator, Entries, KeyValue, Revision};
use endcap_fleet::{
    AssignmentRecord, EvaluationRecord, FailedRecord, FleetView, Key, Keys, MemberRecord, ReadyRecord,
    Record, RolloutRecord, ShardKey, VersionRecord, WorkerRecord,
};
use endcap_types::{Digest, ModelName, Version};

/// Everything known, as records.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct World {
    pub(crate) view: FleetView,
    pub(crate) assignments: BTreeMap<ShardKey, AssignmentRecord>,
    pub(crate) failed: BTreeMap<(ShardKey, String), FailedRecord>,
    pub(crate) workers: BTreeMap<String, WorkerRecord>,
    pub(crate) evaluations: BTreeMap<(ModelName, Version), EvaluationRecord>,
    /// By role and id.
    pub(crate) members: BTreeMap<(&'static str, String), MemberRecord>,
    /// Registries that stand for controller, by the revision at which they began to: the first one leads.
    pub(crate) candidates: BTreeMap<Revision, String>,
}

/// Prefixes that a world is made of.
pub(crate) fn prefixes(keys: &Keys) -> Vec<String> {
    vec![
        keys.models(),
        keys.assignments(),
        keys.ready_all(),
        keys.failed_all(),
        keys.workers(),
        keys.evaluations(),
        keys.gateways(),
        keys.feature_caches(),
        format!("{}/", keys.controller_election()),
    ]
}

impl World {
    /// Reads every key. One that cannot be read is logged and left out: a newer member must not stop this one.
    pub(crate) fn read(keys: &Keys, entries: &Arc<Entries>) -> Self {
        let mut world = Self::default();
        for (key, entry) in entries.iter() {
            let Some(parsed) = keys.parse(key) else { continue };
            world.add(parsed, entry);
        }
        world
    }

    /// Reads the coordinator now, not what is mirrored of it.
    pub(crate) async fn list(
        coordinator: &dyn Coordinator,
        keys: &Keys,
        prefixes: &[String],
    ) -> Result<Self, CoordinationError> {
        let mut world = Self::default();
        for prefix in prefixes {
            for entry in coordinator.list(prefix).await?.entries {
                if let Some(parsed) = keys.parse(&entry.key) {
                    world.add(parsed, &entry);
                }
            }
        }
        Ok(world)
    }

    /// Who holds each shard, or is about to. Where no assignment says so, those that are ready: after the
    /// assignments were lost, nothing should move.
    pub(crate) fn held(&self) -> BTreeMap<ShardKey, Vec<String>> {
        let ready = self.view.ready.iter().map(|(shard, holders)| (shard, holders.keys().cloned().collect()));
        let assigned = self.assignments.iter().map(|(shard, record)| (shard, record.workers.clone()));
        ready.chain(assigned).map(|(shard, workers)| (shard.clone(), workers)).collect()
    }

    /// Who is ready to answer for a shard besides those that should, as long as not all of these are.
    pub(crate) fn leaving(&self, shard: &ShardKey, digest: Digest, workers: &[String]) -> Vec<String> {
        let Some(holders) = self.view.ready.get(shard) else { return Vec::new() };
        let is_ready = |worker: &String| holders.get(worker).is_some_and(|ready| ready.digest == digest);
        if workers.iter().all(is_ready) {
            return Vec::new();
        }
        holders.keys().filter(|worker| is_ready(worker) && !workers.contains(worker)).cloned().collect()
    }

    fn add(&mut self, parsed: Key, entry: &KeyValue) {
        let KeyValue { key, value, .. } = entry;
        match parsed {
            Key::Candidate => {
                let id = String::from_utf8_lossy(value).into_owned();
                self.candidates.insert(entry.create_revision, id);
            }
            Key::Version { model, version } => {
                if let Some(record) = read::<VersionRecord>(key, value) {
                    self.view.models.entry(model).or_default().versions.insert(version, record);
                }
            }
            Key::Rollout { model } => {
                if let Some(record) = read::<RolloutRecord>(key, value) {
                    self.view.models.entry(model).or_default().rollout = record;
                }
            }
            Key::Assignment(shard) => {
                self.assignments.extend(read(key, value).map(|record| (shard, record)));
            }
            Key::Ready { shard, worker } => {
                if let Some(record) = read::<ReadyRecord>(key, value) {
                    self.view.ready.entry(shard).or_default().insert(worker, record);
                }
            }
            Key::Failed { shard, worker } => {
                self.failed.extend(read(key, value).map(|record| ((shard, worker), record)));
            }
            Key::Worker { worker } => self.workers.extend(read(key, value).map(|record| (worker, record))),
            Key::Gateway { gateway } => {
                self.members.extend(read(key, value).map(|record| (("gateway", gateway), record)));
            }
            Key::FeatureCache { node } => {
                self.members.extend(read(key, value).map(|record| (("feature-cache", node), record)));
            }
            Key::Evaluation { model, version } => {
                self.evaluations.extend(read(key, value).map(|record| ((model, version), record)));
            }
            Key::History { .. } => {}
        }
    }
}

fn read<R: Record>(key: &str, value: &[u8]) -> Option<R> {
    R::from_json(key, value).inspect_err(|error| tracing::error!(%error, "record is not readable")).ok()
}
