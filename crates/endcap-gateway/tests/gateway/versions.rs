//! Which version answers.

use std::collections::HashSet;

use endcap_proto::pb::{self, recommend_request::Target};
use endcap_types::Alias;

use crate::fleet::{Fleet, ask, quality, query, until};

/// Versions 1 and 2 with 2 and 3 shards, on one worker each.
async fn two_versions() -> Fleet {
    let mut fleet = Fleet::new();
    fleet.register(1, 2, |_| {}).await;
    fleet.register(2, 3, |_| {}).await;
    fleet.worker("old", &[(1, 0), (1, 1)]).await;
    fleet.worker("new", &[(2, 0), (2, 1), (2, 2)]).await;
    fleet
}

fn by(user: &str) -> pb::RecommendRequest {
    pb::RecommendRequest { user_id: user.into(), fields: vec!["version".into()], ..query() }
}

/// Every item of an answer says the version that its quality block says.
fn version(answer: &pb::RecommendResponse) -> u64 {
    let told: HashSet<_> = answer.items.iter().map(|item| item.fields["version"].clone()).collect();
    let version = quality(answer).version;
    assert_eq!(told, HashSet::from([version.to_string()]));
    version
}

#[tokio::test]
async fn while_stable_moves_every_answer_is_of_one_version() {
    let fleet = two_versions().await;
    fleet.promote(1).await;
    let gateway = fleet.gateway(&[]).await;
    let moving = async {
        for round in 0..40 {
            fleet.promote(1 + round % 2).await;
            tokio::task::yield_now().await;
        }
        fleet.promote(2).await;
    };
    let asking = async {
        let mut seen = HashSet::new();
        for _ in 0..60 {
            let answer = ask(&gateway, by("")).await.unwrap();
            assert_eq!(quality(&answer).rung(), pb::Rung::Full);
            seen.insert(version(&answer));
        }
        seen
    };
    let ((), seen) = tokio::join!(moving, asking);
    assert!(seen.is_subset(&HashSet::from([1, 2])));
    until(&gateway, &by(""), |answer| version(answer.as_ref().unwrap()) == 2).await;
}

#[tokio::test]
async fn versions_and_aliases_are_pinned_and_a_shopper_stays_on_one_arm() {
    let fleet = two_versions().await;
    fleet.aliases(&[(Alias::Stable, 1), (Alias::Candidate, 2), (Alias::LastGood, 2)], 500).await;
    let gateway = fleet.gateway(&[]).await;
    let targets = [
        (Target::Version(1), 1),
        (Target::Version(2), 2),
        (Target::Alias("stable".into()), 1),
        (Target::Alias("candidate".into()), 2),
        (Target::Alias("last_good".into()), 2),
    ];
    for (target, expected) in targets {
        let answer = ask(&gateway, pb::RecommendRequest { target: Some(target), ..by("") }).await.unwrap();
        assert_eq!((version(&answer), quality(&answer).arm.as_str()), (expected, "pinned"));
    }

    let mut arms = HashSet::new();
    for user in (0..30).map(|i| format!("user-{i}")) {
        let first = ask(&gateway, by(&user)).await.unwrap();
        let again = ask(&gateway, by(&user)).await.unwrap();
        assert_eq!(version(&first), version(&again), "{user}");
        let arm = quality(&first).arm.clone();
        assert_eq!(arm, if version(&first) == 1 { "stable" } else { "candidate" });
        arms.insert(arm);
    }
    assert_eq!(arms.len(), 2, "500 of 1000 are on the candidate");
    assert_eq!(version(&ask(&gateway, by("")).await.unwrap()), 1, "nobody is on stable");

    // A candidate that nobody holds any more is answered by stable, and says so.
    fleet.delete(&fleet.ready_key(2, 1, "new")).await;
    let pinned = pb::RecommendRequest { target: Some(Target::Version(2)), ..by("") };
    until(&gateway, &pinned, Result::is_err).await;
    for user in (0..30).map(|i| format!("user-{i}")) {
        let answer = ask(&gateway, by(&user)).await.unwrap();
        assert_eq!((version(&answer), quality(&answer).arm.as_str()), (1, "stable"));
    }
}

#[tokio::test]
async fn a_version_is_routed_to_once_its_workers_and_its_bundle_are_there() {
    let mut fleet = Fleet::new();
    let gateway = fleet.gateway(&[]).await;
    let status = ask(&gateway, query()).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::NotFound, "{status:?}");
    fleet.register(1, 2, |_| {}).await;
    fleet.worker("w", &[(1, 0), (1, 1)]).await;
    fleet.promote(1).await;
    until(&gateway, &by(""), |answer| answer.as_ref().is_ok_and(|answer| version(answer) == 1)).await;

    // A worker that holds other bytes under the same number is not a replica.
    let wrong = endcap_fleet::ReadyRecord {
        digest: endcap_types::Digest::from_bytes([9; 32]),
        endpoint: "127.0.0.1:1".into(),
    };
    fleet.put(&fleet.ready_key(1, 0, "stranger"), &wrong).await;
    fleet.delete(&fleet.ready_key(1, 1, "w")).await;
    let pinned = pb::RecommendRequest { target: Some(Target::Version(1)), ..query() };
    until(&gateway, &pinned, |answer| answer.as_ref().is_err_and(|e| e.message().contains("shard 1;"))).await;
}
