//! Records as wire messages.

use std::{collections::BTreeMap, time::Duration};

use endcap_fleet::{HistoryRecord, ModelView, RolloutRecord, Shortfall, VersionRecord, VersionState};
use endcap_proto::pb;
use endcap_types::{ModelName, Version};

use crate::{placement::shortages, world::World};

pub(crate) fn version(
    model: &ModelName,
    number: Version,
    record: &VersionRecord,
    rollout: &RolloutRecord,
) -> pb::ModelVersion {
    let aliases = rollout.aliases.iter().filter(|(_, target)| **target == number);
    pb::ModelVersion {
        model: model.to_string(),
        version: number.get(),
        digest: record.digest.to_hex(),
        shard_count: record.shard_count.get(),
        items_total: record.items_total,
        state: state(record.state).into(),
        failure: record.failure.clone(),
        registered_at: record.registered_at.clone(),
        evaluation: record.evaluation.clone().into_iter().collect(),
        lineage: record.lineage.clone().into_iter().collect(),
        aliases: aliases.map(|(alias, _)| alias.to_string()).collect(),
        size_bytes: record.size_bytes,
    }
}

pub(crate) fn rollout(model: &ModelName, record: &RolloutRecord) -> pb::Rollout {
    pb::Rollout {
        model: model.to_string(),
        aliases: record.aliases.iter().map(|(alias, version)| (alias.to_string(), version.get())).collect(),
        revision: record.revision,
    }
}

pub(crate) fn model(name: &ModelName, view: &ModelView) -> pb::Model {
    let moved = view.rollout.revision > 0;
    let versions = view.versions.iter();
    pb::Model {
        name: name.to_string(),
        rollout: moved.then(|| rollout(name, &view.rollout)),
        versions: versions.map(|(number, record)| version(name, *number, record, &view.rollout)).collect(),
    }
}

pub(crate) fn history(record: HistoryRecord) -> pb::HistoryEntry {
    pb::HistoryEntry {
        sequence: record.sequence,
        at: record.at,
        action: record.action.as_str().to_owned(),
        actor: record.actor,
        from_version: record.from.map_or(0, Version::get),
        to_version: record.to.get(),
        digest: record.digest.to_hex(),
        reason: record.reason,
    }
}

/// A replica's place: model, version, shard, worker.
pub(crate) type Place = (ModelName, Version, u32, String);

/// Every replica that is assigned or ready, with its state and why it failed.
pub(crate) fn replicas(world: &World) -> BTreeMap<Place, (pb::ReplicaState, String)> {
    let mut replicas = BTreeMap::new();
    for (shard, record) in &world.assignments {
        for worker in &record.workers {
            let place = (shard.model.clone(), shard.version, shard.shard, worker.clone());
            let failed = world.failed.get(&(shard.clone(), worker.clone()));
            let failed = failed.filter(|failed| failed.digest == record.digest);
            let state = match failed {
                Some(failed) => (pb::ReplicaState::Failed, failed.reason.clone()),
                None => (pb::ReplicaState::Loading, String::new()),
            };
            replicas.insert(place, state);
        }
    }
    for (shard, ready) in &world.view.ready {
        for worker in ready.keys() {
            let place = (shard.model.clone(), shard.version, shard.shard, worker.clone());
            replicas.insert(place, (pb::ReplicaState::Ready, String::new()));
        }
    }
    replicas
}

pub(crate) fn fleet(world: &World, short: &[Shortfall], age: Duration) -> pb::GetFleetResponse {
    pb::GetFleetResponse {
        shortages: shortages(short),
        controllers: world.candidates.values().cloned().collect(),
        snapshot_age_ms: u64::try_from(age.as_millis()).unwrap_or(u64::MAX),
        workers: world
            .workers
            .iter()
            .map(|(id, worker)| pb::Worker {
                id: id.clone(),
                endpoint: worker.endpoint.clone(),
                device: worker.device.clone(),
                memory_budget_bytes: worker.memory_budget_bytes,
                memory_used_bytes: worker.memory_used_bytes,
                build: worker.build.clone(),
                topology: worker.topology.clone(),
            })
            .collect(),
        replicas: replicas(world)
            .into_iter()
            .map(|((model, version, shard, worker), (state, detail))| pb::Replica {
                model: model.to_string(),
                version: version.get(),
                shard,
                worker,
                state: state.into(),
                detail,
            })
            .collect(),
        models: world.view.models.iter().map(|(name, view)| model(name, view)).collect(),
        members: world
            .members
            .iter()
            .map(|((role, id), member)| pb::Member {
                role: (*role).to_owned(),
                id: id.clone(),
                endpoint: member.endpoint.clone(),
                build: member.build.clone(),
            })
            .collect(),
    }
}

fn state(state: VersionState) -> pb::VersionState {
    match state {
        VersionState::Registered => pb::VersionState::Registered,
        VersionState::Validating => pb::VersionState::Validating,
        VersionState::Validated => pb::VersionState::Validated,
        VersionState::Failed => pb::VersionState::Failed,
    }
}
