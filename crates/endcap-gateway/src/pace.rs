//! Learned times: how long things of one kind take.

use std::{hash::Hash, sync::Arc, time::Duration};

use hashbrown::HashMap;
use parking_lot::{Mutex, RwLock};

/// Each bucket is a tenth wider than the one before, as in DDSketch (Masson, Rim and Lee, 2019).
const GROWTH: f64 = 1.1;
/// Upper edge of the first bucket, in seconds.
const SMALLEST: f64 = 50e-6;
/// The last one ends at three minutes, beyond any deadline.
const BUCKETS: usize = 160;
/// Fewer calls say nothing about one in twenty.
const FEWEST: u32 = 20;
/// At this many all counts are halved, so that old ones fade.
const MOST: u32 = 1000;

/// How long things of one kind take: a histogram that forgets.
#[derive(Debug)]
pub(crate) struct Pace {
    counts: [u32; BUCKETS],
    total: u32,
}

impl Default for Pace {
    fn default() -> Self {
        Self { counts: [0; BUCKETS], total: 0 }
    }
}

impl Pace {
    pub(crate) fn record(&mut self, took: Duration) {
        let widths = (took.as_secs_f64() / SMALLEST).max(1.0).ln() / GROWTH.ln();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at least 0, and small")]
        let bucket = (widths.ceil() as usize).min(BUCKETS - 1);
        self.counts[bucket] += 1;
        self.total += 1;
        if self.total >= MOST {
            self.counts.iter_mut().for_each(|count| *count /= 2);
            self.total = self.counts.iter().sum();
        }
    }

    /// What `share` of the calls take at most, and at most a tenth more than that; nothing before there were enough.
    pub(crate) fn quantile(&self, share: f64) -> Option<Duration> {
        if self.total < FEWEST {
            return None;
        }
        let mut left = f64::from(self.total) * share;
        let mut edge = SMALLEST;
        for count in self.counts {
            left -= f64::from(count);
            if left <= 0.0 {
                break;
            }
            edge *= GROWTH;
        }
        Some(Duration::from_secs_f64(edge))
    }
}

/// The paces of all kinds of something: a few hundred bytes each, until they are let go of.
#[derive(Debug)]
pub(crate) struct Paces<K>(RwLock<HashMap<K, Arc<Mutex<Pace>>>>);

impl<K> Default for Paces<K> {
    fn default() -> Self {
        Self(RwLock::default())
    }
}

impl<K: Hash + Eq> Paces<K> {
    pub(crate) fn of(&self, kind: K) -> Arc<Mutex<Pace>> {
        if let Some(pace) = self.0.read().get(&kind) {
            return Arc::clone(pace);
        }
        Arc::clone(self.0.write().entry(kind).or_default())
    }

    pub(crate) fn retain(&self, known: impl Fn(&K) -> bool) {
        self.0.write().retain(|kind, _| known(kind));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_quantile_is_right_to_a_tenth(micros in prop::collection::vec(50_u64..10_000_000, 20..900)) {
            let mut pace = Pace::default();
            micros.iter().for_each(|us| pace.record(Duration::from_micros(*us)));
            let mut sorted = micros.clone();
            sorted.sort_unstable();
            // 19 of 20 at most are below it.
            let exact = sorted[(sorted.len() * 19).div_ceil(20) - 1];
            let told = pace.quantile(0.95).unwrap().as_micros();
            prop_assert!(told * 1000 >= u128::from(exact) * 999, "{told} for {exact}");
            prop_assert!(told * 1000 <= u128::from(exact) * 1101, "{told} for {exact}");
        }
    }

    #[test]
    fn what_was_long_ago_is_forgotten() {
        let mut pace = Pace::default();
        let (slow, fast) = (Duration::from_millis(80), Duration::from_millis(2));
        (0..2000).for_each(|_| pace.record(slow));
        assert!(pace.quantile(0.95).unwrap() >= slow);
        (0..4000).for_each(|_| pace.record(fast));
        assert!(pace.quantile(0.95).unwrap() < 2 * fast);
    }

    #[test]
    fn kinds_that_are_let_go_of_are_forgotten_and_no_others() {
        let paces = Paces::default();
        let learn = |kind| (0..FEWEST).for_each(|_| paces.of(kind).lock().record(Duration::from_millis(1)));
        [1, 2].into_iter().for_each(learn);
        paces.retain(|kind| *kind == 2);
        assert_eq!(paces.of(1).lock().quantile(0.5), None);
        assert!(paces.of(2).lock().quantile(0.5).is_some());
    }

    #[test]
    fn too_few_say_nothing() {
        let mut pace = Pace::default();
        (1..FEWEST).for_each(|_| pace.record(Duration::from_millis(1)));
        assert_eq!(pace.quantile(0.5), None);
    }
}
