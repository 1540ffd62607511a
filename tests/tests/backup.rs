//! An etcd that is restored from a backup: what happened after the backup is in the ledger alone.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::path::Path;

use endcap_bundle::test_util::TinyOptions;
use endcap_tests::{
    eventually,
    processes::{ProcessFleet, Size},
    registry, tiny,
};

const SIZE: Size = Size { etcd: 1, registries: 2, gateways: 1, workers: 2 };

fn bundle(variant: &str) -> Vec<u8> {
    let options = TinyOptions { variant: variant.into(), ..TinyOptions::default() };
    tiny(&options, 2).unwrap().bytes
}

fn epoch(fleet: &ProcessFleet) -> u64 {
    let stored = fleet.etcd.etcdctl(&["get", "/endcap/epoch", "--print-value-only"]);
    let stored: serde_json::Value = serde_json::from_str(&stored).unwrap_or_default();
    stored["number"].as_u64().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_restored_etcd_has_lost_comes_back_from_the_ledger() {
    let program = Path::new(env!("CARGO_BIN_EXE_endcap-node"));
    let mut fleet = ProcessFleet::start(program, SIZE, &[]).await.unwrap();
    let one = fleet.release(&bundle("one")).await.unwrap();
    fleet.etcd.stop();
    let backup = fleet.etcd.backup();
    fleet.etcd.resume().await;
    let mut client = fleet.registry("registry-1").unwrap();
    eventually("the registry reaches etcd again", async || registry::history(&mut client).await.is_ok())
        .await
        .unwrap();
    let two = fleet.release(&bundle("two")).await.unwrap();
    let (history, before) = (registry::history(&mut client).await.unwrap(), epoch(&fleet));
    assert_eq!(before, 1);

    fleet.etcd.stop();
    fleet.etcd.restore(&backup);
    fleet.etcd.resume().await;
    eventually("the next epoch has begun", async || epoch(&fleet) == before + 1).await.unwrap();
    assert_eq!(registry::history(&mut client).await.unwrap(), history);
    fleet.until_answering(two).await.unwrap();

    // And it goes on from there, at either registry.
    let mut other = fleet.registry("registry-2").unwrap();
    let rollout = registry::rollback(&mut other).await.unwrap();
    assert_eq!(rollout.aliases["stable"], one);
    let after = registry::history(&mut client).await.unwrap();
    assert_eq!(after[..history.len()], history);
    assert_eq!(after.len(), history.len() + 1);
    fleet.until_answering(one).await.unwrap();
}
