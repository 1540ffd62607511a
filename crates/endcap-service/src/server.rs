//! A gRPC server with everything that each service has: the layer stack, health, reflection and a drain.

use std::{io, net::SocketAddr, time::Duration};

use endcap_proto::pb;
use futures::future::join_all;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::{
    body::Body,
    server::NamedService,
    service::RoutesBuilder,
    transport::{Server, server::TcpIncoming},
};
use tonic_health::{ServingStatus, server::HealthReporter};

use crate::{Readiness, Settings, layers::CallLayer, metrics};

/// Client deadlines under overload reset many streams at once; the library's default of 20 would then close whole
/// connections, with everyone else's calls.
const MAX_PENDING_RESETS: usize = 4096;
/// A request's bytes come in as many reads as it has frames, so that the standard's 16 KiB cost a batch of rows five of
/// them. Larger ones would let one caller hold up another's on a connection that they share.
const LARGEST_FRAME: u32 = 128 << 10;
/// What every server has beside its own services.
const BESIDE: [&str; 2] = ["grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection"];
/// Finds clients that have silently gone.
const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// How a service listens and drains.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrpcConfig {
    pub listen: SocketAddr,
    /// What other members are told; empty means the bound address.
    pub advertise: String,
    pub max_in_flight: usize,
    /// From saying "not ready" to not accepting.
    pub drain_delay: Duration,
    /// Longest wait for calls in flight.
    pub drain_grace: Duration,
}

impl GrpcConfig {
    /// Reads `<role>.grpc.*` and `<role>.drain.*`.
    pub fn read(settings: &mut Settings, role: &str) -> Option<Self> {
        let listen = settings.read(&format!("{role}.grpc.listen"));
        let advertise = settings.read(&format!("{role}.grpc.advertise"));
        let max_in_flight = settings.read(&format!("{role}.grpc.max_in_flight"));
        let drain_delay = settings.read(&format!("{role}.drain.delay"));
        let drain_grace = settings.read(&format!("{role}.drain.grace"));
        Some(Self {
            listen: listen?,
            advertise: advertise?,
            max_in_flight: max_in_flight?,
            drain_delay: drain_delay?,
            drain_grace: drain_grace?,
        })
    }
}

#[derive(Debug, Error)]
pub enum ServeError {
    #[error(
        "the {role} cannot listen on {address}; is another one running? Set {}.grpc.listen to a free address",
        .role.replace('-', "_")
    )]
    Bind {
        role: &'static str,
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error("the {role} stopped serving: {detail}")]
    Serve { role: &'static str, detail: String },
}

/// A bound server that services are added to.
pub struct GrpcServer {
    role: &'static str,
    config: GrpcConfig,
    listener: TcpListener,
    address: SocketAddr,
    routes: RoutesBuilder,
    services: Vec<&'static str>,
    /// Services whose health follows a readiness of their own.
    own_health: Vec<(&'static str, Readiness)>,
}

impl std::fmt::Debug for GrpcServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GrpcServer")
            .field("role", &self.role)
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl GrpcServer {
    /// Binds, so that the address is known before anything is served.
    pub async fn bind(role: &'static str, config: GrpcConfig) -> Result<Self, ServeError> {
        let refused = |source| ServeError::Bind { role, address: config.listen, source };
        let listener = TcpListener::bind(config.listen).await.map_err(refused)?;
        let address = listener.local_addr().map_err(refused)?;
        let (routes, services, own_health) = (RoutesBuilder::default(), Vec::new(), Vec::new());
        Ok(Self { role, config, listener, address, routes, services, own_health })
    }

    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// host:port for other members.
    pub fn advertised(&self) -> String {
        if self.config.advertise.is_empty() {
            self.address.to_string()
        } else {
            self.config.advertise.clone()
        }
    }

    #[must_use]
    pub fn add_service<S>(mut self, service: S) -> Self
    where
        S: tower::Service<http::Request<Body>, Error = std::convert::Infallible>
            + NamedService
            + Clone
            + Send
            + Sync
            + 'static,
        S::Response: axum::response::IntoResponse,
        S::Future: Send + 'static,
    {
        self.services.push(S::NAME);
        self.routes.add_service(service);
        self
    }

    /// Lets the health of one of the services follow this, instead of the readiness of the whole.
    #[must_use]
    pub fn with_health(mut self, service: &'static str, readiness: Readiness) -> Self {
        self.own_health.push((service, readiness));
        self
    }

    /// What the health of each service follows. The empty name is the server as a whole.
    fn health(&self, whole: &Readiness) -> Vec<(&'static str, Readiness)> {
        let follows = |service| {
            let own = self.own_health.iter().find(|(known, _)| *known == service);
            (service, own.map_or(whole, |(_, readiness)| readiness).clone())
        };
        self.services.iter().copied().chain([""]).map(follows).collect()
    }

    /// Serves until `shutdown`, then drains: not ready, the delay, no new connections, calls in flight within the grace.
    pub async fn serve(
        mut self,
        readiness: Readiness,
        shutdown: CancellationToken,
    ) -> Result<(), ServeError> {
        let role = self.role;
        let failed = |detail: String| ServeError::Serve { role, detail };
        let (reporter, health) = tonic_health::server::health_reporter();
        self.routes.add_service(health);
        let reflection = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(pb::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET);
        // The descriptors are of every role's services: only those of this one are listed.
        let served = self.services.iter().chain(&BESIDE);
        let reflection = served
            .fold(reflection, |reflection, service| reflection.with_service_name(*service))
            .build_v1()
            .map_err(|error| failed(error.to_string()))?;
        self.routes.add_service(reflection);

        let health = self.health(&readiness);
        let incoming = TcpIncoming::from(self.listener).with_nodelay(Some(true));
        let stop_accepting = CancellationToken::new();
        let stopped = stop_accepting.clone();
        let server = Server::builder()
            .http2_max_pending_accept_reset_streams(Some(MAX_PENDING_RESETS))
            .http2_keepalive_interval(Some(KEEP_ALIVE))
            .max_frame_size(LARGEST_FRAME)
            .layer(CallLayer::new(role, self.config.max_in_flight))
            .add_routes(self.routes.routes())
            .serve_with_incoming_shutdown(incoming, async move { stopped.cancelled().await });
        tokio::pin!(server);
        let following = health.iter().map(|(service, readiness)| follow(&reporter, service, readiness));
        let follow = join_all(following);
        metrics::serves(role);
        tracing::info!(role, address = %self.address, "listens");

        tokio::select! {
            served = &mut server => return served.map_err(|error| failed(error.to_string())),
            _ = follow => {}
            () = shutdown.cancelled() => {}
        }
        for (service, readiness) in &health {
            readiness.drain();
            report(&reporter, service, false).await;
        }
        tokio::select! {
            served = &mut server => return served.map_err(|error| failed(error.to_string())),
            () = tokio::time::sleep(self.config.drain_delay) => {}
        }
        stop_accepting.cancel();
        match tokio::time::timeout(self.config.drain_grace, server).await {
            Ok(served) => served.map_err(|error| failed(error.to_string())),
            Err(_elapsed) => {
                tracing::warn!(role, "calls were still in flight after the drain's grace");
                Ok(())
            }
        }
    }
}

/// Keeps the health of a service equal to a readiness. Never returns.
async fn follow(reporter: &HealthReporter, service: &'static str, readiness: &Readiness) {
    let mut ready = readiness.is_ready();
    loop {
        report(reporter, service, ready).await;
        ready = readiness.changed_from(ready).await;
    }
}

async fn report(reporter: &HealthReporter, service: &'static str, ready: bool) {
    let status = if ready { ServingStatus::Serving } else { ServingStatus::NotServing };
    reporter.set_service_status(service, status).await;
}
