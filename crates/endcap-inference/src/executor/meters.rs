//! An executor's metrics, looked up once: a look-up costs as much as a hundredth of a short run.

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};

#[derive(Debug, Clone)]
pub(super) struct Meters {
    pub(super) executions: Counter,
    pub(super) rows: Counter,
    pub(super) batch_rows: Histogram,
    pub(super) queued: Histogram,
    pub(super) expired_on_arrival: Counter,
    pub(super) expired_in_queue: Counter,
    pub(super) rejected_full: Counter,
    pub(super) rejected_predicted: Counter,
    pending: Gauge,
}

impl Meters {
    /// `file` is the model's file in its bundle.
    pub(super) fn new(file: &str) -> Self {
        let file = file.to_owned();
        let rejected = |reason: &'static str| counter!("endcap_rejected_total", "service" => "worker", "reason" => reason);
        Self {
            executions: counter!("endcap_inference_executions_total", "file" => file.clone()),
            rows: counter!("endcap_inference_rows_total", "file" => file.clone()),
            batch_rows: histogram!("endcap_batch_rows", "file" => file.clone()),
            queued: histogram!("endcap_queue_duration_seconds", "file" => file.clone()),
            expired_on_arrival: counter!("endcap_expired_total", "stage" => "arrival"),
            expired_in_queue: counter!("endcap_expired_total", "stage" => "queue"),
            rejected_full: rejected("queue_full"),
            rejected_predicted: rejected("predicted"),
            pending: gauge!("endcap_pending_rows", "file" => file),
        }
    }

    /// Rows that came to wait, or that no longer do. Versions share the gauge, so it moves and is never set.
    #[expect(clippy::cast_precision_loss, reason = "a count of rows")]
    pub(super) fn pending(&self, rows: usize, came: bool) {
        if came { self.pending.increment(rows as f64) } else { self.pending.decrement(rows as f64) }
    }

    #[expect(clippy::cast_precision_loss, reason = "a count of rows")]
    pub(super) fn ran(&self, rows: usize) {
        self.executions.increment(1);
        self.rows.increment(rows as u64);
        self.batch_rows.record(rows as f64);
    }
}
