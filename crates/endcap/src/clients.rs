//! Connections of the operator's verbs to the registry, the gateway and the feature-cache.

use std::time::Duration;

use anyhow::Context as _;
use endcap_proto::pb::{
    self, feature_service_client::FeatureServiceClient, gateway_service_client::GatewayServiceClient,
    model_registry_client::ModelRegistryClient, recommend_service_client::RecommendServiceClient,
};
use tonic::transport::{Channel, Endpoint};

/// A registry's client. Connecting is lazy: a dead address shows at the first call.
pub(crate) fn registry(url: &str) -> anyhow::Result<ModelRegistryClient<Channel>> {
    Ok(ModelRegistryClient::new(channel(url)?).max_decoding_message_size(MAX_MESSAGE))
}

/// A gateway's client.
pub(crate) fn gateway(url: &str) -> anyhow::Result<RecommendServiceClient<Channel>> {
    Ok(RecommendServiceClient::new(channel(url)?).max_decoding_message_size(MAX_MESSAGE))
}

/// A feature-cache's client.
pub(crate) fn feature_cache(url: &str) -> anyhow::Result<FeatureServiceClient<Channel>> {
    Ok(FeatureServiceClient::new(channel(url)?).max_decoding_message_size(MAX_MESSAGE))
}

/// What a gateway at `host:port` routes to.
pub(crate) async fn routing(endpoint: &str) -> anyhow::Result<pb::GetRoutingResponse> {
    let mut client = GatewayServiceClient::new(channel(&format!("http://{endpoint}"))?);
    let request = with_deadline(pb::GetRoutingRequest {}, Duration::from_secs(1));
    Ok(client.get_routing(request).await?.into_inner())
}

/// A page of 1,000 items with fields, or a long history.
const MAX_MESSAGE: usize = 64 << 20;

fn channel(url: &str) -> anyhow::Result<Channel> {
    let endpoint = Endpoint::from_shared(url.to_owned())
        .with_context(|| format!("{url:?} is not an address; expected e.g. http://127.0.0.1:9400"))?;
    Ok(endpoint.connect_timeout(Duration::from_secs(3)).tcp_nodelay(true).connect_lazy())
}

/// A request that carries its deadline, as every call here must.
pub(crate) fn with_deadline<T>(message: T, deadline: Duration) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(deadline);
    request
}
