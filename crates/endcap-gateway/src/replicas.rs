//! Asking one of several equal replicas: the better of two, then another while time remains.

mod health;
mod probe;

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use endcap_fleet::Replica;
use endcap_service::status::RemoteError;
use endcap_types::{ErrorCode, VersionPin, is_retryable};
use futures::{StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use parking_lot::Mutex;
use tokio::time::Instant;

use self::health::{Change, End, Peer};
pub(crate) use self::probe::probe;
use crate::{
    metrics,
    ports::{Call, Pinned},
};

/// What is known of workers, by endpoint. Shared by everything that asks them.
#[derive(Debug, Default)]
pub(crate) struct Load {
    peers: Mutex<HashMap<String, Arc<Peer>>>,
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
            // The time after which a call without an answer speaks against the worker.
            let slow = remaining / 2;
            if let Some(replica) = self.take(&mut untried) {
                if untried.len() + 1 < replicas.len() {
                    metrics::shard_retried();
                }
                asked.push(self.attempt(replica, pin, slow, ask(replica, call.clone())));
            } else if asked.is_empty() {
                return Err(last);
            }
            let patience = if untried.is_empty() { remaining } else { slow };
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
        slow: Duration,
        answer: BoxFuture<'_, Result<Pinned<T>, RemoteError>>,
    ) -> Result<T, Miss> {
        let mut call = self.enter(replica, slow);
        match answer.await {
            Ok(Pinned { pin: Some(answered), answer }) if answered == *pin => {
                call.end = Some(End::Answered);
                Ok(answer)
            }
            Ok(Pinned { pin: answered, .. }) => {
                call.end = Some(End::Failed);
                metrics::mixed_version();
                let answered = answered.map_or_else(|| "no version".to_owned(), |pin| pin.to_string());
                tracing::warn!(worker = %replica.worker, asked = %pin, %answered, "dropped an answer from another version");
                Err(Miss { fault: Fault::Failed, go_on: true })
            }
            Err(error) => {
                tracing::debug!(worker = %replica.worker, %error, "replica gave no answer");
                call.end = match error.code {
                    ErrorCode::Unavailable | ErrorCode::Internal | ErrorCode::DataLoss => Some(End::Failed),
                    // Time that ran out speaks against the worker only if there was some.
                    ErrorCode::DeadlineExceeded => None,
                    _ => Some(End::Answered),
                };
                Err(Miss::of(error))
            }
        }
    }

    /// At most `count` of the replicas, the better of two drawn ones first.
    pub(crate) fn some<'a>(&self, mut replicas: Vec<&'a Replica>, count: usize) -> Vec<&'a Replica> {
        std::iter::from_fn(|| self.take(&mut replicas)).take(count).collect()
    }

    /// Endpoints of the workers that are ejected, ascending.
    pub(crate) fn ejected(&self) -> Vec<String> {
        let peers = self.peers.lock();
        let ejected = peers.iter().filter(|(_, peer)| peer.is_ejected());
        let mut ejected: Vec<String> = ejected.map(|(endpoint, _)| endpoint.clone()).collect();
        ejected.sort_unstable();
        ejected
    }

    /// Ejected workers whose health should be asked for, by endpoint.
    fn due(&self, now: Instant) -> Vec<(String, Arc<Peer>)> {
        let peers = self.peers.lock();
        let due = peers.iter().filter(|(_, peer)| peer.is_due(now));
        due.map(|(endpoint, peer)| (endpoint.clone(), Arc::clone(peer))).collect()
    }

    /// Forgets workers that are gone.
    pub(crate) fn retain(&self, known: impl Fn(&str) -> bool) {
        self.peers.lock().retain(|endpoint, _| known(endpoint));
    }

    /// Takes the better of two drawn replicas (Mitzenmacher, The Power of Two Choices, 1996) among those that are not
    /// ejected; when all are, any may be the one that is back.
    fn take<'a>(&self, untried: &mut Vec<&'a Replica>) -> Option<&'a Replica> {
        let now = Instant::now();
        let peers: Vec<_> = untried.iter().map(|replica| self.peer(&replica.endpoint)).collect();
        let mut open: Vec<usize> = (0..peers.len()).filter(|at| peers[*at].is_open()).collect();
        if open.is_empty() {
            open = (0..peers.len()).collect();
        }
        let chosen = match open.as_slice() {
            [] => return None,
            [only] => *only,
            several => {
                let one = self.draw(several.len());
                let other = (one + 1 + self.draw(several.len() - 1)) % several.len();
                let (one, other) = (several[one], several[other]);
                if peers[other].is_better_than(&peers[one], now) { other } else { one }
            }
        };
        Some(untried.swap_remove(chosen))
    }

    fn enter(&self, replica: &Replica, slow: Duration) -> InFlight {
        let (peer, started) = (self.peer(&replica.endpoint), Instant::now());
        peer.begin();
        InFlight { peer, worker: replica.worker.clone(), started, slow, end: None }
    }

    fn peer(&self, endpoint: &str) -> Arc<Peer> {
        let mut peers = self.peers.lock();
        if let Some(peer) = peers.get(endpoint) {
            return Arc::clone(peer);
        }
        Arc::clone(peers.entry(endpoint.to_owned()).or_default())
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
struct InFlight {
    peer: Arc<Peer>,
    worker: String,
    started: Instant,
    slow: Duration,
    /// Nothing when it was dropped, because another replica was faster or the request is over.
    end: Option<End>,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let now = Instant::now();
        let took = now - self.started;
        let end = self.end.unwrap_or(if took >= self.slow { End::Failed } else { End::Unknown });
        match self.peer.end(end, took, now) {
            Change::None => {}
            Change::Ejected(pause) => {
                metrics::ejected();
                tracing::warn!(worker = %self.worker, ?pause, "ejected: it does not answer");
            }
            Change::Returned => tracing::info!(worker = %self.worker, "answers again"),
        }
    }
}

#[cfg(test)]
mod tests;
