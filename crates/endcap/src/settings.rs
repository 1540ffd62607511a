//! Settings that the binary itself reads: what all services of a process share.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf};

use endcap_fleet::Keys;
use endcap_inference::{DeviceChoice, RuntimeOptions};
use endcap_service::{
    Readiness, Settings, admin,
    task::Tasks,
    telemetry::{self, TelemetryConfig},
};

use crate::cli::ConfigArgs;

/// The parts of the settings that services get as ready-made dependencies.
#[derive(Debug)]
pub(crate) struct Common {
    pub(crate) coordination_path: PathBuf,
    pub(crate) keys: Keys,
    pub(crate) store_url: String,
    pub(crate) cache_dir: PathBuf,
    pub(crate) runtime: RuntimeOptions,
}

impl Common {
    pub(crate) fn read(settings: &mut Settings) -> Option<Self> {
        let coordination_path = settings.read("coordination.path");
        let prefix = settings.read::<String>("coordination.prefix");
        let store_url = settings.read("store.url");
        let cache_dir = settings.read("store.cache_dir");
        let library = settings.read::<String>("worker.onnxruntime");
        let device = settings.read::<String>("worker.device").and_then(|text| device(settings, &text));
        Some(Self {
            coordination_path: coordination_path?,
            keys: Keys::new(prefix?),
            store_url: store_url?,
            cache_dir: cache_dir?,
            runtime: RuntimeOptions {
                library: library.filter(|path| !path.is_empty()).map(PathBuf::from),
                device: device?,
            },
        })
    }
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
    let address = server.local_addr();
    let shutdown = tasks.token();
    tasks.spawn("admin", async move {
        if let Err(error) = server.serve(shutdown).await {
            tracing::error!(error = %error, "admin listener ended");
        }
    });
    Ok(address)
}

/// Starts logging as the settings say. `quiet` is the filter of commands that talk to a person, unless one is set.
pub(crate) fn start_telemetry(args: &ConfigArgs, quiet: Option<&str>) -> anyhow::Result<()> {
    const LOG: &str = "telemetry.log";
    let env = process_environment();
    let mut overrides = Vec::new();
    if let Some(filter) = quiet.filter(|_| !env.contains_key("ENDCAP_TELEMETRY__LOG")) {
        overrides.push((LOG.to_owned(), filter.to_owned()));
    }
    overrides.extend(args.set.iter().filter(|(key, _)| key.starts_with("telemetry.")).cloned());
    let mut settings = Settings::load(args.config.as_deref(), &env, &overrides)?;
    let config = TelemetryConfig::read(&mut settings);
    Ok(telemetry::init(&settings.finish(config)?)?)
}
