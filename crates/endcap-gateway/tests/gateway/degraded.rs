//! Answers when something is wrong: each is given in time, and says what it lacks.

use std::time::{Duration, Instant};

use endcap_bundle::Popular;
use endcap_proto::pb::{self, DegradationReason as Reason};
use metrics_exporter_prometheus::PrometheusBuilder;
use tonic::Code;

use crate::{
    fleet::{Fleet, ITEMS, ask, coverage, ids, quality, query, reasons, rerank, until, within},
    worker::{Cache, Does, Shared, score},
};

/// Settings that leave a busy machine time to send an answer, whatever the gateway waits for.
const PATIENT: [(&str, &str); 2] = [("gateway.answer_reserve", "1s"), ("gateway.default_deadline", "30s")];

fn set(script: &Shared, score: Does) {
    script.lock().unwrap().score = score;
}

/// Two shards, each on a worker of its own.
async fn two_shards() -> (Fleet, [Shared; 2]) {
    let mut fleet = Fleet::new();
    fleet.register(1, 2, |_| {}).await;
    let scripts = [fleet.worker("w0", &[(1, 0)]).await, fleet.worker("w1", &[(1, 1)]).await];
    fleet.promote(1).await;
    (fleet, scripts)
}

fn popular(fleet: &Fleet) -> Vec<String> {
    let Popular { overall, .. } = fleet.bundle(1).popular().unwrap();
    overall
}

#[tokio::test]
async fn a_shard_without_an_answer_is_missing_and_the_others_answer() {
    let cases = [
        (Does::Hang, Reason::ShardTimedOut),
        (Does::AnswerAfter(Duration::from_secs(20)), Reason::ShardTimedOut),
        (Does::Fail(Code::Internal), Reason::ShardFailed),
        (Does::Fail(Code::Unavailable), Reason::ShardFailed),
        (Does::Fail(Code::InvalidArgument), Reason::ShardFailed),
        (Does::Fail(Code::ResourceExhausted), Reason::ShardShed),
    ];
    let (fleet, scripts) = two_shards().await;
    let gateway = fleet.gateway(&PATIENT).await;
    ask(&gateway, query()).await.unwrap();
    let of_shard_0 = fleet.bundle(1).items(0).unwrap().ids;
    for (does, reason) in cases {
        set(&scripts[1], does);
        let started = Instant::now();
        let deadline = Duration::from_secs(2);
        let answer = gateway.clone().recommend(within(deadline, query())).await.unwrap().into_inner();
        assert!(started.elapsed() < deadline, "{does:?} took {:?}", started.elapsed());
        assert_eq!((quality(&answer).rung(), reasons(&answer)), (pb::Rung::Full, vec![reason]), "{does:?}");
        assert_eq!(ids(&answer).len(), 10);
        assert!(ids(&answer).iter().all(|id| of_shard_0.contains(id)));
        let coverage = coverage(&answer);
        assert_eq!((coverage.items_scored, coverage.items_total), (of_shard_0.len() as u64, ITEMS as u64));
        assert_eq!(
            (coverage.shards_total, coverage.shards_ok, &coverage.missing_shards[..]),
            (2, 1, &[1][..])
        );
        assert_eq!(coverage.shards_timed_out + coverage.shards_failed + coverage.shards_shed, 1);
    }
}

#[tokio::test]
async fn an_answer_from_another_version_is_counted_and_dropped() {
    // The whole test runs on this thread, so that it has its counters to itself.
    let recorder = PrometheusBuilder::new().build_recorder();
    let metrics = recorder.handle();
    let _counting = metrics::set_default_local_recorder(&recorder);
    let (fleet, scripts) = two_shards().await;
    let gateway = fleet.gateway(&[]).await;
    ask(&gateway, query()).await.unwrap();
    assert!(metrics.render().contains("endcap_mixed_version_total 0"));
    set(&scripts[0], Does::Lie);
    let answer = ask(&gateway, query()).await.unwrap();
    let of_shard_1 = fleet.bundle(1).items(1).unwrap().ids;
    assert!(ids(&answer).iter().all(|id| of_shard_1.contains(id)));
    assert_eq!(coverage(&answer).missing_shards, [0]);
    assert_eq!(reasons(&answer), [Reason::ShardFailed]);
    let text = metrics.render();
    for line in [
        "endcap_mixed_version_total 1",
        "endcap_work_after_deadline_total 0",
        "endcap_answers_total{model=\"tiny\",version=\"1\",arm=\"stable\",rung=\"FULL\"} 2",
        "endcap_coverage_ratio_count{model=\"tiny\"} 2",
        "endcap_stage_duration_seconds_count{stage=\"scatter\"} 2",
    ] {
        assert!(text.contains(line), "no {line:?} in\n{text}");
    }
}

#[tokio::test]
async fn with_every_shard_down_popular_items_are_shown() {
    let (fleet, scripts) = two_shards().await;
    let gateway = fleet.gateway(&[]).await;
    for script in &scripts {
        set(script, Does::Fail(Code::Unavailable));
    }
    let popular = popular(&fleet);
    let request = pb::RecommendRequest { exclude: vec![popular[1].clone()], limit: 3, ..query() };
    let answer = ask(&gateway, request).await.unwrap();
    assert_eq!(ids(&answer), [&popular[0], &popular[2], &popular[3]].map(String::as_str));
    assert!(answer.items.iter().all(|item| item.score == 0.0));
    assert_eq!((quality(&answer).rung(), reasons(&answer)), (pb::Rung::Popular, vec![Reason::ShardFailed]));
    assert_eq!(coverage(&answer).items_scored, 0);
    assert_eq!(coverage(&answer).missing_shards, [0, 1]);

    // A rerank shows the caller's own: popular ones first, the others in the caller's order.
    let unpopular: Vec<_> = fleet.items(1).into_iter().filter(|id| !popular.contains(id)).take(2).collect();
    let asked = [&unpopular[1], &popular[4], &unpopular[0], &popular[2]].map(String::as_str);
    let answer = ask(&gateway, rerank(&asked)).await.unwrap();
    assert_eq!(ids(&answer), [&popular[2], &popular[4], &unpopular[1], &unpopular[0]].map(String::as_str));
    assert_eq!(quality(&answer).rung(), pb::Rung::Popular);
}

#[tokio::test]
async fn without_an_encoder_popular_items_are_shown_and_a_rerank_does_without() {
    let (fleet, scripts) = Fleet::stable(2).await;
    let gateway = fleet.gateway(&PATIENT).await;
    for does in [Does::Fail(Code::Internal), Does::Lie, Does::Hang] {
        for script in &scripts {
            script.lock().unwrap().encode = does;
        }
        let deadline = Duration::from_secs(2);
        let asked = |message| within(deadline, message);
        let answer = gateway.clone().recommend(asked(query())).await.unwrap().into_inner();
        assert_eq!(ids(&answer), popular(&fleet)[..10], "{does:?}");
        assert_eq!(
            (quality(&answer).rung(), reasons(&answer)),
            (pb::Rung::Popular, vec![Reason::EncoderFailed])
        );
        assert_eq!(coverage(&answer).shards_ok, 0);

        let request = pb::RecommendRequest { query: "red".into(), ..rerank(&["item-00001", "item-00002"]) };
        let answer = gateway.clone().recommend(asked(request)).await.unwrap().into_inner();
        assert_eq!(
            (quality(&answer).rung(), reasons(&answer)),
            (pb::Rung::Full, vec![Reason::EncoderFailed])
        );
        assert_eq!(ids(&answer).len(), 2);
    }
}

#[tokio::test]
async fn another_replica_is_asked_when_one_fails() {
    let (fleet, scripts) = Fleet::stable(2).await;
    let gateway = fleet.gateway(&[]).await;
    for does in [Does::Fail(Code::Unavailable), Does::Fail(Code::ResourceExhausted), Does::Lie] {
        scripts[0].lock().unwrap().score = does;
        scripts[0].lock().unwrap().encode = does;
        // Often enough that the failing one is asked first sometimes.
        for i in 0..20 {
            let answer =
                ask(&gateway, pb::RecommendRequest { query: format!("{i}"), ..query() }).await.unwrap();
            assert_eq!((quality(&answer).rung(), reasons(&answer)), (pb::Rung::Full, vec![]), "{does:?}");
        }
    }
    assert!(!scripts[0].lock().unwrap().scored.is_empty(), "the failing replica was never asked");
}

#[tokio::test]
async fn a_feature_cache_that_hangs_costs_its_budget() {
    let (fleet, _) = Fleet::stable(1).await;
    fleet.cache(Cache { does: Does::Hang, affinity: 0.0 }).await;
    let gateway = fleet.gateway(&[("gateway.feature_budget", "60ms")]).await;
    ask(&gateway, query()).await.unwrap();
    let request = pb::RecommendRequest { user_id: "ada".into(), ..query() };
    let started = Instant::now();
    let answer = ask(&gateway, request).await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(10), "it waited {:?}", started.elapsed());
    assert_eq!((quality(&answer).rung(), reasons(&answer)), (pb::Rung::Full, vec![Reason::FeaturesTimedOut]));
    let waited = quality(&answer).timing.as_ref().unwrap().features_us;
    assert!((60_000..5_000_000).contains(&waited), "{waited} us");
}

#[tokio::test]
async fn without_a_feature_cache_defaults_are_used() {
    let (fleet, _) = Fleet::stable(1).await;
    let gateway = fleet.gateway(&[]).await;
    let request = pb::RecommendRequest { user_id: "ada".into(), ..query() };
    let answer = ask(&gateway, request).await.unwrap();
    assert_eq!(
        (quality(&answer).rung(), reasons(&answer)),
        (pb::Rung::Full, vec![Reason::FeaturesUnavailable])
    );
}

#[tokio::test]
async fn too_little_time_is_not_spent_on_asking() {
    let (fleet, scripts) = Fleet::stable(1).await;
    // A reserve as long as the deadline leaves nothing.
    let gateway =
        fleet.gateway(&[("gateway.answer_reserve", "9s"), ("gateway.default_deadline", "10s")]).await;
    let request = within(Duration::from_secs(9), query());
    let answer = gateway.clone().recommend(request).await.unwrap().into_inner();
    assert_eq!(
        (quality(&answer).rung(), reasons(&answer)),
        (pb::Rung::Popular, vec![Reason::DeadlineTooShort])
    );
    assert_eq!(coverage(&answer).shards_timed_out, 2);
    let script = scripts[0].lock().unwrap();
    assert_eq!((script.encoded, script.scored.len()), (0, 0));
}

#[tokio::test]
async fn a_stable_version_that_lost_replicas_answers_with_what_is_left() {
    let (fleet, _) = two_shards().await;
    let gateway = fleet.gateway(&[]).await;
    fleet.delete(&fleet.ready_key(1, 0, "w0")).await;
    until(&gateway, &query(), |answer| reasons(answer.as_ref().unwrap()).contains(&Reason::NotRoutable))
        .await;
    let answer = ask(&gateway, query()).await.unwrap();
    let mut left = fleet.bundle(1).items(1).unwrap().ids;
    left.sort_by(|a, b| score(b).total_cmp(&score(a)).then(a.cmp(b)));
    assert!(ids(&answer).iter().all(|id| left.contains(id)));
    assert_eq!(quality(&answer).rung(), pb::Rung::Full);
    assert_eq!(reasons(&answer), [Reason::ShardFailed, Reason::NotRoutable]);
    assert_eq!(coverage(&answer).missing_shards, [0]);

    fleet.delete(&fleet.ready_key(1, 1, "w1")).await;
    until(&gateway, &query(), |answer| quality(answer.as_ref().unwrap()).rung() == pb::Rung::Popular).await;
    let answer = ask(&gateway, query()).await.unwrap();
    assert_eq!(ids(&answer), popular(&fleet)[..10]);
    assert_eq!((reasons(&answer), &quality(&answer).version), (vec![Reason::NotRoutable], &1));
    assert_eq!((coverage(&answer).shards_total, coverage(&answer).shards_failed), (2, 2));
}
