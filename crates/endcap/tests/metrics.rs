//! The committed catalogue of metrics is what the crates declare.

use std::{collections::BTreeSet, path::Path};

use endcap::metrics::{CATALOGUE, page};
use endcap_types::MetricKind;

#[test]
fn the_committed_catalogue_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/prometheus/METRICS.md");
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(committed, page(), "write it with: endcap metrics > deploy/prometheus/METRICS.md");
}

#[test]
fn every_metric_is_declared_once_with_sorted_labels_and_a_sentence() {
    let mut seen = BTreeSet::new();
    for metric in CATALOGUE.iter().flat_map(|(_, metrics)| *metrics) {
        assert!(seen.insert(metric.name), "{} is declared twice", metric.name);
        assert!(metric.labels.is_sorted(), "the labels of {} are out of order", metric.name);
        assert!(metric.help.ends_with('.'), "the help of {} is no sentence", metric.name);
        let total = metric.name.ends_with("_total");
        assert_eq!(total, metric.kind == MetricKind::Counter, "{}", metric.name);
        // Others would be counted into the buckets of times.
        let has_buckets = ["seconds", "ratio", "rows"].contains(&metric.unit());
        assert!(has_buckets || metric.kind != MetricKind::Histogram, "{} has no buckets", metric.name);
    }
}
