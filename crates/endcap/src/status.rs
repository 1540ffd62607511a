//! `endcap status`: the fleet as a tree.

use std::collections::BTreeMap;

use endcap_proto::pb;
use futures::future::join_all;
use serde_json::json;

use crate::{
    cli::{Global, Output},
    clients::{self, with_deadline},
    output, view,
};

/// Asks the registry and prints.
pub(crate) async fn run(global: &Global) -> anyhow::Result<()> {
    let fleet = clients::registry(&global.registry)?
        .get_fleet(with_deadline(pb::GetFleetRequest {}, std::time::Duration::from_secs(10)))
        .await
        .map_err(|e| output::remote("status", &global.registry, &e))?
        .into_inner();
    let gateways = fleet.members.iter().filter(|member| member.role == "gateway");
    let asked = gateways
        .map(async |gateway| Some((gateway.id.clone(), clients::routing(&gateway.endpoint).await.ok()?)));
    let routing: Routing = join_all(asked).await.into_iter().flatten().collect();
    match global.output {
        Output::Json => output::json(&as_json(&fleet, &routing)),
        Output::Table => {
            tree(&fleet, &routing).iter().for_each(output::line);
            Ok(())
        }
    }
}

/// What the gateways that answer route to, by id.
type Routing = BTreeMap<String, pb::GetRoutingResponse>;

/// Replicas of one version: by shard, the worker and its state.
type Shards<'a> = BTreeMap<u32, Vec<&'a pb::Replica>>;

/// The tree's lines: models with versions, shards and replicas, then who takes part.
pub(crate) fn tree(fleet: &pb::GetFleetResponse, routing: &Routing) -> Vec<String> {
    let mut lines = Vec::new();
    if fleet.snapshot_age_ms > 0 {
        let age = std::time::Duration::from_millis(fleet.snapshot_age_ms);
        lines.push(format!(
            "the coordinator cannot be reached: this is what was known {} ago",
            output::age(age)
        ));
    }
    for model in &fleet.models {
        let aliases = model.rollout.as_ref().map_or_else(|| "no alias yet".to_owned(), view::aliases);
        lines.push(format!("model {} · {aliases}", model.name));
        let last = model.versions.len().saturating_sub(1);
        for (i, version) in model.versions.iter().enumerate() {
            let (branch, trunk) = if i == last { ("└─", "  ") } else { ("├─", "│ ") };
            lines.push(format!("{branch} {}", version_line(version)));
            lines.extend(shortages_of(fleet, version).map(|text| format!("{trunk} ! {text}")));
            let shards = shards_of(fleet, version);
            let last_shard = shards.len().saturating_sub(1);
            for (j, (shard, replicas)) in shards.into_iter().enumerate() {
                let twig = if j == last_shard { "└─" } else { "├─" };
                lines.push(format!("{trunk} {twig} shard {shard}: {}", replicas_text(&replicas)));
            }
        }
    }
    if fleet.models.is_empty() {
        lines.push("no models yet; `endcap model register FILE --promote` adds one".to_owned());
    }
    for worker in &fleet.workers {
        lines.push(format!(
            "worker {} · {} · {}{} · {} of {} used · {}",
            worker.id,
            worker.endpoint,
            worker.device,
            if worker.topology.is_empty() { String::new() } else { format!(" · {}", worker.topology) },
            output::bytes(worker.memory_used_bytes),
            output::bytes(worker.memory_budget_bytes),
            worker.build
        ));
    }
    for member in &fleet.members {
        let routes = match routing.get(&member.id) {
            Some(routing) => routes_text(routing),
            None if member.role == "gateway" => " · cannot be asked from here".to_owned(),
            None => String::new(),
        };
        lines.push(format!("{} {} · {} · {}{routes}", member.role, member.id, member.endpoint, member.build));
    }
    for (rank, controller) in fleet.controllers.iter().enumerate() {
        let does = if rank == 0 { "controls" } else { "stands by" };
        lines.push(format!("registry {controller} · {does}"));
    }
    lines
}

/// ` · routes m 1, 2 · as known 3s ago · without w:1`
fn routes_text(routing: &pb::GetRoutingResponse) -> String {
    let mut models = BTreeMap::<&str, Vec<String>>::new();
    for version in &routing.versions {
        models.entry(&version.model).or_default().push(version.version.to_string());
    }
    let models = models.iter().map(|(model, versions)| format!("{model} {}", versions.join(", ")));
    let models: Vec<String> = models.collect();
    let mut text =
        format!(" · routes {}", if models.is_empty() { "nothing".to_owned() } else { models.join("; ") });
    if routing.snapshot_age_ms > 0 {
        let age = std::time::Duration::from_millis(routing.snapshot_age_ms);
        text.push_str(&format!(" · as known {} ago", output::age(age)));
    }
    if !routing.ejected.is_empty() {
        text.push_str(&format!(" · without {}", routing.ejected.join(", ")));
    }
    text
}

fn version_line(version: &pb::ModelVersion) -> String {
    let mut text = format!("version {} · {}", version.version, view::state(version));
    if !version.aliases.is_empty() {
        text.push_str(&format!(" · {}", version.aliases.join(", ")));
    }
    text.push_str(&format!(
        " · {} items in {} shards · {}",
        version.items_total,
        version.shard_count,
        version.digest.chars().take(12).collect::<String>()
    ));
    if !version.failure.is_empty() {
        text.push_str(&format!(" · {}", version.failure));
    }
    text
}

/// `3 replicas of 2 shards have no worker: …`
fn shortages_of(fleet: &pb::GetFleetResponse, version: &pb::ModelVersion) -> impl Iterator<Item = String> {
    let ours = fleet.shortages.iter();
    let ours = ours.filter(|short| short.model == version.model && short.version == version.version);
    ours.map(|short| {
        let why = match short.lack() {
            pb::Lack::Memory => "raise worker.memory_budget, or add workers",
            pb::Lack::Workers | pb::Lack::Unspecified => "add workers",
        };
        let none = match short.shards_without_any {
            0 => String::new(),
            count => format!(" ({count} without any)"),
        };
        format!("{} replicas of {} shards{none} have no worker: {why}", short.replicas, short.shards)
    })
}

fn shards_of<'a>(fleet: &'a pb::GetFleetResponse, version: &pb::ModelVersion) -> Shards<'a> {
    let mut shards = Shards::new();
    for replica in &fleet.replicas {
        if replica.model == version.model && replica.version == version.version {
            shards.entry(replica.shard).or_default().push(replica);
        }
    }
    shards
}

fn replicas_text(replicas: &[&pb::Replica]) -> String {
    let texts: Vec<_> = replicas
        .iter()
        .map(|replica| {
            let state = view::replica_state(replica.state());
            let detail =
                if replica.detail.is_empty() { String::new() } else { format!(" ({})", replica.detail) };
            format!("{} {state}{detail}", replica.worker)
        })
        .collect();
    texts.join(", ")
}

fn as_json(fleet: &pb::GetFleetResponse, routing: &Routing) -> serde_json::Value {
    json!({
        "models": fleet.models.iter().map(view::model_json).collect::<Vec<_>>(),
        "replicas": fleet.replicas.iter().map(|replica| json!({
            "model": replica.model, "version": replica.version, "shard": replica.shard,
            "worker": replica.worker, "state": view::replica_state(replica.state()), "detail": replica.detail,
        })).collect::<Vec<_>>(),
        "workers": fleet.workers.iter().map(|worker| json!({
            "id": worker.id, "endpoint": worker.endpoint, "device": worker.device, "build": worker.build,
            "memory_budget_bytes": worker.memory_budget_bytes, "memory_used_bytes": worker.memory_used_bytes,
            "topology": worker.topology,
        })).collect::<Vec<_>>(),
        "shortages": fleet.shortages.iter().map(|short| json!({
            "model": short.model, "version": short.version, "lack": view::lack(short.lack()),
            "replicas": short.replicas, "shards": short.shards, "shards_without_any": short.shards_without_any,
        })).collect::<Vec<_>>(),
        "controllers": fleet.controllers,
        "snapshot_age_ms": fleet.snapshot_age_ms,
        "members": fleet.members.iter().map(|member| json!({
            "role": member.role, "id": member.id, "endpoint": member.endpoint, "build": member.build,
            "routing": routing.get(&member.id).map(|routing| json!({
                "snapshot_age_ms": routing.snapshot_age_ms,
                "versions": routing.versions.iter().map(|version| json!({
                    "model": version.model, "version": version.version, "digest": version.digest,
                })).collect::<Vec<_>>(),
                "ejected": routing.ejected,
            })),
        })).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_shows_versions_shards_and_replicas() {
        let version = |number| pb::ModelVersion {
            model: "m".into(),
            version: number,
            digest: "ab".repeat(32),
            shard_count: 2,
            items_total: 9,
            state: pb::VersionState::Validated.into(),
            aliases: if number == 2 { vec!["stable".into()] } else { Vec::new() },
            ..Default::default()
        };
        let replica = |shard, worker: &str, state: pb::ReplicaState| pb::Replica {
            model: "m".into(),
            version: 2,
            shard,
            worker: worker.into(),
            state: state.into(),
            ..Default::default()
        };
        let fleet = pb::GetFleetResponse {
            snapshot_age_ms: 83_000,
            controllers: vec!["r2".into(), "r1".into()],
            shortages: vec![pb::Shortage {
                model: "m".into(),
                version: 2,
                lack: pb::Lack::Memory.into(),
                replicas: 3,
                shards: 2,
                shards_without_any: 1,
            }],
            models: vec![pb::Model {
                name: "m".into(),
                rollout: None,
                versions: vec![version(1), version(2)],
            }],
            replicas: vec![
                replica(0, "w1", pb::ReplicaState::Ready),
                replica(0, "w2", pb::ReplicaState::Loading),
                replica(1, "w1", pb::ReplicaState::Ready),
            ],
            members: ["g1", "g2"]
                .map(|id| pb::Member {
                    role: "gateway".into(),
                    id: id.into(),
                    endpoint: format!("{id}:9400"),
                    build: "0.1.0".into(),
                })
                .into(),
            ..Default::default()
        };
        let routed = |version| pb::RoutedVersion { model: "m".into(), version, ..Default::default() };
        let routing = pb::GetRoutingResponse {
            snapshot_age_ms: 5_000,
            versions: vec![routed(1), routed(2)],
            ejected: vec!["w:1".into()],
        };
        assert_eq!(
            tree(&fleet, &[("g1".to_owned(), routing)].into()),
            [
                "the coordinator cannot be reached: this is what was known 1m 23s ago",
                "model m · no alias yet",
                "├─ version 1 · validated · 9 items in 2 shards · abababababab",
                "└─ version 2 · validated · stable · 9 items in 2 shards · abababababab",
                "   ! 3 replicas of 2 shards (1 without any) have no worker: raise worker.memory_budget, or \
                 add workers",
                "   ├─ shard 0: w1 ready, w2 loading",
                "   └─ shard 1: w1 ready",
                "gateway g1 · g1:9400 · 0.1.0 · routes m 1, 2 · as known 5s ago · without w:1",
                "gateway g2 · g2:9400 · 0.1.0 · cannot be asked from here",
                "registry r2 · controls",
                "registry r1 · stands by",
            ]
        );
    }
}
