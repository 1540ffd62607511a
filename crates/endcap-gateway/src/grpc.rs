//! The RecommendService, as thin as it can be.

use std::sync::Arc;

use endcap_proto::pb::{self, recommend_service_server::RecommendService};
use endcap_service::{Deadline, InFlightLimit, RequestId, status::to_status};
use tonic::{Request, Response, Status};

use crate::{
    admission::{Admission, ClientId},
    answer::Answer,
    error::RecommendError,
    ports::Call,
    recommend::Recommend,
    request::Asked,
};

#[derive(Debug, Clone)]
pub(crate) struct RecommendGrpc {
    pub(crate) recommend: Arc<Recommend>,
    pub(crate) admission: Arc<Admission>,
}

#[tonic::async_trait]
impl RecommendService for RecommendGrpc {
    async fn recommend(
        &self,
        request: Request<pb::RecommendRequest>,
    ) -> Result<Response<pb::RecommendResponse>, Status> {
        let deadline = Deadline::of(&request, self.recommend.config.default_deadline);
        let call = Call { deadline, id: RequestId::of(&request) };
        let client = ClientId::of(request.metadata());
        let limit = request.extensions().get().map_or(usize::MAX, |InFlightLimit(limit)| *limit);
        match self.answer((client, limit), request.into_inner(), &call).await {
            Ok(answer) => Ok(Response::new(answer.into_wire(&call.id))),
            Err(error) => Err(to_status(&error, &call.id)),
        }
    }
}

impl RecommendGrpc {
    async fn answer(
        &self,
        (client, limit): (ClientId, usize),
        wire: pb::RecommendRequest,
        call: &Call,
    ) -> Result<Answer, RecommendError> {
        let _place = self.admission.enter(client, limit)?;
        let asked = Asked::from_wire(wire, &self.recommend.config.limits)?;
        self.recommend.run(asked, call).await
    }
}
