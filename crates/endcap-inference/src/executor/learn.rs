//! What runs take, learned from those that were made.
//!
//! The size of a run is its *cells*: rows times the width of the first input. For a ranker that is rows; for an
//! encoder, texts times tokens.

use std::time::Duration;

/// Weight of a new measurement: five runs outweigh what was believed before.
const WEIGHT: f64 = 0.2;
/// A run that took more than this many times what is believed says more about the machine than about the model.
const OUTLIER: f64 = 4.0;
/// A larger size pays as long as it makes a cell cheaper by more than this.
const PAYS: f64 = 1.1;
/// After so many runs that left others waiting, a size that none of them had says nothing about the knee any more: what
/// it took at warm-up, or alone, is not what it takes among others.
const FRESH: u64 = 1024;
/// One per power of two.
const SIZES: usize = usize::BITS as usize;

/// Mean size and time of the runs whose cells lie between two powers of two.
#[derive(Debug, Clone, Copy, Default)]
struct Size {
    cells: f64,
    seconds: f64,
    /// The crowded runs until then.
    measured: u64,
}

/// Run times of one model on one device, by size.
#[derive(Debug)]
pub(super) struct Learned {
    sizes: [Size; SIZES],
    knee: usize,
    /// Runs that left others waiting: those whose size was a choice.
    crowded: u64,
}

impl Default for Learned {
    fn default() -> Self {
        Self { sizes: [Size::default(); SIZES], knee: usize::MAX, crowded: 0 }
    }
}

#[expect(clippy::cast_precision_loss, reason = "cells of one run are far below 2^52")]
impl Learned {
    pub(super) fn record(&mut self, cells: usize, took: Duration) {
        let (cells, took) = (cells.max(1), took.as_secs_f64().max(1e-9));
        let size = &mut self.sizes[cells.ilog2() as usize];
        if size.seconds == 0.0 {
            *size = Size { cells: cells as f64, seconds: took, measured: 0 };
        } else {
            // Both move together: the mean of points near a line is near it, too.
            size.cells += WEIGHT * (cells as f64 - size.cells);
            size.seconds += WEIGHT * (took.min(OUTLIER * size.seconds) - size.seconds);
        }
        size.measured = self.crowded;
        self.knee = self.find_knee();
    }

    /// A run began that left others waiting.
    pub(super) fn crowd(&mut self) {
        self.crowded += 1;
    }

    /// Seconds that a run of so many cells should take; nothing before the first measurement.
    pub(super) fn seconds(&self, cells: usize) -> Option<f64> {
        let at = cells as f64;
        let (mut below, mut above) = (None, None);
        for size in self.known() {
            if size.cells <= at {
                below = Some(size);
            } else {
                above = above.or(Some(size));
            }
        }
        match (below, above) {
            (Some(b), Some(a)) => {
                Some(b.seconds + (a.seconds - b.seconds) * (at - b.cells) / (a.cells - b.cells))
            }
            // Beyond the largest that was seen, a cell costs what it costs there.
            (Some(b), None) => Some(b.seconds * at / b.cells),
            // Nothing takes less than the smallest.
            (None, above) => above.map(|a| a.seconds),
        }
    }

    /// The size beyond which more cells in a run hardly make a cell cheaper.
    pub(super) fn knee(&self) -> usize {
        self.knee
    }

    /// What a job adds to the queue, in seconds: small ones share runs of the size of the knee.
    pub(super) fn share(&self, cells: usize) -> f64 {
        let alone = self.seconds(cells).unwrap_or_default();
        let knee = self.knee;
        if cells >= knee || knee == usize::MAX {
            return alone;
        }
        let shared = self.seconds(knee).unwrap_or_default() * cells as f64 / knee as f64;
        alone.min(shared)
    }

    fn known(&self) -> impl Iterator<Item = Size> {
        self.sizes.iter().copied().filter(|size| size.seconds > 0.0)
    }

    fn find_knee(&self) -> usize {
        let cost = |size: &Size| size.seconds / size.cells;
        let fresh = |size: &Size| size.seconds > 0.0 && self.crowded - size.measured <= FRESH;
        let best = self.sizes.iter().filter(|size| fresh(size)).map(cost).fold(f64::INFINITY, f64::min);
        let cheap = |size: &Size| fresh(size) && cost(size) <= PAYS * best;
        self.sizes.iter().position(cheap).map_or(usize::MAX, |power| 1 << power)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A model with a fixed cost of 16 us and 3 us per cell.
    fn line() -> Learned {
        let mut learned = Learned::default();
        for power in 0..11 {
            let cells = 1_usize << power;
            learned.record(cells, Duration::from_micros(16 + 3 * cells as u64));
        }
        learned
    }

    fn assert_near(found: f64, micros: f64) {
        assert!((found * 1e6 - micros).abs() < 0.01 * micros, "{} us; expected {micros}", found * 1e6);
    }

    #[test]
    fn sizes_between_those_that_were_seen_lie_on_the_line() {
        let learned = line();
        for cells in [1, 3, 100, 200, 1000] {
            assert_near(learned.seconds(cells).unwrap(), 16.0 + 3.0 * cells as f64);
        }
        assert_eq!(Learned::default().seconds(7), None);
    }

    #[test]
    fn the_knee_is_where_the_fixed_cost_is_paid_off() {
        // 16 us are a tenth of 3 us times 53 cells; 64 is the first power of two past it.
        assert_eq!(line().knee(), 64);
        // A model that costs the same at every size gains up to the largest.
        let mut flat = Learned::default();
        (0..11).for_each(|power| flat.record(1 << power, Duration::from_micros(50)));
        assert_eq!(flat.knee(), 1024);
    }

    #[test]
    fn a_size_that_no_crowded_run_had_for_long_is_no_longer_compared() {
        let mut learned = line();
        // At warm-up the largest was much the quickest; under load nothing near it is.
        learned.record(4096, Duration::from_micros(4096));
        assert_eq!(learned.knee(), 4096);
        for _ in 0..FRESH {
            learned.crowd();
            learned.record(200, Duration::from_micros(616));
            learned.record(100, Duration::from_micros(316));
        }
        assert_eq!(learned.knee(), 4096, "still fresh");
        learned.crowd();
        learned.record(200, Duration::from_micros(616));
        assert_eq!(learned.knee(), 64);
        // What a run of that size takes is believed all the same.
        assert_near(learned.seconds(4096).unwrap(), 4096.0);
    }

    #[test]
    fn small_jobs_count_as_their_share_of_a_full_run_and_large_ones_in_full() {
        let learned = line();
        assert_near(learned.share(1), (16.0 + 3.0 * 64.0) / 64.0);
        assert_near(learned.share(200), 616.0);
    }

    #[test]
    fn a_slower_machine_is_noticed_within_a_few_runs_and_one_stall_is_not_believed() {
        let mut learned = line();
        learned.record(64, Duration::from_secs(2));
        assert!(learned.seconds(64).unwrap() < 2.0 * 208e-6, "a stall counts four times at most");
        let mut learned = line();
        (0..10).for_each(|_| learned.record(64, Duration::from_micros(600)));
        assert!(learned.seconds(64).unwrap() > 540e-6);
    }
}
