//! What holds of streams alone. (`clients/tests.rs` holds them to what calls do singly.)

use std::sync::atomic::Ordering;

use super::{
    super::tests::bed::{Bed, PATIENCE, both, until},
    *,
};

#[tokio::test]
async fn a_worker_that_came_back_keeps_its_new_stream_when_the_old_one_ends() {
    let bed = Bed::new(true, true, 100).await;
    let exchanges = bed.remote.exchanges.as_ref().unwrap();
    let old = exchanges.get(&bed.endpoint).unwrap();
    let waiting = Arc::clone(&old.waiting);
    bed.remote.retain(|_| false);
    bed.until_open(true).await;
    drop(old);
    until(async || waiting.calls.lock().closed.is_some()).await;
    let new = exchanges.get(&bed.endpoint).expect("only its own line was closed");
    assert!(new.waiting.calls.lock().closed.is_none());
}

#[tokio::test]
async fn an_answer_too_large_to_send_fails_alone() {
    let mut bed = Bed::new(true, true, 100).await;
    let (waited, large) = tokio::join!(bed.score("wait", PATIENCE), async {
        let large = bed.score("too large", PATIENCE).await;
        bed.fake.release.notify_one();
        large
    });
    let large = large.unwrap_err();
    assert!(large.code == ErrorCode::InvalidArgument && large.message.contains("fewer items"), "{large:?}");
    waited.expect("its neighbour goes on");
    bed.hears("begun").await;
    assert_eq!(bed.fake.seen.streams.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_worker_without_streams_is_asked_singly() {
    let bed = Bed::new(true, false, 100).await;
    for _ in 0..20 {
        bed.score("fine", PATIENCE).await.unwrap();
    }
    let seen = &bed.fake.seen;
    assert_eq!((seen.calls.load(Ordering::Relaxed), seen.singly.load(Ordering::Relaxed)), (20, 20));
    assert!(seen.streams.load(Ordering::Relaxed) <= 1, "it was asked for a stream again and again");
}

#[tokio::test]
async fn a_worker_that_is_gone_from_the_fleet_has_its_stream_ended() {
    let bed = Bed::new(true, true, 100).await;
    bed.remote.retain(|_| false);
    bed.fake.draining.cancel();
    let mut bed = bed;
    let served = tokio::time::timeout(PATIENCE, &mut bed.served).await;
    served.expect("nothing holds the stream open").unwrap();
}

/// `cargo test --release -p endcap-gateway --lib -- --ignored --nocapture what_a_stream_saves`
#[tokio::test]
#[ignore = "a measurement"]
async fn what_a_stream_saves() {
    let beds = both(1000).await;
    let mut ratios = Vec::new();
    for _ in 0..15 {
        let mut took = [Duration::ZERO; 2];
        for (bed, took) in beds.iter().zip(&mut took) {
            let started = std::time::Instant::now();
            let asking = futures::future::join_all((0..64).map(async |_| {
                for _ in 0..50 {
                    bed.score("fine", PATIENCE).await.unwrap();
                }
            }));
            asking.await;
            *took = started.elapsed();
        }
        ratios.push(took[0].as_secs_f64() / took[1].as_secs_f64());
    }
    ratios.sort_by(f64::total_cmp);
    println!("64 in flight: a call each takes {:.2} times as long (median of 15 rounds)", ratios[7]);
}
