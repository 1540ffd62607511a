//! Counting what an answer was chosen from.

use std::collections::BTreeMap;

use endcap_types::{Coverage, DegradationReason, ShardIndex, ShardOutcome};

/// Collects each shard's outcome. A shard that is never reported counts as timed out: nothing is silently thinner.
#[derive(Debug)]
pub struct CoverageBuilder {
    outcomes: BTreeMap<ShardIndex, Option<ShardOutcome>>,
    items_scored: u64,
    items_total: u64,
}

impl CoverageBuilder {
    /// For the shards that should answer: all of a version's for retrieval, those of the candidates for a rerank.
    pub fn new(shards: impl IntoIterator<Item = ShardIndex>, items_total: u64) -> Self {
        let outcomes = shards.into_iter().map(|shard| (shard, None)).collect();
        Self { outcomes, items_scored: 0, items_total }
    }

    /// Reports a shard's outcome and, if it answered, how many items it considered.
    pub fn report(&mut self, shard: ShardIndex, outcome: ShardOutcome, items: u64) {
        if let Some(slot) = self.outcomes.get_mut(&shard) {
            *slot = Some(outcome);
            if outcome == ShardOutcome::Ok {
                self.items_scored += items;
            }
        }
    }

    /// The coverage, and the reasons that follow from it.
    pub fn build(self) -> (Coverage, Vec<DegradationReason>) {
        let mut coverage = Coverage {
            items_scored: self.items_scored,
            items_total: self.items_total,
            shards_total: u32::try_from(self.outcomes.len()).unwrap_or(u32::MAX),
            ..Coverage::default()
        };
        let mut reasons = Vec::new();
        for (shard, outcome) in self.outcomes {
            let (count, reason) = match outcome.unwrap_or(ShardOutcome::TimedOut) {
                ShardOutcome::Ok => {
                    coverage.shards_ok += 1;
                    continue;
                }
                ShardOutcome::TimedOut => (&mut coverage.shards_timed_out, DegradationReason::ShardTimedOut),
                ShardOutcome::Failed => (&mut coverage.shards_failed, DegradationReason::ShardFailed),
                ShardOutcome::Shed => (&mut coverage.shards_shed, DegradationReason::ShardShed),
            };
            *count += 1;
            coverage.missing.push(shard);
            reasons.push(reason);
        }
        reasons.sort_unstable();
        reasons.dedup();
        (coverage, reasons)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shard_is_counted_once() {
        let mut builder = CoverageBuilder::new(0..4, 100);
        builder.report(0, ShardOutcome::Ok, 30);
        builder.report(1, ShardOutcome::Shed, 99);
        builder.report(3, ShardOutcome::Ok, 20);
        let (coverage, reasons) = builder.build();
        assert_eq!((coverage.items_scored, coverage.shards_ok), (50, 2));
        assert_eq!((coverage.shards_timed_out, coverage.shards_shed), (1, 1));
        assert_eq!(coverage.missing, [1, 2]);
        assert_eq!(reasons, [DegradationReason::ShardTimedOut, DegradationReason::ShardShed]);
    }
}
