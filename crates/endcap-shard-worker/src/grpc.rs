//! The ShardService, as thin as it can be.

use std::time::Duration;

use endcap_proto::pb::{self, shard_service_server::ShardService};
use endcap_service::{Deadline, RequestId, status::to_status};
use tonic::{Request, Response, Status};

use crate::{encode::encode, score::Score};

/// For callers who bring no deadline, which gateways always do.
const DEFAULT_DEADLINE: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(crate) struct ShardGrpc {
    pub(crate) score: Score,
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
}
