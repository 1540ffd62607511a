//! What holds of every way to ask a worker: a call each time, and one stream for all of them.

pub(super) mod bed;

use std::sync::atomic::Ordering;

use endcap_proto::pb::shard_service_server::ShardServiceServer;
use endcap_service::{GrpcServer, Readiness, task::Tasks};
use tokio_util::sync::CancellationToken;

use self::bed::{Bed, CODES, Fake, PATIENCE, both, call, config, error, pin, question, until};
use super::*;

#[tokio::test]
async fn both_ways_bring_the_same_answers_and_the_same_errors() {
    let [singly, streamed] = both(100).await;
    let codes = CODES.map(|code| format!("{code:?}"));
    let others = ["fine", "panic", "ragged", "another shard", "another version"].map(str::to_owned);
    for query in codes.iter().chain(&others) {
        let asked = [singly.score(query, PATIENCE).await, streamed.score(query, PATIENCE).await];
        let same = asked.map(|answer| answer.map_err(|e| mask(e, &[&singly.endpoint, &streamed.endpoint])));
        assert_eq!(same[0], same[1], "{query}");
        let [answer, _] = same;
        match query.as_str() {
            "fine" => assert_eq!(answer.unwrap().pin, Some(pin())),
            "another version" => assert_ne!(answer.unwrap().pin, Some(pin())),
            "panic" | "ragged" | "another shard" | "Internal" => {
                assert_eq!(answer.unwrap_err().code, ErrorCode::Internal, "{query}");
            }
            "Overloaded" => {
                assert_eq!(answer.unwrap_err().retry_after, Some(Duration::from_millis(70)));
            }
            _ => assert_eq!(answer.unwrap_err().violations, error(ErrorCode::Internal).violations),
        }
    }
    for bed in [&singly, &streamed] {
        let vector = bed.remote.encode(&bed.endpoint, &pin(), "fine", call(PATIENCE)).await.unwrap();
        assert_eq!(vector.answer, [0.5, -1.0]);
    }
    let calls = |bed: &Bed| {
        (bed.fake.seen.calls.load(Ordering::Relaxed), bed.fake.seen.singly.load(Ordering::Relaxed))
    };
    let count = CODES.len() + others.len() + 1;
    assert_eq!((calls(&singly), calls(&streamed)), ((count, count), (count, 0)));
    assert_eq!(streamed.fake.seen.streams.load(Ordering::Relaxed), 1);
}

/// Messages name the worker that gave them; here are two.
fn mask(mut error: RemoteError, endpoints: &[&str]) -> RemoteError {
    for endpoint in endpoints {
        error.message = error.message.replace(endpoint, "worker");
    }
    error
}

#[tokio::test]
async fn a_call_ends_at_its_deadline_and_so_does_its_work() {
    for mut bed in both(100).await {
        let late = bed.score("wait", Duration::from_millis(300)).await.unwrap_err();
        assert_eq!(late.code, ErrorCode::DeadlineExceeded, "{late:?}");
        bed.hears("begun").await;
        bed.hears("dropped").await;
        let expired = bed.score("fine", Duration::ZERO).await.unwrap_err();
        assert_eq!(expired.code, ErrorCode::DeadlineExceeded, "{expired:?}");
        bed.score("fine", PATIENCE).await.expect("the worker goes on");
    }
}

#[tokio::test]
async fn work_that_nobody_waits_for_is_dropped() {
    for mut bed in both(100).await {
        let asked =
            (question("wait"), Part { shard: 1, work: Work::Retrieve { depth: 5, exclude: Vec::new() } });
        let remote = bed.remote.clone();
        let endpoint = bed.endpoint.clone();
        {
            let asking = remote.score(&endpoint, &asked.0, &asked.1, call(2 * PATIENCE));
            tokio::select! {
                answer = asking => panic!("answered {answer:?}"),
                () = bed.hears("begun") => {}
            }
        }
        bed.hears("dropped").await;
        bed.score("fine", PATIENCE).await.expect("the worker goes on");
    }
}

#[tokio::test]
async fn beyond_the_cap_calls_are_refused_and_say_when_to_come_back() {
    for mut bed in both(1).await {
        let remote = bed.remote.clone();
        let (endpoint, asked) = (bed.endpoint.clone(), question("wait"));
        let part = Part { shard: 1, work: Work::Retrieve { depth: 5, exclude: Vec::new() } };
        let first = remote.score(&endpoint, &asked, &part, call(PATIENCE));
        let others = async {
            bed.hears("begun").await;
            let refused = bed.score("fine", PATIENCE).await.unwrap_err();
            bed.fake.release.notify_one();
            refused
        };
        let (first, refused) = tokio::join!(first, others);
        assert_eq!(first.unwrap().answer.item_ids.len(), 2);
        assert_eq!(refused.code, ErrorCode::Overloaded, "{refused:?}");
        assert_eq!(refused.retry_after, Some(Duration::from_millis(50)));
    }
}

#[tokio::test]
async fn a_worker_that_dies_is_unavailable_at_once_and_again_later() {
    for mut bed in both(100).await {
        let remote = bed.remote.clone();
        let (endpoint, asked) = (bed.endpoint.clone(), question("wait"));
        let part = Part { shard: 1, work: Work::Retrieve { depth: 5, exclude: Vec::new() } };
        let killed = async {
            bed.hears("begun").await;
            bed.kill();
        };
        let asking = remote.score(&endpoint, &asked, &part, call(2 * PATIENCE));
        let asking = tokio::time::timeout(PATIENCE, asking);
        let (answer, ()) = tokio::join!(asking, killed);
        for error in [answer.expect("it waited for the dead").unwrap_err()]
            .into_iter()
            .chain(bed.score("fine", PATIENCE).await.err())
        {
            assert_eq!(error.code, ErrorCode::Unavailable, "{error:?}");
        }
    }
}

#[tokio::test]
async fn a_worker_that_leaves_answers_what_is_in_flight_and_is_gone() {
    for mut bed in both(100).await {
        let remote = bed.remote.clone();
        let (endpoint, asked) = (bed.endpoint.clone(), question("wait"));
        let part = Part { shard: 1, work: Work::Retrieve { depth: 5, exclude: Vec::new() } };
        let leaving = async {
            bed.hears("begun").await;
            bed.fake.draining.cancel();
            if bed.remote.exchanges.is_some() {
                bed.until_open(false).await;
            }
            bed.fake.release.notify_one();
            bed.hears("dropped").await;
        };
        let (answer, ()) = tokio::join!(remote.score(&endpoint, &asked, &part, call(PATIENCE)), leaving);
        assert_eq!(answer.unwrap().answer.items_considered, 7);
        let served = tokio::time::timeout(PATIENCE, &mut bed.served).await;
        served.expect("the worker ends as soon as nothing is in flight").unwrap();
    }
}

#[tokio::test]
async fn a_worker_that_still_loads_is_well_for_what_it_serves() {
    let (whole, serves, shutdown) = (Readiness::new(), Readiness::new(), CancellationToken::new());
    let _never_released = whole.latch("assigned shards");
    let server = GrpcServer::bind("worker", config(100)).await.unwrap();
    let endpoint = server.advertised();
    let server = server.add_service(ShardServiceServer::new(Fake::new(true).0));
    let serving = server.with_health(SERVICE_NAME, serves.clone()).serve(whole, shutdown);
    let _served = Tasks::new().spawn("worker", async { serving.await.unwrap() });
    let remote = Remote { channels: Arc::default(), exchanges: None };
    let is_well = async || remote.is_serving(&endpoint, Deadline::after(PATIENCE)).await;
    until(async || is_well().await).await;
    serves.drain();
    until(async || !is_well().await).await;
}
