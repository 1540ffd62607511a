//! Versions whose candidates or features come from the whole catalogue's lists. No shard knows where its items stand in
//! the catalogue, so the shards are asked twice: for their own lists, of which the catalogue's are made, and then to
//! rank those of their items that are candidates, each told where it stands.

use std::collections::{BTreeMap, BTreeSet};

use endcap_fleet::Route;
use endcap_ranking::{CatalogueLists, CoverageBuilder, Listed, PoolOptions};
use endcap_types::{Compute, DegradationReason, ItemId, RetrievalMode, ShardIndex, ShardOutcome, shard_of};
use tokio::time::Instant;

use crate::{
    gather::{self, DEEPEST},
    placement::Placed,
    ports::{Call, Part, Question, ShardAnswer, Work},
    replicas::Fault,
    request::Asked,
    scatter::{Inquiry, Scatter, ShardReply},
};

/// What the shards are to list, and what to make of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Items of each list.
    depth: usize,
    /// How candidates are chosen; nothing when the caller brings them.
    pool: Option<PoolOptions>,
}

/// A request that is on its way to the shards.
#[derive(Debug)]
pub(crate) struct Listing<'a> {
    pub(crate) scatter: &'a Scatter,
    pub(crate) asked: &'a Asked,
    pub(crate) placed: &'a Placed,
    pub(crate) route: &'a Route,
    pub(crate) question: &'a Question,
}

/// What came of asking twice, as if each shard had been asked once.
#[derive(Debug)]
pub(crate) struct Heard {
    pub(crate) parts: Vec<Part>,
    pub(crate) replies: Vec<ShardReply>,
    pub(crate) reasons: BTreeSet<DegradationReason>,
}

/// How to list, if the version needs lists for this request.
pub(crate) fn plan(asked: &Asked, placed: &Placed) -> Option<Plan> {
    let features = placed.parts.features.values().filter_map(|spec| spec.compute.as_ref());
    let deepest = features.filter_map(Compute::list_depth).max();
    let known = |depth: usize| depth.max(deepest.unwrap_or_default() as usize).min(DEEPEST);
    if asked.is_rerank() {
        return (deepest.is_some() && !asked.query.is_empty()).then(|| Plan { depth: known(1), pool: None });
    }
    let retrieval = placed.parts.spec.retrieval.as_ref()?;
    if retrieval.mode == RetrievalMode::Dense && deepest.is_none() {
        return None;
    }
    let depth = asked.limit.max(retrieval.depth as usize);
    // As many are fused as are wanted.
    let list_depth = asked.limit.max(retrieval.list_depth as usize);
    let listed = if retrieval.mode == RetrievalMode::Fused { list_depth } else { depth };
    let pool = PoolOptions { mode: retrieval.mode, list_depth, depth };
    Some(Plan { depth: known(listed), pool: Some(pool) })
}

impl Listing<'_> {
    /// Asks for the lists, then for the ranking. The lists may take half of the time that is left: a shard that hangs
    /// must not leave nothing for the ranking of the others' items.
    pub(crate) async fn run(&self, plan: &Plan, call: &Call) -> Heard {
        let question = Question { fields: Vec::new(), ..self.question.clone() };
        let (parts, half) = (self.list_parts(plan), call.deadline.remaining() / 2);
        let until = call.until(call.deadline.within(half));
        let minimum_items = gather::minimum_items(self.asked, self.placed);
        let inquiry = Inquiry { question: &question, parts: &parts, minimum_items, began: Instant::now() };
        let mut listed = self.scatter.run(self.route, inquiry, &until).await;
        let lists = listed.iter_mut().filter_map(|reply| Some(taken(reply.answer.as_mut().ok()?))).collect();
        let has_vector = !self.question.vector.is_empty();
        let lists = CatalogueLists::merge(lists, plan.depth, has_vector, &self.asked.exclude);
        let candidates = match &plan.pool {
            Some(options) => lists.pool(options),
            None => self.asked.candidates.clone(),
        };
        // Where nobody listed, nobody knows where items stand.
        let lists = listed.iter().any(|reply| reply.answer.is_ok()).then_some(lists);
        let ranking = self.rank_parts(&candidates, lists.as_ref());
        // A reply tells how many candidates it ranked, not how much of the catalogue stands behind them: where a share of
        // that is demanded, every shard is waited for.
        let demands_catalogue = plan.pool.is_some() && self.asked.minimum_coverage > 0.0;
        let minimum_items = if demands_catalogue { u64::MAX } else { minimum_items };
        let inquiry =
            Inquiry { question: self.question, parts: &ranking, minimum_items, began: Instant::now() };
        let ranked = self.scatter.run(self.route, inquiry, call).await;
        if plan.pool.is_some() {
            return Heard { parts, replies: combined(listed, &ranking, ranked), reasons: BTreeSet::new() };
        }
        let mut missing = CoverageBuilder::new(parts.iter().map(|part| part.shard), 0);
        listed.iter().for_each(|reply| missing.report(reply.shard, reply.outcome(), 0));
        let (_, reasons) = missing.build();
        Heard { parts: ranking, replies: ranked, reasons: reasons.into_iter().collect() }
    }

    fn list_parts(&self, plan: &Plan) -> Vec<Part> {
        let mut excluded = gather::excluded(self.asked, self.placed);
        let depth = u32::try_from(plan.depth).unwrap_or(u32::MAX);
        let part = |shard: ShardIndex| {
            let exclude = excluded.remove(&shard).unwrap_or_default();
            Part { shard, work: Work::List { depth, exclude } }
        };
        self.placed.parts.shard_count.indices().map(part).collect()
    }

    fn rank_parts(&self, candidates: &[ItemId], lists: Option<&CatalogueLists>) -> Vec<Part> {
        let mut by_shard: BTreeMap<ShardIndex, Vec<ItemId>> = BTreeMap::new();
        for id in candidates {
            by_shard.entry(shard_of(id, self.placed.parts.shard_count)).or_default().push(id.clone());
        }
        let part = |(shard, item_ids): (ShardIndex, Vec<ItemId>)| {
            let standing = lists.map(|lists| lists.standing(&item_ids));
            Part { shard, work: Work::Rerank { item_ids, standing } }
        };
        by_shard.into_iter().map(part).collect()
    }
}

/// A shard's lists, taken out of its answer.
fn taken(answer: &mut ShardAnswer) -> Vec<Listed> {
    let ids = std::mem::take(&mut answer.item_ids).into_iter();
    let scores = answer.retrieval_scores.iter().zip(&answer.lexical_scores);
    ids.zip(scores)
        .map(|(item_id, (dense, lexical))| Listed { item_id, dense: *dense, lexical: *lexical })
        .collect()
}

/// One reply per shard that was to list: what went wrong first, or what it ranked. A shard without candidates has
/// looked at all of its items and ranked none; one that was to rank some and is not heard of was left behind.
fn combined(listed: Vec<ShardReply>, ranking: &[Part], ranked: Vec<ShardReply>) -> Vec<ShardReply> {
    let mut ranked: BTreeMap<ShardIndex, ShardReply> =
        ranked.into_iter().map(|reply| (reply.shard, reply)).collect();
    let combine = |reply: ShardReply| {
        let considered = match (&reply.answer, reply.outcome()) {
            (Ok(answer), ShardOutcome::Ok) => answer.items_considered,
            _ => return reply,
        };
        let nothing = ShardAnswer { items_considered: considered, ..ShardAnswer::default() };
        let answer = match ranked.remove(&reply.shard) {
            Some(reply) => reply.answer.map(|answer| ShardAnswer { items_considered: considered, ..answer }),
            None if ranking.iter().any(|part| part.shard == reply.shard) => Err(Fault::TimedOut),
            None => Ok(nothing),
        };
        ShardReply { shard: reply.shard, answer }
    };
    listed.into_iter().map(combine).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_that_was_left_behind_while_ranking_is_missing_and_one_without_candidates_is_not() {
        let answer = |items_considered| Ok(ShardAnswer { items_considered, ..ShardAnswer::default() });
        let listed = (0..3).map(|shard| ShardReply { shard, answer: answer(100) }).collect();
        let rank = |shard| Part { shard, work: Work::Rerank { item_ids: vec!["a".into()], standing: None } };
        let ranked = vec![ShardReply { shard: 0, answer: answer(1) }];
        let replies = combined(listed, &[rank(0), rank(1)], ranked);
        let outcomes: Vec<_> = replies.iter().map(ShardReply::outcome).collect();
        assert_eq!(outcomes, [ShardOutcome::Ok, ShardOutcome::TimedOut, ShardOutcome::Ok]);
        let considered =
            |reply: &ShardReply| reply.answer.as_ref().map_or(0, |answer| answer.items_considered);
        assert_eq!(replies.iter().map(considered).collect::<Vec<_>>(), [100, 0, 100]);
    }
}
