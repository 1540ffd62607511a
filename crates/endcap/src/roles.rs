//! `endcap gateway|worker|registry|feature-cache`: one role as its own process.

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use anyhow::Context as _;
use endcap_bundle::BundleStore;
use endcap_coordination::Coordinator;
use endcap_fleet::Keys;
use endcap_inference::Runtime;
use endcap_service::{Readiness, Settings, task::Tasks, traces};
use tokio_util::sync::CancellationToken;

use crate::{cli::RoleArgs, demo, output, settings};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Gateway,
    Worker,
    Registry,
    FeatureCache,
}

impl Role {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Worker => "worker",
            Self::Registry => "registry",
            Self::FeatureCache => "feature-cache",
        }
    }
}

/// The settings of every role, read before anything is started, so that all mistakes show at once.
struct Read {
    common: Option<settings::Common>,
    gateway: Option<endcap_gateway::Config>,
    worker: Option<endcap_shard_worker::Config>,
    registry: Option<endcap_model_registry::Config>,
    feature_cache: Option<endcap_feature_cache::Config>,
}

/// Runs a role until SIGTERM or Ctrl-C, then drains.
pub(crate) async fn run(role: Role, args: RoleArgs) -> anyhow::Result<()> {
    let env = settings::process_environment();
    let mut settings = Settings::load(args.config.config.as_deref(), &env, &args.config.set)?;
    let read = read(role, &mut settings);
    let listen = settings.read(&format!("{}.grpc.listen", role.as_str().replace('-', "_")));
    let Read { common, gateway, worker, registry, feature_cache } = settings.finish(Some(read))?;
    if args.check_config {
        for (key, value, source) in settings.effective() {
            output::line(format!("{key} = {value}  # {source}"));
        }
        return Ok(());
    }
    settings::start_telemetry(&args.config, &format!("endcap-{}", role.as_str()), None)?;
    let common = common.context("settings were checked")?;
    let id = args.id.unwrap_or_else(|| default_id(role, listen));
    let process = Process::start(settings, &common, id)?;
    let tasks = process.tasks.clone();
    let served = match role {
        Role::Gateway => process.gateway(gateway.context("settings were checked")?).await,
        Role::Worker => process.worker(worker.context("settings were checked")?, &common).await,
        Role::Registry => process.registry(registry.context("settings were checked")?).await,
        Role::FeatureCache => process.feature_cache(feature_cache.context("settings were checked")?).await,
    };
    let ended = tasks.shutdown(std::time::Duration::from_secs(1)).await.map_err(anyhow::Error::from);
    traces::flush().await;
    served.and(ended)
}

/// What a role's process has, whichever role it is.
struct Process {
    settings: Settings,
    id: String,
    coordinator: Arc<dyn Coordinator>,
    saved: Option<PathBuf>,
    store: Arc<BundleStore>,
    keys: Keys,
    tasks: Tasks,
    shutdown: CancellationToken,
}

impl Process {
    fn start(settings: Settings, common: &settings::Common, id: String) -> anyhow::Result<Self> {
        let tasks = Tasks::new();
        let shutdown = CancellationToken::new();
        let (stop, ended) = (shutdown.clone(), tasks.token());
        let interrupted = demo::interrupted();
        tasks.spawn("signals", async move {
            ended.run_until_cancelled(interrupted).await;
            stop.cancel();
        });
        Ok(Self {
            settings,
            coordinator: common.coordination.open()?,
            saved: common.coordination.saved(&id),
            id,
            store: Arc::new(BundleStore::open(&common.store)?),
            keys: common.keys.clone(),
            tasks,
            shutdown,
        })
    }

    async fn gateway(mut self, config: endcap_gateway::Config) -> anyhow::Result<()> {
        let Self { coordinator, keys, store, id, .. } = &self;
        let (coordinator, keys) = (Arc::clone(coordinator), keys.clone());
        let (store, saved) = (Arc::clone(store), self.saved.clone());
        let deps = endcap_gateway::Deps { coordinator, keys, store, id: id.clone(), saved };
        let app = endcap_gateway::App::build(config, deps).await?;
        self.admin(app.readiness()).await?;
        app.serve(self.shutdown).await
    }

    async fn worker(
        mut self,
        config: endcap_shard_worker::Config,
        common: &settings::Common,
    ) -> anyhow::Result<()> {
        let runtime = Runtime::load(&common.runtime)?;
        let Self { coordinator, keys, store, id, .. } = &self;
        let (coordinator, keys, store) = (Arc::clone(coordinator), keys.clone(), Arc::clone(store));
        let saved = self.saved.clone();
        let deps = endcap_shard_worker::Deps { coordinator, keys, store, runtime, id: id.clone(), saved };
        let app = endcap_shard_worker::App::build(config, deps).await?;
        self.admin(app.readiness()).await?;
        app.serve(self.shutdown).await
    }

    async fn registry(mut self, config: endcap_model_registry::Config) -> anyhow::Result<()> {
        let Self { coordinator, keys, store, id, .. } = &self;
        let (coordinator, keys) = (Arc::clone(coordinator), keys.clone());
        let deps =
            endcap_model_registry::Deps { coordinator, keys, store: Arc::clone(store), id: id.clone() };
        let app = endcap_model_registry::App::build(config, deps).await?;
        self.admin(app.readiness()).await?;
        app.serve(self.shutdown).await
    }

    async fn feature_cache(mut self, config: endcap_feature_cache::Config) -> anyhow::Result<()> {
        let (coordinator, keys) = (Arc::clone(&self.coordinator), self.keys.clone());
        let deps = endcap_feature_cache::Deps { coordinator, keys, id: self.id.clone() };
        let app = endcap_feature_cache::App::build(config, deps).await?;
        self.admin(app.readiness()).await?;
        app.serve(self.shutdown).await
    }

    async fn admin(&mut self, readiness: Readiness) -> anyhow::Result<()> {
        let address = settings::serve_admin(&mut self.settings, vec![readiness], &self.tasks).await?;
        tracing::info!(%address, "admin listens");
        Ok(())
    }
}

fn read(role: Role, settings: &mut Settings) -> Read {
    Read {
        common: settings::Common::read(settings),
        gateway: (role == Role::Gateway).then(|| endcap_gateway::Config::read(settings)).flatten(),
        worker: (role == Role::Worker).then(|| endcap_shard_worker::Config::read(settings)).flatten(),
        registry: (role == Role::Registry).then(|| endcap_model_registry::Config::read(settings)).flatten(),
        feature_cache: (role == Role::FeatureCache)
            .then(|| endcap_feature_cache::Config::read(settings))
            .flatten(),
    }
}

/// The same after a restart, and another for every process of a host: host and port.
fn default_id(role: Role, listen: Option<SocketAddr>) -> String {
    let host = std::fs::read_to_string("/etc/hostname").unwrap_or_default();
    let host = host.trim();
    let host = if host.is_empty() { "local" } else { host };
    let port = listen.map(|address| u32::from(address.port())).filter(|port| *port != 0);
    format!("{}-{host}-{}", role.as_str(), port.unwrap_or_else(std::process::id))
}
