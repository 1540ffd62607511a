//! What a registry tells of the fleet. Every registry tells all of it, so that losing one loses none: queries take the
//! maximum over registries.

use std::{collections::BTreeMap, sync::Arc};

use endcap_coordination::Entries;
use endcap_fleet::{Keys, is_wanted};
use endcap_types::{Metric, ModelName, Version};
use metrics::{Label, gauge};
use tokio::sync::watch;

use crate::world::World;

/// Declared here, listed in `deploy/prometheus/METRICS.md`.
pub const METRICS: &[Metric] = &[
    Metric::gauge(
        ALIAS,
        &["alias", "model", "version"],
        "1 for the version that an alias of a model points to, 0 for those it has left.",
    ),
    Metric::gauge(
        ASSIGNED,
        &["model", "version"],
        "Replicas that the controller wants, over all shards of a version.",
    ),
    Metric::gauge(READY, &["model", "version"], "Replicas that are ready, over all shards of a version."),
    Metric::gauge(
        UNREADY,
        &["model", "version"],
        "Shards of a wanted version that no worker is ready for: nobody answers for their items.",
    ),
    Metric::gauge(LIVE, &["worker"], "1 while the worker's lease is alive, 0 once it has run out."),
    Metric::gauge(
        "endcap_ndcg_at_k",
        AT_K,
        "Mean NDCG of the first k, on labelled queries: the bundle's own figure (offline) and the last recorded run through the fleet (fleet).",
    ),
    Metric::gauge(
        "endcap_recall_at_k",
        AT_K,
        "Mean share of the relevant items that are among the first k; offline and fleet.",
    ),
    Metric::gauge(
        "endcap_precision_at_k",
        AT_K,
        "Mean share of the first k that is relevant; offline and fleet.",
    ),
    Metric::gauge(
        "endcap_catalogue_coverage_ratio",
        AT_K,
        "Share of the catalogue that the first k answers to all labelled queries show; offline and fleet.",
    ),
    Metric::gauge(
        "endcap_unplaced_replicas",
        &["lack"],
        "Replicas that no worker has room for, by what is lacking: memory, or workers. 0 on registries that do not lead.",
    ),
    Metric::gauge(LEADS, &[], "1 on the registry that controls, 0 on those that would take over."),
];

const AT_K: &[&str] = &["k", "model", "source", "version"];
/// What reports call their figures, before the @, and the gauges that show them. Others are kept and not shown.
const FIGURES: [(&str, &str); 4] = [
    ("ndcg", "endcap_ndcg_at_k"),
    ("recall", "endcap_recall_at_k"),
    ("precision", "endcap_precision_at_k"),
    ("coverage", "endcap_catalogue_coverage_ratio"),
];
const ALIAS: &str = "endcap_alias_info";
const ASSIGNED: &str = "endcap_assigned_replicas";
const READY: &str = "endcap_ready_replicas";
const UNREADY: &str = "endcap_unready_shards";
const LIVE: &str = "endcap_worker_live";
const LEADS: &str = "endcap_controller_leads";

/// Values by name and labels, in the order of their names.
type Gauges = BTreeMap<(&'static str, Vec<(&'static str, String)>), f64>;

/// Keeps the gauges equal to the fleet. Ends with the mirror.
pub(crate) async fn follow(keys: Keys, id: String, mut entries: watch::Receiver<Arc<Entries>>) {
    let mut shown = Gauges::new();
    loop {
        let world = World::read(&keys, &entries.borrow_and_update());
        let current = gauges(&world, &id);
        // What has gone is 0 and not as it was: the exporter forgets nothing.
        let gone = shown.keys().filter(|key| !current.contains_key(key));
        for (name, labels) in gone {
            set(name, labels, 0.0);
        }
        for ((name, labels), value) in &current {
            set(name, labels, *value);
        }
        shown.extend(current);
        if entries.changed().await.is_err() {
            return;
        }
    }
}

fn set(name: &'static str, labels: &[(&'static str, String)], value: f64) {
    let labels: Vec<Label> = labels.iter().map(|(key, value)| Label::new(*key, value.clone())).collect();
    gauge!(name, labels).set(value);
}

fn gauges(world: &World, id: &str) -> Gauges {
    let mut gauges = Gauges::new();
    let leads = world.candidates.values().next().is_some_and(|first| first == id);
    gauges.insert((LEADS, Vec::new()), f64::from(u8::from(leads)));
    for worker in world.workers.keys() {
        gauges.insert((LIVE, vec![("worker", worker.clone())]), 1.0);
    }
    for (model, view) in &world.view.models {
        for (alias, version) in &view.rollout.aliases {
            let labels = vec![
                ("alias", alias.to_string()),
                ("model", model.to_string()),
                ("version", version.to_string()),
            ];
            gauges.insert((ALIAS, labels), 1.0);
        }
        let wanted =
            view.versions.iter().filter(|(version, record)| is_wanted(**version, record, &view.rollout));
        for (version, record) in wanted {
            figures(&mut gauges, model, *version, "offline", &record.evaluation);
            if let Some(measured) = world.evaluations.get(&(model.clone(), *version)) {
                figures(&mut gauges, model, *version, "fleet", &measured.metrics);
            }
            let labels = || vec![("model", model.to_string()), ("version", version.to_string())];
            gauges.insert((ASSIGNED, labels()), 0.0);
            gauges.insert((READY, labels()), 0.0);
            gauges.insert((UNREADY, labels()), f64::from(record.shard_count.get()));
        }
    }
    for (shard, assigned) in &world.assignments {
        add(&mut gauges, ASSIGNED, shard, assigned.workers.len());
    }
    for (shard, ready) in world.view.ready.iter().filter(|(_, ready)| !ready.is_empty()) {
        add(&mut gauges, READY, shard, ready.len());
        let unready = gauges.get_mut(&(UNREADY, labels_of(shard)));
        if let Some(unready) = unready {
            *unready -= 1.0;
        }
    }
    gauges
}

/// Of versions that are wanted only: what nobody holds would be a line for ever.
fn figures(
    gauges: &mut Gauges,
    model: &ModelName,
    version: Version,
    source: &str,
    metrics: &BTreeMap<String, f64>,
) {
    for (name, value) in metrics {
        let Some((figure, k)) = name.split_once('@') else { continue };
        let gauge = FIGURES.into_iter().find(|(known, _)| *known == figure).map(|(_, gauge)| gauge);
        // A name is a caller's: only a plain number becomes a label.
        let (Some(gauge), Ok(k)) = (gauge, k.parse::<u16>()) else { continue };
        let labels = vec![
            ("k", k.to_string()),
            ("model", model.to_string()),
            ("source", source.to_owned()),
            ("version", version.to_string()),
        ];
        gauges.insert((gauge, labels), *value);
    }
}

fn labels_of(shard: &endcap_fleet::ShardKey) -> Vec<(&'static str, String)> {
    vec![("model", shard.model.to_string()), ("version", shard.version.to_string())]
}

#[expect(clippy::cast_precision_loss, reason = "a count of replicas")]
fn add(gauges: &mut Gauges, name: &'static str, shard: &endcap_fleet::ShardKey, count: usize) {
    *gauges.entry((name, labels_of(shard))).or_default() += count as f64;
}
