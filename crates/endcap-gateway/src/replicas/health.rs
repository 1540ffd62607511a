//! What is known of one worker: how busy and how fast it is, and whether it is left alone for a while.
//!
//! Ejection after failures in a row as in Envoy's outlier detection, return through one trial call at a time as in
//! Nygard's circuit breaker (Release It!, 2007).

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
    failures: u32,
    ejections: u32,
    ejected_until: Option<Instant>,
    on_trial: bool,
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
    /// Whether it may be asked: always, unless it was ejected and its time is not over or its trial is not.
    pub(super) fn is_open(&self, now: Instant) -> bool {
        let health = self.health.lock();
        health.ejected_until.is_none_or(|until| until <= now && !health.on_trial)
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

    pub(super) fn begin(&self, now: Instant) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        let mut health = self.health.lock();
        if health.ejected_until.is_some_and(|until| until <= now) {
            health.on_trial = true;
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
                let returned = health.ejected_until.is_some();
                *health = Health { latency: Some(Latency { seconds, at: now }), ..Health::default() };
                if returned { Change::Returned } else { Change::None }
            }
            End::Failed => {
                health.failures += 1;
                let on_trial = std::mem::take(&mut health.on_trial);
                let is_out = health.ejected_until.is_some_and(|until| until > now);
                if (health.failures < MOST_FAILURES && !on_trial) || is_out {
                    return Change::None;
                }
                let pause = (EJECTION * 2_u32.pow(health.ejections.min(8))).min(LONGEST_EJECTION);
                health.ejections += 1;
                health.ejected_until = Some(now + pause);
                Change::Ejected(pause)
            }
            End::Unknown => {
                health.on_trial = false;
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
        peer.begin(now);
        peer.end(end, took, now)
    }

    #[test]
    fn three_failures_in_a_row_eject_and_one_success_between_them_does_not() {
        let (peer, now) = (Peer::default(), Instant::now());
        for end in [End::Failed, End::Failed, End::Answered, End::Failed, End::Failed] {
            assert_eq!(call(&peer, end, MS, now), Change::None);
        }
        assert!(peer.is_open(now));
        assert_eq!(call(&peer, End::Failed, MS, now), Change::Ejected(EJECTION));
        assert!(!peer.is_open(now));
    }

    #[test]
    fn an_ejected_worker_gets_one_trial_at_a_time_and_ever_longer_pauses() {
        let (peer, mut now) = (Peer::default(), Instant::now());
        for _ in 0..MOST_FAILURES {
            call(&peer, End::Failed, MS, now);
        }
        for seconds in [2, 4, 8, 8] {
            now += LONGEST_EJECTION;
            assert!(peer.is_open(now));
            peer.begin(now);
            assert!(!peer.is_open(now), "two trials at once");
            assert_eq!(peer.end(End::Failed, MS, now), Change::Ejected(Duration::from_secs(seconds)));
        }
        now += LONGEST_EJECTION;
        assert_eq!(call(&peer, End::Answered, MS, now), Change::Returned);
        assert!(peer.is_open(now));
        assert_eq!(call(&peer, End::Failed, MS, now), Change::None, "the slate is clean");
    }

    #[test]
    fn a_trial_that_nobody_waited_for_leaves_room_for_the_next() {
        let (peer, mut now) = (Peer::default(), Instant::now());
        for _ in 0..MOST_FAILURES {
            call(&peer, End::Failed, MS, now);
        }
        now += EJECTION;
        call(&peer, End::Unknown, MS, now);
        assert!(peer.is_open(now));
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
        busy.begin(now);
        assert!(idle.is_better_than(&busy, now));
        assert!(!busy.is_better_than(&idle, now));
    }
}
