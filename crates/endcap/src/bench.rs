//! `endcap bench`: load on a running fleet, and what it did to the answers.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use endcap_bench::{
    Arrivals, BenchError, InferConfig, InferTarget, Limits, Load, Objective, Probe, Progress as _, Queries,
    Ramp, RecommendConfig, RecommendTarget, Report, Schedule, Search, Setup, ShardConfig, ShardTarget, Step,
    Target, closed_loop, collect_items, find_highest, open_loop, read_queries, svg,
};
use futures::future::BoxFuture;

use crate::{
    bundle,
    cli::{Global, Output, parse_duration},
    demo::interrupted,
    output::{self, Bar},
};

/// A ramp ends when less than this share of a step is answered in its deadline: beyond, there is only more of it.
const SATURATED: f64 = 0.9;
/// A search ends when it knows the rate this well.
const PRECISION: f64 = 0.05;

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Rpc {
    /// A gateway's Recommend.
    Recommend,
    /// ModelInfer of the Open Inference Protocol: a worker's, or any other server's.
    Infer,
    /// A worker's Score on the stream that gateways use: --rows items of --bundle ranked, all of one shard.
    Score,
}

#[derive(Debug, Clone, Args)]
pub struct BenchArgs {
    /// What to ask.
    #[arg(long, value_enum, default_value_t = Rpc::Recommend)]
    pub rpc: Rpc,
    /// Whom to ask; default: the gateway, otherwise a worker on its default port.
    #[arg(long)]
    pub url: Option<String>,
    /// Rows of each ModelInfer or Score.
    #[arg(long, default_value_t = 200, value_name = "N")]
    pub rows: usize,
    /// Ids in ModelInfer's rows are below this, as every table of the model must have.
    #[arg(long, default_value_t = 1000, value_name = "N")]
    pub ids_below: i64,
    /// Requests a second; with --search the first rate tried.
    #[arg(long, default_value_t = 100.0, value_name = "RATE")]
    pub rate: f64,
    /// Several rates, one after the other; ends early once fewer than nine in ten are answered in their deadline.
    #[arg(long, value_name = "FROM:TO:STEP", conflicts_with_all = ["search", "closed"])]
    pub ramp: Option<Ramp>,
    /// How long each rate is held.
    #[arg(long, default_value = "10s", value_parser = parse_duration)]
    pub duration: Duration,
    /// Not measured: load at the first rate before everything else, so that connections and caches are there.
    #[arg(long, default_value = "1s", value_parser = parse_duration)]
    pub warm_up: Duration,
    /// The deadline of each request, from when it was due.
    #[arg(long, default_value = "200ms", value_parser = parse_duration)]
    pub deadline: Duration,
    /// Equal gaps between requests, instead of those of independent shoppers (a Poisson process).
    #[arg(long)]
    pub constant: bool,
    /// Instead of following a rate, keep --max-outstanding requests in flight: for throughput alone, as a slow server
    /// is then asked less.
    #[arg(long, conflicts_with = "search")]
    pub closed: bool,
    /// Requests without an answer at one time; what is due beyond is reported as not sent.
    #[arg(long, default_value_t = 10_000, value_name = "N")]
    pub max_outstanding: usize,
    /// Connections, which requests take in turn.
    #[arg(long, default_value_t = 4, value_name = "N")]
    pub connections: usize,
    /// What must be answered how fast, e.g. p99=50ms. Failures count as never answered.
    #[arg(long, value_name = "pN=TIME")]
    pub objective: Option<Objective>,
    /// Find the highest rate that meets the objective.
    #[arg(long, requires = "objective")]
    pub search: bool,
    /// Queries to replay: a text file with one a line, or Parquet with a column "query".
    #[arg(long, value_name = "FILE")]
    pub queries: Option<PathBuf>,
    /// Replay the queries in the file's order instead of one by --seed.
    #[arg(long, requires = "queries")]
    pub in_order: bool,
    /// Model name; default: the gateway's.
    #[arg(long, default_value = "")]
    pub model: String,
    /// Items wanted in an answer.
    #[arg(long, short = 'n', default_value_t = 10)]
    pub limit: u32,
    /// Rank this many items of the catalogue instead of retrieving.
    #[arg(long, default_value_t = 0, hide_default_value = true, value_name = "N")]
    pub candidates: usize,
    /// Take the items from this bundle: --candidates' instead of asking the gateway for some, and Score's.
    #[arg(long, value_name = "FILE")]
    pub bundle: Option<PathBuf>,
    /// Orders queries and draws arrivals: the same seed is the same load.
    #[arg(long, default_value_t = 7)]
    pub seed: u64,
    /// In the file of --json, also count by windows of this length, to see what changed when.
    #[arg(long, value_name = "TIME", value_parser = parse_duration, requires = "json")]
    pub window: Option<Duration>,
    /// Write everything measured to this file.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Draw latency and answers against load to this file.
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
}

/// Measures, prints and writes.
pub(crate) async fn run(global: &Global, args: BenchArgs) -> anyhow::Result<()> {
    let (target, request) = target(global, &args).await?;
    let watch = Watch { bar: Bar::new(), stopped: Arc::default() };
    // Heard from now on. A closed loop and a search have no half results: there, Ctrl-C ends the program.
    let interrupted: BoxFuture<'_, ()> =
        if args.closed || args.search { Box::pin(std::future::pending()) } else { Box::pin(interrupted()) };
    let stopped = Arc::clone(&watch.stopped);
    let listening = async move {
        interrupted.await;
        stopped.store(true, Ordering::Relaxed);
        std::future::pending::<anyhow::Result<()>>().await
    };
    let bench = Bench { target, args: &args, watch };
    let mut report = Report::new(setup(url(global, &args), &args, request));
    let measuring = async {
        bench.warm_up().await?;
        anyhow::ensure!(!bench.watch.is_stopped(), "interrupted before anything was measured");
        Ok(bench.measure(&mut report).await?)
    };
    tokio::select! {
        measured = measuring => measured?,
        never = listening => never?,
    }
    bench.watch.bar.finish();
    write(&args, &report)?;
    print(global.output, &report)
}

/// Where a worker listens by default.
const WORKER: &str = "http://127.0.0.1:9410";

fn url(global: &Global, args: &BenchArgs) -> String {
    let default = match args.rpc {
        Rpc::Recommend => &global.gateway,
        Rpc::Infer | Rpc::Score => WORKER,
    };
    args.url.clone().unwrap_or_else(|| default.to_owned())
}

/// What is asked, and in words.
async fn target(global: &Global, args: &BenchArgs) -> anyhow::Result<(Arc<dyn Target>, String)> {
    match args.rpc {
        Rpc::Recommend => recommend(url(global, args), args).await,
        Rpc::Infer => infer(url(global, args), args).await,
        Rpc::Score => score(url(global, args), args).await,
    }
}

async fn infer(url: String, args: &BenchArgs) -> anyhow::Result<(Arc<dyn Target>, String)> {
    named(args)?;
    let config = InferConfig {
        url,
        connections: args.connections,
        model: args.model.clone(),
        version: String::new(),
        rows: args.rows,
        ids_below: args.ids_below,
        seed: args.seed,
    };
    let target = InferTarget::new(&config).await.with_context(|| format!("asked {}", config.url))?;
    Ok((Arc::new(target), format!("model {}, {} rows", args.model, args.rows)))
}

async fn score(url: String, args: &BenchArgs) -> anyhow::Result<(Arc<dyn Target>, String)> {
    named(args)?;
    let path = args.bundle.as_ref().context("Score needs the items that the worker holds: give --bundle")?;
    let bundle = bundle::open(path)?;
    let config = ShardConfig {
        url,
        connections: args.connections,
        model: args.model.clone(),
        digest: bundle.digest().to_string(),
        shard: 0,
        items: bundle.items(0)?.ids,
        rows: args.rows,
        seed: args.seed,
    };
    let target = ShardTarget::new(&config).await.with_context(|| format!("asked {}", config.url))?;
    Ok((Arc::new(target), format!("model {}, {} rows of shard 0", args.model, args.rows)))
}

fn named(args: &BenchArgs) -> anyhow::Result<()> {
    anyhow::ensure!(!args.model.is_empty(), "a worker is asked for a model by name: give it with --model");
    Ok(())
}

async fn recommend(url: String, args: &BenchArgs) -> anyhow::Result<(Arc<dyn Target>, String)> {
    let queries = match &args.queries {
        Some(path) => Queries::new(read_queries(path)?, (!args.in_order).then_some(args.seed)),
        None => Queries::new(QUERIES.map(str::to_owned).to_vec(), Some(args.seed)),
    };
    let request = match args.candidates {
        0 => format!("{} queries, {} items", queries.len(), args.limit),
        n => format!("{} queries, {n} candidates, {} items", queries.len(), args.limit),
    };
    let mut config = RecommendConfig {
        url,
        connections: args.connections,
        model: args.model.clone(),
        queries,
        limit: args.limit,
        items: Vec::new(),
        candidates: args.candidates,
    };
    config.items = match &args.bundle {
        _ if args.candidates == 0 => Vec::new(),
        Some(path) => items_of(path)?,
        None => collect_items(&config, args.candidates).await.with_context(|| {
            format!("asked {}; is the fleet up? `endcap demo` starts one here", config.url)
        })?,
    };
    Ok((Arc::new(RecommendTarget::new(config)?), request))
}

fn items_of(path: &Path) -> anyhow::Result<Vec<String>> {
    let bundle = bundle::open(path)?;
    let mut items = Vec::new();
    for shard in bundle.manifest().shard_count.indices() {
        items.extend(bundle.items(shard)?.ids);
    }
    Ok(items)
}

/// For a look without a query log: a log of real ones is what figures should come from.
const QUERIES: [&str; 8] = [
    "enamel kettle",
    "grey bar stool",
    "red mug",
    "wool blanket",
    "desk lamp",
    "oak table",
    "gift for her",
    "towel",
];

fn setup(url: String, args: &BenchArgs, request: String) -> Setup {
    let rpc = match args.rpc {
        Rpc::Recommend => "Recommend",
        Rpc::Infer => "ModelInfer",
        Rpc::Score => "Score",
    };
    Setup {
        rpc: rpc.to_owned(),
        url,
        request,
        loop_: if args.closed { "closed" } else { "open" }.to_owned(),
        arrivals: if args.constant { Arrivals::Constant } else { Arrivals::Poisson },
        deadline_us: u64::try_from(args.deadline.as_micros()).unwrap_or(u64::MAX),
        connections: args.connections,
        max_outstanding: args.max_outstanding,
        seed: args.seed,
    }
}

struct Bench<'a> {
    target: Arc<dyn Target>,
    args: &'a BenchArgs,
    watch: Watch,
}

/// Shows how far it is, and hears Ctrl-C.
struct Watch {
    bar: Bar,
    stopped: Arc<AtomicBool>,
}

impl Bench<'_> {
    async fn warm_up(&self) -> Result<(), BenchError> {
        if !self.args.warm_up.is_zero() {
            let rate = self.args.ramp.map_or(self.args.rate, |ramp| ramp.from);
            // At least one request, however slow the rate.
            let duration = self.args.warm_up.max(Duration::from_secs_f64(1.0 / rate.max(1e-3)));
            self.step(rate, duration).await?;
        }
        Ok(())
    }

    async fn measure(&self, report: &mut Report) -> Result<(), BenchError> {
        let args = self.args;
        match (args.objective, args.ramp) {
            (Some(objective), _) if args.search => {
                let search = Search { objective, first: args.rate, precision: PRECISION };
                let (found, steps) = find_highest(&search, &mut AtRate(self)).await?;
                report.found = Some(found);
                report.steps = steps;
            }
            (_, Some(ramp)) => {
                for rate in ramp.rates() {
                    report.steps.push(self.step(rate, args.duration).await?);
                    if self.watch.is_stopped() {
                        break;
                    }
                    if report.steps.last().is_some_and(|step| step.in_deadline_share < SATURATED) {
                        break;
                    }
                }
            }
            (_, None) => report.steps.push(self.step(args.rate, args.duration).await?),
        }
        Ok(())
    }

    async fn step(&self, rate: f64, duration: Duration) -> Result<Step, BenchError> {
        let args = self.args;
        let limits = Limits {
            deadline: args.deadline,
            max_outstanding: args.max_outstanding,
            objective: args.objective,
            window: args.window,
        };
        let target = Arc::clone(&self.target);
        if args.closed {
            return closed_loop(target, duration, &limits, &self.watch).await;
        }
        let arrivals = if args.constant { Arrivals::Constant } else { Arrivals::Poisson };
        let load = Load { schedule: Schedule::new(rate, duration, arrivals, args.seed)?, limits };
        open_loop(target, &load, &self.watch).await
    }
}

struct AtRate<'a>(&'a Bench<'a>);

#[tonic::async_trait]
impl Probe for AtRate<'_> {
    async fn measure(&mut self, rate: f64) -> Result<Step, BenchError> {
        self.0.step(rate, self.0.args.duration).await
    }
}

impl endcap_bench::Progress for Watch {
    fn step(&self, what: &str, done: u64, total: u64) {
        endcap_bundle::Progress::step(&self.bar, what, done, total);
    }

    fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }
}

fn write(args: &BenchArgs, report: &Report) -> anyhow::Result<()> {
    if let Some(path) = &args.json {
        let text = serde_json::to_string_pretty(report)? + "\n";
        std::fs::write(path, text).with_context(|| format!("write {}", path.display()))?;
    }
    if let Some(path) = &args.svg {
        std::fs::write(path, svg(report)?).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

fn print(format: Output, report: &Report) -> anyhow::Result<()> {
    if format == Output::Json {
        return output::json(report);
    }
    let numbers: Vec<usize> = (0..Report::HEADER.len() - 2).collect();
    let mut table = output::table(&Report::HEADER, &numbers);
    for row in report.rows() {
        table.add_row(row);
    }
    output::line(table);
    let setup = &report.setup;
    let latency =
        if setup.loop_ == "open" { "from the intended send" } else { "from the send (closed loop)" };
    output::line(format!("{} {} · {} · latencies {latency}", setup.rpc, setup.url, setup.request));
    if let Some(found) = report.found {
        output::line(match found.rate {
            Some(rate) => format!("{} holds up to {rate:.0} requests a second", found.objective),
            None => format!("{} holds at no rate that was tried", found.objective),
        });
    }
    Ok(())
}
