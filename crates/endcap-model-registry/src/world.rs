//! The fleet as the coordinator's keys tell it.

use std::{collections::BTreeMap, sync::Arc};

use endcap_coordination::Entries;
use endcap_fleet::{
    AssignmentRecord, FailedRecord, FleetView, Key, Keys, MemberRecord, ReadyRecord, Record, RolloutRecord,
    ShardKey, VersionRecord, WorkerRecord,
};

/// Everything known, as records.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct World {
    pub(crate) view: FleetView,
    pub(crate) assignments: BTreeMap<ShardKey, AssignmentRecord>,
    pub(crate) failed: BTreeMap<(ShardKey, String), FailedRecord>,
    pub(crate) workers: BTreeMap<String, WorkerRecord>,
    /// By role and id.
    pub(crate) members: BTreeMap<(&'static str, String), MemberRecord>,
}

/// Prefixes that a world is made of.
pub(crate) fn prefixes(keys: &Keys) -> Vec<String> {
    vec![
        keys.models(),
        keys.assignments(),
        keys.ready_all(),
        keys.failed_all(),
        keys.workers(),
        keys.gateways(),
        keys.feature_caches(),
    ]
}

impl World {
    /// Reads every key. One that cannot be read is logged and left out: a newer member must not stop this one.
    pub(crate) fn read(keys: &Keys, entries: &Arc<Entries>) -> Self {
        let mut world = Self::default();
        for (key, entry) in entries.iter() {
            let Some(parsed) = keys.parse(key) else { continue };
            world.add(parsed, key, &entry.value);
        }
        world
    }

    fn add(&mut self, parsed: Key, key: &str, value: &[u8]) {
        match parsed {
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
            Key::History { .. } => {}
        }
    }
}

fn read<R: Record>(key: &str, value: &[u8]) -> Option<R> {
    R::from_json(key, value).inspect_err(|error| tracing::error!(%error, "record is not readable")).ok()
}
