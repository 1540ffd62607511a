//! Promote and roll back in a loop while clients call as fast as they can: nobody sees it.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]
#![expect(clippy::disallowed_methods, reason = "clients of the test are nobody's background tasks")]

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use endcap_bundle::test_util::TinyOptions;
use endcap_tests::{MODEL, TestFleet, query, resident_bytes, tiny};

const CLIENTS: usize = 4;
const REQUESTS: u64 = 50_000;
const SWAPS: u64 = 50;
/// Allocator and test noise that says nothing about a leak.
const SLACK: u64 = 4 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn promoting_and_rolling_back_under_load_fails_nothing_mixes_nothing_and_leaks_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut fleet = TestFleet::start(folder.path(), 2, &[("registry.replicas", "2")]).await.unwrap();
    let first = tiny(&TinyOptions { variant: "first".into(), ..TinyOptions::default() }, 4).unwrap();
    let second =
        tiny(&TinyOptions { variant: "second".into(), weight_scale: 2.0, ..TinyOptions::default() }, 4)
            .unwrap();
    let one = fleet.release(&first.bytes).await.unwrap();
    let two = fleet.register(&second.bytes).await.unwrap().version;
    fleet.validate(two).await.unwrap();

    // What each version answers when nothing else is going on.
    let expected = Arc::new([pinned(&mut fleet, one).await, pinned(&mut fleet, two).await]);
    assert_ne!(expected[0], expected[1], "the two versions must be told apart by their scores");

    let asked = Arc::new(AtomicU64::new(0));
    let done = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let (mut gateway, expected) = (fleet.gateway.clone(), Arc::clone(&expected));
            let (asked, done) = (Arc::clone(&asked), Arc::clone(&done));
            tokio::spawn(async move {
                while !done.load(Ordering::Relaxed) {
                    let answer = gateway.recommend(query("red kettle")).await.expect("no request fails");
                    let scores = scores(&answer.into_inner());
                    let same = scores == expected[0] || scores == expected[1];
                    assert!(same, "an answer of neither version: {scores:?}");
                    asked.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();

    let per_swap = REQUESTS / SWAPS;
    let mut memory = Vec::new();
    for swap in 1..=SWAPS {
        let rollout = if swap % 2 == 1 { fleet.promote(two).await } else { fleet.rollback().await }.unwrap();
        let expected_stable = if swap % 2 == 1 { two } else { one };
        assert_eq!(rollout.aliases["stable"], expected_stable);
        while asked.load(Ordering::Relaxed) < swap * per_swap {
            tokio::task::yield_now().await;
            assert!(clients.iter().all(|client| !client.is_finished()), "a client stopped");
        }
        memory.push(resident_bytes().unwrap());
    }
    done.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.expect("no client failed");
    }
    assert!(asked.load(Ordering::Relaxed) >= REQUESTS);

    let metrics = endcap_tests::metrics(&fleet).await.unwrap();
    let mixed = metrics.lines().filter(|line| line.starts_with("endcap_mixed_version_total"));
    assert!(mixed.clone().all(|line| line.ends_with(" 0")), "{:?}", mixed.collect::<Vec<_>>());
    let (early, late) = (memory[4], memory[usize::try_from(SWAPS).unwrap() - 1]);
    assert!(late <= early + early / 20 + SLACK, "memory grew from {early} to {late} bytes");
    println!(
        "{MODEL}: {} requests, {SWAPS} swaps, 0 failed, resident {} MiB after 5 swaps, {} MiB after {SWAPS}",
        asked.load(Ordering::Relaxed),
        early >> 20,
        late >> 20
    );
    fleet.fleet.stop().await.unwrap();
}

/// Item ids with the bits of their scores: equal only for the same version.
type Scores = Vec<(u64, String, u32)>;

fn scores(answer: &endcap_proto::pb::RecommendResponse) -> Scores {
    let quality = answer.quality.as_ref().expect("every answer has its quality");
    answer.items.iter().map(|item| (quality.version, item.item_id.clone(), item.score.to_bits())).collect()
}

async fn pinned(fleet: &mut TestFleet, version: u64) -> Scores {
    let mut answer = None;
    let mut gateway = fleet.gateway.clone();
    endcap_tests::eventually("a pinned version is answered", async || {
        let mut request = query("red kettle");
        request.get_mut().target = Some(endcap_proto::pb::recommend_request::Target::Version(version));
        answer = gateway.recommend(request).await.ok();
        answer.is_some()
    })
    .await
    .unwrap();
    scores(&answer.unwrap().into_inner())
}
