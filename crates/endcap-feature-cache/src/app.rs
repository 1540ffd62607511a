//! Composition of the feature-cache.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use endcap_coordination::{Coordinator, Session};
use endcap_fleet::{Keys, MemberRecord, Record as _};
use endcap_proto::pb::feature_service_server::FeatureServiceServer;
use endcap_service::{GrpcServer, Readiness, task::Tasks};
use tokio_util::sync::CancellationToken;

use crate::{Config, grpc::FeatureGrpc, store::Store};

/// The first and the longest pause between questions to a store that does not answer yet.
const AGAIN: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(4));

/// What the feature-cache needs from outside.
#[derive(Debug)]
pub struct Deps {
    pub coordinator: Arc<dyn Coordinator>,
    pub keys: Keys,
    pub id: String,
}

/// A feature-cache that listens and is known to the fleet.
#[derive(Debug)]
pub struct App {
    server: GrpcServer,
    readiness: Readiness,
    session: Session,
    tasks: Tasks,
}

impl App {
    pub async fn build(config: Config, deps: Deps) -> anyhow::Result<Self> {
        let tasks = Tasks::new();
        let store = Arc::new(Store::new(&config)?);
        let readiness = Readiness::new();
        let reached = readiness.latch("the store of features");
        let server = GrpcServer::bind("feature-cache", config.grpc).await?;
        let (session, driver) = Session::start(deps.coordinator, config.lease_ttl);
        let token = tasks.token();
        tasks.spawn("session", async move { token.run_until_cancelled(driver).await });
        let record =
            MemberRecord { endpoint: server.advertised(), build: env!("CARGO_PKG_VERSION").to_owned() };
        if let Err(error) = session.put(deps.keys.feature_cache(&deps.id), record.to_json()).await {
            tracing::warn!(%error, "not registered yet; going on");
        }
        let (token, asked) = (tasks.token(), Arc::clone(&store));
        tasks.spawn("store", async move {
            token.run_until_cancelled(reach(&asked)).await;
            reached.release();
        });
        let server = server.add_service(FeatureServiceServer::new(FeatureGrpc { store }));
        Ok(Self { server, readiness, session, tasks })
    }

    pub fn local_addr(&self) -> SocketAddr {
        self.server.local_addr()
    }

    pub fn readiness(&self) -> Readiness {
        self.readiness.clone()
    }

    /// Serves until `shutdown`, then drains and leaves the fleet.
    pub async fn serve(self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let session = self.session.clone();
        let leave = async {
            shutdown.cancelled().await;
            // First of all: nobody should begin to ask a cache that is about to go.
            session.close().await
        };
        let (served, left) = tokio::join!(self.server.serve(self.readiness, shutdown.clone()), leave);
        self.tasks.shutdown(Duration::from_secs(1)).await?;
        if let Err(error) = left {
            tracing::warn!(%error, "did not leave the fleet; the lease runs out by itself");
        }
        Ok(served?)
    }
}

/// Until the store answered once: a wrong address must not read as ready. A store that goes later makes nobody unready,
/// since its callers do without.
async fn reach(store: &Store) {
    let (mut pause, longest) = AGAIN;
    while let Err(error) = store.check().await {
        tracing::warn!(%error, again_in = ?pause, "the store of features does not answer");
        tokio::time::sleep(pause).await;
        pause = longest.min(pause * 2);
    }
}
