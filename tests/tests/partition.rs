//! Networks that fail: nobody is told, packets vanish. Needs the right to make network namespaces; without it these
//! tests read as ignored, by name.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::ensure;
use endcap_bundle::test_util::TinyOptions;
use endcap_feature_cache::test_util::RedisServer;
use endcap_tests::{
    TestFleet,
    cable::Cable,
    eventually,
    load::Load,
    processes::{ProcessFleet, USUAL},
    shoppers::{put_features, ranked_for},
    tiny,
};
use libtest_mimic::{Arguments, Failed, Trial};

/// Requests per second.
const RATE: u32 = 40;

fn main() -> std::process::ExitCode {
    let arguments = Arguments::from_args();
    let tests = [
        trial("a_worker_that_is_cut_off_is_ejected_and_taken_back", cut_off),
        trial("a_redis_that_vanished_is_connected_to_anew", vanished),
    ];
    libtest_mimic::run(&arguments, tests.into()).exit_code()
}

fn trial<T>(name: &str, test: fn() -> T) -> Trial
where
    T: Future<Output = anyhow::Result<()>> + 'static,
{
    let run = move || {
        let runtime = tokio::runtime::Runtime::new()?;
        runtime.block_on(test()).map_err(|error| Failed::from(format!("{error:#}")))
    };
    Trial::test(name, run).with_ignored_flag(!Cable::can_be_made())
}

async fn cut_off() -> anyhow::Result<()> {
    let program = Path::new(env!("CARGO_BIN_EXE_endcap-node"));
    let mut fleet = ProcessFleet::start(program, USUAL, &[]).await?;
    let mut cable = Cable::lay()?;
    fleet.isolate("worker-1", &mut cable).await?;
    fleet.release(&tiny(&TinyOptions::default(), 8)?.bytes).await?;
    until_held(&fleet, "worker-1").await?;

    let load = Load::start(fleet.gateways()?, RATE);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let pulled_at = load.now();
    cable.pull()?;
    // Longer than a lease: the fleet gives it up altogether.
    tokio::time::sleep(Duration::from_secs(15)).await;
    cable.plug()?;
    until_held(&fleet, "worker-1").await?;
    tokio::time::sleep(Duration::from_secs(2)).await;

    let report = load.stop().await?;
    println!("{}", report.summary());
    ensure!(report.late() == 0, "{} were late", report.late());
    ensure!(report.availability() >= 0.9995, "{:?}", report.failed());
    let slow = report.samples.iter().filter(|sample| sample.took > Duration::from_millis(400));
    let last = slow.map(|sample| sample.at).filter(|at| *at > pulled_at).max();
    let until = last.map(|last| last - pulled_at).unwrap_or_default();
    println!("requests waited for the cut-off worker until {until:?} after");
    ensure!(until < Duration::from_secs(2), "requests waited for it until {until:?} after");
    Ok(())
}

async fn vanished() -> anyhow::Result<()> {
    let cable = Cable::lay()?;
    let mut redis = RedisServer::start_at(cable.inside, cable.wrapper()).await;
    let url = redis.url();
    let set = [("feature_cache.redis.url", url.as_str()), ("gateway.feature_budget", "1s")];
    let folder = tempfile::tempdir()?;
    let mut fleet = TestFleet::start(folder.path(), 1, &set).await?;
    fleet.release(&tiny(&TinyOptions::default(), 2)?.bytes).await?;
    eventually("features are written", async || {
        put_features(&fleet.fleet.feature_cache_url(), &["ada"]).await.is_ok()
    })
    .await?;
    let mut gateway = fleet.gateway.clone();
    eventually("features are read", async || {
        ranked_for(&mut gateway, "ada").await.is_ok_and(|ranked| ranked.reasons.is_empty())
    })
    .await?;

    cable.swallow()?;
    let silent = Instant::now();
    // So long that the kernel's next attempt on the old connection is ten seconds away.
    while silent.elapsed() < Duration::from_secs(16) {
        let ranked = ranked_for(&mut gateway, "ada").await?;
        ensure!(!ranked.reasons.is_empty(), "features were read where nothing comes back");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    redis.stop();
    cable.replace()?;
    redis.restart();
    let answering = Instant::now();
    eventually("features are read again", async || {
        ranked_for(&mut gateway, "ada").await.is_ok_and(|ranked| ranked.reasons.is_empty())
    })
    .await?;
    let took = answering.elapsed();
    println!("features were read again after {took:?}");
    ensure!(took < Duration::from_secs(5), "features were read again after {took:?} only");
    fleet.fleet.stop().await
}

/// Waits until the worker is ready for some shard.
async fn until_held(fleet: &ProcessFleet, worker: &str) -> anyhow::Result<()> {
    let what = format!("{worker} holds shards");
    eventually(&what, async || {
        let held = fleet.holders().await;
        held.is_ok_and(|held| held.iter().flatten().any(|holder| holder == worker))
    })
    .await
}
