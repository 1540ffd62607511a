//! Feature groups in this process's memory. The least recently used make room when it is full.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use moka::{Expiry, ops::compute::Op, sync::Cache};

use super::{Group, Key, Stored};

#[derive(Debug, Clone)]
struct Entry {
    values: Arc<Group>,
    written: Instant,
    ttl: Duration,
}

#[derive(Debug)]
pub(super) struct Memory {
    entries: Cache<Key, Entry>,
}

/// Each entry says itself how long it lives.
struct OwnTtl;

impl Expiry<Key, Entry> for OwnTtl {
    fn expire_after_create(&self, _key: &Key, entry: &Entry, _now: Instant) -> Option<Duration> {
        Some(entry.ttl)
    }

    fn expire_after_update(
        &self,
        _key: &Key,
        entry: &Entry,
        _now: Instant,
        _left: Option<Duration>,
    ) -> Option<Duration> {
        Some(entry.ttl)
    }
}

impl Memory {
    pub(super) fn new(max_entries: u64) -> Self {
        Self { entries: Cache::builder().max_capacity(max_entries).expire_after(OwnTtl).build() }
    }

    pub(super) fn get(&self, key: &Key) -> Option<Stored> {
        let entry = self.entries.get(key)?;
        let age = entry.written.elapsed();
        Some(Stored { values: entry.values, age, ttl_left: entry.ttl.saturating_sub(age) })
    }

    /// Merges a group into what is there, as one step.
    pub(super) fn put(&self, key: Key, values: Group, ttl: Duration) {
        self.entries.entry(key).and_compute_with(|known| {
            let mut merged = known.map_or_else(Group::new, |known| Group::clone(&known.into_value().values));
            merged.extend(values);
            Op::Put(Entry { values: Arc::new(merged), written: Instant::now(), ttl })
        });
    }
}
