//! Composition of the gateway: the only file that names concrete adapters.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context as _;
use endcap_bundle::BundleStore;
use endcap_coordination::{Coordinator, Mirror, Session};
use endcap_fleet::{Keys, MemberRecord, Record as _};
use endcap_proto::pb::recommend_service_server::RecommendServiceServer;
use endcap_service::{GrpcServer, Readiness, client::Channels, task::Tasks};
use tokio_util::sync::CancellationToken;

use crate::{
    Config,
    clients::Remote,
    config::RecommendConfig,
    encode::Encoder,
    features::Features,
    grpc::RecommendGrpc,
    metrics,
    recommend::Recommend,
    replicas::Load,
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
}

/// A gateway that listens and follows the fleet.
#[derive(Debug)]
pub struct App {
    server: GrpcServer,
    readiness: Readiness,
    session: Session,
    tasks: Tasks,
}

impl App {
    /// Binds, registers, and begins to follow the fleet; ready once the first routing snapshot is there.
    pub async fn build(config: Config, deps: Deps) -> anyhow::Result<Self> {
        let (tasks, readiness) = (Tasks::new(), Readiness::new());
        let server = GrpcServer::bind("gateway", config.grpc).await?;
        let (session, driver) = Session::start(Arc::clone(&deps.coordinator), config.lease_ttl)
            .await
            .context("register the gateway")?;
        run(&tasks, "session", driver);
        let record =
            MemberRecord { endpoint: server.advertised(), build: env!("CARGO_PKG_VERSION").to_owned() };
        session.put(deps.keys.gateway(&deps.id), record.to_json()).await?;

        let keys = deps.keys;
        let prefixes = vec![keys.models(), keys.ready_all(), keys.feature_cache("")];
        let (entries, driver) = Mirror::start(deps.coordinator, prefixes).await.context("read the fleet")?;
        run(&tasks, "mirror", driver);
        let (channels, load, routing) =
            (Arc::<Channels>::default(), Arc::<Load>::default(), Routing::default());
        let follower = Follower {
            keys,
            store: deps.store,
            routing: routing.clone(),
            tidy: tidy(Arc::clone(&channels), Arc::clone(&load)),
        };
        run(&tasks, "routing", follower.run(entries, readiness.latch("routing snapshot")));

        metrics::register();
        let recommend = Arc::new(compose(config.recommend, channels, load, routing));
        let service = RecommendServiceServer::new(RecommendGrpc { recommend })
            .max_decoding_message_size(LARGEST_REQUEST);
        Ok(Self { server: server.add_service(service), readiness, session, tasks })
    }

    pub fn local_addr(&self) -> SocketAddr {
        self.server.local_addr()
    }

    pub fn readiness(&self) -> Readiness {
        self.readiness.clone()
    }

    /// Serves until `shutdown`, then drains and leaves the fleet.
    pub async fn serve(self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let served = self.server.serve(self.readiness, shutdown).await;
        let left = self.session.close().await;
        self.tasks.shutdown(Duration::from_secs(1)).await?;
        served?;
        Ok(left?)
    }
}

fn compose(config: RecommendConfig, channels: Arc<Channels>, load: Arc<Load>, routing: Routing) -> Recommend {
    let remote = Arc::new(Remote { channels });
    Recommend {
        features: Features { source: remote.clone(), budget: config.feature_budget },
        encoder: Encoder::new(remote.clone(), Arc::clone(&load), config.query_cache_entries),
        scatter: Scatter { client: remote, load },
        config,
        routing,
    }
}

/// Lets go of connections to members that are gone.
fn tidy(channels: Arc<Channels>, load: Arc<Load>) -> Box<dyn Fn(&Routes) + Send + Sync> {
    Box::new(move |routes| {
        let known = routes.endpoints();
        channels.retain(|endpoint| known.contains(endpoint));
        load.retain(|endpoint| known.contains(endpoint));
    })
}

/// Runs background work until the gateway ends.
fn run(tasks: &Tasks, name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
    let token = tasks.token();
    tasks.spawn(name, async move { token.run_until_cancelled(work).await });
}
