//! Asking every shard at once. Each shard's outcome is data: none is ever "the last one".

use std::sync::Arc;

use endcap_fleet::{Replica, Route};
use endcap_service::traces::stage;
use endcap_types::{ShardIndex, ShardOutcome};
use futures::{StreamExt as _, stream::FuturesUnordered};
use tokio::time::Instant;

use crate::{
    metrics,
    ports::{Call, Part, Question, ShardAnswer, ShardClient, Work},
    replicas::{Fault, Kind, Load, Wanted},
};

/// Fewer shards than this share are never enough, however little the caller demands: an answer must not become thin
/// because a few shards happen to be quick.
const MOST_PERCENT: usize = 90;

/// Asks shards for their parts of a request.
#[derive(Debug, Clone)]
pub(crate) struct Scatter {
    pub(crate) client: Arc<dyn ShardClient>,
    pub(crate) load: Arc<Load>,
    /// The share of the remaining time that is waited for the last shards, once there are enough.
    pub(crate) straggler_wait: f64,
}

/// What the shards of a version are asked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Inquiry<'a> {
    pub(crate) question: &'a Question,
    pub(crate) parts: &'a [Part],
    /// The least number of items that the caller wants considered.
    pub(crate) minimum_items: u64,
    /// When they are.
    pub(crate) began: Instant,
}

impl Inquiry<'_> {
    /// Whether the answer could go without the shards that are still out.
    fn has_enough(&self, replies: &[ShardReply]) -> bool {
        let answers = || replies.iter().filter_map(|reply| reply.answer.as_ref().ok());
        let items: u64 = answers().map(|answer| answer.items_considered).sum();
        answers().count() * 100 >= self.parts.len() * MOST_PERCENT && items >= self.minimum_items
    }
}

/// What became of one shard's part.
#[derive(Debug)]
pub(crate) struct ShardReply {
    pub(crate) shard: ShardIndex,
    pub(crate) answer: Result<ShardAnswer, Fault>,
}

impl ShardReply {
    pub(crate) fn outcome(&self) -> ShardOutcome {
        match &self.answer {
            Ok(_) => ShardOutcome::Ok,
            Err(Fault::TimedOut) => ShardOutcome::TimedOut,
            Err(Fault::Shed) => ShardOutcome::Shed,
            Err(Fault::Failed | Fault::Refused(_)) => ShardOutcome::Failed,
        }
    }
}

impl Scatter {
    /// One reply per part, in the order of shards, no later than the call's deadline. Once there are enough, only a share
    /// of the time is waited for the others, which are then missing (after Vespa's adaptive timeout).
    pub(crate) async fn run(&self, route: &Route, inquiry: Inquiry<'_>, call: &Call) -> Vec<ShardReply> {
        let parts = inquiry.parts;
        let mut asked: FuturesUnordered<_> =
            parts.iter().map(|part| self.ask(route, inquiry, part, call)).collect();
        let mut replies = Vec::with_capacity(parts.len());
        let mut until = None;
        loop {
            let reply = match until {
                None => asked.next().await,
                Some(until) => match tokio::time::timeout_at(until, asked.next()).await {
                    Ok(reply) => reply,
                    Err(_elapsed) => {
                        metrics::stragglers_left(asked.len());
                        break;
                    }
                },
            };
            let Some(reply) = reply else { break };
            replies.push(reply);
            if until.is_none() && !asked.is_empty() && inquiry.has_enough(&replies) {
                let now = Instant::now();
                let remaining = call.deadline.instant().saturating_duration_since(now);
                until = Some(now + remaining.mul_f64(self.straggler_wait));
            }
        }
        replies.sort_unstable_by_key(|reply| reply.shard);
        replies
    }

    async fn ask(&self, route: &Route, inquiry: Inquiry<'_>, part: &Part, call: &Call) -> ShardReply {
        let Inquiry { question, began, .. } = inquiry;
        let replicas: Vec<&Replica> = route.shards.get(part.shard as usize).into_iter().flatten().collect();
        let kind = match part.work {
            Work::Retrieve { .. } => Kind::Retrieve(part.shard),
            Work::Rerank { .. } => Kind::Rerank(part.shard),
            Work::List { .. } => Kind::List(part.shard),
        };
        let wanted = Wanted { pin: &question.pin, kind };
        let asking = self.load.ask(&replicas, wanted, call, |replica, call| {
            self.client.score(&replica.endpoint, question, part, call)
        });
        let stage = stage("shard", began).of("shard", part.shard);
        let answer = stage.run(asking).await;
        let answer = answer.map(|(answer, came)| {
            stage.end(came);
            answer
        });
        ShardReply { shard: part.shard, answer }
    }
}

#[cfg(test)]
mod tests;
