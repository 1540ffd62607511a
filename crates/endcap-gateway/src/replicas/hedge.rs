//! When a call is late enough to be made a second time, and how often that may happen.
//!
//! A second call goes to another replica once the first one has been out for longer than 95 of 100 calls of its kind
//! take (Dean and Barroso, "The Tail at Scale", 2013), so about one call in twenty; a budget holds it to that when all
//! replicas become slow at once.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use endcap_types::ShardIndex;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::{
    metrics::{self, HedgeOutcome},
    pace::Pace,
};

/// The share of calls that are early enough.
const EARLY: f64 = 0.95;
/// First calls that pay for a second one.
const PRICE: u64 = 20;
/// What can be saved up: second calls for a burst.
const SAVINGS: u64 = 10 * PRICE;

/// Calls that are alike, so that they should take as long as each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    Encode,
    Retrieve(ShardIndex),
    Rerank(ShardIndex),
    List(ShardIndex),
}

/// The first call's time, which is noted when it ends.
#[derive(Debug)]
pub(super) struct Sample {
    pace: Arc<Mutex<Pace>>,
    /// When a call of the kind is late, if that is known.
    pub(super) late: Option<Duration>,
    began: Instant,
    /// If that is known before it is dropped.
    pub(super) ended: Option<Instant>,
    pub(super) counts: Counts,
}

impl Sample {
    /// A first call begins.
    pub(super) fn begin(pace: Arc<Mutex<Pace>>, began: Instant) -> Self {
        let late = pace.lock().quantile(EARLY);
        Self { pace, late, began, ended: None, counts: Counts::IfLate }
    }
}

/// Whether a first call says how long such calls take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Counts {
    /// It was answered.
    Yes,
    /// It failed.
    No,
    /// It was given up: then it is known to have taken at least this long, which matters only if that is late. Without
    /// it, second calls would hide that calls become slower.
    IfLate,
}

impl Drop for Sample {
    fn drop(&mut self) {
        let took = self.ended.unwrap_or_else(Instant::now) - self.began;
        let counts = match self.counts {
            Counts::Yes => true,
            Counts::No => false,
            Counts::IfLate => self.late.is_some_and(|late| took >= late),
        };
        if counts {
            self.pace.lock().record(took);
        }
    }
}

/// What second calls are paid from: never more than one for twenty first ones.
#[derive(Debug, Default)]
pub(super) struct Budget(AtomicU64);

impl Budget {
    /// A first call is made.
    pub(super) fn earn(&self) {
        let more = |saved: u64| (saved < SAVINGS).then_some(saved + 1);
        let _full = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
    }

    /// Pays for a second call, if there is enough.
    pub(super) fn spend(&self) -> bool {
        let less = |saved: u64| saved.checked_sub(PRICE);
        let paid = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok();
        if !paid {
            metrics::hedged(HedgeOutcome::Denied);
        }
        paid
    }
}

/// A second call, counted when it is over.
#[derive(Debug)]
pub(super) struct Hedge {
    /// Its place among the calls made.
    pub(super) ordinal: usize,
    pub(super) won: bool,
}

impl Drop for Hedge {
    fn drop(&mut self) {
        metrics::hedged(if self.won { HedgeOutcome::Won } else { HedgeOutcome::Lost });
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn second_calls_are_never_more_than_a_twentieth(wanted in prop::collection::vec(any::<bool>(), 0..4000)) {
            let budget = Budget::default();
            let (mut firsts, mut seconds) = (0, 0);
            for wanted in wanted {
                budget.earn();
                firsts += 1;
                seconds += u64::from(wanted && budget.spend());
                prop_assert!(seconds * 20 <= firsts);
            }
        }
    }

    #[test]
    fn savings_are_bounded() {
        let budget = Budget::default();
        (0..10_000).for_each(|_| budget.earn());
        assert_eq!((0..100).filter(|_| budget.spend()).count(), 10);
    }
}
