use std::{collections::BTreeMap, sync::atomic::AtomicBool, time::Duration};

use endcap_service::{Deadline, RequestId};
use endcap_types::{Digest, Version};
use futures::FutureExt as _;

use super::*;
use crate::ports::HealthClient;

/// What a worker does when it is asked.
#[derive(Debug, Clone)]
enum Does {
    Answers(&'static str),
    AnswersAfter(u64, &'static str),
    AnswersFromVersion(u64),
    Fails(ErrorCode),
    Hangs,
}

fn pin(version: u64) -> VersionPin {
    VersionPin {
        model: "m".parse().unwrap(),
        version: Version::try_from(version).unwrap(),
        digest: Digest::from_bytes([1; 32]),
    }
}

fn error(code: ErrorCode) -> RemoteError {
    RemoteError { code, message: String::new(), violations: Vec::new(), retry_after: None }
}

async fn act(does: Does) -> Result<Pinned<&'static str>, RemoteError> {
    let answer = |answer, version| Ok(Pinned { pin: Some(pin(version)), answer });
    match does {
        Does::Answers(text) => answer(text, 1),
        Does::AnswersAfter(ms, text) => {
            tokio::time::sleep(Duration::from_millis(ms)).await;
            answer(text, 1)
        }
        Does::AnswersFromVersion(version) => answer("wrong", version),
        Does::Fails(code) => Err(error(code)),
        Does::Hangs => std::future::pending().await,
    }
}

/// Asks workers that behave like this within 100 ms; also says who was asked, and how long it took.
async fn ask(load: &Load, workers: &[(&str, Does)]) -> (Result<&'static str, Fault>, Vec<String>, Duration) {
    let behaviour: BTreeMap<&str, Does> = workers.iter().cloned().collect();
    let replica = |name: &&str| Replica { worker: (*name).to_owned(), endpoint: (*name).to_owned() };
    let replicas: Vec<Replica> = behaviour.keys().map(replica).collect();
    let replicas: Vec<&Replica> = replicas.iter().collect();
    let call = Call { deadline: Deadline::after(Duration::from_millis(100)), id: RequestId::new() };
    let asked = Mutex::new(Vec::new());
    let started = tokio::time::Instant::now();
    let answer = load
        .ask(&replicas, Wanted { pin: &pin(1), kind: Kind::Encode }, &call, |replica, _| {
            asked.lock().push(replica.worker.clone());
            act(behaviour[replica.worker.as_str()].clone()).boxed()
        })
        .await;
    let answer = answer.map(|(answer, _)| answer);
    (answer, asked.into_inner(), started.elapsed())
}

#[tokio::test(start_paused = true)]
async fn a_failing_replica_is_followed_by_another_at_once() {
    for code in
        [ErrorCode::Unavailable, ErrorCode::Internal, ErrorCode::FailedPrecondition, ErrorCode::Overloaded]
    {
        let load = Load::default();
        for _ in 0..8 {
            let workers = [("bad", Does::Fails(code)), ("good", Does::Answers("yes"))];
            let (answer, asked, took) = ask(&load, &workers).await;
            assert_eq!(answer, Ok("yes"), "{code:?}");
            assert!(asked.len() <= 2 && took.is_zero(), "{asked:?} in {took:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_outcome_says_what_went_wrong() {
    let cases = [
        (Does::Fails(ErrorCode::Overloaded), Fault::Shed),
        (Does::Fails(ErrorCode::Unavailable), Fault::Failed),
        (Does::Fails(ErrorCode::DeadlineExceeded), Fault::TimedOut),
        (Does::Fails(ErrorCode::Forbidden), Fault::Failed),
        (Does::Fails(ErrorCode::InvalidArgument), Fault::Refused(error(ErrorCode::InvalidArgument))),
        (Does::AnswersFromVersion(2), Fault::Failed),
        (Does::Hangs, Fault::TimedOut),
    ];
    for (does, fault) in cases {
        let (answer, _, took) = ask(&Load::default(), &[("a", does.clone()), ("b", does.clone())]).await;
        assert_eq!(answer, Err(fault), "{does:?}");
        assert!(took <= Duration::from_millis(101), "{does:?} took {took:?}");
    }
    assert_eq!(ask(&Load::default(), &[]).await.0, Err(Fault::Failed));
}

#[tokio::test(start_paused = true)]
async fn what_every_replica_would_refuse_is_asked_once() {
    for code in [ErrorCode::InvalidArgument, ErrorCode::Forbidden] {
        let workers = [("a", Does::Fails(code)), ("b", Does::Fails(code))];
        let (_, asked, _) = ask(&Load::default(), &workers).await;
        assert_eq!(asked.len(), 1, "{code:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_hangs_costs_half_of_the_time_at_most() {
    let load = Load::default();
    for _ in 0..8 {
        let (answer, _, took) = ask(&load, &[("hung", Does::Hangs), ("good", Does::Answers("yes"))]).await;
        assert_eq!(answer, Ok("yes"));
        assert!(took <= Duration::from_millis(51), "{took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_replica_may_still_be_first() {
    // Both need more than half of the time: giving the first one up would give the answer up.
    let workers = [("a", Does::AnswersAfter(70, "slow")), ("b", Does::AnswersAfter(70, "slow"))];
    let (answer, asked, took) = ask(&Load::default(), &workers).await;
    assert_eq!((answer, asked.len()), (Ok("slow"), 2));
    assert_eq!(took.as_millis(), 70);
}

#[tokio::test(start_paused = true)]
async fn the_less_busy_replica_is_asked() {
    let load = Load::default();
    let busy = Replica { worker: "busy".into(), endpoint: "busy".into() };
    let beaten = AtomicBool::new(false);
    let patience =
        Patience { began: Instant::now(), late: Duration::MAX, slow: Duration::MAX, beaten: &beaten };
    let calls: Vec<_> = (0..3).map(|_| load.enter(&busy, patience)).collect();
    for _ in 0..16 {
        let workers = [("busy", Does::Answers("busy")), ("idle", Does::Answers("idle"))];
        assert_eq!(ask(&load, &workers).await.0, Ok("idle"));
    }
    drop(calls);
}

/// Both answer after 10 ms, so often that it is known and that second calls are saved up.
async fn warmed_up() -> Load {
    let load = Load::default();
    for _ in 0..400 {
        let workers = [("a", Does::AnswersAfter(10, "yes")), ("b", Does::AnswersAfter(10, "yes"))];
        let (answer, asked, _) = ask(&load, &workers).await;
        assert_eq!((answer, asked.len()), (Ok("yes"), 1));
    }
    load
}

#[tokio::test(start_paused = true)]
async fn a_late_replica_costs_what_others_seldom_take_and_one_more_call() {
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let counted = recorder.handle();
    let _counting = ::metrics::set_default_local_recorder(&recorder);
    let load = warmed_up().await;
    let mut second = 0;
    for _ in 0..10 {
        // Well below half of the time: nothing but its lateness speaks against it.
        let workers = [("a", Does::AnswersAfter(45, "late")), ("b", Does::AnswersAfter(10, "yes"))];
        let (answer, asked, took) = ask(&load, &workers).await;
        assert_eq!(answer, Ok("yes"));
        assert!(took <= Duration::from_millis(22), "{took:?}");
        second += asked.len() - 1;
    }
    assert!(second > 0, "the late one was never asked first");
    assert!(counted.render().contains(&format!("endcap_hedges_total{{outcome=\"won\"}} {second}")));

    // The first may still be faster; then the second has lost.
    let load = warmed_up().await;
    let workers = [("a", Does::AnswersAfter(14, "first")), ("b", Does::AnswersAfter(14, "first"))];
    let (answer, asked, took) = ask(&load, &workers).await;
    assert_eq!((answer, asked.len(), took.as_millis()), (Ok("first"), 2, 14));
    assert!(counted.render().contains("endcap_hedges_total{outcome=\"lost\"} 1"));
}

#[tokio::test(start_paused = true)]
async fn second_calls_stay_within_a_twentieth_also_when_all_become_slow() {
    let load = Load::default();
    let mut second = 0;
    for i in 0..10_000_u64 {
        // One call in 25 takes much longer, and for a while every one does.
        let all_slow = (3_000..4_000).contains(&i);
        let ms = |salt: u64| {
            let random = (2 * i + salt).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
            let tail = if random.is_multiple_of(25) || all_slow { 10 + random / 25 % 28 } else { 0 };
            2 + random / 1000 % 9 + tail
        };
        let workers = [("a", Does::AnswersAfter(ms(1), "yes")), ("b", Does::AnswersAfter(ms(2), "yes"))];
        let (answer, asked, _) = ask(&load, &workers).await;
        assert_eq!(answer, Ok("yes"));
        second += asked.len() as u64 - 1;
        assert!(second * 20 <= i + 1, "{second} second calls among {}", i + 1);
    }
    assert!(second > 100, "only {second}");
}

#[tokio::test(start_paused = true)]
async fn without_another_open_replica_there_is_no_second_call() {
    let load = warmed_up().await;
    let b = Replica { worker: "b".into(), endpoint: "b".into() };
    let peer = load.peer(&b.endpoint);
    for _ in 0..3 {
        peer.begin();
        peer.end(End::Failed, Duration::ZERO, Instant::now());
    }
    let workers = [("a", Does::AnswersAfter(45, "late")), ("b", Does::Answers("yes"))];
    let (answer, asked, _) = ask(&load, &workers).await;
    assert_eq!((answer, asked.len()), (Ok("late"), 1));
}

#[tokio::test(start_paused = true)]
async fn second_calls_do_not_hide_a_replica_that_hangs() {
    let load = warmed_up().await;
    for _ in 0..40 {
        let workers = [("a", Does::Hangs), ("b", Does::AnswersAfter(10, "yes"))];
        assert_eq!(ask(&load, &workers).await.0, Ok("yes"));
        // The memory of how slow it was fades while nobody asks.
        tokio::time::advance(Duration::from_secs(2)).await;
    }
    assert_eq!(load.ejected(), ["a"]);
}

/// Says what it is told to, and counts how often it is asked.
#[derive(Debug, Default)]
struct Health {
    serving: AtomicBool,
    asked: AtomicU64,
}

#[async_trait::async_trait]
impl HealthClient for Health {
    async fn is_serving(&self, endpoint: &str, _: Deadline) -> bool {
        assert_eq!(endpoint, "a", "only who is ejected is probed");
        self.asked.fetch_add(1, Ordering::Relaxed);
        self.serving.load(Ordering::Relaxed)
    }
}

/// How many of 40 requests waited for worker a.
async fn asked_of_a(load: &Load, does: Does) -> usize {
    let workers = [("a", does), ("b", Does::Answers("yes"))];
    let mut count = 0;
    for _ in 0..40 {
        let (answer, asked, _) = ask(load, &workers).await;
        assert_eq!(answer, Ok("yes"));
        count += usize::from(asked.contains(&"a".to_owned()));
    }
    count
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_hangs_is_left_alone_until_its_health_says_that_it_is_back() {
    let (load, health) = (Arc::<Load>::default(), Arc::<Health>::default());
    let probing = probe(Arc::clone(&load), health.clone());
    tokio::pin!(probing);
    let hung = asked_of_a(&load, Does::Hangs).await;
    assert_eq!(hung, 3, "three failures in a row eject; the others took no time");
    assert!(tokio::time::timeout(Duration::from_secs(10), &mut probing).await.is_err());
    let probes = health.asked.load(Ordering::Relaxed);
    assert!((5..=10).contains(&probes), "{probes} probes in 10 s");
    assert_eq!(asked_of_a(&load, Does::Hangs).await, 0, "probes failed, yet it was asked");
    health.serving.store(true, Ordering::Relaxed);
    assert!(tokio::time::timeout(Duration::from_secs(2), &mut probing).await.is_err());
    assert!(asked_of_a(&load, Does::Answers("yes")).await > 0, "a worker that is well again stayed ejected");
}

#[tokio::test(start_paused = true)]
async fn with_every_replica_ejected_all_are_asked_all_the_same() {
    let load = Load::default();
    let dead = [("a", Does::Fails(ErrorCode::Unavailable)), ("b", Does::Fails(ErrorCode::Unavailable))];
    for _ in 0..4 {
        assert_eq!(ask(&load, &dead).await.0, Err(Fault::Failed));
    }
    let alive = [("a", Does::Answers("yes")), ("b", Does::Answers("yes"))];
    assert_eq!(ask(&load, &alive).await.0, Ok("yes"));
}
