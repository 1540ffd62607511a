//! A latency objective, e.g. `p99=50ms`.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};

/// A share of the requests that must be answered well within a time, counted from when they were due. Failures and
/// requests that could not be sent count as never answered, so that shedding does not look like speed.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Objective {
    /// 0 to 100, exclusive.
    pub percentile: f64,
    pub within_us: u64,
}

impl Objective {
    pub fn within(&self) -> Duration {
        Duration::from_micros(self.within_us)
    }

    /// Whether `good` of `offered` requests are enough.
    pub fn is_met(&self, good: u64, offered: u64) -> bool {
        offered > 0 && good as f64 >= offered as f64 * self.percentile / 100.0
    }
}

impl FromStr for Objective {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refused =
            || format!("found {text:?}; expected a percentile and a time, e.g. p99=50ms or p99.9=200ms");
        let (percentile, within) = text.split_once('=').ok_or_else(refused)?;
        let percentile: f64 =
            percentile.strip_prefix('p').and_then(|p| p.parse().ok()).ok_or_else(refused)?;
        let within = humantime::parse_duration(within).map_err(|_| refused())?;
        let within_us = u64::try_from(within.as_micros()).map_err(|_| refused())?;
        if percentile > 0.0 && percentile < 100.0 && within_us > 0 {
            Ok(Self { percentile, within_us })
        } else {
            Err(refused())
        }
    }
}

impl fmt::Display for Objective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "p{}={}", self.percentile, humantime::format_duration(self.within()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objectives_are_read_and_written() {
        let objective: Objective = "p99.9=50ms".parse().unwrap();
        assert_eq!(objective, Objective { percentile: 99.9, within_us: 50_000 });
        assert_eq!(objective.to_string(), "p99.9=50ms");
        for wrong in ["", "p99", "99=50ms", "p0=1ms", "p100=1ms", "p99=0ms", "p99=fast"] {
            assert!(wrong.parse::<Objective>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn shed_requests_count_against_it() {
        let objective: Objective = "p99=50ms".parse().unwrap();
        assert!(objective.is_met(99, 100));
        assert!(!objective.is_met(98, 98 + 2));
        assert!(!objective.is_met(0, 0));
    }
}
