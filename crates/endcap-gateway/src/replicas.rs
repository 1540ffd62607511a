//! Asking one of several equal replicas: the better of two, then another while time remains.

mod health;
mod hedge;
mod probe;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use endcap_fleet::Replica;
use endcap_service::status::RemoteError;
use endcap_types::{Digest, ErrorCode, VersionPin, is_retryable};
use futures::{StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use hashbrown::HashMap;
use parking_lot::Mutex;
use tokio::time::Instant;

use self::{
    health::{Change, End, Peer},
    hedge::{Budget, Counts, Hedge, Sample},
};
pub(crate) use self::{hedge::Kind, probe::probe};
use crate::{
    metrics,
    pace::Paces,
    ports::{Call, Pinned},
};

/// What is known of workers, by endpoint. Shared by everything that asks them.
#[derive(Debug, Default)]
pub(crate) struct Load {
    peers: Mutex<HashMap<String, Arc<Peer>>>,
    draws: AtomicU64,
    paces: Paces<(Digest, Kind)>,
    budget: Budget,
}

/// What is wanted of a worker.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted<'a> {
    /// Exactly this version.
    pub(crate) pin: &'a VersionPin,
    pub(crate) kind: Kind,
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

/// Why a wait ends without an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Alarm {
    /// Calls like this one are seldom out for so long.
    Late,
    /// Half of the time has brought nothing.
    Half,
    End,
}

/// When a call's lack of an answer speaks against the worker.
#[derive(Debug, Clone, Copy)]
struct Patience<'a> {
    began: Instant,
    /// By now others of its kind have been answered.
    late: Duration,
    /// Half of the time that there is.
    slow: Duration,
    /// Whether another replica was faster.
    beaten: &'a AtomicBool,
}

impl Load {
    /// Asks replicas until one answers with exactly `wanted.pin`, each at most once: the next one when one has failed,
    /// and a second one beside the first when that is late, or half of the time is over. Second calls are held to a
    /// twentieth of all, but for those in place of a worker that has answered nobody meanwhile. The first good answer
    /// counts, and when it came; the other call is dropped.
    pub(crate) async fn ask<'a, T>(
        &self,
        replicas: &[&'a Replica],
        wanted: Wanted<'_>,
        call: &Call,
        ask: impl Fn(&'a Replica, Call) -> BoxFuture<'a, Result<Pinned<T>, RemoteError>>,
    ) -> Result<(T, Instant), Fault> {
        let mut now = Instant::now();
        let mut sample = Sample::begin(self.paces.of((wanted.pin.digest, wanted.kind)), now);
        self.budget.earn();
        let beaten = AtomicBool::new(false);
        let mut untried = replicas.to_vec();
        let mut asked = FuturesUnordered::new();
        let mut hedge: Option<Hedge> = None;
        let (mut next, mut last) = (self.take(&mut untried, true), Fault::Failed);
        loop {
            let remaining = call.deadline.instant().saturating_duration_since(now);
            if remaining.is_zero() {
                return Err(Fault::TimedOut);
            }
            let Some(replica) = next else { return Err(last) };
            let slow = remaining / 2;
            let late = sample.late.filter(|late| *late < slow);
            let ordinal = replicas.len() - untried.len() - 1;
            let patience = Patience { began: now, late: late.unwrap_or(slow), slow, beaten: &beaten };
            let attempt = self.attempt(replica, wanted.pin, patience, ask(replica, call.clone()));
            asked.push(async move { (ordinal, attempt.await) });
            let mut alarms = vec![(call.deadline.instant(), Alarm::End), (now + slow, Alarm::Half)];
            alarms.extend(late.map(|late| (now + late, Alarm::Late)));
            next = loop {
                let Some((at, alarm)) = alarms.last().copied() else { return Err(Fault::TimedOut) };
                match tokio::time::timeout_at(at, asked.next()).await {
                    Ok(Some((ordinal, Ok(answer)))) => {
                        beaten.store(true, Ordering::Relaxed);
                        sample.ended = Some(answer.1);
                        sample.counts = if ordinal == 0 { Counts::Yes } else { sample.counts };
                        if let Some(hedge) = &mut hedge {
                            hedge.won = hedge.ordinal == ordinal;
                        }
                        return Ok(answer);
                    }
                    Ok(Some((_, Err(Miss { fault, go_on: false })))) => return Err(fault),
                    Ok(Some((ordinal, Err(Miss { fault, .. })))) => {
                        last = fault;
                        sample.counts = if ordinal == 0 { Counts::No } else { sample.counts };
                        // A second call is out already: it is the other try.
                        if hedge.is_some() && !asked.is_empty() {
                            continue;
                        }
                    }
                    Ok(None) => {}
                    Err(_elapsed) => {
                        alarms.pop();
                        last = if alarm == Alarm::Late { last } else { Fault::TimedOut };
                        // With a silent worker it is as after a failure: nobody's load is added to.
                        if alarm != Alarm::Half || !self.peer(&replica.endpoint).is_silent_since(now) {
                            if alarm != Alarm::End
                                && hedge.is_none()
                                && let Some(replica) = self.second(&mut untried)
                            {
                                hedge = Some(Hedge { ordinal: ordinal + 1, won: false });
                                break Some(replica);
                            }
                            continue;
                        }
                    }
                }
                match self.take(&mut untried, true) {
                    Some(replica) => {
                        metrics::shard_retried();
                        break Some(replica);
                    }
                    None if asked.is_empty() => return Err(last),
                    None => {}
                }
            };
            now = Instant::now();
        }
    }

    /// Who is asked beside one that goes on, if there is somebody, and it can be paid for.
    fn second<'a>(&self, untried: &mut Vec<&'a Replica>) -> Option<&'a Replica> {
        let is_open = |replica: &&Replica| self.peer(&replica.endpoint).is_open();
        let may = untried.iter().any(is_open) && self.budget.spend();
        if may { self.take(untried, false) } else { None }
    }

    /// One replica's answer, if it is of the version that was asked for, and when it came.
    async fn attempt<T>(
        &self,
        replica: &Replica,
        pin: &VersionPin,
        patience: Patience<'_>,
        answer: BoxFuture<'_, Result<Pinned<T>, RemoteError>>,
    ) -> Result<(T, Instant), Miss> {
        let mut call = self.enter(replica, patience);
        let answered = answer.await;
        let now = Instant::now();
        call.ended = Some(now);
        match answered {
            Ok(Pinned { pin: Some(answered), answer }) if answered == *pin => {
                call.end = Some(End::Answered);
                Ok((answer, now))
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
        std::iter::from_fn(|| self.take(&mut replicas, true)).take(count).collect()
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

    /// Forgets workers and versions that are gone.
    pub(crate) fn retain(&self, worker: impl Fn(&str) -> bool, version: impl Fn(Digest) -> bool) {
        self.peers.lock().retain(|endpoint, _| worker(endpoint));
        self.paces.retain(|(digest, _)| version(*digest));
    }

    /// Takes the better of two drawn replicas (Mitzenmacher, The Power of Two Choices, 1996) among those that are not
    /// ejected; when all are, `any` of them may be the one that is back.
    fn take<'a>(&self, untried: &mut Vec<&'a Replica>, any: bool) -> Option<&'a Replica> {
        let peers: Vec<_> = untried.iter().map(|replica| self.peer(&replica.endpoint)).collect();
        let mut open: Vec<usize> = (0..peers.len()).filter(|at| peers[*at].is_open()).collect();
        if open.is_empty() && any {
            open = (0..peers.len()).collect();
        }
        let chosen = match open.as_slice() {
            [] => return None,
            [only] => *only,
            several => {
                let one = self.draw(several.len());
                let other = (one + 1 + self.draw(several.len() - 1)) % several.len();
                let (one, other) = (several[one], several[other]);
                if peers[other].is_better_than(&peers[one], Instant::now()) { other } else { one }
            }
        };
        Some(untried.swap_remove(chosen))
    }

    fn enter<'a>(&self, replica: &'a Replica, patience: Patience<'a>) -> InFlight<'a> {
        let peer = self.peer(&replica.endpoint);
        peer.begin();
        InFlight { peer, worker: &replica.worker, patience, ended: None, end: None }
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
struct InFlight<'a> {
    peer: Arc<Peer>,
    worker: &'a str,
    patience: Patience<'a>,
    ended: Option<Instant>,
    /// Nothing when it was dropped, because another replica was faster or the request is over.
    end: Option<End>,
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        let now = self.ended.unwrap_or_else(Instant::now);
        let (took, patience) = (now - self.patience.began, self.patience);
        // Second calls must not hide a worker that hangs: one that was late, and answered nobody in that time, failed.
        let late = patience.beaten.load(Ordering::Relaxed) && took >= patience.late;
        let hung = took >= patience.slow || (late && self.peer.is_silent_since(patience.began));
        let end = self.end.unwrap_or(if hung { End::Failed } else { End::Unknown });
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
