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
use futures::future::BoxFuture;
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

impl Load {
    /// Asks replicas until one answers with exactly `pin`, each at most once. An attempt gets half of the remaining
    /// time while there is somebody else to ask, so that a replica which hangs costs time but not the answer.
    pub(crate) async fn ask<'a, T>(
        &self,
        replicas: &[&'a Replica],
        pin: &VersionPin,
        call: &Call,
        ask: impl Fn(&'a Replica, Call) -> BoxFuture<'a, Result<Pinned<T>, RemoteError>>,
    ) -> Result<T, Fault> {
        let mut untried = replicas.to_vec();
        let mut last = Fault::Failed;
        while let Some(replica) = self.take(&mut untried) {
            let remaining = call.deadline.remaining();
            if remaining.is_zero() {
                return Err(Fault::TimedOut);
            }
            if untried.len() + 1 < replicas.len() {
                metrics::shard_retried();
            }
            let share = if untried.is_empty() {
                remaining
            } else {
                remaining / 2
            };
            let attempt = call.until(call.deadline.within(share));
            let _busy = self.enter(&replica.endpoint);
            let answered = tokio::time::timeout_at(attempt.deadline.instant(), ask(replica, attempt.clone()));
            last = match answered.await {
                Ok(Ok(Pinned {
                    pin: Some(answered),
                    answer,
                })) if answered == *pin => return Ok(answer),
                Ok(Ok(Pinned { pin: found, .. })) => {
                    metrics::mixed_version();
                    let found = found.map_or_else(|| "no version".to_owned(), |found| found.to_string());
                    tracing::warn!(worker = %replica.worker, asked = %pin, %found, "dropped an answer from another version");
                    Fault::Failed
                }
                Ok(Err(error)) => match fault(error) {
                    Ok(fault) => fault,
                    Err(last) => return Err(last),
                },
                Err(_elapsed) => Fault::TimedOut,
            };
            tracing::debug!(worker = %replica.worker, fault = ?last, "replica gave no answer");
        }
        Err(last)
    }

    /// At most `count` of the replicas, the less busy of two drawn ones first.
    pub(crate) fn some<'a>(&self, mut replicas: Vec<&'a Replica>, count: usize) -> Vec<&'a Replica> {
        std::iter::from_fn(|| self.take(&mut replicas))
            .take(count)
            .collect()
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

/// What an error means for the next replica: go on with `Ok`, stop with `Err`.
fn fault(error: RemoteError) -> Result<Fault, Fault> {
    match error.code {
        ErrorCode::Overloaded => Ok(Fault::Shed),
        // This attempt's time was up, which need not be all the time there is.
        ErrorCode::DeadlineExceeded => Ok(Fault::TimedOut),
        ErrorCode::InvalidArgument => Err(Fault::Refused(error)),
        code if is_retryable(code) => Ok(Fault::Failed),
        _ => Err(Fault::Failed),
    }
}

/// One call in flight.
struct Busy(Arc<AtomicUsize>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
