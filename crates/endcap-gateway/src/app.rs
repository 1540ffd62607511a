//! Composition of the gateway: the only file that names concrete adapters.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context as _;
use endcap_bundle::BundleStore;
use endcap_coordination::{Coordinator, Freshness, Mirror, MirrorOptions, Session};
use endcap_fleet::{Keys, MemberRecord, Record as _};
use endcap_proto::pb::{
    gateway_service_server::GatewayServiceServer, recommend_service_server::RecommendServiceServer,
};
use endcap_service::{GrpcServer, Readiness, client::Channels, task::Tasks};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::{
    Config,
    admission::Admission,
    clients::{Exchanges, Remote},
    encode::Encoder,
    features::Features,
    forecast::Forecast,
    grpc::RecommendGrpc,
    metrics::{self, Meters},
    recommend::Recommend,
    replicas::{Load, probe},
    routed::RoutedGrpc,
    routing::{Follower, Routes, Routing},
    scatter::Scatter,
};

/// 10,000 candidates and as many excluded items, with ids of any length that is allowed.
const LARGEST_REQUEST: usize = 16 << 20;

/// What the gateway needs from outside.
#[derive(Debug)]
pub struct Deps {
    pub coordinator: Arc<dyn Coordinator>,
    pub keys: Keys,
    pub store: Arc<BundleStore>,
    pub id: String,
    /// Where the last known state of the fleet is kept, for a start without the coordinator.
    pub saved: Option<PathBuf>,
}

/// A gateway that listens and follows the fleet.
#[derive(Debug)]
pub struct App {
    server: GrpcServer,
    readiness: Readiness,
    session: Session,
    /// Ends with the first routing snapshot.
    routed: oneshot::Receiver<()>,
    tasks: Tasks,
}

impl App {
    /// Binds, registers, and begins to follow the fleet; ready once the first routing snapshot is there.
    pub async fn build(config: Config, deps: Deps) -> anyhow::Result<Self> {
        let (tasks, readiness) = (Tasks::new(), Readiness::new());
        let admission = Arc::<Admission>::default();
        let server = GrpcServer::bind("gateway", config.grpc).await?;
        let (session, driver) = Session::start(Arc::clone(&deps.coordinator), config.lease_ttl);
        run(&tasks, "session", driver);
        let record =
            MemberRecord { endpoint: server.advertised(), build: env!("CARGO_PKG_VERSION").to_owned() };
        if let Err(error) = session.put(deps.keys.gateway(&deps.id), record.to_json()).await {
            tracing::warn!(%error, "not registered yet; going on");
        }

        let keys = deps.keys;
        let prefixes = vec![keys.models(), keys.ready_all(), keys.feature_cache("")];
        let options = MirrorOptions { prefixes, saved: deps.saved, epoch: Some(keys.epoch()) };
        let (entries, freshness, driver) =
            Mirror::start(deps.coordinator, options).await.context("read the fleet")?;
        run(&tasks, "mirror", driver);
        run(&tasks, "freshness", report(freshness.clone()));
        let (channels, load, routing) =
            (Arc::<Channels>::default(), Arc::<Load>::default(), Routing::default());
        let forecast = Arc::<Forecast>::default();
        let exchanges =
            config.recommend.shard_stream.then(|| Exchanges::new(Arc::clone(&channels), tasks.clone()));
        let remote = Arc::new(Remote { channels, exchanges });
        let follower = Follower {
            keys,
            store: deps.store,
            routing: routing.clone(),
            tidy: tidy(Arc::clone(&remote), Arc::clone(&load), Arc::clone(&forecast)),
        };
        let (first, first_route) = oneshot::channel();
        run(&tasks, "routing", follower.run(entries, readiness.latch("routing snapshot"), first));

        metrics::register();
        run(&tasks, "probe", probe(Arc::clone(&load), remote.clone()));
        let routed = RoutedGrpc { routing: routing.clone(), freshness, load: Arc::clone(&load) };
        let server = server.add_service(GatewayServiceServer::new(routed));
        let config = config.recommend;
        let recommend = Recommend {
            features: Features { source: remote.clone(), budget: config.feature_budget },
            encoder: Encoder::new(remote.clone(), Arc::clone(&load), config.query_cache_entries),
            scatter: Scatter { client: remote, load, straggler_wait: config.straggler_wait },
            config,
            routing,
            forecast,
            meters: Meters::default(),
        };
        let recommend = Arc::new(recommend);
        let service = RecommendServiceServer::new(RecommendGrpc { recommend, admission })
            .max_decoding_message_size(LARGEST_REQUEST);
        Ok(Self { server: server.add_service(service), readiness, session, routed: first_route, tasks })
    }

    pub fn local_addr(&self) -> SocketAddr {
        self.server.local_addr()
    }

    pub fn readiness(&self) -> Readiness {
        self.readiness.clone()
    }

    /// Serves until `shutdown`, then drains and leaves the fleet.
    pub async fn serve(self, shutdown: CancellationToken) -> anyhow::Result<()> {
        // Whoever connects before waits, instead of hearing that there is no model.
        let _cancelled = shutdown.run_until_cancelled(self.routed).await;
        let served = self.server.serve(self.readiness, shutdown).await;
        let left = self.session.close().await;
        self.tasks.shutdown(Duration::from_secs(1)).await?;
        if let Err(error) = left {
            tracing::warn!(%error, "did not leave the fleet; the lease runs out by itself");
        }
        Ok(served?)
    }
}

/// Exports how old the routing snapshot is.
async fn report(freshness: Freshness) {
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    loop {
        ticks.tick().await;
        metrics::snapshot_age(freshness.age());
    }
}

/// Lets go of members and versions that are gone.
fn tidy(remote: Arc<Remote>, load: Arc<Load>, forecast: Arc<Forecast>) -> Box<dyn Fn(&Routes) + Send + Sync> {
    Box::new(move |routes| {
        let known = routes.endpoints();
        let routed = |digest| routes.parts(digest).is_some();
        remote.retain(|endpoint| known.contains(endpoint));
        load.retain(|endpoint| known.contains(endpoint), routed);
        forecast.retain(routed);
    })
}

/// Runs background work until the gateway ends.
fn run(tasks: &Tasks, name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
    let token = tasks.token();
    tasks.spawn(name, async move { token.run_until_cancelled(work).await });
}
