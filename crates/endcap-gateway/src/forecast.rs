//! How long an answer will take, learned from those that were given.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use endcap_types::Digest;

use crate::pace::Paces;

/// Below this nothing can be asked of a worker and come back: measured at 0.1 ms for an empty call on one machine.
const FASTEST: Duration = Duration::from_millis(2);
/// As likely as not. With a higher share, callers in a hurry would be shown the popularity list though most of them
/// could have had a ranked page: trying costs them nothing, since they get that list at their deadline in any case.
const LIKELY: f64 = 0.5;
/// One in so many tries against the forecast, or it could never learn that answers have become faster.
const TRY_ANYWAY: u64 = 20;

/// Answers of one version that are alike: retrievals, or reranks.
pub(crate) type Kind = (Digest, bool);

/// The times of complete answers.
#[derive(Debug, Default)]
pub(crate) struct Forecast {
    paces: Paces<Kind>,
    too_late: AtomicU64,
}

impl Forecast {
    /// What a full answer should take, for a request that has `remaining` for it.
    pub(crate) fn full(&self, kind: Kind, remaining: Duration) -> Duration {
        let learned = self.paces.of(kind).lock().quantile(LIKELY).unwrap_or_default().max(FASTEST);
        if learned <= remaining || remaining < FASTEST {
            return learned;
        }
        let turn = self.too_late.fetch_add(1, Ordering::Relaxed);
        if turn % TRY_ANYWAY == TRY_ANYWAY - 1 { FASTEST } else { learned }
    }

    /// Forgets versions that are gone.
    pub(crate) fn retain(&self, known: impl Fn(Digest) -> bool) {
        self.paces.retain(|(digest, _)| known(*digest));
    }

    /// An answer that no shard was missing from for lack of time took this long.
    pub(crate) fn took(&self, kind: Kind, took: Duration) {
        self.paces.of(kind).lock().record(took);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(rerank: bool) -> Kind {
        (Digest::from_bytes([1; 32]), rerank)
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn what_nobody_has_seen_is_expected_to_be_fast() {
        let forecast = Forecast::default();
        assert_eq!(forecast.full(kind(false), ms(100)), FASTEST);
        assert_eq!(forecast.full(kind(false), ms(1)), FASTEST);
    }

    #[test]
    fn a_request_that_cannot_make_it_seldom_tries_and_is_believed_when_it_can() {
        let forecast = Forecast::default();
        (0..100).for_each(|_| forecast.took(kind(false), ms(50)));
        let tries =
            |remaining| (0..200).filter(|_| forecast.full(kind(false), remaining) <= remaining).count();
        assert_eq!((tries(ms(60)), tries(ms(30)), tries(ms(1))), (200, 10, 0));
        assert_eq!(forecast.full(kind(true), ms(30)), FASTEST, "reranks are another kind");
        (0..1000).for_each(|_| forecast.took(kind(false), ms(10)));
        assert_eq!(tries(ms(30)), 200);
    }
}
