//! Every metric of the feature-cache.

use std::time::Duration;

use endcap_types::{Metric, Namespace};

/// Declared here, listed in `deploy/prometheus/METRICS.md`.
pub const METRICS: &[Metric] = &[
    Metric::counter("endcap_feature_cache_hits_total", &["namespace"], "Feature groups found."),
    Metric::counter(
        "endcap_feature_cache_misses_total",
        &["namespace"],
        "Feature groups asked for that nobody wrote, or that have expired.",
    ),
    Metric::histogram(
        "endcap_feature_age_seconds",
        &["namespace"],
        "Age of the feature groups that were read, since they were last written.",
    ),
];

/// A group was read at this age.
pub(crate) fn hit(namespace: Namespace, age: Duration) {
    let namespace = namespace.as_str();
    metrics::counter!("endcap_feature_cache_hits_total", "namespace" => namespace).increment(1);
    metrics::histogram!("endcap_feature_age_seconds", "namespace" => namespace).record(age.as_secs_f64());
}

pub(crate) fn miss(namespace: Namespace) {
    metrics::counter!("endcap_feature_cache_misses_total", "namespace" => namespace.as_str()).increment(1);
}
