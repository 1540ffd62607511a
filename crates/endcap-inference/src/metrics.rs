//! Every metric of the inference threads, by the model file that they run.

use std::time::Duration;

use endcap_types::Metric;
use metrics::{gauge, histogram};

/// Declared here, listed in `deploy/prometheus/METRICS.md`.
pub const METRICS: &[Metric] = &[
    Metric::counter("endcap_inference_executions_total", &["file"], "Runs of a model."),
    Metric::counter("endcap_inference_rows_total", &["file"], "Rows that a model has scored or encoded."),
    Metric::histogram("endcap_batch_rows", &["file"], "Rows in one run of a model."),
    Metric::gauge("endcap_pending_rows", &["file"], "Rows that wait for a model now."),
    Metric::histogram("endcap_queue_duration_seconds", &["file"], "Time that a request waited for a model."),
];

/// Rows began to wait.
pub(crate) fn queued(file: &str, rows: usize) {
    gauge!("endcap_pending_rows", "file" => file.to_owned()).increment(count(rows));
}

/// Rows wait no longer, whatever became of them. Several versions may run a file of one name: the gauge is their sum.
pub(crate) fn taken(file: &str, rows: usize) {
    gauge!("endcap_pending_rows", "file" => file.to_owned()).decrement(count(rows));
}

/// A request's rows are about to be run after this wait.
pub(crate) fn waited(file: &str, wait: Duration) {
    histogram!("endcap_queue_duration_seconds", "file" => file.to_owned()).record(wait.as_secs_f64());
}

#[expect(clippy::cast_precision_loss, reason = "a count of rows")]
fn count(rows: usize) -> f64 {
    rows as f64
}
