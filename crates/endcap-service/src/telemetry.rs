//! Logs and metrics of a process, and where its traces begin.

use std::{io::IsTerminal as _, sync::OnceLock};

use thiserror::Error;
use tracing_subscriber::{
    EnvFilter, Layer as _, Registry, fmt, layer::SubscriberExt as _, reload, util::SubscriberInitExt as _,
};

use crate::{
    Settings,
    histograms::{MetricsHandle, Recorder},
    logs::{Fields, JsonLines},
    traces::{self, TracesConfig},
};

/// How the process logs, counts and traces.
#[derive(Debug, Clone, PartialEq)]
pub struct TelemetryConfig {
    pub log: String,
    pub json: bool,
    pub metrics: bool,
    pub traces: Option<TracesConfig>,
}

impl TelemetryConfig {
    pub fn read(settings: &mut Settings) -> Option<Self> {
        let log = settings.read::<String>("telemetry.log");
        if log.as_ref().is_some_and(|text| EnvFilter::try_new(text).is_err()) {
            settings.reject("telemetry.log", "a filter such as \"info,endcap_gateway=debug\"");
        }
        let format = settings.read::<String>("telemetry.format");
        if format.as_ref().is_some_and(|format| format != "pretty" && format != "json") {
            settings.reject("telemetry.format", "\"pretty\" or \"json\"");
        }
        let metrics = settings.read("telemetry.metrics");
        let traces = TracesConfig::read(settings);
        Some(Self { log: log?, json: format? == "json", metrics: metrics?, traces: traces? })
    }
}

#[derive(Debug, Error)]
pub enum TelemetryError {
    #[error("the log filter {filter:?} is not one: {detail}")]
    Filter { filter: String, detail: String },
    #[error("traces cannot be sent to {endpoint:?}: {detail}")]
    Traces { endpoint: String, detail: String },
    #[error("logging was set up twice")]
    Twice,
}

static FILTER: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();
static METRICS: OnceLock<MetricsHandle> = OnceLock::new();

/// Starts logging to stderr, and sending traces of `service` if there is somewhere to. Once per process.
pub fn init(config: &TelemetryConfig, service: &str) -> Result<(), TelemetryError> {
    if !config.metrics {
        // One that nothing is counted by: what is never installed costs nothing.
        METRICS.set(Recorder::new().handle()).map_err(|_| TelemetryError::Twice)?;
    }
    let (filter, handle) = reload::Layer::new(parse(&config.log)?);
    let logs = if config.json {
        let lines = JsonLines(fmt::format().json());
        fmt::layer().json().event_format(lines).with_writer(std::io::stderr).boxed()
    } else {
        let colours = std::io::stderr().is_terminal();
        fmt::layer()
            .compact()
            .fmt_fields(Fields::default())
            .with_ansi(colours)
            .with_writer(std::io::stderr)
            .boxed()
    };
    if let Some(config) = &config.traces {
        traces::start(config, service)?;
    }
    let registry = tracing_subscriber::registry().with(logs.with_filter(filter));
    registry.try_init().map_err(|_| TelemetryError::Twice)?;
    FILTER.set(handle).map_err(|_| TelemetryError::Twice)
}

/// Changes what is logged while running.
pub fn set_log_filter(filter: &str) -> Result<(), TelemetryError> {
    let parsed = parse(filter)?;
    let refused = |detail: String| TelemetryError::Filter { filter: filter.to_owned(), detail };
    let handle = FILTER.get().ok_or_else(|| refused("logging is not set up in this process".to_owned()))?;
    handle.reload(parsed).map_err(|error| refused(error.to_string()))
}

fn parse(filter: &str) -> Result<EnvFilter, TelemetryError> {
    EnvFilter::try_new(filter)
        .map_err(|error| TelemetryError::Filter { filter: filter.to_owned(), detail: error.to_string() })
}

/// The process's metrics, installed at the first call. Every service of the process shares them.
pub fn metrics_handle() -> &'static MetricsHandle {
    METRICS.get_or_init(|| {
        let recorder = Recorder::new();
        let handle = recorder.handle();
        if metrics::set_global_recorder(recorder).is_err() {
            tracing::warn!("another metrics recorder is installed; /metrics will be empty");
        }
        handle
    })
}

/// All that is counted now, and what the process uses, in Prometheus's text format.
pub(crate) fn scrape() -> String {
    metrics_process::Collector::default().collect();
    metrics_handle().render()
}
