//! What is known of one worker: how busy and how fast it is, and whether it is left alone for a while.
//!
//! Ejection after failures in a row as in Envoy's outlier detection; return through a health probe, which costs no
//! request anything, and then one trial call at a time as in Nygard's circuit breaker (Release It!, 2007).

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::Instant;

/// Failures in a row after which a worker is ejected.
const MOST_FAILURES: u32 = 3;
/// First ejection; each one that follows without an answer in between is twice as long.
const EJECTION: Duration = Duration::from_secs(1);
const LONGEST_EJECTION: Duration = Duration::from_secs(8);
/// From a probe without an answer to the next one.
const PROBE_PAUSE: Duration = Duration::from_secs(1);
/// Weight of the newest call in the mean latency.
const NEWEST: f64 = 0.2;
/// Without calls the remembered latency halves in this time, so that a worker that was slow is tried again.
const HALF_LIFE: Duration = Duration::from_secs(2);

/// One worker.
#[derive(Debug, Default)]
pub(super) struct Peer {
    in_flight: AtomicUsize,
    health: Mutex<Health>,
}

#[derive(Debug, Default)]
struct Health {
    latency: Option<Latency>,
    /// When it last answered.
    answered: Option<Instant>,
    failures: u32,
    ejections: u32,
    ejected: Option<Ejected>,
}

#[derive(Debug, Clone, Copy)]
enum Ejected {
    /// Nobody asks it; it is probed after this.
    Until(Instant),
    /// A probe was answered: one call at a time may try.
    HalfOpen,
    OnTrial,
}

#[derive(Debug, Clone, Copy)]
struct Latency {
    seconds: f64,
    at: Instant,
}

/// How a call ended, as far as the worker's health goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// It answered, be it with a refusal.
    Answered,
    /// It could not be reached, broke the contract, or let its time run out.
    Failed,
    /// Nobody waited for it long enough to tell.
    Unknown,
}

/// What changed with the end of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    None,
    Ejected(Duration),
    Returned,
}

impl Peer {
    /// Whether it may be asked: always, unless it is ejected, or another call tries it.
    pub(super) fn is_open(&self) -> bool {
        matches!(self.health.lock().ejected, None | Some(Ejected::HalfOpen))
    }

    pub(super) fn is_ejected(&self) -> bool {
        self.health.lock().ejected.is_some()
    }

    /// Whether it has answered nobody after this.
    pub(super) fn is_silent_since(&self, instant: Instant) -> bool {
        self.health.lock().answered.is_none_or(|answered| answered < instant)
    }

    /// Whether it is time to ask for its health.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        matches!(self.health.lock().ejected, Some(Ejected::Until(until)) if until <= now)
    }

    /// A probe has ended.
    pub(super) fn probed(&self, serving: bool, now: Instant) {
        let mut health = self.health.lock();
        if let Some(Ejected::Until(_)) = health.ejected {
            let again = Ejected::Until(now + PROBE_PAUSE);
            health.ejected = Some(if serving { Ejected::HalfOpen } else { again });
        }
    }

    /// Less is better: the calls that it would have in flight, times how long one takes. Without a latency of both, only
    /// the calls can be compared.
    pub(super) fn is_better_than(&self, other: &Self, now: Instant) -> bool {
        #[expect(clippy::cast_precision_loss, reason = "a count of calls")]
        let calls = |peer: &Self| (peer.in_flight.load(Ordering::Relaxed) + 1) as f64;
        match (self.latency(now), other.latency(now)) {
            (Some(mine), Some(others)) => calls(self) * mine < calls(other) * others,
            _ => calls(self) < calls(other),
        }
    }

    pub(super) fn begin(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        let mut health = self.health.lock();
        if let Some(Ejected::HalfOpen) = health.ejected {
            health.ejected = Some(Ejected::OnTrial);
        }
    }

    pub(super) fn end(&self, end: End, took: Duration, now: Instant) -> Change {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
        let mut health = self.health.lock();
        match end {
            End::Answered => {
                let seconds = health.latency.map_or(took.as_secs_f64(), |known| {
                    known.seconds + NEWEST * (took.as_secs_f64() - known.seconds)
                });
                let returned = health.ejected.is_some();
                let latency = Some(Latency { seconds, at: now });
                *health = Health { latency, answered: Some(now), ..Health::default() };
                if returned { Change::Returned } else { Change::None }
            }
            End::Failed => {
                health.failures += 1;
                match health.ejected {
                    // A straggler from before.
                    Some(Ejected::Until(_)) => return Change::None,
                    None if health.failures < MOST_FAILURES => return Change::None,
                    None | Some(Ejected::HalfOpen | Ejected::OnTrial) => {}
                }
                let pause = (EJECTION * 2_u32.pow(health.ejections.min(8))).min(LONGEST_EJECTION);
                health.ejections += 1;
                health.ejected = Some(Ejected::Until(now + pause));
                Change::Ejected(pause)
            }
            End::Unknown => {
                // It would have taken longer than this: else whoever is always overtaken would seem to be fast.
                if let Some(latency) = &mut health.latency
                    && took.as_secs_f64() > latency.seconds
                {
                    let seconds = latency.seconds + NEWEST * (took.as_secs_f64() - latency.seconds);
                    *latency = Latency { seconds, at: now };
                }
                if let Some(Ejected::OnTrial) = health.ejected {
                    health.ejected = Some(Ejected::HalfOpen);
                }
                Change::None
            }
        }
    }

    fn latency(&self, now: Instant) -> Option<f64> {
        let latency = self.health.lock().latency?;
        let idle = now.saturating_duration_since(latency.at).as_secs_f64();
        Some(latency.seconds * (-idle / HALF_LIFE.as_secs_f64()).exp2())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn call(peer: &Peer, end: End, took: Duration, now: Instant) -> Change {
        peer.begin();
        peer.end(end, took, now)
    }

    fn ejected(now: Instant) -> Peer {
        let peer = Peer::default();
        for _ in 0..MOST_FAILURES {
            call(&peer, End::Failed, MS, now);
        }
        assert!(!peer.is_open());
        peer
    }

    #[test]
    fn three_failures_in_a_row_eject_and_one_success_between_them_does_not() {
        let (peer, now) = (Peer::default(), Instant::now());
        for end in [End::Failed, End::Failed, End::Answered, End::Failed, End::Failed] {
            assert_eq!(call(&peer, end, MS, now), Change::None);
        }
        assert!(peer.is_open());
        assert_eq!(call(&peer, End::Failed, MS, now), Change::Ejected(EJECTION));
        assert!(!peer.is_open());
    }

    #[test]
    fn nobody_asks_an_ejected_worker_before_a_probe_was_answered() {
        let mut now = Instant::now();
        let peer = ejected(now);
        assert!(!peer.is_due(now));
        now += EJECTION;
        assert!(peer.is_due(now) && !peer.is_open());
        peer.probed(false, now);
        assert!(!peer.is_due(now) && !peer.is_open());
        now += PROBE_PAUSE;
        assert!(peer.is_due(now));
        peer.probed(true, now);
        assert!(peer.is_open());
    }

    #[test]
    fn a_worker_that_answers_probes_gets_one_trial_at_a_time_and_ever_longer_pauses() {
        let mut now = Instant::now();
        let peer = ejected(now);
        for seconds in [2, 4, 8, 8] {
            now += LONGEST_EJECTION;
            peer.probed(true, now);
            peer.begin();
            assert!(!peer.is_open(), "two trials at once");
            assert_eq!(peer.end(End::Failed, MS, now), Change::Ejected(Duration::from_secs(seconds)));
        }
        peer.probed(true, now);
        assert_eq!(call(&peer, End::Answered, MS, now), Change::Returned);
        assert!(peer.is_open());
        assert_eq!(call(&peer, End::Failed, MS, now), Change::None, "the slate is clean");
    }

    #[test]
    fn a_trial_that_nobody_waited_for_leaves_room_for_the_next() {
        let now = Instant::now();
        let peer = ejected(now);
        peer.probed(true, now);
        call(&peer, End::Unknown, MS, now);
        assert!(peer.is_open());
    }

    #[test]
    fn the_slower_of_two_idle_workers_is_worse_until_its_latency_is_forgotten() {
        let (fast, slow, now) = (Peer::default(), Peer::default(), Instant::now());
        call(&fast, End::Answered, MS, now);
        call(&slow, End::Answered, 8 * MS, now);
        assert!(fast.is_better_than(&slow, now));
        // Three half-lives later, with only the fast one measured again, they are even.
        let later = now + 4 * HALF_LIFE;
        call(&fast, End::Answered, MS, later);
        assert!(slow.is_better_than(&fast, later));
    }

    #[test]
    fn a_busy_worker_is_worse_than_an_equal_idle_one() {
        let (busy, idle, now) = (Peer::default(), Peer::default(), Instant::now());
        busy.begin();
        assert!(idle.is_better_than(&busy, now));
        assert!(!busy.is_better_than(&idle, now));
    }
}
