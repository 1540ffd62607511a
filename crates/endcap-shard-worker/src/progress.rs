//! Replicas that are on their way, or that could not be made ready, for whoever asks the worker itself.

use std::{collections::BTreeMap, sync::Arc};

use arc_swap::ArcSwap;
use endcap_fleet::ShardKey;

/// Why an assigned replica is not held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Absence {
    Loading,
    Failed { reason: Arc<str> },
}

/// All such replicas. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Progress(Arc<ArcSwap<BTreeMap<ShardKey, Absence>>>);

impl Progress {
    pub(crate) fn set(&self, shard: &ShardKey, absence: &Absence) {
        self.0.rcu(|absent| {
            let mut absent = BTreeMap::clone(absent);
            absent.insert(shard.clone(), absence.clone());
            absent
        });
    }

    /// It is held now, or no longer asked for.
    pub(crate) fn clear(&self, shard: &ShardKey) {
        self.0.rcu(|absent| {
            let mut absent = BTreeMap::clone(absent);
            absent.remove(shard);
            absent
        });
    }

    pub(crate) fn absent(&self) -> Arc<BTreeMap<ShardKey, Absence>> {
        self.0.load_full()
    }
}
