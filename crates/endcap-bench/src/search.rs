//! Finds the highest rate that meets a latency objective.

use async_trait::async_trait;

use crate::{BenchError, Found, Objective, Step};

/// Below this no fleet is worth searching.
const LOWEST_RATE: f64 = 1.0;
const HIGHEST_RATE: f64 = 1e6;

/// Measures one rate.
#[async_trait]
pub trait Probe: Send {
    async fn measure(&mut self, rate: f64) -> Result<Step, BenchError>;
}

/// What is searched for.
#[derive(Debug, Clone, Copy)]
pub struct Search {
    pub objective: Objective,
    /// The first rate tried.
    pub first: f64,
    /// The result is within this share of the lowest rate that missed, e.g. 0.05.
    pub precision: f64,
}

/// Doubles or halves the rate until one meets the objective and one misses it, then bisects between them, by ratio.
///
/// Steps are noisy near the limit: a rate counts as met or missed by its one step. Longer steps make it surer.
pub async fn find_highest(search: &Search, probe: &mut dyn Probe) -> Result<(Found, Vec<Step>), BenchError> {
    let (mut met, mut missed): (Option<f64>, Option<f64>) = (None, None);
    let mut steps = Vec::new();
    let mut next = Some(search.first.clamp(LOWEST_RATE, HIGHEST_RATE));
    while let Some(rate) = next {
        let step = probe.measure(rate).await?;
        if step.meets(&search.objective) {
            met = Some(rate);
        } else {
            missed = Some(rate);
        }
        steps.push(step);
        next = match (met, missed) {
            (Some(met), Some(missed)) => {
                (missed / met > 1.0 + search.precision).then(|| (met * missed).sqrt())
            }
            (Some(met), None) => (met < HIGHEST_RATE).then(|| (met * 2.0).min(HIGHEST_RATE)),
            (None, Some(missed)) => (missed > LOWEST_RATE).then(|| (missed / 2.0).max(LOWEST_RATE)),
            (None, None) => None,
        };
    }
    Ok((Found { objective: search.objective, rate: met, missed_at: missed }, steps))
}
