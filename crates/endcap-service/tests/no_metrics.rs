//! In a process of its own, as what counts is the whole process's.

use endcap_service::telemetry::{self, TelemetryConfig};

#[test]
fn with_metrics_off_nothing_is_counted() {
    let config = TelemetryConfig { log: "warn".to_owned(), json: false, metrics: false, traces: None };
    telemetry::init(&config, "test").unwrap();
    let handle = telemetry::metrics_handle();
    metrics::counter!("endcap_requests_total").increment(1);
    assert_eq!(handle.render(), "");
}
