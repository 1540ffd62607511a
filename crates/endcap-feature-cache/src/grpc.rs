//! The FeatureService, as thin as it can be.

use std::sync::Arc;

use endcap_proto::pb::{self, feature_service_server::FeatureService};
use endcap_service::{RequestId, status::to_status};
use tonic::{Request, Response, Status};

use crate::{request, store::Store};

#[derive(Debug)]
pub(crate) struct FeatureGrpc {
    pub(crate) store: Arc<Store>,
}

#[tonic::async_trait]
impl FeatureService for FeatureGrpc {
    async fn get_features(
        &self,
        request: Request<pb::GetFeaturesRequest>,
    ) -> Result<Response<pb::GetFeaturesResponse>, Status> {
        let id = RequestId::of(&request);
        let keys = request::keys(request.into_inner()).map_err(|error| to_status(&error, &id))?;
        let found = self.store.get(&keys).await.map_err(|error| to_status(&error, &id))?;
        let results = found.into_iter().zip(keys).map(|(found, key)| request::result(found, key)).collect();
        Ok(Response::new(pb::GetFeaturesResponse { results }))
    }

    async fn put_features(
        &self,
        request: Request<pb::PutFeaturesRequest>,
    ) -> Result<Response<pb::PutFeaturesResponse>, Status> {
        let id = RequestId::of(&request);
        let groups = request::groups(request.into_inner()).map_err(|error| to_status(&error, &id))?;
        self.store.put(groups).await.map_err(|error| to_status(&error, &id))?;
        Ok(Response::new(pb::PutFeaturesResponse {}))
    }
}
