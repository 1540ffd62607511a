//! The main job on real products, real queries and human judgments: the fleet's NDCG@10 equals the one computed
//! outside it. Needs a data folder (`ENDCAP_DATA`); without one each test reads as ignored, by name.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use endcap::{
    cli::{EvaluateArgs, Global, Output},
    evaluate,
};
use endcap_bundle::PackOptions;
use endcap_tests::TestFleet;
use endcap_types::ShardCount;
use libtest_mimic::{Arguments, Failed, Trial};

/// How far the fleet's figure may be from the one computed outside it.
const TOLERANCE: f64 = 0.001;

fn main() -> std::process::ExitCode {
    let arguments = Arguments::from_args();
    let data =
        std::env::var_os("ENDCAP_DATA").map(PathBuf::from).filter(|folder| !folder.as_os_str().is_empty());
    let missing = data.is_none();
    let test = Trial::test("ndcg_through_the_fleet_equals_ndcg_outside_it_on_real_data", move || {
        let data = data.as_deref().ok_or("ENDCAP_DATA is not set")?;
        let runtime = tokio::runtime::Runtime::new()?;
        runtime.block_on(same_ndcg(data)).map_err(|error| Failed::from(format!("{error:#}")))
    })
    .with_ignored_flag(missing);
    libtest_mimic::run(&arguments, vec![test]).exit_code()
}

async fn same_ndcg(data: &Path) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let source = folder.path().join("source");
    let python = root().join(".tools/pipelines/bin/python");
    let built = Command::new(&python)
        .args(["-m", "endcap_pipelines.bundle", "--data"])
        .arg(data)
        .arg("--out")
        .arg(&source)
        .output()
        .with_context(|| format!("run {} (make test sets it up)", python.display()))?;
    ensure!(built.status.success(), "the pipeline failed: {}", String::from_utf8_lossy(&built.stderr));

    let options = PackOptions { shards: ShardCount::try_from(4)?, created: "2026-01-01T00:00:00Z".into() };
    let bundle = endcap_bundle::assemble(&source, &folder.path().join("bundle"), &options, &())?;
    bundle.check()?;
    let packed = folder.path().join("real.endcap");
    endcap_bundle::pack(&bundle, &packed, &())?;

    let model = bundle.spec().model.to_string();
    let data_dir = folder.path().join("fleet");
    let fleet = TestFleet::start(&data_dir, 2, &[("gateway.default_model", &model)]).await?;
    let global = Global {
        output: Output::Json,
        registry: fleet.fleet.registry_url(),
        gateway: fleet.fleet.gateway_url(),
        actor: "test".into(),
    };
    endcap::release(&global, &packed).await?;
    let args = EvaluateArgs {
        record: false,
        bundle: Some(packed),
        labels: None,
        version: None,
        model,
        concurrency: 2,
        tolerance: None,
        deadline: Duration::from_secs(60),
    };
    let report = evaluate::measure(&global, &args).await?;
    let (inside, outside) = (report.metrics["ndcg@10"], report.offline["ndcg@10"]);
    println!("real data: {:?}, outside the fleet {outside:.4}", report.metrics);
    ensure!(report.degraded == 0, "{} answers were degraded", report.degraded);
    ensure!((inside - outside).abs() <= TOLERANCE, "ndcg@10 is {inside} in the fleet, {outside} outside it");
    fleet.fleet.stop().await
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}
