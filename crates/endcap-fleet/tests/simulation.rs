//! A large fleet through ten thousand joins, leaves and failures. Seeded: every run is the same.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

use endcap_fleet::{AssignmentRecord, Host, Keys, Record as _, ShardKey, Wanted, assign};
use endcap_types::{Digest, ShardCount, Version};

const WORKERS: usize = 1_000;
const SHARDS: u32 = 50_000;
const REPLICAS: usize = 2;
const EVENTS: usize = 10_000;
/// Events between two reconciles.
const BURST: usize = 20;
const ZONES: u64 = 4;
const SHARD_BYTES: u64 = 64 << 20;

type Assigned = BTreeMap<ShardKey, Vec<String>>;

/// SplitMix64.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((bits ^ (bits >> 31)) % limit as u64) as usize
    }
}

#[derive(Default)]
struct Figures {
    moved: usize,
    least: usize,
    puts: usize,
    put_bytes: usize,
    fullest: f64,
    times: Vec<Duration>,
}

fn fleet() -> Vec<Wanted> {
    let version = |model: &str| Wanted {
        model: model.parse().unwrap(),
        version: Version::FIRST,
        shard_count: ShardCount::try_from(SHARDS).unwrap(),
        replicas: REPLICAS,
        shard_bytes: SHARD_BYTES,
    };
    vec![version("search"), version("ads")]
}

fn host(number: usize) -> Host {
    Host {
        id: format!("worker-{number:06}"),
        // 1.5 times the fair share.
        memory_budget_bytes: 300 * SHARD_BYTES,
        topology: format!("zone-{}", number as u64 % ZONES),
    }
}

fn record(workers: &[String]) -> Vec<u8> {
    AssignmentRecord {
        digest: Digest::from_bytes([7; 32]),
        attempt: 1,
        workers: workers.to_vec(),
        leaving: Vec::new(),
    }
    .to_json()
}

/// Checks what must hold after every reconcile, and counts what it moved and what writing it down would cost.
fn check(before: &Assigned, after: &Assigned, hosts: &[Host], figures: &mut Figures) {
    let keys = Keys::default();
    let hosts: HashMap<&str, &Host> = hosts.iter().map(|host| (host.id.as_str(), host)).collect();
    let mut loads: HashMap<&str, u64> = HashMap::new();
    assert_eq!(after.len(), 2 * SHARDS as usize);
    for ((shard, old), (_, new)) in before.iter().zip(after) {
        assert_eq!(new.len(), REPLICAS, "{shard:?}");
        assert_ne!(hosts[new[0].as_str()].topology, hosts[new[1].as_str()].topology, "{shard:?}");
        new.iter().for_each(|id| *loads.entry(id).or_default() += 1);
        if old != new {
            figures.moved += new.iter().filter(|id| !old.contains(id)).count();
            figures.puts += 1;
            figures.put_bytes += keys.assignment(shard).len() + record(new).len();
        }
    }
    let mean = (after.len() * REPLICAS) as f64 / hosts.len() as f64;
    let most = loads.values().copied().max().unwrap() as f64;
    assert!(most <= (1.25 * mean.ceil()).max(mean.ceil() + 1.0), "{most} of a mean of {mean}");
    figures.fullest = figures.fullest.max(most / mean);
}

/// Leaves and failures take what was held along; the fleet stays between 900 and 1100 workers.
fn burst(hosts: &mut Vec<Host>, next: &mut usize, dice: &mut Dice) -> (Vec<String>, usize) {
    let (mut gone, mut joined) = (Vec::new(), 0);
    for _ in 0..BURST {
        let joins = hosts.len() < 900 || (hosts.len() < 1100 && dice.below(2) == 0);
        if joins {
            hosts.push(host(*next));
            *next += 1;
            joined += 1;
        } else {
            let at = dice.below(hosts.len());
            gone.push(hosts.swap_remove(at).id);
        }
    }
    (gone, joined)
}

#[test]
fn a_large_fleet_keeps_every_shard_and_moves_little() {
    let wanted = fleet();
    let mut hosts: Vec<Host> = (0..WORKERS).map(host).collect();
    let (mut next, mut dice, mut figures) = (WORKERS, Dice(7), Figures::default());
    let started = Instant::now();
    let mut assigned = assign(&wanted, &hosts, &Assigned::new()).workers;
    let first = started.elapsed();
    check(&assigned, &assigned, &hosts, &mut figures);
    let keys = Keys::default();
    let bytes: usize = assigned.iter().map(|(key, ids)| keys.assignment(key).len() + record(ids).len()).sum();
    for _ in 0..EVENTS / BURST {
        let (gone, joined) = burst(&mut hosts, &mut next, &mut dice);
        // The least that any placement moves: what leavers held, and a fair share for each joiner.
        let lost = assigned.values().flatten().filter(|id| gone.contains(id)).count();
        let share = assigned.len() * REPLICAS / hosts.len();
        figures.least += lost + joined * share;
        let started = Instant::now();
        let placement = assign(&wanted, &hosts, &assigned);
        figures.times.push(started.elapsed());
        assert_eq!(placement.short, []);
        check(&assigned, &placement.workers, &hosts, &mut figures);
        assigned = placement.workers;
    }
    figures.times.sort_unstable();
    println!("{EVENTS} events, {BURST} per reconcile, {} shards, {REPLICAS} replicas", assigned.len());
    println!(
        "movement: {} of {} = {:.3}",
        figures.moved,
        figures.least,
        figures.moved as f64 / figures.least as f64
    );
    println!("fullest worker at any time: {:.3} of the mean", figures.fullest);
    println!(
        "first placement {first:?}; reconcile median {:?}, slowest {:?}",
        figures.times[figures.times.len() / 2],
        figures.times[figures.times.len() - 1]
    );
    println!("{} keys, {bytes} bytes of keys and values", assigned.len());
    println!("{} puts and {} bytes per event", figures.puts / EVENTS, figures.put_bytes / EVENTS);
    assert!(figures.moved as f64 <= 1.2 * figures.least as f64);
}
