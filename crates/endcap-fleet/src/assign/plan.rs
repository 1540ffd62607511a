//! The placement itself, on indices: hosts ascend by id, shards by version and index.

use std::collections::BTreeMap;

use xxhash_rust::xxh3::xxh3_64;

use super::{
    Host,
    measure::{evened, level, mix, pieces},
};

/// A seat that nobody holds.
pub(super) const NONE: u32 = u32::MAX;

/// Up to as many hosts, all are ranked for every shard; above, a sample is.
const RANK_ALL: usize = 64;
/// Hosts ranked per shard of a large fleet: among as many, one below its share is as good as certain.
const SAMPLE: u64 = 16;
/// Slots of the two-level rendezvous: hosts win slots, shards are hashed onto slots. A power of two.
const SLOTS: usize = 1 << 14;
/// Walks over the shards in a scattered order; a prime, so that every shard is met.
const STRIDE: usize = 1_000_003;
/// Shards that a host below the floor asks for a replica: most can spare one.
const WALK: usize = 1 << 14;

#[derive(Debug)]
pub(super) struct Shard {
    pub(super) hash: u64,
    pub(super) bytes: u64,
    pub(super) replicas: usize,
    pub(super) sibling: Option<usize>,
}

#[derive(Debug)]
struct Room {
    hash: u64,
    budget: u64,
    topology: u32,
    load: u64,
}

/// How good a host is for a replica; the greatest wins, and of equal ones the first by id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Merit {
    spread: bool,
    bounded: bool,
    sibling: bool,
    below_share: bool,
    weight: u64,
}

#[derive(Debug)]
pub(super) struct Plan {
    rooms: Vec<Room>,
    topologies: usize,
    shards: Vec<Shard>,
    /// The holders of shard `s` are `seats[starts[s]..starts[s + 1]]`.
    starts: Vec<usize>,
    seats: Vec<u32>,
    /// The host that wins each slot, filled on demand.
    slots: Vec<u32>,
    /// The fair share: the level to which the load fills the hosts, each up to its budget.
    share: u64,
    /// No host is loaded above it, unless budgets or topologies leave no choice.
    bound: u64,
    /// A host below it, such as one that just joined, takes replicas over.
    floor: u64,
    /// The most bytes that one shard takes in all versions together, but for those larger than a share.
    piece: u64,
}

impl Plan {
    pub(super) fn new(hosts: &[&Host], shards: Vec<Shard>) -> Self {
        let mut topologies = BTreeMap::new();
        let mut rooms = Vec::with_capacity(hosts.len());
        for host in hosts {
            let next = topologies.len() as u32;
            let topology = *topologies.entry(host.topology.as_str()).or_insert(next);
            let budget = if host.memory_budget_bytes == 0 { u64::MAX } else { host.memory_budget_bytes };
            rooms.push(Room { hash: xxh3_64(host.id.as_bytes()), budget, topology, load: 0 });
        }
        let mut starts = vec![0];
        let mut end = 0;
        for shard in &shards {
            end += shard.replicas;
            starts.push(end);
        }
        let total = shards
            .iter()
            .fold(0_u64, |sum, shard| sum.saturating_add(shard.bytes.saturating_mul(shard.replicas as u64)));
        let budgets: Vec<u64> = rooms.iter().map(|room| room.budget).collect();
        let share = level(budgets.clone(), total);
        // Loads come in pieces: a shard's versions, which lie beside each other.
        let pieces = pieces(&shards);
        let largest = pieces.first().map_or(0, |piece| piece.bytes);
        let bound = share.saturating_add((share / 4).max(largest));
        let (even, piece) = evened(budgets, &pieces);
        // What does not fit leaves nothing to even out.
        let floor = if even == u64::MAX { 0 } else { even.saturating_sub((even / 5).max(piece)) };
        let (topologies, seats, slots) = (topologies.len(), vec![NONE; end], vec![NONE; SLOTS]);
        Self { rooms, topologies, shards, starts, seats, slots, share, bound, floor, piece }
    }

    pub(super) fn seats(&self, shard: usize) -> &[u32] {
        &self.seats[self.starts[shard]..self.starts[shard + 1]]
    }

    /// Seats the present holders of a shard; of more than wanted, those of highest weight.
    pub(super) fn adopt(&mut self, shard: usize, held: impl Iterator<Item = u32>) {
        let mut held: Vec<u32> = held.collect();
        held.sort_unstable();
        held.dedup();
        if held.len() > self.shards[shard].replicas {
            held.sort_by_key(|host| std::cmp::Reverse(self.weight(shard, *host)));
        }
        for (seat, host) in (self.starts[shard]..self.starts[shard + 1]).zip(held) {
            self.seat(shard, seat, host);
        }
    }

    /// Makes the plan follow the rules, from the strongest to the weakest.
    pub(super) fn settle(&mut self) {
        self.evict(true);
        self.evict(false);
        self.place_first();
        for replica in 1..self.shards.iter().map(|shard| shard.replicas).max().unwrap_or(0) {
            for shard in 0..self.shards.len() {
                if self.holders(shard).count() <= replica {
                    self.place(shard);
                }
            }
        }
        // One move may free the room for another.
        for _ in 0..4 {
            let before = self.seats.clone();
            self.spread();
            self.relieve();
            self.fill();
            if self.seats == before {
                break;
            }
        }
    }

    /// Empties seats of hosts above their budget; at first only those of shards that have another replica.
    fn evict(&mut self, spare_last: bool) {
        if self.rooms.iter().all(|room| room.load <= room.budget) {
            return;
        }
        for shard in 0..self.shards.len() {
            for seat in self.starts[shard]..self.starts[shard + 1] {
                let host = self.seats[seat];
                let over = host != NONE && self.room(host).load > self.room(host).budget;
                if over && !(spare_last && self.holders(shard).count() == 1) {
                    self.seat(shard, seat, NONE);
                }
            }
        }
    }

    /// One replica for every shard, large ones first, at the cost of others' second replicas if need be.
    fn place_first(&mut self) {
        let mut bare: Vec<usize> =
            (0..self.shards.len()).filter(|shard| self.holders(*shard).next().is_none()).collect();
        bare.sort_by_key(|shard| std::cmp::Reverse(self.shards[*shard].bytes));
        bare.retain(|shard| !self.place(*shard));
        if bare.is_empty() {
            return;
        }
        let mut spare: Vec<Vec<usize>> = vec![Vec::new(); self.rooms.len()];
        for shard in 0..self.shards.len() {
            if self.holders(shard).count() > 1 {
                self.holders(shard).for_each(|host| spare[host as usize].push(shard));
            }
        }
        for shard in bare {
            self.make_room(shard, &mut spare);
        }
    }

    /// Gives a shard the host on which giving up second replicas makes room.
    fn make_room(&mut self, shard: usize, spare: &mut [Vec<usize>]) {
        let bytes = self.shards[shard].bytes;
        for (host, spare) in (0_u32..).zip(spare) {
            spare.retain(|other| self.holders(*other).count() > 1 && self.seats(*other).contains(&host));
            let room = self.room(host);
            let kept = room.load - spare.iter().map(|other| self.shards[*other].bytes).sum::<u64>();
            if kept.saturating_add(bytes) > room.budget {
                continue;
            }
            while self.room(host).load.saturating_add(bytes) > self.room(host).budget {
                let Some(other) = spare.pop() else { break };
                let seats = self.starts[other]..self.starts[other + 1];
                if let Some(seat) = seats.into_iter().find(|seat| self.seats[*seat] == host) {
                    self.seat(other, seat, NONE);
                }
            }
            self.seat(shard, self.starts[shard], host);
            return;
        }
    }

    /// Fills one empty seat of a shard, if it has one and a host has room.
    fn place(&mut self, shard: usize) -> bool {
        let mut seats = self.starts[shard]..self.starts[shard + 1];
        let Some(seat) = seats.find(|seat| self.seats[*seat] == NONE) else { return false };
        let Some((_, host)) = self.best(shard, NONE) else { return false };
        self.seat(shard, seat, host);
        true
    }

    /// Moves replicas that share a topology with another of their shard, where there is a free topology.
    fn spread(&mut self) {
        if self.topologies < 2 {
            return;
        }
        for shard in 0..self.shards.len() {
            for seat in self.starts[shard]..self.starts[shard + 1] {
                let host = self.seats[seat];
                if host == NONE || self.is_spread(shard, host, host) {
                    continue;
                }
                if let Some((merit, better)) = self.best(shard, host)
                    && merit.spread
                {
                    self.seat(shard, seat, better);
                }
            }
        }
    }

    /// Moves replicas off hosts above the bound, to hosts that stay below it.
    fn relieve(&mut self) {
        // A host whose replica found no other place is left alone: the others would hardly find one either.
        let mut over: Vec<bool> = self.rooms.iter().map(|room| room.load > self.bound).collect();
        if !over.contains(&true) {
            return;
        }
        for shard in 0..self.shards.len() {
            for seat in self.starts[shard]..self.starts[shard + 1] {
                let host = self.seats[seat];
                if host == NONE || !over[host as usize] || self.room(host).load <= self.bound {
                    continue;
                }
                match self.best(shard, host) {
                    Some((merit, better)) if merit.spread && merit.bounded => self.seat(shard, seat, better),
                    _ => over[host as usize] = false,
                }
            }
        }
    }

    /// Hosts below the floor take replicas over, from hosts that stay above it.
    fn fill(&mut self) {
        let count = self.shards.len();
        for host in 0..self.rooms.len() as u32 {
            if self.room(host).load >= self.floor {
                continue;
            }
            let start = (self.room(host).hash % count as u64) as usize;
            for step in 0..count.min(WALK) {
                if self.room(host).load >= self.floor {
                    break;
                }
                self.take_over((start + step * STRIDE) % count, host);
            }
        }
    }

    /// The host takes the shard's replica of the most loaded holder, if that makes loads more even.
    fn take_over(&mut self, shard: usize, host: u32) {
        let (bytes, room) = (self.shards[shard].bytes, self.room(host));
        let taken = self.seats(shard).contains(&host);
        if taken || room.load.saturating_add(bytes) > room.budget.min(self.bound) {
            return;
        }
        let donor = (self.starts[shard]..self.starts[shard + 1])
            .filter(|seat| self.seats[*seat] != NONE)
            .max_by_key(|seat| self.room(self.seats[*seat]).load);
        let Some(seat) = donor else { return };
        let (load, donor) = (self.room(self.seats[seat]).load, self.seats[seat]);
        // A difference of less than a piece is none: the next version would double it.
        let left = load.saturating_sub(self.piece.max(bytes));
        if left >= self.floor && left > room.load && self.is_spread(shard, host, donor) {
            self.seat(shard, seat, host);
        }
    }

    /// The best host for a replica of the shard that `leaving` gives up, or that nobody holds.
    fn best(&mut self, shard: usize, leaving: u32) -> Option<(Merit, u32)> {
        if self.rooms.len() > RANK_ALL {
            let mut best = None;
            let mut sibling = self.shards[shard].sibling;
            while let Some(at) = sibling {
                let merits = self.holders(at).filter_map(|host| self.merit(shard, host, leaving));
                best = best.max(merits.max());
                sibling = self.shards[at].sibling;
            }
            for probe in 0..SAMPLE {
                let host = self.winner(mix(self.shards[shard].hash.wrapping_add(probe)) as usize % SLOTS);
                best = best.max(self.merit(shard, host, leaving));
            }
            if let Some((merit, host)) = best
                && merit.spread
                && merit.bounded
            {
                return Some((merit, host.0));
            }
        }
        let all = (0..self.rooms.len() as u32).filter_map(|host| self.merit(shard, host, leaving));
        all.max().map(|(merit, host)| (merit, host.0))
    }

    /// Nothing for a host that holds the shard, or has no room for it.
    fn merit(&self, shard: usize, host: u32, leaving: u32) -> Option<(Merit, std::cmp::Reverse<u32>)> {
        let room = self.room(host);
        let load = room.load.saturating_add(self.shards[shard].bytes);
        if load > room.budget || self.seats(shard).contains(&host) {
            return None;
        }
        let merit = Merit {
            spread: self.is_spread(shard, host, leaving),
            bounded: load <= self.bound,
            sibling: self.holds_sibling(shard, host),
            below_share: load <= self.share,
            weight: self.weight(shard, host),
        };
        Some((merit, std::cmp::Reverse(host)))
    }

    fn holds_sibling(&self, shard: usize, host: u32) -> bool {
        let siblings = std::iter::successors(self.shards[shard].sibling, |at| self.shards[*at].sibling);
        siblings.into_iter().any(|sibling| self.seats(sibling).contains(&host))
    }

    /// Whether the host shares no topology with the shard's holders but `leaving`, or none is free of them.
    fn is_spread(&self, shard: usize, host: u32, leaving: u32) -> bool {
        let others = self.holders(shard).filter(|other| *other != leaving && *other != host);
        let topology = self.room(host).topology;
        if self.topologies < 2 || others.clone().all(|other| self.room(other).topology != topology) {
            return true;
        }
        let mut used: Vec<u32> = others.map(|other| self.room(other).topology).collect();
        used.sort_unstable();
        used.dedup();
        used.len() == self.topologies
    }

    fn weight(&self, shard: usize, host: u32) -> u64 {
        mix(self.shards[shard].hash ^ self.room(host).hash)
    }

    /// The host that wins a slot by rendezvous.
    fn winner(&mut self, slot: usize) -> u32 {
        if self.slots[slot] == NONE {
            let hash = mix(slot as u64);
            let ranked = (0_u32..).zip(&self.rooms).max_by_key(|(_, room)| mix(hash ^ room.hash));
            self.slots[slot] = ranked.map_or(NONE, |(host, _)| host);
        }
        self.slots[slot]
    }

    fn holders(&self, shard: usize) -> impl Iterator<Item = u32> + Clone {
        self.seats(shard).iter().copied().filter(|host| *host != NONE)
    }

    fn room(&self, host: u32) -> &Room {
        &self.rooms[host as usize]
    }

    /// Puts a host, or nobody, on a seat.
    fn seat(&mut self, shard: usize, seat: usize, host: u32) {
        let bytes = self.shards[shard].bytes;
        let before = std::mem::replace(&mut self.seats[seat], host);
        if let Some(room) = self.rooms.get_mut(before as usize) {
            room.load -= bytes;
        }
        if let Some(room) = self.rooms.get_mut(host as usize) {
            room.load += bytes;
        }
    }
}
