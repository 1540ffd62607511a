//! `endcap demo` and `endcap dev`: a whole fleet in this process.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use endcap_proto::pb;
use endcap_types::{ModelName, Version};
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    bundle,
    cli::{DemoArgs, DevArgs, EditArgs, Global, Output},
    clients::{self, with_deadline},
    fleet::{Fleet, FleetOptions},
    model, output, recommend, settings,
};

/// The simulated shop's bundle, so that the demo needs nothing but this binary and ONNX Runtime's library.
pub const DEMO_BUNDLE: &[u8] = include_bytes!("../../../deploy/demo/search-ranker.endcap");

/// Queries shown at the start.
const SHOWN: usize = 3;

/// Starts a fleet on the demo bundle, asks a few queries and, unless `--once`, stays up.
pub(crate) async fn demo(global: &Global, args: DemoArgs) -> anyhow::Result<()> {
    settings::start_telemetry(&args.config, "endcap", Some("warn"))?;
    let scratch = tempfile::tempdir().context("make a temporary folder")?;
    let data_dir = args.data_dir.clone().unwrap_or_else(|| scratch.path().join("fleet"));
    let mut set = free_ports(args.once);
    set.extend(args.config.set.clone());
    let options = FleetOptions {
        data_dir,
        workers: args.workers,
        config: args.config.config.clone(),
        env: settings::process_environment(),
        set,
    };
    let file = match args.bundle.clone() {
        Some(file) => file,
        None => embedded_bundle(scratch.path())?,
    };

    let mut interrupted = std::pin::pin!(interrupted());
    let fleet = Fleet::start(&options).await?;
    let global = of_fleet(global, &fleet);
    note(
        &global,
        format!(
            "gateway {} · registry {} · {} workers · feature-cache {} · admin http://{}",
            global.gateway,
            global.registry,
            fleet.workers.len(),
            fleet.feature_cache_url(),
            fleet.admin
        ),
    );
    let shown = tokio::select! {
        shown = first_answers(&global, &file) => shown,
        () = &mut interrupted => Err(anyhow::anyhow!("interrupted")),
    };
    if shown.is_ok() && !args.once {
        next_steps(&global, &file);
        interrupted.await;
        note(&global, "draining");
    }
    let stopped = fleet.stop().await;
    shown.and(stopped)
}

/// Starts a fleet whose state stays on disk.
pub(crate) async fn dev(global: &Global, args: DevArgs) -> anyhow::Result<()> {
    settings::start_telemetry(&args.config, "endcap", None)?;
    let options = FleetOptions {
        data_dir: args.data_dir.clone(),
        workers: args.workers,
        config: args.config.config.clone(),
        env: settings::process_environment(),
        set: args.config.set.clone(),
    };
    let mut interrupted = std::pin::pin!(interrupted());
    let fleet = Fleet::start(&options).await?;
    let global = of_fleet(global, &fleet);
    note(
        &global,
        format!(
            "gateway {} · registry {} · feature-cache {} · admin http://{} · state in {}",
            global.gateway,
            global.registry,
            fleet.feature_cache_url(),
            fleet.admin,
            args.data_dir.display()
        ),
    );
    let promoted = match &args.bundle {
        Some(file) => tokio::select! {
            promoted = release(&global, file) => promoted.map(|_| ()),
            () = &mut interrupted => Err(anyhow::anyhow!("interrupted")),
        },
        None => Ok(()),
    };
    if promoted.is_ok() {
        interrupted.await;
        note(&global, "draining");
    }
    let stopped = fleet.stop().await;
    promoted.and(stopped)
}

async fn first_answers(global: &Global, file: &Path) -> anyhow::Result<()> {
    release(global, file).await?;
    for query in queries(file)? {
        let fields: Vec<String> = ["name", "brand", "price"].map(String::from).to_vec();
        let request = pb::RecommendRequest {
            query: query.clone(),
            limit: 5,
            fields: fields.clone(),
            ..Default::default()
        };
        let answer = clients::gateway(&global.gateway)?
            .recommend(with_deadline(request, Duration::from_secs(2)))
            .await
            .map_err(|e| output::remote("recommend", &global.gateway, &e))?
            .into_inner();
        if global.output == Output::Table {
            output::line(format!("\n\u{201c}{query}\u{201d}"));
        }
        recommend::print(global.output, &answer, &fields)?;
    }
    Ok(())
}

/// Registers, validates and promotes through the registry's RPCs, as any ML engineer would, and waits until the
/// gateway answers from it.
pub async fn release(global: &Global, file: &Path) -> anyhow::Result<pb::ModelVersion> {
    let version = model::register(global, file, None, "started with the fleet").await?;
    let name: ModelName = version.model.parse()?;
    let number = Version::try_from(version.version)?;
    model::validate_version(global, &name, number, Duration::from_secs(300)).await?;
    if !version.aliases.iter().any(|alias| alias == "stable") {
        let edit = EditArgs { expected_revision: 0, reason: "started with the fleet".to_owned() };
        model::promote_version(global, &name, number, &edit).await?;
    }
    wait_until_routed(global, &version).await?;
    Ok(version)
}

/// The gateway hears of a promotion by a watch; the first answers should not race it.
async fn wait_until_routed(global: &Global, version: &pb::ModelVersion) -> anyhow::Result<()> {
    let mut client = clients::gateway(&global.gateway)?;
    let mut pause = tokio::time::interval(Duration::from_millis(20));
    let attempt = async {
        loop {
            pause.tick().await;
            let request = pb::RecommendRequest {
                model: version.model.clone(),
                query: "warm up".to_owned(),
                limit: 1,
                ..Default::default()
            };
            let answer = client.recommend(with_deadline(request, Duration::from_secs(2))).await;
            let quality = answer.ok().and_then(|answer| answer.into_inner().quality);
            if quality.is_some_and(|q| q.version == version.version && q.rung() == pb::Rung::Full) {
                break;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(30), attempt).await.context(
        "the gateway did not route to the promoted version within 30 s; `endcap status` shows the fleet",
    )
}

fn queries(file: &Path) -> anyhow::Result<Vec<String>> {
    let labels = bundle::open(file)?.labels()?;
    let mut queries: Vec<String> = labels.into_iter().take(SHOWN).map(|labelled| labelled.query).collect();
    if queries.is_empty() {
        queries.push("gift".to_owned());
    }
    Ok(queries)
}

fn next_steps(global: &Global, file: &Path) {
    let program = std::env::args().next().unwrap_or_else(|| "endcap".to_owned());
    let gateway = global.gateway.trim_start_matches("http://");
    let first = queries(file).ok().and_then(|queries| queries.into_iter().next()).unwrap_or_default();
    let (ask, move_) = (addressed(&program, global, false), addressed(&program, global, true));
    note(
        global,
        format!(
            "\nThe fleet is up; Ctrl-C ends it. In another terminal:\n\n  \
         {ask} recommend {first:?}\n  \
         grpcurl -plaintext -d '{{\"query\":{first:?},\"limit\":3}}' {gateway} endcap.v1.RecommendService/Recommend\n  \
         {move_} model promote search-ranker 1 --reason \"trying it\"\n"
        ),
    );
}

/// The program with the addresses it needs, which are none for a fleet on the default ports.
fn addressed(program: &str, global: &Global, to_registry: bool) -> String {
    let (flag, url, default) = if to_registry {
        ("--registry", &global.registry, "http://127.0.0.1:9420")
    } else {
        ("--gateway", &global.gateway, "http://127.0.0.1:9400")
    };
    if url == default { program.to_owned() } else { format!("{program} {flag} {url}") }
}

/// The default ports where they are free, else any: a second demo should start too. With `once` always any.
fn free_ports(once: bool) -> Vec<(String, String)> {
    let defaults = [
        ("gateway.grpc.listen", 9400),
        ("registry.grpc.listen", 9420),
        ("feature_cache.grpc.listen", 9430),
        ("admin.listen", 9490),
    ];
    defaults
        .into_iter()
        .filter(|(_, port)| once || std::net::TcpListener::bind(("127.0.0.1", *port)).is_err())
        .map(|(key, _)| (key.to_owned(), "127.0.0.1:0".to_owned()))
        .collect()
}

fn embedded_bundle(scratch: &Path) -> anyhow::Result<PathBuf> {
    let path = scratch.join("search-ranker.endcap");
    std::fs::write(&path, DEMO_BUNDLE).context("write the demo bundle")?;
    Ok(path)
}

fn of_fleet(global: &Global, fleet: &Fleet) -> Global {
    Global { gateway: fleet.gateway_url(), registry: fleet.registry_url(), ..global.clone() }
}

/// Progress for people; stdout belongs to programs when they asked for JSON.
fn note(global: &Global, text: impl std::fmt::Display) {
    match global.output {
        Output::Table => output::line(text),
        Output::Json => {
            let _closed_pipe = writeln!(std::io::stderr().lock(), "{text}");
        }
    }
}

/// Ctrl-C or SIGTERM.
pub(crate) fn interrupted() -> impl Future<Output = ()> + Send {
    // Heard from now on, not from the first poll on: a signal between the two must not be lost, nor kill.
    let signals = [SignalKind::interrupt(), SignalKind::terminate()].map(signal);
    async move {
        let [interrupted, terminated] = signals.map(|listening| async {
            match listening {
                Ok(mut signal) => {
                    signal.recv().await;
                }
                Err(error) => {
                    tracing::error!(%error, "cannot listen for a signal");
                    std::future::pending().await
                }
            }
        });
        tokio::select! {
            () = interrupted => {}
            () = terminated => {}
        }
    }
}
