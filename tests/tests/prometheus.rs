//! Rules and dashboards against what a real fleet tells a real Prometheus, and an alert on its whole way.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    path::Path,
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use endcap::{cli, evaluate, metrics::CATALOGUE};
use endcap_bundle::test_util::TinyOptions;
use endcap_proto::pb::{self, feature_service_client::FeatureServiceClient};
use endcap_tests::{
    channel, eventually,
    load::Load,
    otlp::Receiver,
    processes::{ProcessFleet, Size},
    prometheus::{Alertmanager, Prometheus, program, repository},
    query, tiny,
};
use endcap_types::Metric;
use serde_json::Value;

const SIZE: Size = Size { etcd: 1, registries: 1, gateways: 1, workers: 2 };
const DASHBOARDS: [&str; 3] = ["shop-window", "model-quality", "fleet"];

fn rules() -> anyhow::Result<String> {
    Ok(std::fs::read_to_string(repository("deploy/prometheus/rules.yaml"))?)
}

fn alerts(rules: &str) -> Vec<&str> {
    rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect()
}

#[test]
fn promtool_accepts_the_rules_and_their_cases() -> anyhow::Result<()> {
    for args in [["check", "rules", "rules.yaml"], ["test", "rules", "rules_test.yaml"]] {
        let ran =
            Command::new(program("promtool").canonicalize().context("make setup-tests fetches promtool")?)
                .args(args)
                .current_dir(repository("deploy/prometheus"))
                .output()?;
        ensure!(
            ran.status.success(),
            "{}{}",
            String::from_utf8_lossy(&ran.stdout),
            String::from_utf8_lossy(&ran.stderr)
        );
    }
    Ok(())
}

#[test]
fn every_alert_has_its_paragraph_and_fires_in_one_case_and_not_in_another() -> anyhow::Result<()> {
    let (rules, runbook) = (rules()?, std::fs::read_to_string(repository("deploy/prometheus/RUNBOOK.md"))?);
    let cases = std::fs::read_to_string(repository("deploy/prometheus/rules_test.yaml"))?;
    let alerts = alerts(&rules);
    ensure!(alerts.len() > 10, "only {alerts:?} were found");
    for alert in alerts {
        let section =
            runbook.split(&format!("\n## {alert}\n")).nth(1).and_then(|rest| rest.split("\n## ").next());
        ensure!(section.is_some_and(|text| text.trim().len() > 100), "RUNBOOK.md says nothing of {alert}");
        let url = format!("runbook_url: deploy/prometheus/RUNBOOK.md#{}\n", alert.to_lowercase());
        ensure!(rules.contains(&url), "{alert} does not name its paragraph");
        let header = format!("alertname: {alert}\n");
        let mine = cases.split(&header).skip(1);
        let (quiet, firing): (Vec<_>, Vec<_>) =
            mine.partition(|case| case.trim_start().starts_with("exp_alerts: []"));
        ensure!(
            !quiet.is_empty() && !firing.is_empty(),
            "{alert}: {} cases fire, {} do not",
            firing.len(),
            quiet.len()
        );
    }
    Ok(())
}

#[test]
fn the_committed_dashboards_are_current() -> anyhow::Result<()> {
    let ran = Command::new(repository(".tools/grafana/bin/python"))
        .args(["dashboards.py", "--check"])
        .current_dir(repository("deploy/grafana"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .context("make setup-tests installs it")?;
    ensure!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_prometheus_finds_all_that_is_shown_and_a_dead_worker_reaches_the_webhook()
-> anyhow::Result<()> {
    let binary = Path::new(env!("CARGO_BIN_EXE_endcap-node"));
    let mut fleet = ProcessFleet::start(binary, SIZE, &[]).await?;
    fleet.add(binary, "feature-cache", &[]).await?;
    let packed = tiny(&TinyOptions::default(), 2)?;
    let version = fleet.release(&packed.bytes).await?;
    let load = Load::start(fleet.gateways()?, 20);
    FeatureServiceClient::new(channel(&fleet.url("feature-cache-1"))?).put_features(features()).await?;
    evaluate(&fleet, &packed.folder.path().join("tiny.endcap"), version).await?;

    let targets: Vec<SocketAddr> = fleet.ids("").iter().map(|id| fleet.admin(id)).collect();
    let mut alertmanager = Alertmanager::start().await?;
    // The same rules, without the patience that an operator wants.
    let impatient: String = rules()?
        .lines()
        .filter(|line| !line.trim().starts_with("for: "))
        .map(|line| format!("{line}\n"))
        .collect();
    let prometheus = Prometheus::start(&targets, &impatient, alertmanager.address).await?;

    let mut expressions = BTreeSet::new();
    for dashboard in DASHBOARDS {
        let text = std::fs::read_to_string(repository(&format!("deploy/grafana/{dashboard}.json")))?;
        expressions.extend(
            panels(&serde_json::from_str(&text)?).into_iter().map(|query| (dashboard.to_owned(), query)),
        );
    }
    ensure!(expressions.len() > 40, "only {} queries were found", expressions.len());
    expressions.extend(names(&rules()?).into_iter().map(|name| ("rules.yaml".to_owned(), name)));
    for (whose, expression) in expressions {
        let asked = expression.replace("$__rate_interval", "20s").replace("$model", ".*");
        let what = format!("a query of {whose} returns data: {asked}");
        eventually(&what, async || {
            unusual_requests(&fleet).await;
            prometheus.query(&asked).await.is_ok_and(|found| !found.is_empty())
        })
        .await?;
    }
    as_declared(&prometheus).await?;

    fleet.kill("worker-2")?;
    let alert = alertmanager.firing("EndcapMemberDown").await?;
    ensure!(alert["labels"]["instance"] == fleet.admin("worker-2").to_string(), "{alert}");
    let runbook = alert["annotations"]["runbook_url"].as_str().unwrap_or_default();
    ensure!(runbook.ends_with("#endcapmemberdown"), "{alert}");
    load.stop().await?;
    Ok(())
}

/// From a slow percentile on a graph to the trace of a slow request.
#[tokio::test(flavor = "multi_thread")]
async fn a_real_prometheus_finds_the_trace_of_a_request_beside_the_bucket_that_counted_it()
-> anyhow::Result<()> {
    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
    let (_receiver, address) = Receiver::start().await?;
    let endpoint = format!("http://{address}");
    let set = [
        ("telemetry.traces.endpoint", endpoint.as_str()),
        ("telemetry.traces.sample_ratio", "0"),
        ("telemetry.traces.slow", "60s"),
    ];
    let fleet = ProcessFleet::start(Path::new(env!("CARGO_BIN_EXE_endcap-node")), SIZE, &set).await?;
    fleet.release(&tiny(&TinyOptions::default(), 2)?.bytes).await?;
    let alertmanager = Alertmanager::start().await?;
    let targets = [fleet.admin("gateway-1"), fleet.admin("worker-1"), fleet.admin("worker-2")];
    let prometheus = Prometheus::start(&targets, &rules()?, alertmanager.address).await?;
    let mut gateway = fleet.gateways()?.remove(0);
    let mut request = query("red kettle");
    request.metadata_mut().insert("traceparent", format!("00-{TRACE}-b7ad6b7169203331-01").parse()?);
    gateway.recommend(request).await?;
    // Of a request that nobody samples there is none.
    gateway.recommend(query("red kettle")).await?;

    for (service, rpc) in [("gateway", "Recommend"), ("worker", "Score")] {
        let series = format!("endcap_request_duration_seconds_bucket{{service='{service}',rpc='{rpc}'}}");
        eventually(&format!("an exemplar of {series}"), async || {
            let found = prometheus.exemplars(&series).await.unwrap_or_default();
            !found.is_empty() && found.iter().all(|exemplar| exemplar["labels"]["trace_id"] == TRACE)
        })
        .await?;
    }
    Ok(())
}

/// What the load does not have: a known shopper, an unknown one, and a mistake.
async fn unusual_requests(fleet: &ProcessFleet) {
    let Ok(mut gateways) = fleet.gateways() else { return };
    for (query, user) in [("red kettle", "ada"), ("red kettle", "nobody"), ("", "")] {
        let request = pb::RecommendRequest {
            query: query.into(),
            user_id: user.into(),
            limit: 5,
            ..Default::default()
        };
        // The mistake is an error, and the others may be late on a busy machine.
        let _answered = gateways[0].recommend(request).await;
    }
}

fn features() -> pb::PutFeaturesRequest {
    let key = pb::FeatureKey { namespace: "user".into(), entity_id: "ada".into() };
    let value = pb::FeatureValue { floats: vec![0.5], ints: Vec::new() };
    let values = [("user.affinity".to_owned(), value)].into();
    pb::PutFeaturesRequest { groups: vec![pb::FeatureGroup { key: Some(key), values, ..Default::default() }] }
}

/// `endcap evaluate --record`.
async fn evaluate(fleet: &ProcessFleet, bundle: &Path, version: u64) -> anyhow::Result<()> {
    let global = cli::Global {
        output: cli::Output::Json,
        registry: fleet.url("registry-1"),
        gateway: fleet.url("gateway-1"),
        actor: "test".into(),
    };
    let args = cli::EvaluateArgs {
        bundle: Some(bundle.to_owned()),
        labels: None,
        version: Some(version),
        model: String::new(),
        concurrency: 2,
        tolerance: None,
        record: true,
        deadline: Duration::from_secs(60),
    };
    evaluate::run(&global, args).await
}

/// The queries of every panel, however deep.
fn panels(json: &Value) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    match json {
        Value::Object(fields) => {
            found.extend(fields.get("expr").and_then(Value::as_str).map(str::to_owned));
            found.extend(fields.values().flat_map(panels));
        }
        Value::Array(values) => found.extend(values.iter().flat_map(panels)),
        _ => {}
    }
    found
}

/// Metrics and recorded series that the rules name.
fn names(rules: &str) -> BTreeSet<String> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let lines = rules.lines().filter(|line| !line.trim().starts_with('#'));
    let words = lines.flat_map(|line| line.split(|c| !is_name(c)));
    words
        .filter(|word| word.starts_with("endcap_") || word.starts_with("endcap:"))
        .map(|word| word.trim_end_matches(':').to_owned())
        .collect()
}

/// Every metric there is, is in the catalogue with its type and labels, and the other way round.
async fn as_declared(prometheus: &Prometheus) -> anyhow::Result<()> {
    // OpenMetrics calls the family of a counter by less than its series.
    let family = |metric: &'static Metric| metric.name.strip_suffix("_total").unwrap_or(metric.name);
    let metrics = CATALOGUE.iter().flat_map(|(_, metrics)| *metrics);
    let declared: BTreeMap<&str, _> = metrics.map(|metric| (family(metric), metric)).collect();
    let types = prometheus.api("metadata").await?;
    let types = types.as_object().context("metadata are an object")?;
    let ours = |name: &&String| name.starts_with("endcap_") || name.starts_with("process_");
    for (name, told) in types.iter().filter(|(name, _)| ours(name)) {
        let metric =
            declared.get(name.as_str()).with_context(|| format!("{name} is not in the catalogue"))?;
        ensure!(told[0]["type"] == metric.kind.as_str(), "{name} is declared a {:?}: {told}", metric.kind);
        ensure!(told[0]["help"] == metric.help, "{name} is explained otherwise: {told}");
        for series in prometheus.query(&format!("{{__name__=~'{}(_bucket)?'}}", metric.name)).await? {
            let labels = series["metric"].as_object().context("a series has labels")?;
            let labels: Vec<_> = labels
                .keys()
                .filter(|key| !["__name__", "instance", "job", "le"].contains(&key.as_str()))
                .collect();
            ensure!(labels == metric.labels, "{name} is declared with {:?}: {series}", metric.labels);
        }
    }
    for name in declared.keys() {
        ensure!(types.contains_key(*name), "{name} is in the catalogue, but nobody tells it");
    }
    Ok(())
}
