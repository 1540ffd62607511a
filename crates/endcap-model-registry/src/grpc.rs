//! The ModelRegistry service, as thin as it can be.

use std::time::Duration;

use endcap_coordination::Freshness;
use endcap_proto::pb::{self, model_registry_server::ModelRegistry};
use endcap_service::{Deadline, RequestId, status::to_status, task::Tasks};
use futures::{StreamExt as _, stream::BoxStream};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::{
    catalogue::Catalogue, convert, error::RegistryError, evaluation::Evaluations, register::Register,
    rollout::Rollouts, validate::Validate, watch::Watch, world::World,
};

/// For callers who bring no deadline to a validation: large models take their time.
const PATIENCE: Duration = Duration::from_secs(300);

#[derive(Debug)]
pub(crate) struct RegistryGrpc {
    pub(crate) register: Register,
    pub(crate) validate: Validate,
    pub(crate) rollouts: Rollouts,
    pub(crate) catalogue: Catalogue,
    pub(crate) evaluations: Evaluations,
    pub(crate) watch: Watch,
    pub(crate) freshness: Freshness,
    pub(crate) tasks: Tasks,
}

type Answer<T> = Result<Response<T>, Status>;

fn answer<T>(result: Result<T, RegistryError>, id: &RequestId) -> Answer<T> {
    result.map(Response::new).map_err(|error| to_status(&error, id))
}

#[tonic::async_trait]
impl ModelRegistry for RegistryGrpc {
    type WatchStream = BoxStream<'static, Result<pb::WatchResponse, Status>>;

    async fn register_version(
        &self,
        request: Request<Streaming<pb::RegisterVersionRequest>>,
    ) -> Answer<pb::RegisterVersionResponse> {
        let id = RequestId::of(&request);
        answer(self.register.run(request.into_inner()).await, &id)
    }

    async fn validate_version(
        &self,
        request: Request<pb::ValidateVersionRequest>,
    ) -> Answer<pb::ValidateVersionResponse> {
        let (id, deadline) = (RequestId::of(&request), Deadline::of(&request, PATIENCE));
        answer(self.validate.run(request.into_inner(), deadline).await, &id)
    }

    async fn promote(&self, request: Request<pb::PromoteRequest>) -> Answer<pb::PromoteResponse> {
        let id = RequestId::of(&request);
        answer(self.rollouts.promote(request.into_inner()).await, &id)
    }

    async fn rollback(&self, request: Request<pb::RollbackRequest>) -> Answer<pb::RollbackResponse> {
        let id = RequestId::of(&request);
        answer(self.rollouts.rollback(request.into_inner()).await, &id)
    }

    async fn get_version(&self, request: Request<pb::GetVersionRequest>) -> Answer<pb::GetVersionResponse> {
        let id = RequestId::of(&request);
        answer(self.catalogue.version(request.into_inner()).await, &id)
    }

    async fn list_models(&self, request: Request<pb::ListModelsRequest>) -> Answer<pb::ListModelsResponse> {
        let id = RequestId::of(&request);
        answer(self.catalogue.models(request.into_inner()).await, &id)
    }

    async fn get_history(&self, request: Request<pb::GetHistoryRequest>) -> Answer<pb::GetHistoryResponse> {
        let id = RequestId::of(&request);
        answer(self.catalogue.history(request.into_inner()).await, &id)
    }

    async fn record_evaluation(
        &self,
        request: Request<pb::RecordEvaluationRequest>,
    ) -> Answer<pb::RecordEvaluationResponse> {
        let id = RequestId::of(&request);
        answer(self.evaluations.record(request.into_inner()).await, &id)
    }

    async fn watch(&self, request: Request<pb::WatchRequest>) -> Answer<Self::WatchStream> {
        let id = RequestId::of(&request);
        let started = self.watch.run(request.into_inner()).await;
        let (watching, events) = started.map_err(|error| to_status(&error, &id))?;
        let token = self.tasks.token();
        self.tasks.spawn("watch", async move { token.run_until_cancelled(watching.drive()).await });
        Ok(Response::new(ReceiverStream::new(events).map(Ok).boxed()))
    }

    async fn get_fleet(&self, _request: Request<pb::GetFleetRequest>) -> Answer<pb::GetFleetResponse> {
        let entries = self.watch.entries.borrow().clone();
        let world = World::read(&self.watch.keys, &entries);
        Ok(Response::new(convert::fleet(&world, self.freshness.age())))
    }
}
