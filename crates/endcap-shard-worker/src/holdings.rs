//! What a worker holds: an immutable map, replaced as a whole.
//!
//! A request takes its `Arc`s and keeps them; unloading waits until the last one is gone, so that nothing is pulled
//! out from under a run.

use std::{collections::BTreeMap, sync::Arc};

use arc_swap::ArcSwap;
use endcap_inference::{ShardTable, VersionModel};
use endcap_types::{ShardIndex, Version, VersionPin};

use crate::error::WorkError;

/// One version on this worker.
#[derive(Debug, Clone)]
pub(crate) struct Holding {
    pub(crate) model: Arc<VersionModel>,
    pub(crate) shards: BTreeMap<ShardIndex, Arc<ShardTable>>,
}

impl Holding {
    pub(crate) fn memory_bytes(&self) -> u64 {
        self.model.memory_bytes() + self.shards.values().map(|shard| shard.memory_bytes()).sum::<u64>()
    }
}

/// All that is held. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Holdings(Arc<ArcSwap<BTreeMap<VersionPin, Holding>>>);

impl Holdings {
    /// The model of exactly this version.
    pub(crate) fn model(&self, pin: &VersionPin) -> Result<Arc<VersionModel>, WorkError> {
        let held = self.0.load();
        match held.get(pin) {
            Some(holding) => Ok(Arc::clone(&holding.model)),
            None => Err(WorkError::NotHeld { asked: pin.clone(), held: names(&held) }),
        }
    }

    /// The model and a shard of exactly this version.
    pub(crate) fn shard(
        &self,
        pin: &VersionPin,
        shard: ShardIndex,
    ) -> Result<(Arc<VersionModel>, Arc<ShardTable>), WorkError> {
        let held = self.0.load();
        let Some(holding) = held.get(pin) else {
            return Err(WorkError::NotHeld { asked: pin.clone(), held: names(&held) });
        };
        match holding.shards.get(&shard) {
            Some(table) => Ok((Arc::clone(&holding.model), Arc::clone(table))),
            None => {
                let held: Vec<_> = holding.shards.keys().map(ToString::to_string).collect();
                Err(WorkError::ShardNotHeld { pin: pin.clone(), shard, held: held.join(", ") })
            }
        }
    }

    /// The highest version among those that fit.
    pub(crate) fn newest(
        &self,
        fits: impl Fn(&VersionPin, &VersionModel) -> bool,
    ) -> Option<(Version, Arc<VersionModel>)> {
        let held = self.0.load();
        // Pins are in order of model, then version.
        let (pin, holding) = held.iter().rfind(|(pin, holding)| fits(pin, &holding.model))?;
        Some((pin.version, Arc::clone(&holding.model)))
    }

    /// Every version held, with its models.
    pub(crate) fn models(&self) -> Vec<(VersionPin, Arc<VersionModel>)> {
        let held = self.0.load();
        held.iter().map(|(pin, holding)| (pin.clone(), Arc::clone(&holding.model))).collect()
    }

    pub(crate) fn get(&self, pin: &VersionPin) -> Option<Holding> {
        self.0.load().get(pin).cloned()
    }

    /// Every version held, with its shards.
    pub(crate) fn pins(&self) -> Vec<(VersionPin, Vec<ShardIndex>)> {
        let held = self.0.load();
        held.iter().map(|(pin, holding)| (pin.clone(), holding.shards.keys().copied().collect())).collect()
    }

    pub(crate) fn memory_bytes(&self) -> u64 {
        self.0.load().values().map(Holding::memory_bytes).sum()
    }

    pub(crate) fn shard_count(&self) -> usize {
        self.0.load().values().map(|holding| holding.shards.len()).sum()
    }

    /// Adds a shard, beside whatever is held.
    pub(crate) fn add(
        &self,
        pin: &VersionPin,
        model: &Arc<VersionModel>,
        shard: ShardIndex,
        table: ShardTable,
    ) {
        let table = Arc::new(table);
        self.0.rcu(|held| {
            let mut held = BTreeMap::clone(held);
            let fresh = || Holding { model: Arc::clone(model), shards: BTreeMap::new() };
            held.entry(pin.clone()).or_insert_with(fresh).shards.insert(shard, Arc::clone(&table));
            held
        });
    }

    /// Takes a shard out, and its version with the last one. What comes back may still be in use by requests.
    pub(crate) fn remove(&self, pin: &VersionPin, shard: ShardIndex) -> Removed {
        let mut removed = Removed { model: None, table: None };
        self.0.rcu(|held| {
            let mut held = BTreeMap::clone(held);
            if let Some(holding) = held.get_mut(pin) {
                removed.table = holding.shards.remove(&shard);
                if holding.shards.is_empty() {
                    removed.model = held.remove(pin).map(|holding| holding.model);
                }
            }
            held
        });
        removed
    }
}

/// A shard that is no longer held, and its model if it was the last.
#[derive(Debug)]
pub(crate) struct Removed {
    pub(crate) model: Option<Arc<VersionModel>>,
    pub(crate) table: Option<Arc<ShardTable>>,
}

fn names(held: &BTreeMap<VersionPin, Holding>) -> String {
    if held.is_empty() {
        return "nothing".to_owned();
    }
    held.keys().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
