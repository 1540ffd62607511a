//! Settings that the binary itself reads: what all services of a process share.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, sync::Arc};

use endcap_bundle::{S3Options, StoreOptions};
use endcap_coordination::{
    CoordinationError, Coordinator, EmbeddedCoordinator, EtcdCoordinator, EtcdOptions, EtcdTls,
};
use endcap_fleet::Keys;
use endcap_inference::{DeviceChoice, RuntimeOptions};
use endcap_service::{
    Readiness, Settings, admin,
    config::{ByteSize, Secret},
    task::Tasks,
    telemetry::{self, TelemetryConfig},
};

use crate::{cli::ConfigArgs, metrics};

/// The parts of the settings that services get as ready-made dependencies.
#[derive(Debug)]
pub(crate) struct Common {
    pub(crate) coordination: Coordination,
    pub(crate) keys: Keys,
    pub(crate) store: StoreOptions,
    pub(crate) runtime: RuntimeOptions,
}

impl Common {
    pub(crate) fn read(settings: &mut Settings) -> Option<Self> {
        let coordination = Coordination::read(settings);
        let prefix = settings.read::<String>("coordination.prefix");
        let store = store(settings);
        let library = settings.read::<String>("worker.onnxruntime");
        let device = settings.read::<String>("worker.device").and_then(|text| device(settings, &text));
        Some(Self {
            coordination: coordination?,
            keys: Keys::new(prefix?),
            store: store?,
            runtime: RuntimeOptions {
                library: library.filter(|path| !path.is_empty()).map(PathBuf::from),
                device: device?,
            },
        })
    }
}

/// Where the fleet meets.
#[derive(Debug)]
pub(crate) enum Coordination {
    Embedded { path: PathBuf },
    Etcd { options: EtcdOptions, saved_dir: Option<PathBuf> },
}

impl Coordination {
    fn read(settings: &mut Settings) -> Option<Self> {
        match settings.read::<String>("coordination.kind")?.as_str() {
            "embedded" => Some(Self::Embedded { path: settings.read("coordination.path")? }),
            "etcd" => {
                let options = etcd(settings);
                let saved_dir = settings.read::<String>("coordination.saved_dir");
                let saved_dir = saved_dir.filter(|path| !path.is_empty()).map(PathBuf::from);
                Some(Self::Etcd { options: options?, saved_dir })
            }
            _ => {
                settings.reject("coordination.kind", "embedded or etcd");
                None
            }
        }
    }

    pub(crate) fn open(&self) -> Result<Arc<dyn Coordinator>, CoordinationError> {
        Ok(match self {
            Self::Embedded { path } => Arc::new(EmbeddedCoordinator::open(path)?),
            Self::Etcd { options, .. } => Arc::new(EtcdCoordinator::new(options.clone())?),
        })
    }

    /// Where a member keeps what it knew last. With the embedded coordinator nothing can be gone while the member is not.
    pub(crate) fn saved(&self, id: &str) -> Option<PathBuf> {
        match self {
            Self::Embedded { .. } => None,
            Self::Etcd { saved_dir, .. } => Some(saved_dir.as_ref()?.join(format!("{id}.json"))),
        }
    }
}

fn store(settings: &mut Settings) -> Option<StoreOptions> {
    let url = settings.read("store.url");
    let cache = settings.read("store.cache_dir");
    let cache_max_bytes = settings.read::<ByteSize>("store.cache_max_bytes");
    let endpoint = settings.read::<String>("store.s3.endpoint");
    if endpoint.as_ref().is_some_and(|text| !text.is_empty() && !text.contains("://")) {
        settings.reject("store.s3.endpoint", "an http:// or https:// address, or nothing");
    }
    let region = settings.read("store.s3.region");
    let key = settings.read::<String>("store.s3.access_key_id");
    let secret = settings.read::<Secret>("store.s3.secret_access_key");
    if let (Some(key), Some(secret)) = (&key, &secret)
        && key.is_empty() != secret.expose().is_empty()
    {
        settings.reject("store.s3.secret_access_key", "set together with access_key_id, or not at all");
    }
    let s3 = S3Options {
        endpoint: endpoint?,
        region: region?,
        access_key_id: key?,
        secret_access_key: secret?.expose().to_owned(),
    };
    Some(StoreOptions { url: url?, cache: cache?, cache_max_bytes: cache_max_bytes?.0, s3 })
}

fn etcd(settings: &mut Settings) -> Option<EtcdOptions> {
    let endpoints = settings.read::<String>("coordination.etcd.endpoints");
    let endpoints: Vec<String> = endpoints
        .iter()
        .flat_map(|text| text.split(','))
        .map(str::trim)
        .filter(|endpoint| !endpoint.is_empty())
        .map(str::to_owned)
        .collect();
    let secure = endpoints.iter().filter(|endpoint| endpoint.starts_with("https://")).count();
    let plain = endpoints.iter().filter(|endpoint| endpoint.starts_with("http://")).count();
    if endpoints.is_empty() || secure + plain != endpoints.len() || (secure > 0 && plain > 0) {
        let expected = "http:// or https:// addresses, all of one kind, separated by commas";
        settings.reject("coordination.etcd.endpoints", expected);
    }
    let timeout = settings.read("coordination.etcd.timeout");
    let user = settings.read::<String>("coordination.etcd.user");
    let password = settings.read::<Secret>("coordination.etcd.password");
    let file = |settings: &mut Settings, key: &str| {
        settings.read::<String>(key).filter(|path| !path.is_empty()).map(PathBuf::from)
    };
    let ca = file(settings, "coordination.etcd.ca_file");
    let certificate = file(settings, "coordination.etcd.cert_file");
    let key = file(settings, "coordination.etcd.key_file");
    if ca.is_none() && secure > 0 {
        settings.reject("coordination.etcd.ca_file", "a PEM file, because the endpoints are https://");
    }
    if certificate.is_some() != key.is_some() {
        settings.reject("coordination.etcd.key_file", "set together with cert_file, or not at all");
    }
    let tls = ca.filter(|_| secure > 0).map(|ca| EtcdTls { ca, identity: certificate.zip(key) });
    let (user, password) = (user?, password?);
    let user = (!user.is_empty()).then(|| (user, password.expose().to_owned()));
    Some(EtcdOptions { endpoints, user, tls, timeout: timeout? })
}

fn device(settings: &mut Settings, text: &str) -> Option<DeviceChoice> {
    match text {
        "auto" => Some(DeviceChoice::Auto),
        "cpu" => Some(DeviceChoice::Cpu),
        "cuda" => Some(DeviceChoice::Cuda),
        _ => {
            settings.reject("worker.device", "auto, cpu or cuda");
            None
        }
    }
}

/// The environment variables that may hold settings.
pub(crate) fn process_environment() -> BTreeMap<String, String> {
    std::env::vars().filter(|(name, _)| name.starts_with("ENDCAP_") && name.contains("__")).collect()
}

/// Starts `/livez`, `/readyz` and `/metrics` for all services of the process.
pub(crate) async fn serve_admin(
    settings: &mut Settings,
    readiness: Vec<Readiness>,
    tasks: &Tasks,
) -> anyhow::Result<SocketAddr> {
    let config = admin::AdminConfig::read(settings);
    let server = admin::AdminServer::bind(&settings.finish(config)?, readiness).await?;
    metrics::describe();
    let address = server.local_addr();
    let shutdown = tasks.token();
    tasks.spawn("admin", async move {
        if let Err(error) = server.serve(shutdown).await {
            tracing::error!(error = %error, "admin listener ended");
        }
    });
    Ok(address)
}

/// Starts logging and tracing `service` as the settings say. `quiet` is the filter of commands that talk to a person, unless one is set.
pub(crate) fn start_telemetry(args: &ConfigArgs, service: &str, quiet: Option<&str>) -> anyhow::Result<()> {
    const LOG: &str = "telemetry.log";
    let env = process_environment();
    let mut overrides = Vec::new();
    if let Some(filter) = quiet.filter(|_| !env.contains_key("ENDCAP_TELEMETRY__LOG")) {
        overrides.push((LOG.to_owned(), filter.to_owned()));
    }
    overrides.extend(args.set.iter().filter(|(key, _)| key.starts_with("telemetry.")).cloned());
    let mut settings = Settings::load(args.config.as_deref(), &env, &overrides)?;
    let config = TelemetryConfig::read(&mut settings);
    Ok(telemetry::init(&settings.finish(config)?, service)?)
}
