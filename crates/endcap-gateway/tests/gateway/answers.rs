//! Answers when nothing is wrong.

use std::collections::HashSet;

use endcap_proto::pb;

use crate::{
    fleet::{Fleet, ITEMS, ask, coverage, ids, quality, query, reasons, rerank},
    worker::{Cache, Does, score, similarity},
};

/// The answer of one process: the best `depth` by similarity, ordered by score, ties by id.
fn oracle(items: &[String], depth: usize, limit: usize) -> Vec<String> {
    let mut items = items.to_vec();
    items.sort_by(|a, b| similarity(b).total_cmp(&similarity(a)).then(a.cmp(b)));
    items.truncate(depth);
    by_score(items, limit)
}

fn by_score(mut items: Vec<String>, limit: usize) -> Vec<String> {
    items.sort_by(|a, b| score(b).total_cmp(&score(a)).then(a.cmp(b)));
    items.truncate(limit);
    items
}

#[tokio::test]
async fn a_retrieval_equals_one_process_for_every_shard_count() {
    for shards in [1, 2, 5] {
        let mut fleet = Fleet::new();
        fleet.register(1, shards, |_| {}).await;
        let held: Vec<_> = (0..shards).map(|shard| (1, shard)).collect();
        fleet.worker("w", &held).await;
        fleet.promote(1).await;
        let gateway = fleet.gateway(&[]).await;
        let items = fleet.items(1);

        let answer = ask(&gateway, query()).await.unwrap();
        // The tiny model retrieves 60.
        assert_eq!(ids(&answer), oracle(&items, 60, 10), "{shards} shards");
        assert_eq!(reasons(&answer), []);
        let quality = quality(&answer);
        assert_eq!((quality.rung(), quality.version, quality.arm.as_str()), (pb::Rung::Full, 1, "stable"));
        assert_eq!(quality.digest, fleet.pin(1).digest.to_hex());
        let coverage = coverage(&answer);
        assert_eq!((coverage.items_scored, coverage.items_total), (ITEMS as u64, ITEMS as u64));
        assert_eq!((coverage.shards_total, coverage.shards_ok), (shards, shards));
        assert!(!answer.request_id.is_empty());

        // Excluded items leave the answer as if they were not in the catalogue, whatever places they had.
        let best: Vec<String> = oracle(&items, 40, 40);
        let others: Vec<String> = items.iter().filter(|id| !best.contains(id)).cloned().collect();
        let without = pb::RecommendRequest { exclude: best, ..query() };
        assert_eq!(ids(&ask(&gateway, without).await.unwrap()), oracle(&others, 60, 10), "{shards} shards");

        // More are wanted than the model retrieves by itself: as many as there are.
        let all = pb::RecommendRequest { limit: 1_000, ..query() };
        assert_eq!(ids(&ask(&gateway, all).await.unwrap()), by_score(items, ITEMS));
    }
}

#[tokio::test]
async fn a_rerank_asks_only_the_shards_of_its_candidates() {
    let (fleet, scripts) = Fleet::stable(1).await;
    let gateway = fleet.gateway(&[]).await;
    let candidates: Vec<String> = fleet.bundle(1).items(1).unwrap().ids.into_iter().take(7).collect();
    let request = pb::RecommendRequest {
        exclude: vec![candidates[2].clone()],
        ..rerank(&candidates.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let answer = ask(&gateway, request).await.unwrap();
    let allowed = candidates.iter().filter(|id| **id != candidates[2]).cloned().collect();
    assert_eq!(ids(&answer), by_score(allowed, 10));
    assert_eq!(reasons(&answer), []);
    let coverage = coverage(&answer);
    assert_eq!((coverage.items_scored, coverage.items_total, coverage.shards_total), (7, 7, 1));
    let script = scripts[0].lock().unwrap();
    assert_eq!(script.scored.len(), 1);
    // Without a query there is nothing to encode.
    assert_eq!((script.encoded, script.scored[0].query_vector.len()), (0, 0));
}

#[tokio::test]
async fn candidates_that_are_not_in_the_catalogue_are_told() {
    let (fleet, _) = Fleet::stable(1).await;
    let gateway = fleet.gateway(&[]).await;
    let answer = ask(&gateway, rerank(&["zzz", "item-00003", "aaa"])).await.unwrap();
    assert_eq!(ids(&answer), ["item-00003"]);
    assert_eq!(answer.unknown_candidates, ["zzz", "aaa"]);
    assert_eq!(reasons(&answer), [pb::DegradationReason::UnknownCandidates]);
    assert_eq!((coverage(&answer).items_scored, coverage(&answer).items_total), (1, 3));
}

#[tokio::test]
async fn a_query_is_normalised_and_encoded_once() {
    let (fleet, scripts) = Fleet::stable(1).await;
    let gateway = fleet.gateway(&[]).await;
    for text in ["Red kettle", "  Red \t kettle\n"] {
        ask(&gateway, pb::RecommendRequest { query: text.into(), ..query() }).await.unwrap();
    }
    let script = scripts[0].lock().unwrap();
    assert_eq!(script.encoded, 1);
    let queries: HashSet<_> = script.scored.iter().map(|request| request.query.as_str()).collect();
    assert_eq!(queries, HashSet::from(["Red kettle"]));
}

#[tokio::test]
async fn columns_and_features_travel() {
    let (fleet, scripts) = Fleet::stable(1).await;
    fleet.cache(Cache { does: Does::Answer, affinity: 2.5 }).await;
    let gateway = fleet.gateway(&[("gateway.feature_budget", "5s")]).await;
    let hour = pb::FeatureValue { floats: Vec::new(), ints: vec![3] };
    let other = pb::FeatureValue { floats: vec![1.0, 2.0], ints: Vec::new() };
    let request = pb::RecommendRequest {
        user_id: "ada".into(),
        fields: vec!["version".into()],
        context: [("context.hour".to_owned(), hour), ("context.of_another_version".to_owned(), other)].into(),
        ..query()
    };
    let answer = ask(&gateway, request).await.unwrap();
    assert_eq!(reasons(&answer), []);
    assert!(answer.items.iter().all(|item| item.fields["version"] == "1"));
    let script = scripts[0].lock().unwrap();
    let sent: Vec<_> = script.scored[0]
        .features
        .iter()
        .map(|column| (column.name.as_str(), endcap_proto::columns::decode_f32(&column.values).unwrap()))
        .collect();
    assert_eq!(sent, [("user.affinity", vec![2.5]), ("context.hour", vec![3.0])]);
}
