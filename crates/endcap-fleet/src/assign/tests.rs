use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

type Current = BTreeMap<ShardKey, Vec<String>>;

fn wanted(version: u64, shards: u32, replicas: usize) -> Wanted {
    Wanted {
        model: "m".parse().unwrap(),
        version: Version::try_from(version).unwrap(),
        shard_count: ShardCount::try_from(shards).unwrap(),
        replicas,
        shard_bytes: 10,
    }
}

fn hosts(n: usize, budget: u64, zones: usize) -> Vec<Host> {
    let host = |i: usize| Host {
        id: format!("worker-{i}"),
        memory_budget_bytes: budget,
        topology: if zones == 0 { String::new() } else { format!("zone-{}", i % zones) },
    };
    (0..n).map(host).collect()
}

fn place(wanted: &[Wanted], hosts: &[Host], current: &Current) -> Placement {
    assign(wanted, hosts, current)
}

/// Replicas by worker.
fn loads(assigned: &Current) -> BTreeMap<&str, u64> {
    let mut loads = BTreeMap::new();
    for id in assigned.values().flatten() {
        *loads.entry(id.as_str()).or_default() += 1;
    }
    loads
}

/// Replicas held after and not before.
fn moved(before: &Current, after: &Current) -> usize {
    let held = |shard, id| before.get(shard).is_some_and(|held| held.contains(id));
    after.iter().map(|(shard, ids)| ids.iter().filter(|id| !held(shard, *id)).count()).sum()
}

proptest! {
    #[test]
    fn every_shard_gets_as_many_distinct_workers_as_there_are(
        shards in 1_u32..40, n in 0_usize..90, replicas in 1_usize..5,
    ) {
        let placed = place(&[wanted(1, shards, replicas)], &hosts(n, 0, 0), &Current::new());
        prop_assert_eq!(placed.workers.len(), shards as usize);
        for chosen in placed.workers.values() {
            let distinct: BTreeSet<_> = chosen.iter().collect();
            prop_assert_eq!(distinct.len(), replicas.min(n));
            prop_assert!(chosen.is_sorted() && chosen.len() == distinct.len());
        }
        prop_assert_eq!(placed.short.is_empty(), replicas <= n);
        prop_assert!(placed.short.iter().all(|short| short.lack == Lack::Workers));
    }

    #[test]
    fn what_is_settled_stays_whatever_the_order_of_arguments(
        shards in 1_u32..60, n in 1_usize..90, replicas in 1_usize..4, zones in 0_usize..4, budget in 0_u64..100,
    ) {
        let versions = [wanted(1, shards, replicas), wanted(2, shards, replicas)];
        let mut hosts = hosts(n, budget, zones);
        let before = place(&versions, &hosts, &Current::new());
        hosts.reverse();
        let reversed = [versions[1].clone(), versions[0].clone()];
        prop_assert_eq!(&place(&reversed, &hosts, &Current::new()), &before);
        prop_assert_eq!(place(&reversed, &hosts, &before.workers), before);
    }

    #[test]
    fn budgets_hold_and_first_replicas_come_first(
        shards in 1_u32..60, n in 1_usize..90, replicas in 1_usize..4, budgets in prop::collection::vec(1_u64..80, 90),
        grown in 0_u32..40,
    ) {
        let mut hosts = hosts(n, 0, 2);
        hosts.iter_mut().zip(budgets).for_each(|(host, budget)| host.memory_budget_bytes = budget);
        let fit: u64 = hosts.iter().map(|host| host.memory_budget_bytes / 10).sum();
        let before = place(&[wanted(1, shards, replicas)], &hosts, &Current::new());
        // A second version has to find room among what is held.
        let versions = [wanted(1, shards, replicas), wanted(2, shards + grown, replicas)];
        let placed = place(&versions, &hosts, &before.workers);
        let loads = loads(&placed.workers);
        for host in &hosts {
            let load = loads.get(host.id.as_str()).copied().unwrap_or(0) * 10;
            prop_assert!(load <= host.memory_budget_bytes, "{} holds {load}", host.id);
        }
        let bare = placed.workers.values().filter(|held| held.is_empty()).count() as u64;
        prop_assert_eq!(bare, u64::from(shards + shards + grown).saturating_sub(fit));
    }

    #[test]
    fn replicas_are_spread_over_topologies(
        shards in 1_u32..60, n in 1_usize..90, replicas in 1_usize..4, zones in 1_usize..5,
    ) {
        // What was placed before the topologies were known is spread too.
        let before = place(&[wanted(1, shards, replicas)], &hosts(n, 0, 0), &Current::new());
        let hosts = hosts(n, 0, zones);
        let zone: BTreeMap<_, _> = hosts.iter().map(|host| (&host.id, &host.topology)).collect();
        for held in place(&[wanted(1, shards, replicas)], &hosts, &before.workers).workers.values() {
            let used: BTreeSet<_> = held.iter().map(|id| zone[id]).collect();
            prop_assert_eq!(used.len(), replicas.min(n).min(zones));
        }
    }

    #[test]
    fn no_worker_is_above_the_bound_and_joiners_take_a_fair_share_at_most(
        shards in 1_u32..400, n in 2_usize..90, replicas in 1_usize..4, joined in 0_usize..10,
    ) {
        let version = [wanted(1, shards, replicas)];
        let before = place(&version, &hosts(n, 0, 0), &Current::new()).workers;
        let after = place(&version, &hosts(n + joined, 0, 0), &before).workers;
        let total = u64::from(shards) * replicas.min(n + joined) as u64;
        let share = total.div_ceil((n + joined) as u64);
        prop_assert!(loads(&after).values().all(|load| *load <= share + (share / 4).max(1)));
        let missing = shards as usize * (replicas.min(n + joined) - replicas.min(n));
        prop_assert!(moved(&before, &after) <= missing + joined * share as usize + n);
    }

    #[test]
    fn a_worker_that_leaves_moves_only_what_it_held(shards in 1_u32..40, n in 3_usize..90, gone in 0_usize..90) {
        let mut hosts = hosts(n, 0, 0);
        let before = place(&[wanted(1, shards, 2)], &hosts, &Current::new()).workers;
        let left = hosts.remove(gone % n).id;
        let after = place(&[wanted(1, shards, 2)], &hosts, &before).workers;
        // Others move only towards workers that hold less than four fifths of the share, or a shard less than it.
        let (loads, share) = (loads(&before), (u64::from(shards) * 20).div_ceil(n as u64 - 1));
        let floor = share.saturating_sub((share / 5).max(10));
        for (shard, held) in before.iter().filter(|(_, held)| !held.contains(&left)) {
            for id in after[shard].iter().filter(|id| !held.contains(id)) {
                prop_assert!(loads.get(id.as_str()).copied().unwrap_or(0) * 10 < floor, "{id} took {shard:?}");
            }
        }
        for (shard, held) in before.iter().filter(|(_, held)| held.contains(&left)) {
            prop_assert!(after[shard].len() == 2 && !after[shard].contains(&left), "{held:?}");
        }
    }

    #[test]
    fn a_large_shard_beside_small_ones_does_not_leave_a_joiner_empty(
        small in 8_u32..60, n in 4_usize..20, large in 1_u64..100_000,
    ) {
        let versions = [
            Wanted { model: "large".parse().unwrap(), shard_bytes: 1_000 * large, ..wanted(1, 1, 2) },
            wanted(1, small, 2),
        ];
        let mut hosts = hosts(n, 0, 0);
        let before = place(&versions, &hosts[1..], &Current::new()).workers;
        let after = place(&versions, &hosts, &before).workers;
        let loads = loads(&after);
        // The large shard fills two of the hosts; the others' fair share is two small ones or more.
        if small as usize >= n - 2 {
            prop_assert!(loads.contains_key("worker-0"), "{after:?}");
        }
        prop_assert_eq!(&place(&versions, &hosts, &after).workers, &after);
        hosts.reverse();
        prop_assert_eq!(place(&versions, &hosts, &after).workers, after);
    }

    #[test]
    fn the_next_version_lands_where_this_one_is(
        shards in 1_u32..60, n in 2_usize..90, gone in 0_usize..90, replicas in 1_usize..3,
    ) {
        // Large, so that the bound of both versions is twice the bound of one.
        let large = |version| Wanted { shard_bytes: 1 << 20, ..wanted(version, shards, replicas) };
        let mut hosts = hosts(n, 0, 0);
        let before = place(&[large(1)], &hosts, &Current::new());
        hosts.remove(gone % n);
        let held = place(&[large(1)], &hosts, &before.workers).workers;
        let versions = [large(1), large(2)];
        let both = place(&versions, &hosts, &held).workers;
        let of = |version| both.iter().filter(move |(key, _)| key.version.get() == version).map(|(_, held)| held);
        prop_assert!(of(1).eq(of(2)));
        prop_assert!(of(1).eq(held.values()));
    }
}
