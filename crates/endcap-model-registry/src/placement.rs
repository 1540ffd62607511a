//! Who is to hold what, and what finds no place.

use std::collections::BTreeMap;

use endcap_fleet::{Host, Lack, Placement, Shortfall, Wanted, WorkerRecord, assign, is_wanted};
use endcap_proto::pb;
use endcap_types::{ModelName, Version};
use metrics::gauge;

use crate::world::World;

/// Every wanted version's shards on the workers there are, `replicas` times each.
pub(crate) fn placement(world: &World, replicas: usize) -> Placement {
    let mut wanted = Vec::new();
    for (model, view) in &world.view.models {
        for (version, record) in &view.versions {
            if is_wanted(*version, record, &view.rollout) {
                wanted.push(Wanted {
                    model: model.clone(),
                    version: *version,
                    shard_count: record.shard_count,
                    replicas,
                    shard_bytes: record.size_bytes.div_ceil(record.shard_count.get().into()),
                });
            }
        }
    }
    let host = |(id, worker): (&String, &WorkerRecord)| Host {
        id: id.clone(),
        memory_budget_bytes: worker.memory_budget_bytes,
        topology: worker.topology.clone(),
    };
    let hosts: Vec<Host> = world.workers.iter().map(host).collect();
    assign(&wanted, &hosts, &world.held())
}

/// Exports how many replicas have no worker, and writes one line for all that memory leaves short: fewer workers than
/// replicas is what a small fleet looks like.
pub(crate) fn report(short: &[Shortfall]) {
    for lack in [Lack::Memory, Lack::Workers] {
        let unplaced: usize = lacking(short, lack).map(unplaced).sum();
        let lack = match lack {
            Lack::Memory => "memory",
            Lack::Workers => "workers",
        };
        // Exact up to 2^53 replicas.
        gauge!("endcap_unplaced_replicas", "lack" => lack).set(unplaced as f64);
    }
    if let Some(first) = lacking(short, Lack::Memory).next() {
        tracing::warn!(
            shards = lacking(short, Lack::Memory).count(),
            without_any = lacking(short, Lack::Memory).filter(|shortfall| shortfall.placed == 0).count(),
            model.name = %first.shard.model,
            model.version = %first.shard.version,
            shard.id = first.shard.shard,
            "shards have too few replicas: the workers' memory budgets are full"
        );
    }
}

/// The same for people who ask, by version and lack.
pub(crate) fn shortages(short: &[Shortfall]) -> Vec<pb::Shortage> {
    let mut shortages = BTreeMap::<(&ModelName, Version, i32), pb::Shortage>::new();
    for shortfall in short {
        let lack = match shortfall.lack {
            Lack::Memory => pb::Lack::Memory,
            Lack::Workers => pb::Lack::Workers,
        };
        let key = (&shortfall.shard.model, shortfall.shard.version, lack.into());
        let shortage = shortages.entry(key).or_insert_with(|| pb::Shortage {
            model: shortfall.shard.model.to_string(),
            version: shortfall.shard.version.get(),
            lack: lack.into(),
            ..pb::Shortage::default()
        });
        shortage.replicas += u32::try_from(unplaced(shortfall)).unwrap_or(u32::MAX);
        shortage.shards += 1;
        shortage.shards_without_any += u32::from(shortfall.placed == 0);
    }
    shortages.into_values().collect()
}

fn lacking(short: &[Shortfall], lack: Lack) -> impl Iterator<Item = &Shortfall> {
    short.iter().filter(move |shortfall| shortfall.lack == lack)
}

fn unplaced(shortfall: &Shortfall) -> usize {
    shortfall.wanted - shortfall.placed
}

#[cfg(test)]
mod tests {
    use endcap_fleet::ShardKey;
    use metrics_exporter_prometheus::PrometheusBuilder;

    use super::*;

    #[test]
    fn replicas_without_a_worker_are_counted_by_what_is_lacking_and_no_longer_when_they_have_one() {
        let short = |shard, placed, lack| {
            let shard = ShardKey { model: "m".parse().unwrap(), version: Version::FIRST, shard };
            Shortfall { shard, wanted: 3, placed, lack }
        };
        let short = [short(0, 2, Lack::Memory), short(1, 0, Lack::Memory), short(2, 1, Lack::Workers)];
        let recorder = PrometheusBuilder::new().build_recorder();
        let handle = recorder.handle();
        let gauge =
            |lack: &str, value: usize| format!("endcap_unplaced_replicas{{lack=\"{lack}\"}} {value}\n");
        metrics::with_local_recorder(&recorder, || report(&short));
        let text = handle.render();
        assert!(text.contains(&gauge("memory", 4)) && text.contains(&gauge("workers", 2)), "{text}");
        metrics::with_local_recorder(&recorder, || report(&[]));
        let text = handle.render();
        assert!(text.contains(&gauge("memory", 0)) && text.contains(&gauge("workers", 0)), "{text}");

        let told = shortages(&short);
        let told: Vec<_> =
            told.iter().map(|s| (s.lack(), s.replicas, s.shards, s.shards_without_any)).collect();
        assert_eq!(told, [(pb::Lack::Workers, 2, 1, 0), (pb::Lack::Memory, 4, 2, 1)]);
    }
}
