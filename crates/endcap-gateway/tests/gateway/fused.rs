//! Versions whose candidates come from both lists of the whole catalogue.

use std::time::{Duration, Instant};

use endcap_proto::pb::{self, DegradationReason as Reason, score_request::Mode};
use endcap_ranking::reciprocal_rank_fusion;
use serde_json::json;
use tonic::Code;

use crate::{
    fleet::{Fleet, ITEMS, ask, coverage, ids, quality, query, reasons, within},
    worker::{Does, Shared, score, similarity, words},
};

const LIST_DEPTH: usize = 30;
const DEPTH: usize = 40;
/// Settings that leave a busy machine time to send an answer, whatever the gateway waits for.
const PATIENT: [(&str, &str); 2] = [("gateway.answer_reserve", "1s"), ("gateway.default_deadline", "30s")];

/// A fused version with each shard on a worker of its own.
async fn fleet(shards: u32) -> (Fleet, Vec<Shared>) {
    let mut fleet = Fleet::new();
    let retrieval = json!({
        "mode": "fused", "depth": DEPTH, "list_depth": LIST_DEPTH, "lexical_columns": ["name"],
    });
    fleet.register(1, shards, |spec| spec["retrieval"] = retrieval.clone()).await;
    let mut scripts = Vec::new();
    for shard in 0..shards {
        scripts.push(fleet.worker(&format!("w{shard}"), &[(1, shard)]).await);
    }
    fleet.promote(1).await;
    (fleet, scripts)
}

fn best(items: &[String], score: fn(&str) -> f32, depth: usize) -> Vec<String> {
    let mut items = items.to_vec();
    items.sort_by(|a, b| score(b).total_cmp(&score(a)).then(a.cmp(b)));
    items.truncate(depth);
    items
}

/// The answer of one process: both lists, fused, cut, and ordered by score.
fn oracle(items: &[String], with_vector: bool) -> Vec<String> {
    let dense = if with_vector { best(items, similarity, LIST_DEPTH) } else { Vec::new() };
    let mut lexical = best(items, words, LIST_DEPTH);
    lexical.retain(|id| words(id) > 0.0);
    let mut pool = reciprocal_rank_fusion(&[dense, lexical], 60);
    pool.truncate(DEPTH);
    let pool: Vec<String> = pool.into_iter().map(|(id, _)| id).collect();
    best(&pool, score, 10)
}

#[tokio::test]
async fn a_fused_retrieval_equals_one_process_for_every_shard_count() {
    for shards in [1, 2, 5] {
        let (fleet, scripts) = fleet(shards).await;
        let gateway = fleet.gateway(&PATIENT).await;
        let items = fleet.items(1);
        let answer = ask(&gateway, query()).await.unwrap();
        assert_eq!(ids(&answer), oracle(&items, true), "{shards} shards");
        assert_eq!((reasons(&answer), quality(&answer).rung()), (vec![], pb::Rung::Full));
        let coverage = coverage(&answer);
        assert_eq!((coverage.items_scored, coverage.items_total), (ITEMS as u64, ITEMS as u64));
        assert_eq!((coverage.shards_total, coverage.shards_ok), (shards, shards));
        // Only what is in the pool is ranked, each item once, and each shard is told where its items stand.
        let scored: Vec<_> =
            scripts.iter().flat_map(|script| script.lock().unwrap().scored.clone()).collect();
        let ranked = scored.iter().filter_map(|request| match &request.mode {
            Some(Mode::Rerank(rerank)) => Some(rerank.clone()),
            _ => None,
        });
        let ranked: Vec<pb::Rerank> = ranked.collect();
        assert_eq!(ranked.iter().map(|rerank| rerank.item_ids.len()).sum::<usize>(), DEPTH);
        let standings = ranked.iter().map(|rerank| rerank.standing.as_ref().unwrap());
        let firsts = standings.flat_map(|standing| &standing.dense_ranks).filter(|rank| **rank == 1);
        assert_eq!(firsts.count(), 1, "one item of the catalogue is the best by similarity");

        // Excluded items leave the answer as if they were not in the catalogue.
        let exclude = best(&items, similarity, 35);
        let others: Vec<String> = items.iter().filter(|id| !exclude.contains(id)).cloned().collect();
        let without = pb::RecommendRequest { exclude, ..query() };
        assert_eq!(ids(&ask(&gateway, without).await.unwrap()), oracle(&others, true), "{shards} shards");
    }
}

#[tokio::test]
async fn without_an_encoder_the_words_alone_decide() {
    let (fleet, scripts) = fleet(2).await;
    for script in &scripts {
        script.lock().unwrap().encode = Does::Fail(Code::Internal);
    }
    let gateway = fleet.gateway(&PATIENT).await;
    let answer = ask(&gateway, query()).await.unwrap();
    assert_eq!(ids(&answer), oracle(&fleet.items(1), false));
    assert_eq!((reasons(&answer), quality(&answer).rung()), (vec![Reason::EncoderFailed], pb::Rung::Full));
}

#[tokio::test]
async fn a_shard_that_fails_to_list_or_to_rank_is_missing_and_the_others_answer() {
    let (fleet, scripts) = fleet(2).await;
    let gateway = fleet.gateway(&PATIENT).await;
    let of_shard_0 = fleet.bundle(1).items(0).unwrap().ids;
    let cases = [
        (Does::Hang, Reason::ShardTimedOut),
        (Does::HangAfterList, Reason::ShardTimedOut),
        (Does::Fail(Code::Internal), Reason::ShardFailed),
    ];
    for (does, reason) in cases {
        scripts[1].lock().unwrap().score = does;
        let (started, deadline) = (Instant::now(), Duration::from_secs(3));
        let answer = gateway.clone().recommend(within(deadline, query())).await.unwrap().into_inner();
        assert!(started.elapsed() < deadline, "{does:?} took {:?}", started.elapsed());
        assert_eq!((quality(&answer).rung(), reasons(&answer)), (pb::Rung::Full, vec![reason]), "{does:?}");
        assert!(ids(&answer).iter().all(|id| of_shard_0.contains(id)));
        let coverage = coverage(&answer);
        assert_eq!((coverage.shards_ok, coverage.shards_total), (1, 2), "{does:?}");
        assert_eq!(coverage.items_scored, of_shard_0.len() as u64);
    }
}
