//! Composition of the registry.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context as _;
use endcap_bundle::BundleStore;
use endcap_coordination::{Coordinator, Mirror, MirrorOptions, Session};
use endcap_fleet::Keys;
use endcap_proto::pb::model_registry_server::ModelRegistryServer;
use endcap_service::{GrpcServer, Readiness, task::Tasks};
use tokio_util::sync::CancellationToken;

use crate::{
    Config, archive::Archive, catalogue::Catalogue, controller::Controller, evaluation::Evaluations,
    grpc::RegistryGrpc, ledger::Ledger, metrics, register::Register, rollout::Rollouts, validate::Validate,
    watch::Watch, world,
};

/// What the registry needs from outside.
#[derive(Debug)]
pub struct Deps {
    pub coordinator: Arc<dyn Coordinator>,
    pub keys: Keys,
    pub store: Arc<BundleStore>,
    pub id: String,
}

/// A registry that listens, and stands for controller.
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
        let incoming = config.data_dir.join("incoming");
        Register::prepare(&incoming).with_context(|| format!("prepare {}", incoming.display()))?;
        let server = GrpcServer::bind("registry", config.grpc).await?;
        let Deps { coordinator, keys, store, id } = deps;
        let (session, driver) = Session::start(Arc::clone(&coordinator), config.lease_ttl);
        run(&tasks, "session", driver);
        // What is there, not what was: whoever rebuilds an emptied coordinator must see that it is empty.
        let options = MirrorOptions { prefixes: world::prefixes(&keys), ..MirrorOptions::default() };
        let (entries, freshness, driver) =
            Mirror::start(Arc::clone(&coordinator), options).await.context("read the fleet")?;
        run(&tasks, "mirror", driver);
        // Fleets that share a store keep their ledgers apart.
        let archive = Archive::new(store.journal(&format!("ledger{}", keys.all().trim_end_matches('/'))));
        let ledger = Ledger { coordinator, keys: keys.clone(), archive };
        let validate = Validate { ledger: ledger.clone(), keys: keys.clone(), entries: entries.clone() };
        run(&tasks, "metrics", metrics::follow(keys.clone(), id.clone(), entries.clone()));
        let controller = Controller {
            ledger: ledger.clone(),
            validate: validate.clone(),
            id,
            session: session.clone(),
            replicas: config.replicas,
            grace: config.lease_ttl * 2,
        };
        run(&tasks, "controller", controller.run(entries.clone()));

        let service = RegistryGrpc {
            register: Register { ledger: ledger.clone(), store, incoming, max_bundle: config.max_bundle },
            validate,
            rollouts: Rollouts { ledger: ledger.clone(), keys: keys.clone() },
            evaluations: Evaluations { ledger: ledger.clone(), keys: keys.clone() },
            catalogue: Catalogue { ledger: ledger.clone(), keys: keys.clone() },
            watch: Watch { ledger, keys, entries },
            freshness,
            tasks: tasks.clone(),
        };
        let server = server.add_service(ModelRegistryServer::new(service));
        Ok(Self { server, readiness: Readiness::new(), session, tasks })
    }

    pub fn local_addr(&self) -> SocketAddr {
        self.server.local_addr()
    }

    pub fn readiness(&self) -> Readiness {
        self.readiness.clone()
    }

    /// Serves until `shutdown`, then drains and lets another lead.
    pub async fn serve(self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let (tasks, session) = (self.tasks.clone(), self.session.clone());
        let leave = async {
            shutdown.cancelled().await;
            // Watches never end by themselves; ending them lets the drain end.
            tasks.token().cancel();
            session.close().await
        };
        let (served, left) = tokio::join!(self.server.serve(self.readiness, shutdown.clone()), leave);
        self.tasks.shutdown(Duration::from_secs(2)).await?;
        if let Err(error) = left {
            tracing::warn!(%error, "did not leave the fleet; the lease runs out by itself");
        }
        Ok(served?)
    }
}

/// Runs background work until the registry ends.
fn run(tasks: &Tasks, name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
    let token = tasks.token();
    tasks.spawn(name, async move { token.run_until_cancelled(work).await });
}
