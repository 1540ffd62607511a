//! Every metric of a worker but those of its inference threads.

use std::time::Instant;

use endcap_types::Metric;
use metrics::{gauge, histogram};

/// Declared here, listed in `deploy/prometheus/METRICS.md`.
pub const METRICS: &[Metric] = &[
    Metric::gauge("endcap_held_shards", &["worker"], "Replicas that the worker holds ready."),
    Metric::gauge("endcap_held_bytes", &["worker"], "What models and items take."),
    Metric::gauge("endcap_memory_budget_bytes", &["worker"], "What models and items may take."),
    Metric::gauge("endcap_device_info", &["device", "worker"], "1 for the device that the worker infers on."),
    Metric::histogram(
        "endcap_swap_duration_seconds",
        &["phase"],
        "Time of one phase of making a replica ready or letting it go.",
    ),
];

/// Says what the worker is, before it holds anything.
pub(crate) fn register(worker: &str, device: &'static str, budget: u64) {
    gauge!("endcap_memory_budget_bytes", "worker" => worker.to_owned()).set(float(budget));
    gauge!("endcap_device_info", "worker" => worker.to_owned(), "device" => device).set(1.0);
    held(worker, 0, 0);
}

pub(crate) fn held(worker: &str, shards: usize, bytes: u64) {
    gauge!("endcap_held_shards", "worker" => worker.to_owned()).set(float(shards as u64));
    gauge!("endcap_held_bytes", "worker" => worker.to_owned()).set(float(bytes));
}

/// A phase that began at `started` is over.
pub(crate) fn phase(phase: &'static str, started: Instant) {
    histogram!("endcap_swap_duration_seconds", "phase" => phase).record(started.elapsed().as_secs_f64());
}

#[expect(clippy::cast_precision_loss, reason = "gauges are floats")]
fn float(number: u64) -> f64 {
    number as f64
}
