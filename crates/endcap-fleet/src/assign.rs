//! Which worker holds which shard: rendezvous hashing (Thaler and Ravishankar, 1998), so that a worker that joins or
//! leaves moves only the replicas it gains or loses.

use std::collections::BTreeMap;

use endcap_types::{ModelName, ShardCount, Version};
use xxhash_rust::xxh3::xxh3_64;

use crate::ShardKey;

/// A version whose shards need workers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    pub model: ModelName,
    pub version: Version,
    pub shard_count: ShardCount,
    /// Workers per shard, if there are as many.
    pub replicas: usize,
}

/// The workers of each shard, ascending by id. Depends on nothing but its arguments.
pub fn assign(wanted: &[Wanted], workers: &[String]) -> BTreeMap<ShardKey, Vec<String>> {
    let mut assigned = BTreeMap::new();
    for version in wanted {
        for shard in version.shard_count.indices() {
            let mut ranked: Vec<(u64, &String)> =
                workers.iter().map(|worker| (weight(version, shard, worker), worker)).collect();
            // The highest weights win; ids decide between equal ones.
            ranked.sort_unstable_by(|a, b| b.cmp(a));
            let mut chosen: Vec<String> =
                ranked.into_iter().take(version.replicas.max(1)).map(|(_, worker)| worker.clone()).collect();
            chosen.sort_unstable();
            let key = ShardKey { model: version.model.clone(), version: version.version, shard };
            assigned.insert(key, chosen);
        }
    }
    assigned
}

/// The version's number is left out on purpose: the next version's shards land where this one's are, so that every
/// worker's share stays the same while both are held.
fn weight(version: &Wanted, shard: u32, worker: &str) -> u64 {
    xxh3_64(format!("{}\0{}\0{shard}\0{worker}", version.model, version.shard_count).as_bytes())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn wanted(shards: u32, replicas: usize) -> Vec<Wanted> {
        vec![Wanted {
            model: "m".parse().unwrap(),
            version: Version::FIRST,
            shard_count: ShardCount::try_from(shards).unwrap(),
            replicas,
        }]
    }

    fn workers(n: usize) -> Vec<String> {
        (0..n).map(|i| format!("worker-{i}")).collect()
    }

    proptest! {
        #[test]
        fn every_shard_gets_as_many_distinct_workers_as_there_are(
            shards in 1_u32..40, n in 0_usize..12, replicas in 1_usize..5,
        ) {
            let assigned = assign(&wanted(shards, replicas), &workers(n));
            prop_assert_eq!(assigned.len(), shards as usize);
            for chosen in assigned.values() {
                let distinct: BTreeSet<_> = chosen.iter().collect();
                prop_assert_eq!(distinct.len(), replicas.min(n));
                prop_assert_eq!(chosen.len(), distinct.len());
            }
        }

        #[test]
        fn a_worker_that_leaves_moves_only_what_it_held(shards in 1_u32..40, n in 2_usize..12, gone in 0_usize..12) {
            let (all, gone) = (workers(n), gone % n);
            let before = assign(&wanted(shards, 2), &all);
            let mut rest = all.clone();
            let left = rest.remove(gone);
            for (shard, after) in assign(&wanted(shards, 2), &rest) {
                if before[&shard].contains(&left) {
                    let kept = before[&shard].iter().filter(|worker| **worker != left);
                    for worker in kept {
                        prop_assert!(after.contains(worker), "{worker} lost a shard it could keep");
                    }
                } else {
                    prop_assert_eq!(&after, &before[&shard]);
                }
            }
        }
    }

    #[test]
    fn shares_are_roughly_even() {
        let assigned = assign(&wanted(400, 2), &workers(8));
        for worker in workers(8) {
            let share = assigned.values().filter(|chosen| chosen.contains(&worker)).count();
            assert!((60..140).contains(&share), "{worker} holds {share} of 800");
        }
    }
}
