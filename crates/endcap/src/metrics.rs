//! The catalogue of metrics: what every crate declares, as one page.

use std::fmt::Write as _;

use endcap_types::Metric;
use serde_json::json;

use crate::{
    cli::{Global, Output},
    output,
};

/// Every metric of every role, by who tells it.
pub const CATALOGUE: &[(&str, &[Metric])] = &[
    ("Every role", endcap_service::metrics::METRICS),
    ("Gateway", endcap_gateway::METRICS),
    ("Worker", endcap_shard_worker::METRICS),
    ("Worker, by model file", endcap_inference::METRICS),
    ("Registry", endcap_model_registry::METRICS),
    ("Feature-cache", endcap_feature_cache::METRICS),
    ("The process", endcap_service::metrics::PROCESS_METRICS),
];

/// Gives `/metrics` the help texts of the catalogue.
pub(crate) fn describe() {
    for (_, metrics) in CATALOGUE {
        endcap_service::metrics::describe(metrics);
    }
}

/// `endcap metrics`.
pub(crate) fn run(global: &Global) -> anyhow::Result<()> {
    if global.output == Output::Json {
        let all = CATALOGUE.iter().flat_map(|(group, metrics)| metrics.iter().map(move |m| (group, m)));
        let rows = all.map(|(group, metric)| {
            json!({
                "name": metric.name, "type": metric.kind.as_str(), "unit": metric.unit(),
                "labels": metric.labels, "help": metric.help, "told_by": group,
            })
        });
        return output::json(&rows.collect::<Vec<_>>());
    }
    output::line(page().trim_end());
    Ok(())
}

/// `deploy/prometheus/METRICS.md`.
pub fn page() -> String {
    let mut page = String::from(
        "# Metrics\n\n\
         Written by `endcap metrics`; a test checks that it is current. Every role serves them at `/metrics` of the\n\
         admin port. Times are in seconds and share one set of buckets. Labels are closed sets, or the fleet's own\n\
         models, versions and workers; nothing that a caller sends becomes one.\n",
    );
    for (group, metrics) in CATALOGUE {
        let _written = write!(
            page,
            "\n## {group}\n\n| name | type | unit | labels | what it says |\n|---|---|---|---|---|\n"
        );
        for metric in *metrics {
            let labels: Vec<_> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
            let Metric { name, kind, help, .. } = metric;
            let (kind, unit, labels) = (kind.as_str(), metric.unit(), labels.join(", "));
            let _written = writeln!(page, "| `{name}` | {kind} | {unit} | {labels} | {help} |");
        }
    }
    page
}
