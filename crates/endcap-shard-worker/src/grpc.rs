//! The ShardService, as thin as it can be.

use std::{sync::Arc, time::Duration};

use endcap_proto::pb::{self, shard_service_server::ShardService};
use endcap_service::{
    Deadline, RequestId,
    exchange::{self, Replies},
    status::to_status,
    task::Tasks,
};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use crate::{encode::encode, score::Score};

/// For callers who bring no deadline, which gateways always do.
const DEFAULT_DEADLINE: Duration = Duration::from_secs(1);

#[derive(Debug, Clone)]
pub(crate) struct ShardGrpc {
    pub(crate) score: Score,
    /// Cancelled when the worker is about to leave, so that gateways end their streams.
    pub(crate) draining: CancellationToken,
    /// The worker's, for what streams bring.
    pub(crate) tasks: Tasks,
}

#[tonic::async_trait]
impl ShardService for ShardGrpc {
    async fn encode(
        &self,
        request: Request<pb::EncodeRequest>,
    ) -> Result<Response<pb::EncodeResponse>, Status> {
        let (id, deadline) = (RequestId::of(&request), Deadline::of(&request, DEFAULT_DEADLINE));
        let encoded = encode(&self.score.holdings, request.into_inner(), deadline).await;
        encoded.map(Response::new).map_err(|error| to_status(&error, &id))
    }

    async fn score(&self, request: Request<pb::ScoreRequest>) -> Result<Response<pb::ScoreResponse>, Status> {
        let (id, deadline) = (RequestId::of(&request), Deadline::of(&request, DEFAULT_DEADLINE));
        let scored = self.score.run(request.into_inner(), deadline).await;
        scored.map(Response::new).map_err(|error| to_status(&error, &id))
    }

    type ExchangeStream = Replies;

    async fn exchange(
        &self,
        request: Request<Streaming<pb::ExchangeRequest>>,
    ) -> Result<Response<Replies>, Status> {
        let draining = self.draining.clone();
        Ok(Response::new(exchange::serve(Arc::new(self.clone()), request, draining, &self.tasks)))
    }
}
