//! A worker whose cable is pulled: nobody is told, packets vanish. Needs the right to make network namespaces; without
//! it the test reads as ignored, by name.

use std::{path::Path, time::Duration};

use anyhow::ensure;
use endcap_bundle::test_util::TinyOptions;
use endcap_tests::{
    cable::Cable,
    eventually,
    load::Load,
    processes::{ProcessFleet, USUAL},
    tiny,
};
use libtest_mimic::{Arguments, Failed, Trial};

/// Requests per second.
const RATE: u32 = 40;

fn main() -> std::process::ExitCode {
    let arguments = Arguments::from_args();
    let test = Trial::test("a_worker_that_is_cut_off_is_ejected_and_taken_back", || {
        let runtime = tokio::runtime::Runtime::new()?;
        runtime.block_on(cut_off()).map_err(|error| Failed::from(format!("{error:#}")))
    })
    .with_ignored_flag(!Cable::can_be_made());
    libtest_mimic::run(&arguments, vec![test]).exit_code()
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

/// Waits until the worker is ready for some shard.
async fn until_held(fleet: &ProcessFleet, worker: &str) -> anyhow::Result<()> {
    let what = format!("{worker} holds shards");
    eventually(&what, async || {
        let held = fleet.holders().await;
        held.is_ok_and(|held| held.iter().flatten().any(|holder| holder == worker))
    })
    .await
}
