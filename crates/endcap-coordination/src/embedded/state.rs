//! The state of the embedded coordinator: pure but for the instants that are given to it.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use tokio::time::Instant;

use crate::{Compare, CoordinationError, KeyValue, LeaseId, Listing, Op, Revision, Txn, WatchEvent};

/// Changes kept for watchers; whoever is further behind lists again.
const KEPT_CHANGES: usize = 10_000;

#[derive(Debug)]
pub(super) struct State {
    revision: Revision,
    entries: BTreeMap<String, KeyValue>,
    leases: BTreeMap<LeaseId, Lease>,
    next_lease: i64,
    /// Ascending by revision; several changes share one when a transaction made them.
    changes: VecDeque<(Revision, WatchEvent)>,
    /// Every change after this revision is kept.
    compacted: Revision,
}

#[derive(Debug)]
struct Lease {
    ttl: Duration,
    expires: Instant,
    keys: BTreeSet<String>,
}

impl State {
    pub(super) fn new(entries: Vec<KeyValue>, revision: Revision) -> Self {
        Self {
            revision,
            entries: entries.into_iter().map(|entry| (entry.key.clone(), entry)).collect(),
            leases: BTreeMap::new(),
            next_lease: 1,
            changes: VecDeque::new(),
            compacted: revision,
        }
    }

    pub(super) fn revision(&self) -> Revision {
        self.revision
    }

    pub(super) fn get(&self, key: &str) -> Option<KeyValue> {
        self.entries.get(key).cloned()
    }

    pub(super) fn create_revision(&self, key: &str) -> Option<Revision> {
        self.entries.get(key).map(|entry| entry.create_revision)
    }

    pub(super) fn list(&self, prefix: &str) -> Listing {
        let entries = self.entries.range(prefix.to_owned()..).take_while(|(key, _)| key.starts_with(prefix));
        Listing { entries: entries.map(|(_, entry)| entry.clone()).collect(), revision: self.revision }
    }

    /// Whether a transaction is well formed and its leases live.
    pub(super) fn check(&self, txn: &Txn) -> Result<(), CoordinationError> {
        let mut keys = BTreeSet::new();
        for op in &txn.ops {
            let (Op::Put { key, .. } | Op::Delete { key }) = op;
            if !keys.insert(key) {
                return Err(CoordinationError::DuplicateKey { key: key.clone() });
            }
            if let Op::Put { lease: Some(lease), .. } = op
                && !self.leases.contains_key(lease)
            {
                return Err(CoordinationError::LeaseExpired { lease: lease.0 });
            }
        }
        Ok(())
    }

    pub(super) fn holds(&self, compares: &[Compare]) -> bool {
        compares.iter().all(|compare| match compare {
            Compare::Absent { key } => !self.entries.contains_key(key),
            Compare::ModRevision { key, revision } => {
                self.entries.get(key).is_some_and(|entry| entry.mod_revision == *revision)
            }
            Compare::CreateRevision { key, revision } => {
                self.entries.get(key).is_some_and(|entry| entry.create_revision == *revision)
            }
        })
    }

    /// Applies all changes at one new revision. A transaction that changes nothing takes none.
    pub(super) fn apply(&mut self, ops: Vec<Op>) -> Revision {
        let revision = self.revision + 1;
        let mut changed = false;
        for op in ops {
            let event = match op {
                Op::Put { key, value, lease } => Some(self.put(key, value, lease, revision)),
                Op::Delete { key } => self.delete(&key, revision),
            };
            if let Some(event) = event {
                changed = true;
                self.changes.push_back((revision, event));
            }
        }
        if changed {
            self.revision = revision;
            self.forget_old_changes();
        }
        self.revision
    }

    fn put(&mut self, key: String, value: Vec<u8>, lease: Option<LeaseId>, revision: Revision) -> WatchEvent {
        let create_revision = self.create_revision(&key).unwrap_or(revision);
        self.unlease(&key);
        if let Some(lease) = lease.and_then(|lease| self.leases.get_mut(&lease)) {
            lease.keys.insert(key.clone());
        }
        let entry = KeyValue { key: key.clone(), value, create_revision, mod_revision: revision, lease };
        self.entries.insert(key, entry.clone());
        WatchEvent::Put(entry)
    }

    fn delete(&mut self, key: &str, revision: Revision) -> Option<WatchEvent> {
        self.unlease(key);
        self.entries.remove(key).map(|entry| WatchEvent::Delete { key: entry.key, revision })
    }

    fn unlease(&mut self, key: &str) {
        let lease = self.entries.get(key).and_then(|entry| entry.lease);
        if let Some(lease) = lease.and_then(|lease| self.leases.get_mut(&lease)) {
            lease.keys.remove(key);
        }
    }

    fn forget_old_changes(&mut self) {
        while self.changes.len() > KEPT_CHANGES {
            if let Some((revision, _)) = self.changes.pop_front() {
                // A transaction is forgotten whole, so that nobody sees half of it.
                while self.changes.front().is_some_and(|(next, _)| *next == revision) {
                    self.changes.pop_front();
                }
                self.compacted = revision;
            }
        }
    }

    /// Changes below a prefix from a revision on, and the revision up to which they go; nothing if they are not kept.
    pub(super) fn events(&self, prefix: &str, from: Revision) -> Option<(Vec<WatchEvent>, Revision)> {
        if from <= self.compacted {
            return None;
        }
        let start = self.changes.partition_point(|(revision, _)| *revision < from);
        let below = |event: &WatchEvent| match event {
            WatchEvent::Put(entry) => entry.key.starts_with(prefix),
            WatchEvent::Delete { key, .. } => key.starts_with(prefix),
            WatchEvent::Compacted => false,
        };
        let events = self.changes.range(start..).map(|(_, event)| event).filter(|event| below(event));
        // A watch may begin in the future; it must not be moved back.
        Some((events.cloned().collect(), self.revision.max(from - 1)))
    }

    pub(super) fn grant_lease(&mut self, ttl: Duration, now: Instant) -> LeaseId {
        let lease = LeaseId(self.next_lease);
        self.next_lease += 1;
        self.leases.insert(lease, Lease { ttl, expires: now + ttl, keys: BTreeSet::new() });
        lease
    }

    pub(super) fn keep_alive(&mut self, lease: LeaseId, now: Instant) -> Result<(), CoordinationError> {
        let held = self.leases.get_mut(&lease).ok_or(CoordinationError::LeaseExpired { lease: lease.0 })?;
        held.expires = now + held.ttl;
        Ok(())
    }

    pub(super) fn revoke_lease(&mut self, lease: LeaseId) {
        if let Some(lease) = self.leases.remove(&lease) {
            self.apply(lease.keys.into_iter().map(|key| Op::Delete { key }).collect());
        }
    }

    pub(super) fn expire_leases(&mut self, now: Instant) {
        let expired: Vec<_> =
            self.leases.iter().filter(|(_, lease)| lease.expires <= now).map(|(id, _)| *id).collect();
        for lease in expired {
            self.revoke_lease(lease);
        }
    }

    pub(super) fn next_expiry(&self) -> Option<Instant> {
        self.leases.values().map(|lease| lease.expires).min()
    }
}
