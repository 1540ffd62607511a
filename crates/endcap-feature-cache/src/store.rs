//! Feature groups in memory, each with its own time to live.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use endcap_types::{FeatureName, FeatureValue, Namespace};
use moka::{Expiry, ops::compute::Op, sync::Cache};

use crate::{metrics::Meters, request::Put};

/// Values by feature.
pub(crate) type Group = BTreeMap<FeatureName, FeatureValue>;

/// Whose features.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) namespace: Namespace,
    pub(crate) entity_id: String,
}

/// A group as it is now.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) values: Arc<Group>,
    pub(crate) age: Duration,
    pub(crate) ttl_left: Duration,
}

#[derive(Debug, Clone)]
struct Entry {
    values: Arc<Group>,
    written: Instant,
    ttl: Duration,
}

/// The cache. The least recently used groups make room when it is full.
#[derive(Debug)]
pub(crate) struct Store {
    entries: Cache<Key, Entry>,
    default_ttl: Duration,
    meters: Meters,
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

impl Store {
    pub(crate) fn new(max_entries: u64, default_ttl: Duration) -> Self {
        let entries = Cache::builder().max_capacity(max_entries).expire_after(OwnTtl).build();
        Self { entries, default_ttl, meters: Meters::default() }
    }

    pub(crate) fn get(&self, key: &Key) -> Option<Stored> {
        let Some(entry) = self.entries.get(key) else {
            self.meters.miss(key.namespace);
            return None;
        };
        let age = entry.written.elapsed();
        self.meters.hit(key.namespace, age);
        Some(Stored { values: entry.values, age, ttl_left: entry.ttl.saturating_sub(age) })
    }

    /// Merges a group into what is there, as one step: two writers of one user lose nothing.
    pub(crate) fn put(&self, put: Put) {
        let ttl = put.ttl.unwrap_or(self.default_ttl);
        self.entries.entry(put.key).and_compute_with(|known| {
            let mut values = known.map_or_else(Group::new, |known| Group::clone(&known.into_value().values));
            values.extend(put.values);
            Op::Put(Entry { values: Arc::new(values), written: Instant::now(), ttl })
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(entity: &str, feature: &str, value: f32, ttl: Option<Duration>) -> Put {
        let key = Key { namespace: Namespace::User, entity_id: entity.into() };
        Put { key, values: Group::from([(feature.parse().unwrap(), FeatureValue::F32(vec![value]))]), ttl }
    }

    #[test]
    fn a_write_is_read_by_the_next_reader_and_keeps_the_groups_other_features() {
        let store = Store::new(100, Duration::from_secs(60));
        store.put(put("ada", "user.a", 1.0, None));
        store.put(put("ada", "user.b", 2.0, None));
        store.put(put("ada", "user.a", 3.0, None));
        let key = Key { namespace: Namespace::User, entity_id: "ada".into() };
        let stored = store.get(&key).unwrap();
        assert_eq!(stored.values.len(), 2);
        assert_eq!(stored.values[&"user.a".parse().unwrap()], FeatureValue::F32(vec![3.0]));
    }

    #[test]
    fn an_expired_group_is_missing() {
        let store = Store::new(100, Duration::from_secs(60));
        store.put(put("ada", "user.a", 1.0, Some(Duration::from_millis(1))));
        let key = Key { namespace: Namespace::User, entity_id: "ada".into() };
        let patience = Instant::now() + Duration::from_secs(10);
        while store.get(&key).is_some() {
            assert!(Instant::now() < patience, "a group of 1 ms still lives");
            std::thread::yield_now();
        }
    }

    #[test]
    fn concurrent_writers_of_one_user_lose_nothing() {
        let store = Store::new(100, Duration::from_secs(60));
        std::thread::scope(|scope| {
            for writer in 0..8 {
                let store = &store;
                scope.spawn(move || {
                    for i in 0..50 {
                        store.put(put("ada", &format!("user.w{writer}_{i}"), 1.0, None));
                    }
                });
            }
        });
        let key = Key { namespace: Namespace::User, entity_id: "ada".into() };
        assert_eq!(store.get(&key).unwrap().values.len(), 400);
    }
}
