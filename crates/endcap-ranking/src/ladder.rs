//! The degradation ladder: the best rung that fits, chosen before any time is spent.

use std::time::Duration;

use endcap_types::Rung;

/// What each rung is expected to take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Estimates {
    /// Asking the shards and ranking, at its fastest. Less than this is not worth beginning.
    pub full: Duration,
    /// Merging and sending: kept back whatever is chosen.
    pub reserve: Duration,
}

/// The rung to aim at. `POPULAR` takes no time worth counting, so it always fits.
pub fn plan(remaining: Duration, estimates: Estimates) -> Rung {
    if remaining >= estimates.reserve + estimates.full { Rung::Full } else { Rung::Popular }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reserve_is_kept() {
        let ms = Duration::from_millis;
        let estimates = Estimates { full: ms(2), reserve: ms(10) };
        for (remaining, rung) in
            [(0, Rung::Popular), (11, Rung::Popular), (12, Rung::Full), (500, Rung::Full)]
        {
            assert_eq!(plan(ms(remaining), estimates), rung, "{remaining} ms");
        }
    }
}
