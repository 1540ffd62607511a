//! `endcap evaluate`: ranking quality through the gateway, on labelled queries, beside the bundle's offline figures.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use endcap_bundle::{Bundle, LabelledQuery};
use endcap_proto::pb::{self, recommend_request::Target};
use endcap_ranking::quality::{ndcg_at, precision_at, recall_at};
use endcap_types::ItemId;
use futures::{StreamExt as _, TryStreamExt as _};
use serde_json::json;

use crate::{
    bundle,
    cli::{EvaluateArgs, Global, Output},
    clients::{self, with_deadline},
    output::{self, Bar},
};

/// As deep as any metric here looks.
const DEPTH: u32 = 100;

/// Mean figures over the labelled queries.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    pub metrics: BTreeMap<String, f64>,
    /// The model that answered.
    pub model: String,
    /// Versions that answered; more than one when a promotion happened meanwhile.
    pub versions: BTreeSet<u64>,
    /// Answers below the FULL rung or with a reason attached.
    pub degraded: usize,
    /// The bundle's own figures, computed outside the fleet.
    pub offline: BTreeMap<String, f64>,
    /// ndcg@10 of each query, by its id: what a paired comparison of two versions needs.
    pub queries: BTreeMap<String, f64>,
    /// How long the median call and nineteen in twenty took, in milliseconds, with `concurrency` in flight.
    pub latency_ms: BTreeMap<String, f64>,
}

/// Measures and prints; fails when a tolerance was given and is exceeded.
pub async fn run(global: &Global, args: EvaluateArgs) -> anyhow::Result<()> {
    let report = measure(global, &args).await?;
    if global.output == Output::Json {
        output::json(&json!({
            "metrics": report.metrics, "offline": report.offline, "versions": report.versions,
            "degraded": report.degraded, "queries": report.queries,
            "latency_ms": report.latency_ms,
        }))?;
    } else {
        print(&report);
    }
    if args.record {
        record(global, &args, &report).await?;
    }
    let Some(tolerance) = args.tolerance else {
        return Ok(());
    };
    let offline = report.offline.get("ndcg@10").context("the bundle's evaluation.json has no ndcg@10")?;
    let fleet = report.metrics.get("ndcg@10").context("no ndcg@10 was measured")?;
    let difference = (offline - fleet).abs();
    anyhow::ensure!(
        difference <= tolerance,
        "ndcg@10 through the fleet is {fleet:.4}, outside it {offline:.4}: they differ by {difference:.4}, \
         allowed are {tolerance}"
    );
    Ok(())
}

async fn record(global: &Global, args: &EvaluateArgs, report: &Report) -> anyhow::Result<()> {
    let versions: Vec<u64> = report.versions.iter().copied().collect();
    let [version] = versions[..] else {
        anyhow::bail!("not recorded: versions {versions:?} answered, where one should have; run it again");
    };
    let request = pb::RecordEvaluationRequest {
        model: report.model.clone(),
        version,
        metrics: report.metrics.clone().into_iter().collect(),
        actor: global.actor.clone(),
    };
    clients::registry(&global.registry)?
        .record_evaluation(with_deadline(request, args.deadline))
        .await
        .map_err(|error| output::remote("record the evaluation", &global.registry, &error))?;
    Ok(())
}

/// Asks every labelled query and averages.
pub async fn measure(global: &Global, args: &EvaluateArgs) -> anyhow::Result<Report> {
    let (labels, offline, catalogue) = labelled(args)?;
    anyhow::ensure!(!labels.is_empty(), "there are no labelled queries; give some with --labels FILE");
    let bar = Bar::new();
    let client = clients::gateway(&global.gateway)?;
    let mut answers = futures::stream::iter(labels.iter().map(|labelled| {
        let mut client = client.clone();
        async move {
            let request = request(args, &labelled.query);
            let asked = Instant::now();
            let answer = client
                .recommend(with_deadline(request, args.deadline))
                .await
                .map_err(|e| output::remote(&format!("query {:?}", labelled.query), &global.gateway, &e))?;
            anyhow::Ok((labelled, answer.into_inner(), asked.elapsed()))
        }
    }))
    .buffer_unordered(args.concurrency.max(1));

    let mut sums = Sums::default();
    while let Some((labelled, answer, took)) = answers.try_next().await? {
        sums.add(labelled, &answer)?;
        sums.took.push(took);
        endcap_bundle::Progress::step(
            &bar,
            "labelled queries",
            sums.queries.len() as u64,
            labels.len() as u64,
        );
    }
    bar.finish();
    Ok(sums.report(offline, catalogue))
}

fn request(args: &EvaluateArgs, query: &str) -> pb::RecommendRequest {
    pb::RecommendRequest {
        model: args.model.clone(),
        target: args.version.map(Target::Version),
        query: query.to_owned(),
        limit: DEPTH,
        ..Default::default()
    }
}

type Labels = (Vec<LabelledQuery>, BTreeMap<String, f64>, Option<u64>);

fn labelled(args: &EvaluateArgs) -> anyhow::Result<Labels> {
    let (mut labels, mut offline, mut catalogue) = (Vec::new(), BTreeMap::new(), None);
    if let Some(path) = &args.bundle {
        let opened = bundle::open(path)?;
        let bundle: &Bundle = &opened;
        labels = bundle.labels()?;
        offline = bundle.evaluation()?.metrics;
        catalogue = Some(bundle.manifest().items_total);
    }
    if let Some(path) = &args.labels {
        labels = read_labels(path)?;
    }
    Ok((labels, offline, catalogue))
}

fn read_labels(path: &Path) -> anyhow::Result<Vec<LabelledQuery>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read labels {}", path.display()))?;
    text.lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty())
        .map(|(i, line)| {
            serde_json::from_str(line).with_context(|| {
                format!("{} line {}: expected {{\"query_id\", \"query\", \"gains\"}}", path.display(), i + 1)
            })
        })
        .collect()
}

#[derive(Default)]
struct Sums {
    queries: BTreeMap<String, f64>,
    recall_10: f64,
    recall_100: f64,
    precision_10: f64,
    shown: BTreeSet<ItemId>,
    model: String,
    versions: BTreeSet<u64>,
    degraded: usize,
    took: Vec<Duration>,
}

impl Sums {
    fn add(&mut self, labelled: &LabelledQuery, answer: &pb::RecommendResponse) -> anyhow::Result<()> {
        let quality = answer.quality.as_ref().context("an answer has no quality block")?;
        let ranking: Vec<ItemId> = answer.items.iter().map(|item| item.item_id.clone()).collect();
        let id = &labelled.query_id;
        let known = self.queries.insert(id.clone(), ndcg_at(10, &ranking, &labelled.gains));
        anyhow::ensure!(
            known.is_none(),
            "query id {id:?} is there twice in the labelled queries; expected once"
        );
        self.recall_10 += recall_at(10, &ranking, &labelled.gains);
        self.recall_100 += recall_at(100, &ranking, &labelled.gains);
        self.precision_10 += precision_at(10, &ranking, &labelled.gains);
        self.shown.extend(ranking.into_iter().take(10));
        self.model.clone_from(&quality.model);
        self.versions.insert(quality.version);
        let flawless = quality.rung() == pb::Rung::Full && quality.degradation_reasons.is_empty();
        self.degraded += usize::from(!flawless);
        Ok(())
    }

    #[expect(clippy::cast_precision_loss, reason = "means of small counts")]
    fn report(self, offline: BTreeMap<String, f64>, catalogue: Option<u64>) -> Report {
        let count = self.queries.len().max(1) as f64;
        let mut metrics = BTreeMap::from([
            ("ndcg@10".to_owned(), self.queries.values().sum::<f64>() / count),
            ("recall@10".to_owned(), self.recall_10 / count),
            ("recall@100".to_owned(), self.recall_100 / count),
            ("precision@10".to_owned(), self.precision_10 / count),
            ("queries".to_owned(), count),
        ]);
        if let Some(items) = catalogue.filter(|items| *items > 0) {
            metrics.insert("coverage@10".to_owned(), self.shown.len() as f64 / items as f64);
        }
        let Self { model, versions, degraded, queries, mut took, .. } = self;
        took.sort_unstable();
        let within = |share: usize| took.get((took.len() * share / 100).min(took.len().saturating_sub(1)));
        let latency_ms = [("p50", within(50)), ("p95", within(95))]
            .into_iter()
            .filter_map(|(name, took)| Some((name.to_owned(), took?.as_secs_f64() * 1e3)))
            .collect();
        Report { metrics, model, versions, degraded, offline, queries, latency_ms }
    }
}

fn print(report: &Report) {
    let mut table = output::table(&["metric", "fleet", "offline", "difference"], &[1, 2, 3]);
    for (name, value) in &report.metrics {
        let offline = report.offline.get(name);
        table.add_row([
            name.clone(),
            format!("{value:.4}"),
            offline.map_or_else(|| "-".to_owned(), |o| format!("{o:.4}")),
            offline.map_or_else(|| "-".to_owned(), |o| format!("{:+.4}", value - o)),
        ]);
    }
    output::line(table);
    let versions: Vec<_> = report.versions.iter().map(u64::to_string).collect();
    let took: Vec<_> = report.latency_ms.iter().map(|(name, ms)| format!(" · {name} {ms:.1} ms")).collect();
    output::line(format!(
        "version {} · {} degraded answers{}",
        versions.join(", "),
        report.degraded,
        took.concat()
    ));
}
