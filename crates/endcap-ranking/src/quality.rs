//! Quality of a ranking against judgments, as search is usually measured. Unjudged items gain nothing; a gain of 1 or
//! more is relevant.

use std::collections::BTreeMap;

use endcap_types::ItemId;

/// Gains by item.
pub type Gains = BTreeMap<ItemId, f64>;

/// An item with at least this gain is relevant.
const RELEVANT: f64 = 1.0;

/// NDCG with the gains as they are and a base-2 logarithmic discount (Järvelin and Kekäläinen, 2002). The ideal is made
/// of all judged items. 0 when nothing judged has a gain.
pub fn ndcg_at(k: usize, ranking: &[ItemId], gains: &Gains) -> f64 {
    let gain = |item: &ItemId| gains.get(item).copied().unwrap_or_default();
    let mut ideal: Vec<f64> = gains.values().copied().collect();
    ideal.sort_by(|a, b| b.total_cmp(a));
    let best = discounted(k, ideal.into_iter());
    if best == 0.0 { 0.0 } else { discounted(k, ranking.iter().map(gain)) / best }
}

/// Share of the relevant items that are in the first k. 0 when nothing is relevant.
pub fn recall_at(k: usize, ranking: &[ItemId], gains: &Gains) -> f64 {
    let relevant = gains.values().filter(|gain| **gain >= RELEVANT).count();
    ratio(relevant_in(k, ranking, gains), relevant)
}

/// Share of the first k that is relevant. A ranking shorter than k is not forgiven.
pub fn precision_at(k: usize, ranking: &[ItemId], gains: &Gains) -> f64 {
    ratio(relevant_in(k, ranking, gains), k)
}

fn relevant_in(k: usize, ranking: &[ItemId], gains: &Gains) -> usize {
    ranking.iter().take(k).filter(|item| gains.get(*item).is_some_and(|gain| *gain >= RELEVANT)).count()
}

#[expect(clippy::cast_precision_loss, reason = "ranks are small")]
fn discounted(k: usize, gains: impl Iterator<Item = f64>) -> f64 {
    gains.take(k).enumerate().map(|(rank, gain)| gain / (rank as f64 + 2.0).log2()).sum()
}

#[expect(clippy::cast_precision_loss, reason = "counts are small")]
fn ratio(part: usize, whole: usize) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(left: f64, right: f64) {
        assert!((left - right).abs() < 1e-12, "{left} is not {right}");
    }

    #[test]
    fn figures_computed_by_hand() {
        let gains = Gains::from([("a".into(), 1.0), ("b".into(), 0.1), ("c".into(), 1.0), ("d".into(), 0.0)]);
        let ranking: Vec<ItemId> = ["b", "x", "a"].map(str::to_owned).to_vec();
        let ideal = 1.0 + 1.0 / 3.0_f64.log2() + 0.1 / 2.0;
        near(ndcg_at(10, &ranking, &gains), (0.1 + 1.0 / 2.0) / ideal);
        near(ndcg_at(2, &ranking, &gains), 0.1 / (1.0 + 1.0 / 3.0_f64.log2()));
        near(recall_at(10, &ranking, &gains), 0.5);
        near(precision_at(10, &ranking, &gains), 0.1);
        near(ndcg_at(10, &ranking, &Gains::new()), 0.0);
    }
}
