//! The embedded coordinator: etcd's semantics for the services of one process, kept on disk.

mod disk;
mod state;

use std::{path::Path, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures::stream;
use parking_lot::Mutex;
use tokio::{sync::watch, time::Instant};

use self::{disk::Disk, state::State};
use crate::{
    CoordinationError, Coordinator, KeyValue, LeaseId, Listing, Revision, Txn, TxnOutcome, WatchEvent,
    WatchStream,
};

/// A coordinator in this process. Keys without a lease survive a restart; leases end with the process that held them.
#[derive(Debug, Clone)]
pub struct EmbeddedCoordinator {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    state: Mutex<State>,
    /// The latest revision, for watchers.
    revision: watch::Sender<Revision>,
    disk: Option<Disk>,
}

impl EmbeddedCoordinator {
    /// Opens or creates the store. Only one process can have it open.
    pub fn open(path: &Path) -> Result<Self, CoordinationError> {
        let (disk, entries, revision) = Disk::open(path)?;
        Ok(Self::with(State::new(entries, revision), Some(disk)))
    }

    /// A store that ends with the process.
    pub fn in_memory() -> Self {
        Self::with(State::new(Vec::new(), 1), None)
    }

    fn with(state: State, disk: Option<Disk>) -> Self {
        let revision = watch::Sender::new(state.revision());
        Self { inner: Arc::new(Inner { state: Mutex::new(state), revision, disk }) }
    }
}

impl Inner {
    /// Runs `act` on the state as of now: leases that have run out are gone before anything else is seen.
    fn with_state<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state.lock();
        state.expire_leases(Instant::now());
        let result = act(&mut state);
        let revision = state.revision();
        drop(state);
        self.revision.send_if_modified(|known| std::mem::replace(known, revision) != revision);
        result
    }
}

#[async_trait]
impl Coordinator for EmbeddedCoordinator {
    async fn get(&self, key: &str) -> Result<Option<KeyValue>, CoordinationError> {
        Ok(self.inner.with_state(|state| state.get(key)))
    }

    async fn list(&self, prefix: &str) -> Result<Listing, CoordinationError> {
        Ok(self.inner.with_state(|state| state.list(prefix)))
    }

    async fn commit(&self, txn: Txn) -> Result<TxnOutcome, CoordinationError> {
        self.inner.with_state(|state| {
            state.check(&txn)?;
            if !state.holds(&txn.compares) {
                return Ok(TxnOutcome::Conflict);
            }
            // On disk before anyone can see it.
            if let Some(disk) = &self.inner.disk {
                disk.apply(&txn.ops, state.revision() + 1, |key| state.create_revision(key))?;
            }
            Ok(TxnOutcome::Committed(state.apply(txn.ops)))
        })
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<WatchStream, CoordinationError> {
        let cursor = Watcher {
            inner: Arc::clone(&self.inner),
            changes: self.inner.revision.subscribe(),
            prefix: prefix.to_owned(),
            next: from,
            pending: Vec::new().into_iter(),
            ended: false,
        };
        Ok(Box::pin(stream::unfold(cursor, |mut cursor| async {
            let event = cursor.next().await?;
            Some((Ok(event), cursor))
        })))
    }

    async fn grant_lease(&self, ttl: Duration) -> Result<LeaseId, CoordinationError> {
        Ok(self.inner.with_state(|state| state.grant_lease(ttl, Instant::now())))
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), CoordinationError> {
        self.inner.with_state(|state| state.keep_alive(lease, Instant::now()))
    }

    async fn revoke_lease(&self, lease: LeaseId) -> Result<(), CoordinationError> {
        self.inner.with_state(|state| state.revoke_lease(lease));
        Ok(())
    }
}

/// A watch's place in history.
struct Watcher {
    inner: Arc<Inner>,
    changes: watch::Receiver<Revision>,
    prefix: String,
    next: Revision,
    pending: std::vec::IntoIter<WatchEvent>,
    ended: bool,
}

impl Watcher {
    async fn next(&mut self) -> Option<WatchEvent> {
        loop {
            if let Some(event) = self.pending.next() {
                return Some(event);
            }
            if self.ended {
                return None;
            }
            self.changes.mark_unchanged();
            let (events, expiry) =
                self.inner.with_state(|state| (state.events(&self.prefix, self.next), state.next_expiry()));
            let Some((events, revision)) = events else {
                self.ended = true;
                return Some(WatchEvent::Compacted);
            };
            self.next = revision + 1;
            if !events.is_empty() {
                self.pending = events.into_iter();
                continue;
            }
            // Nobody else expires leases: whoever waits for their end must look when it comes.
            let expiry = expiry.unwrap_or_else(|| Instant::now() + Duration::from_secs(3600));
            tokio::select! {
                changed = self.changes.wait_for(|revision| *revision >= self.next) => { changed.ok()?; }
                () = tokio::time::sleep_until(expiry) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests;
