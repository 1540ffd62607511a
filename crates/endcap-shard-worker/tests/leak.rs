//! Loading and unloading does not leak. A program of its own, so that nobody else's memory is measured.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]
#![expect(clippy::disallowed_methods, reason = "the parts of a test are nobody's background tasks")]

#[expect(dead_code, reason = "shared with the other tests of the worker")]
#[path = "worker/support.rs"]
mod support;

use endcap_bundle::test_util::TinyOptions;
use support::{Worker, until};

const LOADS: usize = 50;
/// Until here pools and caches fill; a leak goes on after.
const SETTLED: usize = 20;
/// What the usual load may add: a leak adds something every time.
const SLACK: u64 = 16 << 10;
/// The C library gives each thread an arena of its own, which grows and shrinks by megabytes as threads take turns: in
/// a single one what is resident is what is kept. It is read as a process starts.
const ONE_ARENA: (&str, &str) = ("MALLOC_ARENA_MAX", "1");

#[test]
fn loading_and_unloading_fifty_times_does_not_grow_memory() {
    if std::env::var(ONE_ARENA.0).is_ok_and(|value| value == ONE_ARENA.1) {
        tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(load_and_unload());
        return;
    }
    let mut again = std::process::Command::new(std::env::current_exe().unwrap());
    let status = again.arg("--nocapture").env(ONE_ARENA.0, ONE_ARENA.1).status().unwrap();
    assert!(status.success(), "in one arena of memory: {status}");
}

async fn load_and_unload() {
    let worker = Worker::start(&[]).await;
    let (pin, _) =
        worker.store(1, &TinyOptions { items: 20_000, dim: 64, ..TinyOptions::default() }, 1).await;
    let mut resident = Vec::new();
    for _ in 0..LOADS {
        worker.assign(&pin, 0).await;
        worker.until_ready(&pin, 0).await;
        until(async || worker.memory_used().await > 5 << 20).await;
        worker.unassign(&pin, 0).await;
        until(async || worker.memory_used().await == 0).await;
        resident.push(resident_bytes());
    }
    let (early, late) = (resident[SETTLED - 1], resident[LOADS - 1]);
    println!("resident {} MiB after {SETTLED} loads, {} MiB after {LOADS}", early >> 20, late >> 20);
    let mut growth: Vec<u64> =
        resident[SETTLED - 1..].windows(2).map(|pair| pair[1].saturating_sub(pair[0])).collect();
    growth.sort_unstable();
    let usual = growth[growth.len() / 2];
    assert!(usual <= SLACK, "each load adds {usual} bytes: {resident:?}");
    // A tenth of what 30 leaked tables would be.
    assert!(late <= early + (15 << 20), "memory grew from {early} to {late} bytes: {resident:?}");
}

fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 4096
}
