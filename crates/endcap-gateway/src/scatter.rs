//! Asking every shard at once. Each shard's outcome is data: none is ever "the last one".

use std::sync::Arc;

use endcap_fleet::{Replica, Route};
use endcap_types::{ShardIndex, ShardOutcome};
use futures::{StreamExt as _, stream::FuturesUnordered};
use tracing::Instrument as _;

use crate::{
    ports::{Call, Part, Question, ShardAnswer, ShardClient},
    replicas::{Fault, Load},
};

/// Asks shards for their parts of a request.
#[derive(Debug, Clone)]
pub(crate) struct Scatter {
    pub(crate) client: Arc<dyn ShardClient>,
    pub(crate) load: Arc<Load>,
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
    /// One reply per part, in the order of shards, no later than the call's deadline.
    pub(crate) async fn run(
        &self,
        route: &Route,
        question: &Question,
        parts: &[Part],
        call: &Call,
    ) -> Vec<ShardReply> {
        let mut asked: FuturesUnordered<_> =
            parts.iter().map(|part| self.ask(route, question, part, call)).collect();
        let mut replies = Vec::with_capacity(parts.len());
        while let Some(reply) = asked.next().await {
            replies.push(reply);
        }
        replies.sort_unstable_by_key(|reply| reply.shard);
        replies
    }

    async fn ask(&self, route: &Route, question: &Question, part: &Part, call: &Call) -> ShardReply {
        let replicas: Vec<&Replica> = route.shards.get(part.shard as usize).into_iter().flatten().collect();
        let answer = self
            .load
            .ask(&replicas, &question.pin, call, |replica, call| {
                self.client.score(&replica.endpoint, question, part, call)
            })
            .instrument(tracing::info_span!(
                "shard",
                shard = part.shard,
                version = question.pin.version.get()
            ))
            .await;
        ShardReply { shard: part.shard, answer }
    }
}
