//! Readiness: latches that must be released, and the drain that ends it.

use std::{collections::BTreeSet, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::watch;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct State {
    pending: BTreeSet<&'static str>,
    draining: bool,
}

/// Ready when every latch is released and no drain has begun. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Readiness {
    state: Arc<watch::Sender<State>>,
}

/// Holds readiness back until released.
#[derive(Debug)]
#[must_use = "an unreleased latch keeps the service from ever being ready"]
pub struct Latch {
    name: &'static str,
    readiness: Readiness,
}

impl Default for Readiness {
    fn default() -> Self {
        Self { state: Arc::new(watch::Sender::new(State::default())) }
    }
}

impl Readiness {
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds something to wait for, named for the operator who asks what is missing.
    pub fn latch(&self, name: &'static str) -> Latch {
        self.state.send_modify(|state| {
            state.pending.insert(name);
        });
        Latch { name, readiness: self.clone() }
    }

    /// Says "not ready" for good.
    pub fn drain(&self) {
        self.state.send_modify(|state| state.draining = true);
    }

    pub fn is_ready(&self) -> bool {
        let state = self.state.borrow();
        state.pending.is_empty() && !state.draining
    }

    /// What is still missing.
    pub fn pending(&self) -> Vec<&'static str> {
        let state = self.state.borrow();
        let draining = state.draining.then_some("draining");
        state.pending.iter().copied().chain(draining).collect()
    }

    /// Returns when readiness has a value other than `known`.
    pub async fn changed_from(&self, known: bool) -> bool {
        let mut states = self.state.subscribe();
        let differs = |state: &State| (state.pending.is_empty() && !state.draining) != known;
        // The sender lives in `self`, so the wait cannot fail.
        let _state = states.wait_for(differs).await;
        !known
    }
}

/// What a process waits for, part by part. Parts may come while others are asked; cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct ReadinessParts(Arc<Mutex<Vec<Readiness>>>);

impl ReadinessParts {
    pub fn add(&self, part: Readiness) {
        self.0.lock().push(part);
    }

    /// What is still missing in any of them.
    pub fn pending(&self) -> Vec<&'static str> {
        self.0.lock().iter().flat_map(Readiness::pending).collect()
    }
}

impl From<Vec<Readiness>> for ReadinessParts {
    fn from(parts: Vec<Readiness>) -> Self {
        Self(Arc::new(Mutex::new(parts)))
    }
}

impl Latch {
    pub fn release(self) {
        self.readiness.state.send_modify(|state| {
            state.pending.remove(self.name);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_when_all_latches_are_released_and_never_after_a_drain() {
        let readiness = Readiness::new();
        let (routes, models) = (readiness.latch("routes"), readiness.latch("models"));
        assert_eq!(readiness.pending(), ["models", "routes"]);
        routes.release();
        assert!(!readiness.is_ready());
        models.release();
        assert!(readiness.is_ready());
        readiness.drain();
        assert!(!readiness.is_ready());
        assert_eq!(readiness.pending(), ["draining"]);
    }
}
