//! Logs and metrics of a process, and where its traces begin.

use std::{io::IsTerminal as _, sync::OnceLock, time::Duration};

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use thiserror::Error;
use tracing_subscriber::{
    EnvFilter, Layer as _, Registry, fmt, layer::SubscriberExt as _, reload, util::SubscriberInitExt as _,
};

use crate::{
    Settings,
    logs::{Fields, JsonLines},
    traces::{self, TracesConfig},
};

/// One bucket set for every time, in seconds, so that any two can be compared: closest around the deadlines of searches,
/// far enough for loads of large models and for the age of features.
pub(crate) const SECONDS: [f64; 21] = [
    0.0005, 0.001, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0,
    2.5, 10.0, 60.0, 600.0, 3600.0,
];
const RATIOS: [f64; 9] = [0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999, 1.0];
const ROWS: [f64; 11] = [1.0, 4.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 4096.0, 16384.0];

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
static METRICS: OnceLock<PrometheusHandle> = OnceLock::new();

/// Starts logging to stderr, and sending traces of `service` if there is somewhere to. Once per process.
pub fn init(config: &TelemetryConfig, service: &str) -> Result<(), TelemetryError> {
    if !config.metrics {
        // One that nothing is counted by: what is never installed costs nothing.
        METRICS.set(recorder().handle()).map_err(|_| TelemetryError::Twice)?;
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
pub fn metrics_handle() -> &'static PrometheusHandle {
    METRICS.get_or_init(|| {
        let recorder = recorder();
        let handle = recorder.handle();
        if metrics::set_global_recorder(recorder).is_err() {
            tracing::warn!("another metrics recorder is installed; /metrics will be empty");
        }
        handle
    })
}

pub(crate) fn recorder() -> PrometheusRecorder {
    let builder = PrometheusBuilder::new();
    let with_buckets = [("_seconds", &SECONDS[..]), ("_ratio", &RATIOS[..]), ("_rows", &ROWS[..])]
        .into_iter()
        .try_fold(builder, |builder, (suffix, buckets)| {
            builder.set_buckets_for_metric(Matcher::Suffix(suffix.to_owned()), buckets)
        });
    // Bucket lists are refused only when empty, and these are constants.
    with_buckets.unwrap_or_default().build_recorder()
}

/// All that is counted now, and what the process uses, in Prometheus's text format.
pub(crate) fn scrape() -> String {
    metrics_process::Collector::default().collect();
    metrics_handle().render()
}

/// How often samples are folded into their buckets, so that memory stays bounded when nobody scrapes.
pub(crate) const UPKEEP: Duration = Duration::from_secs(5);
