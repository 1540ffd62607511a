//! The GatewayService: what this gateway routes to, for operators.

use std::sync::Arc;

use endcap_coordination::Freshness;
use endcap_proto::pb::{self, gateway_service_server::GatewayService};
use tonic::{Request, Response, Status};

use crate::{replicas::Load, routing::Routing};

#[derive(Debug)]
pub(crate) struct RoutedGrpc {
    pub(crate) routing: Routing,
    pub(crate) freshness: Freshness,
    pub(crate) load: Arc<Load>,
}

#[tonic::async_trait]
impl GatewayService for RoutedGrpc {
    async fn get_routing(
        &self,
        _: Request<pb::GetRoutingRequest>,
    ) -> Result<Response<pb::GetRoutingResponse>, Status> {
        let routes = self.routing.load();
        let version = |route: &endcap_fleet::Route| pb::RoutedVersion {
            model: route.pin.model.to_string(),
            version: route.pin.version.get(),
            digest: route.pin.digest.to_hex(),
        };
        Ok(Response::new(pb::GetRoutingResponse {
            snapshot_age_ms: u64::try_from(self.freshness.age().as_millis()).unwrap_or(u64::MAX),
            versions: routes.snapshot.routable().map(version).collect(),
            ejected: self.load.ejected(),
        }))
    }
}
