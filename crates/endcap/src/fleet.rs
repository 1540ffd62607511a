//! A whole fleet in one process: one gateway, some workers, a registry and a feature-cache, each on its own gRPC
//! port, around one embedded coordinator. `demo`, `dev` and the fleet tests run this.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use endcap_bundle::BundleStore;
use endcap_coordination::Coordinator;
use endcap_fleet::Keys;
use endcap_inference::Runtime;
use endcap_service::{Readiness, Settings, task::Tasks};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{metrics, settings};

/// What a fleet in one process is made of.
#[derive(Debug, Clone)]
pub struct FleetOptions {
    /// Everything kept on disk is below this.
    pub data_dir: PathBuf,
    pub workers: usize,
    /// A settings file over the compiled-in defaults.
    pub config: Option<PathBuf>,
    /// The process environment, or nothing in tests.
    pub env: BTreeMap<String, String>,
    /// Settings over everything else, e.g. listen addresses.
    pub set: Vec<(String, String)>,
}

/// A running fleet.
#[derive(Debug)]
pub struct Fleet {
    pub gateway: SocketAddr,
    pub registry: SocketAddr,
    pub feature_cache: SocketAddr,
    pub workers: Vec<SocketAddr>,
    /// `/livez`, `/readyz` and `/metrics` of the whole process.
    pub admin: SocketAddr,
    /// Stopped in this order: the door first, what it leans on after.
    parts: Vec<Part>,
    tasks: Tasks,
}

#[derive(Debug)]
struct Part {
    name: String,
    shutdown: CancellationToken,
    running: JoinHandle<anyhow::Result<()>>,
}

/// What every service of the process shares.
struct Shared {
    coordinator: Arc<dyn Coordinator>,
    keys: Keys,
    store: Arc<BundleStore>,
    tasks: Tasks,
    readiness: Vec<Readiness>,
    parts: Vec<Part>,
}

impl Fleet {
    /// Starts every service and returns once all of them listen. Versions registered earlier load in the background.
    pub async fn start(options: &FleetOptions) -> anyhow::Result<Self> {
        std::fs::create_dir_all(&options.data_dir)
            .with_context(|| format!("create the data folder {}", options.data_dir.display()))?;
        metrics::start();
        let mut settings = settings(options)?;
        let common = settings::Common::read(&mut settings);
        let common = settings.finish(common)?;
        let runtime = Runtime::load(&common.runtime)?;
        let mut shared = Shared {
            coordinator: common.coordination.open()?,
            keys: common.keys.clone(),
            store: Arc::new(BundleStore::open(&common.store)?),
            tasks: Tasks::new(),
            readiness: Vec::new(),
            parts: Vec::new(),
        };

        let gateway = start_gateway(&mut settings, &mut shared).await?;
        let registry = start_registry(&mut settings, &mut shared).await?;
        let mut workers = Vec::with_capacity(options.workers);
        for number in 1..=options.workers {
            workers.push(start_worker(&mut settings, &mut shared, &runtime, number).await?);
        }
        let feature_cache = start_feature_cache(&mut settings, &mut shared).await?;
        let admin = settings::serve_admin(&mut settings, shared.readiness, &shared.tasks).await?;
        Ok(Self {
            gateway,
            registry,
            feature_cache,
            workers,
            admin,
            parts: shared.parts,
            tasks: shared.tasks,
        })
    }

    pub fn gateway_url(&self) -> String {
        format!("http://{}", self.gateway)
    }

    pub fn registry_url(&self) -> String {
        format!("http://{}", self.registry)
    }

    pub fn feature_cache_url(&self) -> String {
        format!("http://{}", self.feature_cache)
    }

    /// Drains and ends every service, the gateway first. Says which one did not end cleanly.
    pub async fn stop(self) -> anyhow::Result<()> {
        let mut failed = Vec::new();
        for part in self.parts {
            part.shutdown.cancel();
            match part.running.await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => failed.push(format!("{}: {error:#}", part.name)),
                Err(error) => failed.push(format!("{}: {error}", part.name)),
            }
        }
        if let Err(unfinished) = self.tasks.shutdown(Duration::from_secs(2)).await {
            failed.push(unfinished.to_string());
        }
        anyhow::ensure!(failed.is_empty(), "did not end cleanly: {}", failed.join("; "));
        Ok(())
    }
}

impl Shared {
    fn run<F>(&mut self, name: String, readiness: Readiness, serve: impl FnOnce(CancellationToken) -> F)
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let shutdown = CancellationToken::new();
        let running = self.tasks.spawn("service", serve(shutdown.clone()));
        self.readiness.push(readiness);
        self.parts.push(Part { name, shutdown, running });
    }
}

async fn start_gateway(settings: &mut Settings, shared: &mut Shared) -> anyhow::Result<SocketAddr> {
    let config = endcap_gateway::Config::read(settings);
    let deps = endcap_gateway::Deps {
        coordinator: Arc::clone(&shared.coordinator),
        keys: shared.keys.clone(),
        store: Arc::clone(&shared.store),
        id: "gateway-1".to_owned(),
        saved: None,
    };
    let app =
        endcap_gateway::App::build(settings.finish(config)?, deps).await.context("start the gateway")?;
    let address = app.local_addr();
    shared.run("gateway-1".to_owned(), app.readiness(), |shutdown| app.serve(shutdown));
    Ok(address)
}

async fn start_registry(settings: &mut Settings, shared: &mut Shared) -> anyhow::Result<SocketAddr> {
    let config = endcap_model_registry::Config::read(settings);
    let deps = endcap_model_registry::Deps {
        coordinator: Arc::clone(&shared.coordinator),
        keys: shared.keys.clone(),
        store: Arc::clone(&shared.store),
        id: "registry-1".to_owned(),
    };
    let app = endcap_model_registry::App::build(settings.finish(config)?, deps)
        .await
        .context("start the model registry")?;
    let address = app.local_addr();
    shared.run("registry-1".to_owned(), app.readiness(), |shutdown| app.serve(shutdown));
    Ok(address)
}

async fn start_worker(
    settings: &mut Settings,
    shared: &mut Shared,
    runtime: &Runtime,
    number: usize,
) -> anyhow::Result<SocketAddr> {
    let config = endcap_shard_worker::Config::read(settings);
    let id = format!("worker-{number}");
    let deps = endcap_shard_worker::Deps {
        coordinator: Arc::clone(&shared.coordinator),
        keys: shared.keys.clone(),
        store: Arc::clone(&shared.store),
        runtime: runtime.clone(),
        id: id.clone(),
        saved: None,
    };
    let app = endcap_shard_worker::App::build(settings.finish(config)?, deps)
        .await
        .with_context(|| format!("start {id}"))?;
    let address = app.local_addr();
    shared.run(id, app.readiness(), |shutdown| app.serve(shutdown));
    Ok(address)
}

async fn start_feature_cache(settings: &mut Settings, shared: &mut Shared) -> anyhow::Result<SocketAddr> {
    let config = endcap_feature_cache::Config::read(settings);
    let deps = endcap_feature_cache::Deps {
        coordinator: Arc::clone(&shared.coordinator),
        keys: shared.keys.clone(),
        id: "feature-cache-1".to_owned(),
    };
    let app = endcap_feature_cache::App::build(settings.finish(config)?, deps)
        .await
        .context("start the feature-cache")?;
    let address = app.local_addr();
    shared.run("feature-cache-1".to_owned(), app.readiness(), |shutdown| app.serve(shutdown));
    Ok(address)
}

/// Everything below the data folder; in one process nobody has to be told of a drain, so there is no delay.
fn settings(options: &FleetOptions) -> anyhow::Result<Settings> {
    let below = |name: &str| path_text(&options.data_dir.join(name));
    let own = [
        ("coordination.path", below("coordination.redb")),
        ("store.url", below("bundles")),
        ("store.cache_dir", below("cache")),
        ("registry.data_dir", below("registry")),
        ("worker.grpc.listen", "127.0.0.1:0".to_owned()),
        ("gateway.drain.delay", "0ms".to_owned()),
        ("registry.drain.delay", "0ms".to_owned()),
        ("feature_cache.drain.delay", "0ms".to_owned()),
    ];
    let mut overrides: Vec<_> = own.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    overrides.extend(options.set.iter().cloned());
    Ok(Settings::load(options.config.as_deref(), &options.env, &overrides)?)
}

fn path_text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
