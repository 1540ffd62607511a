//! Processes that die, freeze and restart under a steady load: nobody who asks sees it.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::{collections::BTreeSet, path::Path, time::Duration};

use endcap_bundle::test_util::TinyOptions;
use endcap_feature_cache::test_util::RedisServer;
use endcap_proto::pb::{self, DegradationReason as Reason};
use endcap_tests::{
    eventually,
    load::{Load, Report},
    processes::{ProcessFleet, USUAL},
    registry,
    shoppers::{put_features, ranked_for},
    tiny,
};
use tokio::sync::{Mutex, MutexGuard};

/// Fleets of this many processes one after another: together they would measure each other.
static ALONE: Mutex<()> = Mutex::const_new(());
/// Requests per second.
const RATE: u32 = 40;
const SHARDS: u32 = 8;

async fn fleet() -> (MutexGuard<'static, ()>, ProcessFleet) {
    let alone = ALONE.lock().await;
    let program = Path::new(env!("CARGO_BIN_EXE_endcap-node"));
    (alone, ProcessFleet::start(program, USUAL, &[]).await.unwrap())
}

fn bundle(variant: &str, weight_scale: f32, shards: u32) -> Vec<u8> {
    let options = TinyOptions { variant: variant.into(), weight_scale, ..TinyOptions::default() };
    tiny(&options, shards).unwrap().bytes
}

/// Lets the load go on for a while: what is tested is that nothing happens.
async fn meanwhile(time: Duration) {
    tokio::time::sleep(time).await;
}

fn nothing_failed(report: &Report) {
    println!("{}", report.summary());
    assert_eq!(report.failed(), Vec::<String>::new());
    assert_eq!(report.late(), 0, "{}", report.summary());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_worker_is_not_missed() {
    let (_alone, mut fleet) = fleet().await;
    let version = fleet.release(&bundle("one", 1.0, SHARDS)).await.unwrap();
    let before = holders(&fleet).await;
    let load = Load::start(fleet.gateways().unwrap(), RATE);
    meanwhile(Duration::from_secs(2)).await;
    let killed_at = load.now();
    fleet.kill("worker-2").unwrap();
    // What it held is elsewhere, and nothing else has moved.
    eventually("every shard has two replicas again", async || {
        let now = holders(&fleet).await;
        now.iter().all(|holders| holders.len() == 2 && !holders.contains(&"worker-2".to_owned()))
    })
    .await
    .unwrap();
    for (shard, (before, after)) in before.iter().zip(holders(&fleet).await).enumerate() {
        for kept in before.iter().filter(|worker| *worker != "worker-2") {
            assert!(after.contains(kept), "shard {shard} left {kept} for no reason: {before:?} to {after:?}");
        }
    }
    meanwhile(Duration::from_secs(1)).await;
    let report = load.stop().await.unwrap();
    nothing_failed(&report);
    let last = report.degraded().iter().map(|sample| sample.at).max();
    assert!(last.is_none_or(|last| last <= killed_at + Duration::from_secs(1)), "degraded until {last:?}");
    fleet.launch("worker-2").unwrap();
    fleet.until_ready("worker-2").await.unwrap();
    fleet.until_answering(version).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_worker_is_ejected_and_taken_back() {
    let (_alone, fleet) = fleet().await;
    fleet.release(&bundle("one", 1.0, SHARDS)).await.unwrap();
    let load = Load::start(fleet.gateways().unwrap(), RATE);
    meanwhile(Duration::from_secs(2)).await;
    let frozen_at = load.now();
    fleet.freeze("worker-1").unwrap();
    meanwhile(Duration::from_secs(10)).await;
    fleet.thaw("worker-1").unwrap();
    eventually("the worker that answers again holds its shards again", async || {
        holders(&fleet).await.iter().any(|holders| holders.contains(&"worker-1".to_owned()))
    })
    .await
    .unwrap();
    meanwhile(Duration::from_secs(2)).await;
    let report = load.stop().await.unwrap();
    println!("{}", report.summary());
    assert_eq!(report.late(), 0);
    assert!(report.availability() >= 0.9995, "{:?}", report.failed());
    // Half of the deadline is what a request waits for a worker that is silent.
    let slow = report.samples.iter().filter(|sample| sample.took > Duration::from_millis(400));
    let last = slow.map(|sample| sample.at).filter(|at| *at > frozen_at).max();
    let until = last.map(|last| last - frozen_at).unwrap_or_default();
    println!("requests waited for the frozen worker until {until:?} after");
    assert!(until < Duration::from_secs(2), "requests waited for the frozen worker until {until:?} after");
    let ejections: f64 = ejections(&fleet).await;
    assert!(ejections >= 1.0, "nobody ejected the frozen worker");
}

#[tokio::test(flavor = "multi_thread")]
async fn feature_caches_of_one_redis_stand_in_for_each_other() {
    let (_alone, mut fleet) = fleet().await;
    let mut redis = RedisServer::start().await;
    let program = Path::new(env!("CARGO_BIN_EXE_endcap-node"));
    let url = redis.url();
    let set = [("feature_cache.redis.url", url.as_str()), ("feature_cache.redis.timeout", "2s")];
    for _ in 0..2 {
        fleet.add(program, "feature-cache", &set).await.unwrap();
    }
    fleet.release(&bundle("one", 1.0, SHARDS)).await.unwrap();
    put_features(&fleet.url("feature-cache-1"), &USERS).await.unwrap();
    eventually("features are read", async || reasons(&fleet).await.is_empty()).await.unwrap();

    // Half of the users are asked of the one that is gone first. Its lease lasts, and its port refuses at once.
    fleet.kill("feature-cache-2").unwrap();
    for _ in 0..5 {
        let seen = reasons(&fleet).await;
        assert!(seen.is_subset(&[Reason::FeaturesTimedOut].into()), "{seen:?}");
    }
    eventually("features are read from the other one", async || reasons(&fleet).await.is_empty())
        .await
        .unwrap();
    redis.stop();
    eventually("it is told that there are none", async || {
        reasons(&fleet).await == [Reason::FeaturesUnavailable].into()
    })
    .await
    .unwrap();
    // They are on Redis's disk.
    redis.restart();
    fleet.launch("feature-cache-2").unwrap();
    fleet.until_ready("feature-cache-2").await.unwrap();
    eventually("features are read again", async || reasons(&fleet).await.is_empty()).await.unwrap();
}

/// Enough that each of two feature-caches is asked of some first.
const USERS: [&str; 12] = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l"];

/// What was done without, for any of the users, by any of the gateways.
async fn reasons(fleet: &ProcessFleet) -> BTreeSet<Reason> {
    let mut seen = BTreeSet::new();
    for mut gateway in fleet.gateways().unwrap() {
        for user in USERS {
            seen.extend(ranked_for(&mut gateway, user).await.unwrap().reasons);
        }
    }
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn a_minute_without_etcd_changes_nothing_for_those_who_ask() {
    let (_alone, mut fleet) = fleet().await;
    let one = fleet.release(&bundle("one", 1.0, SHARDS)).await.unwrap();
    let load = Load::start(fleet.gateways().unwrap(), RATE);
    meanwhile(Duration::from_secs(1)).await;
    let leader = fleet.etcd.leader();
    fleet.etcd.kill(leader);
    meanwhile(Duration::from_secs(5)).await;
    fleet.etcd.stop();
    meanwhile(Duration::from_secs(20)).await;
    // A gateway that restarts meanwhile knows the fleet from its own disk, and says how old that is.
    fleet.terminate("gateway-1").await.unwrap();
    fleet.launch("gateway-1").unwrap();
    fleet.until_ready("gateway-1").await.unwrap();
    meanwhile(Duration::from_secs(40)).await;
    let age = gauge(&fleet.metrics("gateway-1").await.unwrap(), "endcap_routing_snapshot_age_seconds");
    assert!(age >= 60.0, "the snapshot says it is {age} s old");
    let status = fleet.registry("registry-1").unwrap().get_fleet(pb::GetFleetRequest {}).await.unwrap();
    let age = status.into_inner().snapshot_age_ms;
    assert!(age >= 55_000, "the registry says that what it knows is {age} ms old");
    let gateway = endcap_tests::channel(&fleet.url("gateway-1")).unwrap();
    let mut gateway = pb::gateway_service_client::GatewayServiceClient::new(gateway);
    let routing = gateway.get_routing(pb::GetRoutingRequest {}).await.unwrap().into_inner();
    assert!(routing.snapshot_age_ms >= 60_000 && routing.versions.len() == 1, "{routing:?}");
    fleet.etcd.resume().await;
    // Promotions work again.
    let mut client = fleet.registry("registry-2").unwrap();
    let packed = bundle("two", 2.0, SHARDS);
    let mut two = 0;
    eventually("a version can be registered again", async || {
        let registered = registry::register(&mut client, &packed).await;
        registered.is_ok_and(|version| {
            two = version.version;
            true
        })
    })
    .await
    .unwrap();
    registry::validate(&mut client, two).await.unwrap();
    registry::promote(&mut client, two).await.unwrap();
    fleet.until_answering(two).await.unwrap();
    assert!(two > one);
    let report = load.stop().await.unwrap();
    nothing_failed(&report);
    assert!(report.degraded().is_empty(), "{} answers were degraded", report.degraded().len());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_emptied_etcd_is_rebuilt_and_nobody_who_asks_notices() {
    let (_alone, mut fleet) = fleet().await;
    let one = fleet.release(&bundle("one", 1.0, SHARDS)).await.unwrap();
    let two = fleet.release(&bundle("two", 2.0, SHARDS)).await.unwrap();
    let mut client = fleet.registry("registry-1").unwrap();
    let (history, held) = (registry::history(&mut client).await.unwrap(), holders(&fleet).await);
    let load = Load::start(fleet.gateways().unwrap(), RATE);
    meanwhile(Duration::from_secs(1)).await;
    fleet.etcd.stop();
    fleet.etcd.wipe();
    fleet.etcd.resume().await;
    // No history lost, nothing moved, and the aliases stand where they stood.
    eventually("the history is there again", async || {
        registry::history(&mut client).await.is_ok_and(|entries| entries == history)
    })
    .await
    .unwrap();
    assert_eq!(holders(&fleet).await, held);
    meanwhile(Duration::from_secs(2)).await;
    assert_eq!(holders(&fleet).await, held);
    // Edits work again, in either registry.
    let rollout = registry::rollback(&mut client).await.unwrap();
    assert_eq!(rollout.revision, 3);
    fleet.until_answering(one).await.unwrap();
    let mut other = fleet.registry("registry-2").unwrap();
    registry::promote(&mut other, two).await.unwrap();
    let three = fleet.release(&bundle("three", 3.0, SHARDS)).await.unwrap();
    assert_eq!(three, two + 1);
    let report = load.stop().await.unwrap();
    nothing_failed(&report);
    assert!(report.degraded().is_empty(), "{} answers were degraded", report.degraded().len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_of_sixteen_shards_replaces_one_of_eight_live() {
    let (_alone, fleet) = fleet().await;
    fleet.release(&bundle("eight", 1.0, 8)).await.unwrap();
    let load = Load::start(fleet.gateways().unwrap(), RATE);
    meanwhile(Duration::from_secs(1)).await;
    let wide = fleet.release(&bundle("sixteen", 1.0, 16)).await.unwrap();
    meanwhile(Duration::from_secs(1)).await;
    registry::rollback(&mut fleet.registry("registry-2").unwrap()).await.unwrap();
    meanwhile(Duration::from_secs(1)).await;
    let report = load.stop().await.unwrap();
    nothing_failed(&report);
    assert!(report.degraded().is_empty(), "{:?}", report.degraded());
    let by_version = report.by_version();
    assert_eq!(by_version.len(), 2, "both versions answered");
    // The same model on the same items: what they are cut into changes no score.
    let scores = |version| by_version[&version].iter().map(|(_, scores)| scores.clone()).collect::<Vec<_>>();
    let (mut eight, mut sixteen) = (scores(wide - 1), scores(wide));
    eight.sort_unstable();
    sixteen.sort_unstable();
    assert_eq!(eight, sixteen);
    let shards: BTreeSet<(u64, u32)> = report
        .samples
        .iter()
        .flat_map(|s| &s.outcome)
        .map(|seen| (seen.version, seen.shards_total))
        .collect();
    assert_eq!(shards, [(wide - 1, 8), (wide, 16)].into());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_of_everything_fails_nothing() {
    let (_alone, mut fleet) = fleet().await;
    let version = fleet.release(&bundle("one", 1.0, SHARDS)).await.unwrap();
    let load = Load::start(fleet.gateways().unwrap(), RATE);
    for id in fleet.ids("") {
        fleet.terminate(&id).await.unwrap();
        fleet.launch(&id).unwrap();
        fleet.until_ready(&id).await.unwrap();
        eventually("every shard has two replicas", async || {
            holders(&fleet).await.iter().all(|holders| holders.len() == 2)
        })
        .await
        .unwrap();
        println!("{:?} {id} is back", load.now());
    }
    for member in 0..USUAL.etcd {
        fleet.etcd.kill(member);
        fleet.etcd.resume().await;
        println!("{:?} etcd {member} is back", load.now());
    }
    fleet.until_answering(version).await.unwrap();
    let report = load.stop().await.unwrap();
    nothing_failed(&report);
    assert!(report.degraded().is_empty(), "{:?}", report.degraded());
}

/// The workers that are ready, by shard of the newest version.
async fn holders(fleet: &ProcessFleet) -> Vec<Vec<String>> {
    fleet.holders().await.unwrap()
}

async fn ejections(fleet: &ProcessFleet) -> f64 {
    let mut all = 0.0;
    for id in fleet.ids("gateway") {
        all += gauge(&fleet.metrics(&id).await.unwrap(), "endcap_replica_ejections_total");
    }
    all
}

fn gauge(metrics: &str, name: &str) -> f64 {
    let line = metrics.lines().find(|line| line.starts_with(name) && !line.starts_with('#'));
    line.unwrap_or_else(|| panic!("no {name} in\n{metrics}")).rsplit(' ').next().unwrap().parse().unwrap()
}
