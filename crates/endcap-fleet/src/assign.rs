//! Which worker holds which shard: rendezvous hashing (Thaler and Ravishankar, 1998) with the load bound of
//! "Consistent Hashing with Bounded Loads" (Mirrokni, Thorup and Zadimoghaddam, 2016; arXiv:1608.01350).
//!
//! What is held stays: only replicas that are missing, surplus, or against a rule are placed anew. In order of
//! strength the rules are: memory budgets; one replica of every shard before second ones; replicas of a shard in
//! distinct topologies; no worker above the bound; the next version beside this one; the rendezvous weight.

mod measure;
mod plan;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};

use endcap_types::{ModelName, ShardCount, Version};
use xxhash_rust::xxh3::xxh3_64;

use self::plan::{NONE, Plan, Shard};
use crate::ShardKey;

/// A version whose shards need workers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    pub model: ModelName,
    pub version: Version,
    pub shard_count: ShardCount,
    /// Workers per shard, if there are as many.
    pub replicas: usize,
    /// What one shard takes of a worker's memory budget.
    pub shard_bytes: u64,
}

/// A worker that can hold shards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    pub id: String,
    /// 0 means unlimited.
    pub memory_budget_bytes: u64,
    /// What fails together, such as a node or a zone; replicas of a shard avoid sharing one.
    pub topology: String,
}

/// Who is to hold what.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Placement {
    /// Every wanted shard's workers, ascending by id.
    pub workers: BTreeMap<ShardKey, Vec<String>>,
    /// The shards with fewer workers than wanted.
    pub short: Vec<Shortfall>,
}

/// A shard with fewer workers than wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shortfall {
    pub shard: ShardKey,
    pub wanted: usize,
    pub placed: usize,
    pub lack: Lack,
}

/// What a shard would need to have all its replicas.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lack {
    /// There are fewer workers than replicas.
    Workers,
    /// No other worker's memory budget has room.
    Memory,
}

/// Places every wanted shard, moving as little of `current` as the rules allow. Depends on nothing but its arguments,
/// and not on the order of `wanted` or `hosts`.
pub fn assign(
    wanted: &[Wanted],
    hosts: &[Host],
    current: &BTreeMap<ShardKey, impl AsRef<[String]>>,
) -> Placement {
    let mut wanted: Vec<&Wanted> = wanted.iter().collect();
    wanted.sort_by_key(|version| (&version.model, version.version));
    wanted.dedup_by_key(|version| (&version.model, version.version));
    let mut hosts: Vec<&Host> = hosts.iter().collect();
    hosts.sort_by_key(|host| &host.id);
    hosts.dedup_by_key(|host| &host.id);
    let mut plan = Plan::new(&hosts, shards(&wanted, hosts.len()));
    adopt(&mut plan, &wanted, &hosts, current);
    plan.settle();
    placement(&plan, &wanted, &hosts)
}

/// All shards, by version and then by index.
fn shards(wanted: &[&Wanted], hosts: usize) -> Vec<Shard> {
    let mut shards = Vec::new();
    let mut latest = BTreeMap::new();
    for version in wanted {
        // The shard of the same index in the version before: a chain through the versions of one shard count.
        let before: Option<usize> = latest.insert((&version.model, version.shard_count), shards.len());
        for index in version.shard_count.indices() {
            // The version's number is left out on purpose: the next version's shards land where this one's are, so
            // that every worker's share stays the same while both are held.
            let name = format!("{}\0{}\0{index}", version.model, version.shard_count);
            shards.push(Shard {
                hash: xxh3_64(name.as_bytes()),
                bytes: version.shard_bytes.max(1),
                replicas: version.replicas.max(1).min(hosts),
                sibling: before.map(|first| first + index as usize),
            });
        }
    }
    shards
}

/// Takes over what is held now by workers that still exist.
fn adopt(
    plan: &mut Plan,
    wanted: &[&Wanted],
    hosts: &[&Host],
    current: &BTreeMap<ShardKey, impl AsRef<[String]>>,
) {
    let index: HashMap<&str, u32> = (0_u32..).zip(hosts).map(|(at, host)| (host.id.as_str(), at)).collect();
    let mut first = 0;
    for version in wanted {
        let key = |shard| ShardKey { model: version.model.clone(), version: version.version, shard };
        for (shard, held) in current.range(key(0)..key(version.shard_count.get())) {
            let held = held.as_ref().iter().filter_map(|id| index.get(id.as_str()).copied());
            plan.adopt(first + shard.shard as usize, held);
        }
        first += version.shard_count.get() as usize;
    }
}

fn placement(plan: &Plan, wanted: &[&Wanted], hosts: &[&Host]) -> Placement {
    let mut short = Vec::new();
    let keys =
        wanted.iter().flat_map(|version| version.shard_count.indices().map(move |shard| (version, shard)));
    let assigned = keys.enumerate().map(|(at, (version, shard))| {
        let shard = ShardKey { model: version.model.clone(), version: version.version, shard };
        let mut held: Vec<u32> = plan.seats(at).iter().copied().filter(|host| *host != NONE).collect();
        // Hosts are sorted by id.
        held.sort_unstable();
        let (placed, wanted) = (held.len(), version.replicas.max(1));
        if placed < wanted {
            let lack = if placed == hosts.len() { Lack::Workers } else { Lack::Memory };
            short.push(Shortfall { shard: shard.clone(), wanted, placed, lack });
        }
        (shard, held.into_iter().map(|host| hosts[host as usize].id.clone()).collect())
    });
    let workers = assigned.collect();
    Placement { workers, short }
}
