//! Clients of other members: lazy channels, kept and shared, and requests that carry deadline and id.

use std::{collections::HashMap, time::Duration};

use parking_lot::Mutex;
use thiserror::Error;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::{Deadline, RequestId, request_id::HEADER, traces};

/// A member that does not answer this long is not there; well below any deadline that could still use it.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);
/// Finds connections whose other end has silently gone.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// An endpoint that is no address. It came from a member's record, so it is that member's mistake.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{endpoint:?} is not host:port")]
pub struct EndpointError {
    pub endpoint: String,
}

/// One channel per endpoint, connected when first used. Cheap to share.
#[derive(Debug, Default)]
pub struct Channels {
    by_endpoint: Mutex<HashMap<String, Channel>>,
}

impl Channels {
    /// The channel to `host:port`.
    pub fn get(&self, endpoint: &str) -> Result<Channel, EndpointError> {
        let mut channels = self.by_endpoint.lock();
        if let Some(channel) = channels.get(endpoint) {
            return Ok(channel.clone());
        }
        let channel = channel(endpoint)?;
        channels.insert(endpoint.to_owned(), channel.clone());
        Ok(channel)
    }

    /// Forgets the endpoints that no member has any more.
    pub fn retain(&self, known: impl Fn(&str) -> bool) {
        self.by_endpoint.lock().retain(|endpoint, _| known(endpoint));
    }
}

/// A lazy channel to `host:port`.
pub fn channel(endpoint: &str) -> Result<Channel, EndpointError> {
    let refused = || EndpointError { endpoint: endpoint.to_owned() };
    let target = Endpoint::from_shared(format!("http://{endpoint}")).map_err(|_| refused())?;
    Ok(target
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .connect_lazy())
}

/// Whether a member says by the deadline that it serves this service, or, with no name, as a whole (`grpc.health.v1`).
pub async fn is_serving(channel: Channel, service: &str, deadline: Deadline) -> bool {
    let mut client = HealthClient::new(channel);
    let asking = client.check(HealthCheckRequest { service: service.to_owned() });
    match tokio::time::timeout_at(deadline.instant(), asking).await {
        Ok(Ok(answer)) => answer.into_inner().status() == ServingStatus::Serving,
        Ok(Err(_)) | Err(_) => false,
    }
}

/// A request that tells the other side how much time is left, on whose behalf, and in which trace: that of the span in
/// which this is called.
pub fn request<T>(message: T, deadline: Deadline, id: &RequestId) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(deadline.remaining());
    if let Ok(value) = id.as_str().parse() {
        request.metadata_mut().insert(HEADER, value);
    }
    traces::inject(request.metadata_mut());
    request
}
