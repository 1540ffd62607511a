//! A member's presence: a lease that is kept alive, and keys that come back after it was lost.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::{sync::Mutex, time::MissedTickBehavior};

use crate::{CoordinationError, Coordinator, LeaseId, Txn};

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
    lease: LeaseId,
    /// What should exist.
    keys: BTreeMap<String, Vec<u8>>,
    /// Changes that the coordinator has not taken yet: puts, and deletes as `None`.
    unsent: BTreeMap<String, Option<Vec<u8>>>,
}

impl Session {
    /// Grants the lease. The second part keeps it alive and must be run until the session is closed.
    pub async fn start(
        coordinator: Arc<dyn Coordinator>,
        ttl: Duration,
    ) -> Result<(Self, impl Future<Output = ()> + Send + 'static), CoordinationError> {
        let lease = coordinator.grant_lease(ttl).await?;
        let state = Mutex::new(State { lease, keys: BTreeMap::new(), unsent: BTreeMap::new() });
        let session = Self { inner: Arc::new(Inner { coordinator, ttl, state }) };
        let driven = session.clone();
        Ok((session, async move { driven.drive().await }))
    }

    /// The lease in force now; it changes when one was lost.
    pub async fn lease(&self) -> LeaseId {
        self.inner.state.lock().await.lease
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
        self.inner.coordinator.revoke_lease(state.lease).await
    }

    async fn drive(self) {
        let mut ticks = tokio::time::interval(self.inner.ttl / 3);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if let Err(error) = self.inner.beat().await {
                tracing::warn!(%error, "session is not kept alive; trying again");
            }
        }
    }
}

impl Inner {
    /// Keeps the lease alive, or gets a new one and puts everything again.
    async fn beat(&self) -> Result<(), CoordinationError> {
        let mut state = self.state.lock().await;
        match self.coordinator.keep_alive(state.lease).await {
            Ok(()) => self.send(&mut state).await,
            Err(CoordinationError::LeaseExpired { lease }) => {
                if state.keys.is_empty() {
                    return Ok(());
                }
                tracing::warn!(lease, keys = state.keys.len(), "lease was lost; putting its keys again");
                state.lease = self.coordinator.grant_lease(self.ttl).await?;
                let again: Vec<_> =
                    state.keys.iter().map(|(key, value)| (key.clone(), Some(value.clone()))).collect();
                state.unsent.extend(again);
                self.send(&mut state).await
            }
            Err(error) => Err(error),
        }
    }

    async fn send(&self, state: &mut State) -> Result<(), CoordinationError> {
        if state.unsent.is_empty() {
            return Ok(());
        }
        let mut txn = Txn::default();
        for (key, value) in &state.unsent {
            txn = match value {
                Some(value) => txn.put_leased(key, value.clone(), state.lease),
                None => txn.delete(key),
            };
        }
        self.coordinator.commit(txn).await?;
        state.unsent.clear();
        Ok(())
    }
}
