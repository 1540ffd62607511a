//! Asking one of several equal replicas: the less busy of two, then another while time remains.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use endcap_fleet::Replica;
use endcap_service::status::RemoteError;
use endcap_types::{ErrorCode, VersionPin, is_retryable};
use futures::{StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use parking_lot::Mutex;

use crate::{
    metrics,
    ports::{Call, Pinned},
};

/// Calls in flight by worker endpoint. Shared by everything that asks workers.
#[derive(Debug, Default)]
pub(crate) struct Load {
    in_flight: Mutex<HashMap<String, Arc<AtomicUsize>>>,
    draws: AtomicU64,
}

/// Why no replica gave an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fault {
    TimedOut,
    Failed,
    Shed,
    /// The caller's own mistake; every replica would say the same.
    Refused(RemoteError),
}

/// Why one replica gave no answer, and whether another might.
struct Miss {
    fault: Fault,
    go_on: bool,
}

impl Load {
    /// Asks replicas until one answers with exactly `pin`, each at most once: the next one when one has failed, and also
    /// when half of the remaining time has brought nothing. A replica that hangs then costs time but not the answer, and
    /// one that is merely slow may still be first.
    pub(crate) async fn ask<'a, T>(
        &self,
        replicas: &[&'a Replica],
        pin: &VersionPin,
        call: &Call,
        ask: impl Fn(&'a Replica, Call) -> BoxFuture<'a, Result<Pinned<T>, RemoteError>>,
    ) -> Result<T, Fault> {
        let mut untried = replicas.to_vec();
        let mut asked = FuturesUnordered::new();
        let mut last = Fault::Failed;
        loop {
            let remaining = call.deadline.remaining();
            if remaining.is_zero() {
                return Err(Fault::TimedOut);
            }
            if let Some(replica) = self.take(&mut untried) {
                if untried.len() + 1 < replicas.len() {
                    metrics::shard_retried();
                }
                asked.push(self.attempt(replica, pin, ask(replica, call.clone())));
            } else if asked.is_empty() {
                return Err(last);
            }
            let patience = if untried.is_empty() { remaining } else { remaining / 2 };
            match tokio::time::timeout(patience, asked.next()).await {
                Ok(Some(Ok(answer))) => return Ok(answer),
                Ok(Some(Err(Miss { fault, go_on: true }))) => last = fault,
                Ok(Some(Err(Miss { fault, .. }))) => return Err(fault),
                // Nobody is being asked; the loop's head decides.
                Ok(None) => {}
                Err(_elapsed) => last = Fault::TimedOut,
            }
        }
    }

    /// One replica's answer, if it is of the version that was asked for.
    async fn attempt<T>(
        &self,
        replica: &Replica,
        pin: &VersionPin,
        answer: BoxFuture<'_, Result<Pinned<T>, RemoteError>>,
    ) -> Result<T, Miss> {
        let _busy = self.enter(&replica.endpoint);
        match answer.await {
            Ok(Pinned { pin: Some(answered), answer }) if answered == *pin => Ok(answer),
            Ok(Pinned { pin: answered, .. }) => {
                metrics::mixed_version();
                let answered = answered.map_or_else(|| "no version".to_owned(), |pin| pin.to_string());
                tracing::warn!(worker = %replica.worker, asked = %pin, %answered, "dropped an answer from another version");
                Err(Miss { fault: Fault::Failed, go_on: true })
            }
            Err(error) => {
                tracing::debug!(worker = %replica.worker, %error, "replica gave no answer");
                Err(Miss::of(error))
            }
        }
    }

    /// At most `count` of the replicas, the less busy of two drawn ones first.
    pub(crate) fn some<'a>(&self, mut replicas: Vec<&'a Replica>, count: usize) -> Vec<&'a Replica> {
        std::iter::from_fn(|| self.take(&mut replicas)).take(count).collect()
    }

    /// Forgets workers that are gone.
    pub(crate) fn retain(&self, known: impl Fn(&str) -> bool) {
        self.in_flight.lock().retain(|endpoint, _| known(endpoint));
    }

    /// Takes the less busy of two drawn replicas.
    fn take<'a>(&self, untried: &mut Vec<&'a Replica>) -> Option<&'a Replica> {
        if untried.len() < 2 {
            return untried.pop();
        }
        let one = self.draw(untried.len());
        let other = (one + 1 + self.draw(untried.len() - 1)) % untried.len();
        let busy = |at: usize| self.counter(&untried[at].endpoint).load(Ordering::Relaxed);
        let chosen = if busy(other) < busy(one) { other } else { one };
        Some(untried.swap_remove(chosen))
    }

    fn enter(&self, endpoint: &str) -> Busy {
        let counter = self.counter(endpoint);
        counter.fetch_add(1, Ordering::Relaxed);
        Busy(counter)
    }

    fn counter(&self, endpoint: &str) -> Arc<AtomicUsize> {
        let mut in_flight = self.in_flight.lock();
        if let Some(counter) = in_flight.get(endpoint) {
            return Arc::clone(counter);
        }
        Arc::clone(in_flight.entry(endpoint.to_owned()).or_default())
    }

    /// A number below `limit`, spread evenly over calls (SplitMix64 of a counter): what matters is that neighbours
    /// differ, not that nobody can guess them.
    fn draw(&self, limit: usize) -> usize {
        let mut z = self.draws.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % limit.max(1) as u64).unwrap_or_default()
    }
}

impl Miss {
    fn of(error: RemoteError) -> Self {
        let go_on = match error.code {
            // This worker's clock or queue; another may be faster.
            ErrorCode::DeadlineExceeded => true,
            code => is_retryable(code),
        };
        let fault = match error.code {
            ErrorCode::Overloaded => Fault::Shed,
            ErrorCode::DeadlineExceeded => Fault::TimedOut,
            ErrorCode::InvalidArgument => Fault::Refused(error),
            _ => Fault::Failed,
        };
        Self { fault, go_on }
    }
}

/// One call in flight.
struct Busy(Arc<AtomicUsize>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
