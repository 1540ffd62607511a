//! A member's presence: a lease that is kept alive, and keys that come back after it was lost.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::{sync::Mutex, time::MissedTickBehavior};

use crate::{Complaint, CoordinationError, Coordinator, LeaseId, Txn};

/// Changes in one transaction: etcd's default limit is 128 operations.
const MOST_OPS: usize = 100;

/// Keys under one lease. Whatever happens to the lease, the keys that should exist are put again.
#[derive(Debug, Clone)]
pub struct Session {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    coordinator: Arc<dyn Coordinator>,
    ttl: Duration,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Nothing before the coordinator was reached for the first time.
    lease: Option<LeaseId>,
    /// What should exist.
    keys: BTreeMap<String, Vec<u8>>,
    /// Changes that the coordinator has not taken yet: puts, and deletes as `None`.
    unsent: BTreeMap<String, Option<Vec<u8>>>,
}

impl Session {
    /// A session that begins as soon as the coordinator can be reached. The second part keeps it alive and must be run
    /// until the session is closed.
    pub fn start(
        coordinator: Arc<dyn Coordinator>,
        ttl: Duration,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let state = Mutex::new(State { lease: None, keys: BTreeMap::new(), unsent: BTreeMap::new() });
        let session = Self { inner: Arc::new(Inner { coordinator, ttl, state }) };
        let driven = session.clone();
        (session, async move { driven.drive().await })
    }

    /// The lease in force now; it changes when one was lost.
    pub async fn lease(&self) -> Result<LeaseId, CoordinationError> {
        self.inner.granted(&mut *self.inner.state.lock().await).await
    }

    /// Puts a key. An error means "not yet": it is remembered and put as soon as the coordinator takes it.
    pub async fn put(
        &self,
        key: impl Into<String>,
        value: impl Into<Vec<u8>>,
    ) -> Result<(), CoordinationError> {
        let (key, value) = (key.into(), value.into());
        let mut state = self.inner.state.lock().await;
        state.keys.insert(key.clone(), value.clone());
        state.unsent.insert(key, Some(value));
        self.inner.send(&mut state).await
    }

    /// Deletes a key. An error means "not yet", as for [`Session::put`].
    pub async fn delete(&self, key: &str) -> Result<(), CoordinationError> {
        let mut state = self.inner.state.lock().await;
        state.keys.remove(key);
        state.unsent.insert(key.to_owned(), None);
        self.inner.send(&mut state).await
    }

    /// Ends the lease; its keys are gone at once.
    pub async fn close(&self) -> Result<(), CoordinationError> {
        let mut state = self.inner.state.lock().await;
        state.keys.clear();
        state.unsent.clear();
        match state.lease.take() {
            Some(lease) => self.inner.coordinator.revoke_lease(lease).await,
            None => Ok(()),
        }
    }

    async fn drive(self) {
        let mut ticks = tokio::time::interval(self.inner.ttl / 3);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut complaint = Complaint::default();
        loop {
            ticks.tick().await;
            match self.inner.beat().await {
                Ok(()) => complaint.settle(),
                Err(error) => {
                    if let Some(lasts) = complaint.due() {
                        tracing::warn!(%error, ?lasts, "session is not kept alive; trying again");
                    }
                }
            }
        }
    }
}

impl Inner {
    /// Keeps the lease alive, or gets a new one and puts everything again.
    async fn beat(&self) -> Result<(), CoordinationError> {
        let mut state = self.state.lock().await;
        let Some(lease) = state.lease else {
            return self.send(&mut state).await;
        };
        match self.coordinator.keep_alive(lease).await {
            Ok(()) => self.send(&mut state).await,
            Err(CoordinationError::LeaseExpired { lease }) => {
                tracing::warn!(lease, keys = state.keys.len(), "lease was lost; putting its keys again");
                state.lease = None;
                let again: Vec<_> =
                    state.keys.iter().map(|(key, value)| (key.clone(), Some(value.clone()))).collect();
                state.unsent.extend(again);
                self.send(&mut state).await
            }
            Err(error) => Err(error),
        }
    }

    async fn granted(&self, state: &mut State) -> Result<LeaseId, CoordinationError> {
        if let Some(lease) = state.lease {
            return Ok(lease);
        }
        let lease = self.coordinator.grant_lease(self.ttl).await?;
        state.lease = Some(lease);
        Ok(lease)
    }

    async fn send(&self, state: &mut State) -> Result<(), CoordinationError> {
        if state.unsent.is_empty() {
            return Ok(());
        }
        let lease = self.granted(state).await?;
        // One transaction where that is possible: members' keys are few, a worker's replicas may be many.
        let changes: Vec<_> = std::mem::take(&mut state.unsent).into_iter().collect();
        let mut sent = 0;
        for chunk in changes.chunks(MOST_OPS) {
            let txn = chunk.iter().fold(Txn::default(), |txn, (key, value)| match value {
                Some(value) => txn.put_leased(key, value.clone(), lease),
                None => txn.delete(key),
            });
            if let Err(error) = self.coordinator.commit(txn).await {
                state.unsent.extend(changes.into_iter().skip(sent));
                return Err(error);
            }
            sent += chunk.len();
        }
        Ok(())
    }
}
