//! Composition of a worker.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context as _;
use endcap_bundle::BundleStore;
use endcap_coordination::{Coordinator, Mirror, MirrorOptions, Session};
use endcap_fleet::Keys;
use endcap_inference::Runtime;
use endcap_proto::{
    inference::grpc_inference_service_server::GrpcInferenceServiceServer,
    pb::shard_service_server::{SERVICE_NAME, ShardServiceServer},
};
use endcap_service::{GrpcServer, Readiness, exchange::LARGEST_MESSAGE, task::Tasks};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::{
    Config,
    assignment::{Follower, Startup},
    grpc::ShardGrpc,
    holdings::Holdings,
    load::Loader,
    metrics,
    open_inference::OpenInference,
    progress::Progress,
    publish::Publisher,
    score::Score,
};

/// What a worker needs from outside.
#[derive(Debug)]
pub struct Deps {
    pub coordinator: Arc<dyn Coordinator>,
    pub keys: Keys,
    pub store: Arc<BundleStore>,
    pub runtime: Runtime,
    pub id: String,
    /// Where the last known assignments are kept, for a start without the coordinator.
    pub saved: Option<PathBuf>,
}

/// A worker that listens and follows its assignments.
#[derive(Debug)]
pub struct App {
    server: GrpcServer,
    readiness: Readiness,
    session: Session,
    /// Ends the streams of gateways.
    draining: CancellationToken,
    tasks: Tasks,
}

impl App {
    pub async fn build(config: Config, deps: Deps) -> anyhow::Result<Self> {
        // Models look their metrics up when they are loaded, which may be before anybody asks for them.
        endcap_service::telemetry::metrics_handle();
        let tasks = Tasks::new();
        let drain_delay = config.grpc.drain_delay;
        let server = GrpcServer::bind("worker", config.grpc).await?;
        let coordinator = deps.coordinator;
        let (session, driver) = Session::start(Arc::clone(&coordinator), config.lease_ttl);
        run(&tasks, "session", driver);
        let options = MirrorOptions {
            prefixes: vec![deps.keys.assignments()],
            saved: deps.saved,
            epoch: Some(deps.keys.epoch()),
        };
        let (entries, _, driver) =
            Mirror::start(coordinator, options).await.context("read the assignments")?;
        run(&tasks, "assignments", driver);

        let (holdings, progress) = (Holdings::default(), Progress::default());
        let (readiness, serving) = (Readiness::new(), Readiness::new());
        let id: Arc<str> = deps.id.into();
        let publisher = Publisher {
            session: session.clone(),
            keys: deps.keys.clone(),
            id: Arc::clone(&id),
            endpoint: server.advertised().into(),
            device: deps.runtime.device(),
            memory_budget: config.memory_budget,
            topology: config.topology.into(),
        };
        metrics::register(&id, publisher.device, config.memory_budget);
        publisher.worker(0).await;
        let follower = Follower {
            id,
            keys: deps.keys,
            loader: Loader { store: deps.store, runtime: deps.runtime, options: config.models },
            holdings: holdings.clone(),
            progress: progress.clone(),
            publisher,
            memory_budget: config.memory_budget,
            drain_delay,
            startup: Startup::new(readiness.latch("assigned shards"), serving.latch("a shard")),
        };
        run(&tasks, "follower", follower.run(entries));

        let open = OpenInference { holdings: holdings.clone(), progress, readiness: readiness.clone() };
        let open = GrpcInferenceServiceServer::new(open)
            .max_decoding_message_size(LARGEST_MESSAGE)
            .max_encoding_message_size(LARGEST_MESSAGE);
        let score = Score { holdings, scans: Arc::new(Semaphore::new(config.scan_threads)) };
        let draining = CancellationToken::new();
        let service = ShardGrpc { score, draining: draining.clone(), tasks: tasks.clone() };
        let service = ShardServiceServer::new(service)
            .max_decoding_message_size(LARGEST_MESSAGE)
            .max_encoding_message_size(LARGEST_MESSAGE);
        let server = server.add_service(service).with_health(SERVICE_NAME, serving).add_service(open);
        Ok(Self { server, readiness, session, draining, tasks })
    }

    pub fn local_addr(&self) -> SocketAddr {
        self.server.local_addr()
    }

    pub fn readiness(&self) -> Readiness {
        self.readiness.clone()
    }

    /// Serves until `shutdown`, then leaves the fleet and drains.
    pub async fn serve(self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let (session, draining) = (self.session.clone(), self.draining.clone());
        let leave = async {
            shutdown.cancelled().await;
            // First of all: gateways stop sending while calls in flight go on.
            draining.cancel();
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

/// Runs background work until the worker ends.
fn run(tasks: &Tasks, name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
    let token = tasks.token();
    tasks.spawn(name, async move { token.run_until_cancelled(work).await });
}
