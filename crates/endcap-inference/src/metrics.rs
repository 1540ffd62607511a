//! Every metric of the executors, by the model file that they run.

use endcap_types::Metric;

/// Declared here, listed in `deploy/prometheus/METRICS.md`.
pub const METRICS: &[Metric] = &[
    Metric::counter("endcap_inference_executions_total", &["file"], "Runs of a model."),
    Metric::counter("endcap_inference_rows_total", &["file"], "Rows that a model has scored or encoded."),
    Metric::histogram("endcap_batch_rows", &["file"], "Rows in one run of a model."),
    Metric::gauge("endcap_pending_rows", &["file"], "Rows that wait for a model now."),
    Metric::histogram("endcap_queue_duration_seconds", &["file"], "Time that a request waited for a model."),
];
