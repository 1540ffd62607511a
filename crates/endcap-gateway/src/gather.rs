//! From the shards' replies to one list, and what it was chosen from. Pure.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use endcap_ranking::{CoverageBuilder, Scored, merge_ranked, merge_retrieved};
use endcap_types::{Coverage, DegradationReason, ItemId, ShardIndex, ShardOutcome, shard_of};

use crate::{
    answer::Item,
    placement::Placed,
    ports::{Part, Work},
    request::Asked,
    scatter::ShardReply,
};

/// What a worker accepts as depth.
pub(crate) const DEEPEST: usize = 10_000;

/// What came of asking the shards.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// Ranked, or nothing if there is nothing to rank: then something popular must do.
    pub(crate) items: Option<Vec<Item>>,
    pub(crate) coverage: Coverage,
    pub(crate) reasons: BTreeSet<DegradationReason>,
    /// Candidates that the catalogue does not hold, in the caller's order.
    pub(crate) unknown: Vec<ItemId>,
    /// Whether every shard answered, and none knew any candidate.
    pub(crate) all_unknown: bool,
}

impl Outcome {
    /// No shard was asked.
    pub(crate) fn unasked(
        asked: &Asked,
        placed: &Placed,
        outcome: ShardOutcome,
        reason: DegradationReason,
    ) -> Self {
        let parts = parts(asked, placed);
        let mut coverage = coverage(asked, placed, &parts);
        for part in &parts {
            coverage.report(part.shard, outcome, 0);
        }
        let (coverage, _) = coverage.build();
        Self { coverage, reasons: BTreeSet::from([reason]), ..Self::default() }
    }
}

/// Each shard's part of a request.
pub(crate) fn parts(asked: &Asked, placed: &Placed) -> Vec<Part> {
    let count = placed.parts.shard_count;
    if asked.is_rerank() {
        let mut by_shard: BTreeMap<ShardIndex, Vec<ItemId>> = BTreeMap::new();
        for id in &asked.candidates {
            by_shard.entry(shard_of(id, count)).or_default().push(id.clone());
        }
        let part = |(shard, item_ids)| Part { shard, work: Work::Rerank { item_ids, standing: None } };
        return by_shard.into_iter().map(part).collect();
    }
    let mut excluded = excluded(asked, placed);
    let depth = u32::try_from(depth(asked, placed).min(DEEPEST)).unwrap_or(u32::MAX);
    let part = |shard: ShardIndex| {
        let exclude = excluded.remove(&shard).unwrap_or_default();
        Part { shard, work: Work::Retrieve { depth, exclude } }
    };
    count.indices().map(part).collect()
}

/// What may not be shown, by the shard that could hold it; in order, so that equal requests are equal.
pub(crate) fn excluded(asked: &Asked, placed: &Placed) -> BTreeMap<ShardIndex, Vec<ItemId>> {
    let mut excluded: BTreeMap<ShardIndex, Vec<ItemId>> = BTreeMap::new();
    for id in &asked.exclude {
        excluded.entry(shard_of(id, placed.parts.shard_count)).or_default().push(id.clone());
    }
    excluded.values_mut().for_each(|ids| ids.sort_unstable());
    excluded
}

/// The version's own depth, or as many as are wanted.
fn depth(asked: &Asked, placed: &Placed) -> usize {
    asked.limit.max(placed.depth().unwrap_or_default() as usize)
}

fn coverage(asked: &Asked, placed: &Placed, parts: &[Part]) -> CoverageBuilder {
    CoverageBuilder::new(parts.iter().map(|part| part.shard), items_total(asked, placed))
}

fn items_total(asked: &Asked, placed: &Placed) -> u64 {
    if asked.is_rerank() { asked.candidates.len() as u64 } else { placed.parts.items_total }
}

/// How many items must be considered for the coverage that the caller demands.
pub(crate) fn minimum_items(asked: &Asked, placed: &Placed) -> u64 {
    #[expect(clippy::cast_precision_loss, reason = "exact up to 2^53 items")]
    let items = items_total(asked, placed) as f64 * asked.minimum_coverage;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 to items_total")]
    let items = items.ceil() as u64;
    items
}

/// Merges the replies. Every shard is counted, whatever became of it.
pub(crate) fn gather(asked: &Asked, placed: &Placed, parts: &[Part], replies: Vec<ShardReply>) -> Outcome {
    let mut coverage = coverage(asked, placed, parts);
    let mut unknown = HashSet::new();
    let (mut shards, mut columns) = (Vec::new(), Vec::new());
    for reply in replies {
        let outcome = reply.outcome();
        let Ok(answer) = reply.answer else {
            coverage.report(reply.shard, outcome, 0);
            continue;
        };
        coverage.report(reply.shard, outcome, answer.items_considered);
        unknown.extend(answer.unknown);
        let slot = columns.len();
        columns.push(answer.fields);
        let scores = answer.scores.into_iter().zip(answer.retrieval_scores);
        let scored = answer.item_ids.into_iter().zip(scores).enumerate().map(|(row, (item_id, scores))| {
            Scored { item_id, score: scores.0, retrieval_score: scores.1, tag: (slot, row) }
        });
        shards.push(scored.collect::<Vec<_>>());
    }
    let (coverage, reasons) = coverage.build();
    let known = shards.iter().map(Vec::len).sum::<usize>();
    let overlapping = shards.len() > 1;
    let mut merged = if asked.is_rerank() {
        merge_ranked(shards.into_iter().flatten().collect(), &asked.exclude, asked.limit)
    } else {
        merge_retrieved(shards, depth(asked, placed), &asked.exclude, asked.limit)
    };
    if overlapping {
        // Shards don't overlap; should they ever, the answer must still be distinct.
        let mut seen = HashSet::with_capacity(merged.len());
        merged.retain(|item| seen.insert(item.item_id.clone()));
    }
    // A rerank that lost no shard and has nothing left was asked for nothing else.
    let complete = asked.is_rerank() && coverage.missing.is_empty();
    let items = (complete || !merged.is_empty()).then(|| {
        let item = |scored: Scored<(usize, usize)>| item(scored, &asked.fields, &columns);
        merged.into_iter().map(item).collect()
    });
    let mut reasons: BTreeSet<_> = reasons.into_iter().collect();
    if !unknown.is_empty() {
        reasons.insert(DegradationReason::UnknownCandidates);
    }
    let unknown = asked.candidates.iter().filter(|id| unknown.contains(*id)).cloned().collect();
    Outcome { items, coverage, reasons, unknown, all_unknown: complete && known == 0 }
}

fn item(scored: Scored<(usize, usize)>, fields: &[String], columns: &[Vec<Vec<String>>]) -> Item {
    let (slot, row) = scored.tag;
    let value = |(name, column): (&String, &Vec<String>)| {
        let value = column.get(row).filter(|value| !value.is_empty())?;
        Some((name.clone(), value.clone()))
    };
    Item {
        item_id: scored.item_id,
        score: scored.score,
        retrieval_score: scored.retrieval_score,
        fields: fields.iter().zip(&columns[slot]).filter_map(value).collect(),
    }
}
