//! Every metric that all services share, and of the process itself.

use std::{hash::Hash, sync::OnceLock, time::Duration};

use endcap_types::{Metric, MetricKind};
use hashbrown::HashMap;
use metrics::{Counter, Gauge, Histogram, Unit, counter, gauge, histogram};
use opentelemetry::trace::TraceId;
use parking_lot::RwLock;

use crate::exemplars::EXEMPLARS;

/// Declared here, listed in `deploy/prometheus/METRICS.md`.
pub const METRICS: &[Metric] = &[
    Metric::counter(
        "endcap_requests_total",
        &["code", "rpc", "service"],
        "Calls answered, by the gRPC status that the caller saw.",
    ),
    Metric::histogram(
        "endcap_request_duration_seconds",
        &["rpc", "service"],
        "Time from a call's arrival to its answer; of a stream, to its beginning.",
    ),
    Metric::gauge("endcap_requests_in_flight", &["service"], "Calls being worked on now."),
    Metric::counter(
        "endcap_rejected_total",
        &["reason", "service"],
        "Calls and rows turned away before any work, with RESOURCE_EXHAUSTED.",
    ),
    Metric::counter(
        "endcap_expired_total",
        &["stage"],
        "Work dropped because its deadline had passed: on arrival, in a queue, or while the handler ran.",
    ),
    Metric::gauge(
        "endcap_build_info",
        &["role", "version"],
        "1 for the program's version and the role it runs.",
    ),
];

/// What the `metrics-process` library reads of `/proc`, under the names that Prometheus gives them everywhere.
pub const PROCESS_METRICS: &[Metric] = &[
    Metric::counter("process_cpu_seconds_total", &[], "Processor time that the process has used."),
    Metric::gauge("process_resident_memory_bytes", &[], "Memory that the process has in use."),
    Metric::gauge("process_virtual_memory_bytes", &[], "Address space that the process has reserved."),
    Metric::gauge("process_virtual_memory_max_bytes", &[], "Address space that it may reserve."),
    Metric::gauge("process_open_fds", &[], "Files and connections that the process has open."),
    Metric::gauge("process_max_fds", &[], "Files and connections that it may have open."),
    Metric::gauge("process_threads", &[], "Threads of the process."),
    Metric::gauge("process_start_time_seconds", &[], "When the process began, since 1970."),
];

/// Gives `/metrics` its help texts.
pub fn describe(metrics: &[Metric]) {
    for metric in metrics {
        let unit = match metric.unit() {
            "seconds" => Unit::Seconds,
            "bytes" => Unit::Bytes,
            _ => Unit::Count,
        };
        match metric.kind {
            MetricKind::Counter => metrics::describe_counter!(metric.name, unit, metric.help),
            MetricKind::Gauge => metrics::describe_gauge!(metric.name, unit, metric.help),
            MetricKind::Histogram => metrics::describe_histogram!(metric.name, unit, metric.help),
        }
    }
}

/// A server of this role runs. Its counters begin at 0, so that their first step is seen as one.
pub(crate) fn serves(role: &'static str) {
    gauge!("endcap_build_info", "version" => env!("CARGO_PKG_VERSION"), "role" => role).set(1.0);
    counter!("endcap_rejected_total", "service" => role, "reason" => "in_flight").absolute(0);
    for stage in ["arrival", "handler"] {
        counter!("endcap_expired_total", "stage" => stage).absolute(0);
    }
}

/// Metrics of one name, by what their labels are made of. Each is looked up by its name once: that costs more than to
/// count, and every request counts a dozen times.
#[derive(Debug)]
pub struct Handles<K, H>(RwLock<HashMap<K, H>>);

impl<K, H> Default for Handles<K, H> {
    fn default() -> Self {
        Self(RwLock::default())
    }
}

impl<K: Eq + Hash, H> Handles<K, H> {
    /// Counts by a key's handles. Of a closed set of keys; nothing is ever forgotten, as the recorder forgets nothing.
    pub fn with(&self, key: K, look_up: impl FnOnce(&K) -> H, count: impl FnOnce(&H)) {
        if let Some(handles) = self.0.read().get(&key) {
            return count(handles);
        }
        let handles = look_up(&key);
        count(self.0.write().entry(key).or_insert(handles));
    }
}

/// What a server counts of its calls.
#[derive(Debug)]
pub(crate) struct CallMeters {
    role: &'static str,
    answered: Handles<(&'static str, &'static str), (Counter, Histogram)>,
    in_flight: OnceLock<Gauge>,
}

impl CallMeters {
    pub(crate) fn new(role: &'static str) -> Self {
        Self { role, answered: Handles::default(), in_flight: OnceLock::new() }
    }

    pub(crate) fn answered(&self, rpc: &'static str, code: &'static str, took: Duration) {
        let role = self.role;
        let look_up = |(rpc, code): &(&'static str, &'static str)| {
            (
                counter!("endcap_requests_total", "service" => role, "rpc" => *rpc, "code" => *code),
                histogram!("endcap_request_duration_seconds", "service" => role, "rpc" => *rpc),
            )
        };
        self.answered.with((rpc, code), look_up, |(requests, durations)| {
            requests.increment(1);
            durations.record(took.as_secs_f64());
        });
    }

    /// Leads from what [`Self::answered`] counted to the call's trace.
    pub(crate) fn traced(role: &'static str, rpc: &'static str, took: Duration, trace: TraceId) {
        let labels = [("service", role), ("rpc", rpc)];
        EXEMPLARS.keep("endcap_request_duration_seconds", &labels, took.as_secs_f64(), trace);
    }

    /// Counts a call for as long as it lives.
    pub(crate) fn enter(&self) -> InFlight<'_> {
        let role = self.role;
        let gauge = self.in_flight.get_or_init(|| gauge!("endcap_requests_in_flight", "service" => role));
        gauge.increment(1.0);
        InFlight(gauge)
    }
}

pub(crate) fn rejected(role: &'static str, reason: &'static str) {
    counter!("endcap_rejected_total", "service" => role, "reason" => reason).increment(1);
}

pub(crate) fn expired(stage: &'static str) {
    counter!("endcap_expired_total", "stage" => stage).increment(1);
}

/// A call that lives.
#[derive(Debug)]
pub(crate) struct InFlight<'a>(&'a Gauge);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}
