//! Every metric of the feature-cache.

use std::time::Duration;

use endcap_service::metrics::Handles;
use endcap_types::{Metric, Namespace};
use metrics::{Counter, Histogram, counter, histogram};

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

/// What is counted of every group that is asked for.
#[derive(Debug, Default)]
pub(crate) struct Meters {
    hits: Handles<Namespace, (Counter, Histogram)>,
    misses: Handles<Namespace, Counter>,
}

impl Meters {
    /// A group was read at this age.
    pub(crate) fn hit(&self, namespace: Namespace, age: Duration) {
        let look_up = |namespace: &Namespace| {
            let namespace = namespace.as_str();
            (
                counter!("endcap_feature_cache_hits_total", "namespace" => namespace),
                histogram!("endcap_feature_age_seconds", "namespace" => namespace),
            )
        };
        self.hits.with(namespace, look_up, |(hits, ages)| {
            hits.increment(1);
            ages.record(age.as_secs_f64());
        });
    }

    pub(crate) fn miss(&self, namespace: Namespace) {
        let look_up = |namespace: &Namespace| counter!("endcap_feature_cache_misses_total", "namespace" => namespace.as_str());
        self.misses.with(namespace, look_up, |misses| misses.increment(1));
    }
}
