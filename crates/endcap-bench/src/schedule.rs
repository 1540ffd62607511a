//! When requests are due: a pure function of rate, duration, kind of arrivals and seed.

use std::{str::FromStr, time::Duration};

use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution as _, Exp};
use serde::{Deserialize, Serialize};

use crate::BenchError;

const NANOS: f64 = 1e9;
const HIGHEST_RATE: f64 = 1e7;

/// How requests are spread over time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Arrivals {
    /// Independent shoppers: exponential gaps. The default, because that is how traffic of many independent people
    /// arrives; its bursts are what queues are for, and constant gaps flatter every server that has one.
    #[default]
    Poisson,
    /// Equal gaps: the lower bound of what queues cost, and exactly repeatable.
    Constant,
}

/// The due times of one step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    rate: f64,
    requests: u64,
    arrivals: Arrivals,
    seed: u64,
}

impl Schedule {
    /// `rate` requests a second for `duration`. The number of requests is `rate` times `duration` for both kinds of
    /// arrivals, so that steps are comparable.
    pub fn new(rate: f64, duration: Duration, arrivals: Arrivals, seed: u64) -> Result<Self, BenchError> {
        if !(rate > 0.0 && rate <= HIGHEST_RATE) {
            return Err(BenchError::Rate { rate });
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be positive")]
        let requests = (rate * duration.as_secs_f64()).round() as u64;
        if requests == 0 {
            return Err(BenchError::NothingToSend { seconds: duration.as_secs_f64(), requests });
        }
        Ok(Self { rate, requests, arrivals, seed })
    }

    pub fn rate(&self) -> f64 {
        self.rate
    }

    pub fn requests(&self) -> u64 {
        self.requests
    }

    /// The time from the first to the last due request, and one gap.
    pub fn duration(&self) -> Duration {
        nanos(self.requests as f64 * NANOS / self.rate)
    }

    /// Offsets from the start, ascending. A constant gap is computed from the index, so that no rounding adds up.
    pub fn offsets(&self) -> impl Iterator<Item = Duration> + Send + use<> {
        let Self { rate, requests, arrivals, seed } = *self;
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let gaps = Exp::new(rate).ok();
        let mut passed = 0.0;
        (0..requests).map(move |i| match (arrivals, gaps) {
            (Arrivals::Poisson, Some(gaps)) => {
                passed += gaps.sample(&mut random);
                nanos(passed * NANOS)
            }
            (Arrivals::Poisson | Arrivals::Constant, _) => nanos(i as f64 * NANOS / rate),
        })
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "due times are positive")]
fn nanos(nanos: f64) -> Duration {
    Duration::from_nanos(nanos.round() as u64)
}

/// Rates from the first to the last.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ramp {
    pub from: f64,
    pub to: f64,
    pub step: f64,
}

impl Ramp {
    /// The last rate is always `to`.
    pub fn rates(&self) -> Vec<f64> {
        let mut rates = Vec::new();
        let mut rate = self.from;
        while rate < self.to * (1.0 - 1e-9) {
            rates.push(rate);
            rate += self.step;
        }
        rates.push(self.to);
        rates
    }
}

impl FromStr for Ramp {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers: Option<Vec<f64>> = text.split(':').map(|part| part.parse().ok()).collect();
        match numbers.as_deref() {
            Some(&[from, to, step]) if from > 0.0 && to >= from && step > 0.0 && to <= HIGHEST_RATE => {
                Ok(Self { from, to, step })
            }
            _ => {
                Err(format!("found {text:?}; expected from:to:step in requests a second, e.g. 100:1000:100"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(rate: f64, seconds: u64, arrivals: Arrivals, seed: u64) -> Vec<Duration> {
        Schedule::new(rate, Duration::from_secs(seconds), arrivals, seed).unwrap().offsets().collect()
    }

    #[test]
    fn constant_arrivals_do_not_drift() {
        let offsets = schedule(3.0, 100_000, Arrivals::Constant, 0);
        assert_eq!(offsets.len(), 300_000);
        assert_eq!(offsets[1], Duration::from_nanos(333_333_333));
        assert_eq!(offsets[299_997], Duration::from_secs(99_999));
    }

    #[test]
    fn poisson_arrivals_have_the_rate_and_the_spread_of_independent_shoppers() {
        let offsets = schedule(1000.0, 20, Arrivals::Poisson, 7);
        assert_eq!(offsets.len(), 20_000);
        assert!(offsets.is_sorted());
        let seconds = offsets.last().unwrap().as_secs_f64();
        assert!((19.5..20.5).contains(&seconds), "{seconds}");
        // Counts per 10 ms have a variance equal to their mean.
        let mut counts = vec![0.0_f64; 1900];
        for offset in &offsets {
            if let Some(count) = counts.get_mut((offset.as_millis() / 10) as usize) {
                *count += 1.0;
            }
        }
        let mean = counts.iter().sum::<f64>() / counts.len() as f64;
        let variance = counts.iter().map(|c| (c - mean).powi(2)).sum::<f64>() / counts.len() as f64;
        assert!((0.85..1.15).contains(&(variance / mean)), "{variance} of {mean}");
    }

    #[test]
    fn the_same_seed_is_the_same_schedule() {
        let of = |seed| schedule(100.0, 1, Arrivals::Poisson, seed);
        assert_eq!(of(1), of(1));
        assert_ne!(of(1), of(2));
    }

    #[test]
    fn senseless_rates_are_refused() {
        let of = |rate, seconds| Schedule::new(rate, Duration::from_secs(seconds), Arrivals::Constant, 0);
        assert!(matches!(of(0.0, 1), Err(BenchError::Rate { .. })));
        assert!(matches!(of(f64::NAN, 1), Err(BenchError::Rate { .. })));
        assert!(matches!(of(0.1, 1), Err(BenchError::NothingToSend { .. })));
    }

    #[test]
    fn a_ramp_ends_at_its_last_rate() {
        let ramp: Ramp = "100:250:100".parse().unwrap();
        assert_eq!(ramp.rates(), [100.0, 200.0, 250.0]);
        for wrong in ["", "1:2", "2:1:1", "0:1:1", "1:2:0", "a:b:c", "1:NaN:1"] {
            assert!(wrong.parse::<Ramp>().is_err(), "{wrong}");
        }
    }
}
