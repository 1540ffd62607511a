//! The main job on real products, real queries and human judgments: the fleet's NDCG@10 equals the one computed
//! outside it, for every recipe of the pipelines, and a given ranker's golden file is reproduced through the fleet. Needs a data folder (`ENDCAP_DATA`); without one each test reads as ignored, by name.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use endcap::{
    cli::{EvaluateArgs, Global, Output},
    evaluate,
};
use endcap_bundle::{Bundle, PackOptions};
use endcap_proto::pb;
use endcap_tests::{TestFleet, query, timed};
use endcap_types::ShardCount;
use libtest_mimic::{Arguments, Failed, Trial};
use serde::Deserialize;

/// The packed bundle's name.
const FILE: &str = "real.endcap";

/// How far the fleet's figure may be from the one computed outside it.
const TOLERANCE: f64 = 0.001;

fn main() -> std::process::ExitCode {
    let arguments = Arguments::from_args();
    let data =
        std::env::var_os("ENDCAP_DATA").map(PathBuf::from).filter(|folder| !folder.as_os_str().is_empty());
    let missing = data.is_none();
    let recipes = [
        ("ndcg_through_the_fleet_equals_ndcg_outside_it_on_real_data", "trained"),
        ("fused_lists_through_the_fleet_equal_those_outside_it_on_real_data", "rrf"),
        ("a_given_ranker_of_22_features_is_served_whole_on_real_data", "lambdamart-22"),
    ];
    let trial = |(name, recipe): (&str, &'static str)| {
        let data = data.clone();
        let test = move || {
            let data = data.as_deref().ok_or("ENDCAP_DATA is not set")?;
            let runtime = tokio::runtime::Runtime::new()?;
            runtime.block_on(served_whole(data, recipe)).map_err(|error| Failed::from(format!("{error:#}")))
        };
        Trial::test(name, test).with_ignored_flag(missing)
    };
    libtest_mimic::run(&arguments, recipes.into_iter().map(trial).collect()).exit_code()
}

async fn served_whole(data: &Path, recipe: &str) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let packed = packed(data, recipe, folder.path())?;
    let model = packed.spec().model.to_string();
    let settings = [("gateway.default_model", model.as_str())];
    let mut fleet = TestFleet::start(&folder.path().join("fleet"), 2, &settings).await?;
    let global = Global {
        output: Output::Json,
        registry: fleet.fleet.registry_url(),
        gateway: fleet.fleet.gateway_url(),
        actor: "test".into(),
    };
    endcap::release(&global, &folder.path().join(FILE)).await?;
    let args = EvaluateArgs {
        record: false,
        bundle: Some(folder.path().join(FILE)),
        labels: None,
        version: None,
        model,
        concurrency: 2,
        tolerance: None,
        deadline: Duration::from_secs(60),
    };
    let report = evaluate::measure(&global, &args).await?;
    println!("{recipe}: {:?}, outside the fleet {:?}", report.metrics, report.offline);
    ensure!(report.degraded == 0, "{} answers were degraded", report.degraded);
    for metric in ["ndcg@10", "recall@100"] {
        let (inside, outside) = (report.metrics[metric], report.offline[metric]);
        let near = (inside - outside).abs() <= TOLERANCE;
        ensure!(near, "{metric} is {inside} in the fleet, {outside} outside it");
    }
    if recipe == "lambdamart-22" {
        // The products' file is in the order of its ids.
        let mut ids = Vec::new();
        for shard in packed.manifest().shard_count.indices() {
            ids.extend(packed.items(shard)?.ids);
        }
        ids.sort_unstable();
        golden(data, &ids, &mut fleet).await?;
    }
    fleet.fleet.stop().await
}

/// Runs the pipeline and packs what it wrote.
fn packed(data: &Path, recipe: &str, folder: &Path) -> anyhow::Result<Bundle> {
    let source = folder.join("source");
    let python = root().join(".tools/pipelines/bin/python");
    let built = Command::new(&python)
        .args(["-m", "endcap_pipelines.bundle", "--ranker", recipe, "--data"])
        .arg(data)
        .arg("--out")
        .arg(&source)
        .output()
        .with_context(|| format!("run {} (make test sets it up)", python.display()))?;
    ensure!(built.status.success(), "the pipeline failed: {}", String::from_utf8_lossy(&built.stderr));
    let options = PackOptions { shards: ShardCount::try_from(4)?, created: "2026-01-01T00:00:00Z".into() };
    let bundle = endcap_bundle::assemble(&source, &folder.join("bundle"), &options, &())?;
    bundle.check()?;
    endcap_bundle::pack(&bundle, &folder.join(FILE), &())?;
    Ok(bundle)
}

/// `ranker_golden.json`: the whole candidate lists of some queries with their scores and their best ten.
#[derive(Deserialize)]
struct Golden {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    query: String,
    item_idx: Vec<usize>,
    score: Vec<f32>,
    top10: Vec<usize>,
}

/// Every score by a rerank of the case's candidates, and the best ten by the fleet's own retrieval.
async fn golden(data: &Path, ids: &[String], fleet: &mut TestFleet) -> anyhow::Result<()> {
    let golden: Golden = serde_json::from_slice(&std::fs::read(data.join("ranker_golden.json"))?)?;
    for case in golden.cases {
        let candidates: Vec<String> = case.item_idx.iter().map(|item| ids[*item].clone()).collect();
        let request = pb::RecommendRequest {
            query: case.query.clone(),
            limit: u32::try_from(candidates.len())?,
            candidates: candidates.clone(),
            ..Default::default()
        };
        let answer = fleet.gateway.recommend(timed(request)).await?.into_inner();
        let found: HashMap<_, _> = answer.items.into_iter().map(|item| (item.item_id, item.score)).collect();
        for (item, expected) in candidates.iter().zip(&case.score) {
            let score = found.get(item).with_context(|| format!("{:?}: {item} is missing", case.query))?;
            let near = (score - expected).abs() <= 1e-4;
            ensure!(near, "{:?}: {item} has {score}; expected {expected}", case.query);
        }
        let retrieved = fleet.gateway.recommend(query(&case.query)).await?.into_inner();
        let best: Vec<_> = retrieved.items.iter().map(|item| item.item_id.as_str()).collect();
        let expected: Vec<_> = case.top10.iter().map(|item| ids[*item].as_str()).collect();
        ensure!(best == expected, "{:?}: {best:?}; expected {expected:?}", case.query);
    }
    Ok(())
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}
