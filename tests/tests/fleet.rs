//! The main job end to end on tiny bundles: release, answer, restart, and agree with a single-process oracle.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::collections::BTreeMap;

use endcap_bundle::{Bundle, BundleStore, test_util::TinyOptions};
use endcap_feature_cache::test_util::RedisServer;
use endcap_proto::pb::{self, DegradationReason as Reason, recommend_request::Target};
use endcap_tests::{
    MODEL, TestFleet, eventually, query,
    shoppers::{put_features, ranked_for},
    timed, tiny,
};
use endcap_types::RetrievalMode;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_brings_back_versions_aliases_and_history() {
    let folder = tempfile::tempdir().unwrap();
    let mut fleet = TestFleet::start(folder.path(), 2, &[]).await.unwrap();
    let one = fleet.release(&tiny(&variant("one"), 3).unwrap().bytes).await.unwrap();
    let two = fleet.release(&tiny(&variant("two"), 3).unwrap().bytes).await.unwrap();
    fleet.rollback().await.unwrap();
    let before = (models(&mut fleet).await, history(&mut fleet).await);
    assert_eq!(before.0[0].rollout.as_ref().unwrap().aliases["stable"], one);
    assert_eq!(before.0[0].rollout.as_ref().unwrap().aliases["last_good"], two);
    assert!(before.1.len() >= 7, "two registrations, two validations, three moves: {:?}", before.1);
    fleet.fleet.stop().await.unwrap();

    let mut fleet = TestFleet::start(folder.path(), 2, &[]).await.unwrap();
    assert_eq!((models(&mut fleet).await, history(&mut fleet).await), before);
    fleet.until_answering(one).await.unwrap();
    fleet.fleet.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_merged_answer_equals_a_single_process_oracle_for_every_shard_count() {
    let folder = tempfile::tempdir().unwrap();
    let mut fleet = TestFleet::start(folder.path(), 2, &[]).await.unwrap();
    let queries = ["red kettle", "blue", "kettle without red", "zzz unknown words", "green lamp large"];
    for mode in [RetrievalMode::Dense, RetrievalMode::Lexical, RetrievalMode::Fused] {
        same_for_every_shard_count(&mut fleet, mode, &queries).await;
    }
    fleet.fleet.stop().await.unwrap();
}

async fn same_for_every_shard_count(fleet: &mut TestFleet, mode: RetrievalMode, queries: &[&str]) {
    // Items, score and similarity of every query's answer, to the bit.
    let mut reference: Option<Vec<Vec<(String, u32, u32)>>> = None;
    for shards in [1, 2, 4, 7] {
        let options = TinyOptions { items: 500, mode, ..variant(&format!("s{shards}")) };
        let packed = tiny(&options, shards).unwrap();
        let version = fleet.release(&packed.bytes).await.unwrap();
        let mut answers = Vec::new();
        for text in queries.iter().filter(|text| mode != RetrievalMode::Lexical || !text.starts_with("zzz")) {
            let mut request = query(text);
            request.get_mut().limit = 50;
            // As if they were not in the catalogue.
            request.get_mut().exclude = vec!["item-00003".into(), "item-00017".into()];
            let answer = fleet.gateway.recommend(request).await.unwrap().into_inner();
            let quality = answer.quality.unwrap();
            assert_eq!((quality.version, quality.rung()), (version, pb::Rung::Full), "{quality:?}");
            assert!(quality.degradation_reasons.is_empty(), "{mode:?}: {quality:?}");
            let coverage = quality.coverage.unwrap();
            assert_eq!((coverage.shards_total, coverage.shards_ok), (shards, shards));
            assert_eq!((coverage.items_scored, coverage.items_total), (500, 500));
            let item =
                |item: pb::RankedItem| (item.item_id, item.score.to_bits(), item.retrieval_score.to_bits());
            answers.push(answer.items.into_iter().map(item).collect::<Vec<_>>());
        }
        assert!(answers.iter().all(|items| items.len() == 50), "{mode:?}");
        // One shard is the oracle: one process, one index, one sort over the whole catalogue.
        match &reference {
            None => reference = Some(answers),
            Some(reference) => assert_eq!(&answers, reference, "{mode:?}, {shards} shards"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rerank_scores_an_item_as_a_retrieval_does_wherever_it_stands() {
    let folder = tempfile::tempdir().unwrap();
    let mut fleet = TestFleet::start(folder.path(), 2, &[]).await.unwrap();
    let options = TinyOptions { mode: RetrievalMode::Fused, ..variant("fused") };
    let packed = tiny(&options, 3).unwrap();
    fleet.release(&packed.bytes).await.unwrap();
    let scores = |answer: pb::RecommendResponse| {
        let item = |item: pb::RankedItem| (item.item_id, item.score.to_bits());
        answer.items.into_iter().map(item).collect::<BTreeMap<_, _>>()
    };
    let retrieved = fleet.gateway.recommend(query("blue lamp without steel")).await.unwrap().into_inner();
    let retrieved = scores(retrieved);
    let candidates = all_ids(&Bundle::open(&packed.folder.path().join("bundle")).unwrap());
    let request = pb::RecommendRequest {
        query: "blue lamp without steel".into(),
        limit: u32::try_from(candidates.len()).unwrap(),
        candidates,
        ..Default::default()
    };
    let reranked = fleet.gateway.recommend(timed(request)).await.unwrap().into_inner();
    assert!(reranked.quality.as_ref().unwrap().degradation_reasons.is_empty());
    let reranked = scores(reranked);
    assert_eq!(retrieved.len(), 10);
    for (item_id, score) in &retrieved {
        assert_eq!(reranked[item_id], *score, "{item_id}");
    }
    fleet.fleet.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rerank_returns_the_callers_candidates_in_rank_order() {
    let folder = tempfile::tempdir().unwrap();
    let mut fleet = TestFleet::start(folder.path(), 2, &[]).await.unwrap();
    let packed = tiny(&variant("rerank"), 4).unwrap();
    fleet.release(&packed.bytes).await.unwrap();
    let mut ids = all_ids(&Bundle::open(&packed.folder.path().join("bundle")).unwrap());
    ids.truncate(30);
    ids.push("not-in-the-catalogue".into());
    let request = pb::RecommendRequest {
        query: "red kettle".into(),
        candidates: ids.clone(),
        limit: 30,
        exclude: vec![ids[3].clone()],
        ..Default::default()
    };
    let answer = fleet.gateway.recommend(timed(request)).await.unwrap().into_inner();
    let found: Vec<_> = answer.items.iter().map(|item| item.item_id.clone()).collect();
    assert_eq!(found.len(), 29);
    assert!(!found.contains(&ids[3]), "an excluded item was shown");
    assert!(found.iter().all(|id| ids.contains(id)));
    let ranked = |a: &pb::RankedItem, b: &pb::RankedItem| {
        a.score > b.score || (a.score == b.score && a.item_id < b.item_id)
    };
    assert!(answer.items.is_sorted_by(ranked), "score descending, then item id ascending");
    assert_eq!(answer.unknown_candidates, ["not-in-the-catalogue"]);
    let reasons: Vec<_> = answer.quality.as_ref().unwrap().degradation_reasons().collect();
    assert_eq!(reasons, [pb::DegradationReason::UnknownCandidates]);
    fleet.fleet.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn user_features_reach_the_ranking_and_their_absence_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let mut fleet = TestFleet::start(folder.path(), 1, &[]).await.unwrap();
    fleet.release(&tiny(&variant("features"), 2).unwrap().bytes).await.unwrap();
    let without = ranked_for(&mut fleet.gateway, "ada").await.unwrap();
    assert_eq!(without.reasons, [Reason::FeaturesMissing]);
    put_features(&fleet.fleet.feature_cache_url(), &["ada"]).await.unwrap();
    // The next request sees it.
    let with = ranked_for(&mut fleet.gateway, "ada").await.unwrap();
    assert_eq!(with.reasons, []);
    assert_ne!(with.scores, without.scores, "the user's feature changed nothing");
    fleet.fleet.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn fleets_of_one_redis_share_features_and_rank_without_them_while_it_is_gone() {
    let mut redis = RedisServer::start().await;
    let url = redis.url();
    // No answer here may hang on how busy the machine is.
    let set = [
        ("feature_cache.redis.url", url.as_str()),
        ("feature_cache.redis.timeout", "5s"),
        ("gateway.feature_budget", "10s"),
    ];
    let packed = tiny(&variant("features"), 2).unwrap();
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut writer = TestFleet::start(one.path(), 1, &set).await.unwrap();
    let mut reader = TestFleet::start(two.path(), 1, &set).await.unwrap();
    for fleet in [&mut writer, &mut reader] {
        fleet.release(&packed.bytes).await.unwrap();
    }
    let without = ranked_for(&mut reader.gateway, "ada").await.unwrap();
    assert_eq!(without.reasons, [Reason::FeaturesMissing]);
    let cache = writer.fleet.feature_cache_url();
    put_features(&cache, &["ada"]).await.unwrap();
    let with = ranked_for(&mut reader.gateway, "ada").await.unwrap();
    assert_eq!(with.reasons, []);
    assert_ne!(with.scores, without.scores, "the user's feature changed nothing");
    assert_eq!(ranked_for(&mut writer.gateway, "ada").await.unwrap(), with);

    redis.stop();
    let meanwhile = ranked_for(&mut reader.gateway, "ada").await.unwrap();
    assert_eq!((meanwhile.scores, meanwhile.reasons), (without.scores, vec![Reason::FeaturesUnavailable]));
    let refused = put_features(&cache, &["ada"]).await.unwrap_err();
    let refused = refused.downcast::<Status>().unwrap();
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    redis.restart();
    eventually("features are read again", async || {
        ranked_for(&mut reader.gateway, "ada").await.unwrap() == with
    })
    .await
    .unwrap();
    for fleet in [writer, reader] {
        fleet.fleet.stop().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pinned_versions_and_aliases_answer_side_by_side() {
    let folder = tempfile::tempdir().unwrap();
    let mut fleet = TestFleet::start(folder.path(), 2, &[]).await.unwrap();
    let one = fleet.release(&tiny(&variant("one"), 2).unwrap().bytes).await.unwrap();
    let two = fleet.release(&tiny(&variant("two"), 5).unwrap().bytes).await.unwrap();
    for (target, version) in [
        (Target::Version(one), one),
        (Target::Version(two), two),
        (Target::Alias("stable".into()), two),
        (Target::Alias("last_good".into()), one),
    ] {
        let mut gateway = fleet.gateway.clone();
        eventually("the target is answered by its version", async || {
            let mut ask = query("red kettle");
            ask.get_mut().target = Some(target.clone());
            let answer = gateway.recommend(ask).await.unwrap().into_inner();
            answer.quality.unwrap().version == version
        })
        .await
        .unwrap();
    }
    fleet.fleet.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_is_registered_from_where_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let mut fleet = TestFleet::start(folder.path(), 1, &[]).await.unwrap();
    // A file that the registry can read.
    let packed = tiny(&variant("one"), 2).unwrap();
    let uri = format!("file://{}", packed.folder.path().join("tiny.endcap").display());
    let one = register_from(&mut fleet, &uri).await.unwrap();
    assert!(!one.already_registered);
    // A bundle that is in the store, but that no version is made of yet.
    let packed = tiny(&variant("two"), 2).unwrap();
    let bundle = Bundle::open(&packed.folder.path().join("bundle")).unwrap();
    let store = folder.path().join("bundles").display().to_string();
    BundleStore::folder(&store).unwrap().put(&bundle).await.unwrap();
    let uri = format!("digest:{}", bundle.digest());
    let two = register_from(&mut fleet, &uri).await.unwrap();
    assert_eq!(two.version.unwrap().version, one.version.unwrap().version + 1);
    assert!(register_from(&mut fleet, &uri).await.unwrap().already_registered);
    for (uri, code, words) in [
        ("file:///nowhere/x.endcap", Code::InvalidArgument, "/nowhere/x.endcap"),
        ("ftp://shop/x.endcap", Code::InvalidArgument, "expected digest:<hex> or file:///path"),
        ("digest:abc", Code::InvalidArgument, "uri"),
        (&format!("digest:{}", "0".repeat(64)), Code::NotFound, "no bundle"),
    ] {
        let status = register_from(&mut fleet, uri).await.unwrap_err();
        assert_eq!(status.code(), code, "{uri}: {status}");
        let told = format!("{} {:?}", status.message(), status.get_details_bad_request());
        assert!(told.contains(words), "{uri}: {told}");
    }
    let two = fleet.validate(2).await.map(|_| 2).unwrap();
    fleet.promote(two).await.unwrap();
    fleet.until_answering(two).await.unwrap();
    fleet.fleet.stop().await.unwrap();
}

async fn register_from(fleet: &mut TestFleet, uri: &str) -> Result<pb::RegisterVersionResponse, Status> {
    let header = pb::RegisterHeader { uri: uri.to_owned(), ..Default::default() };
    let part = Some(pb::register_version_request::Part::Header(header));
    let parts = futures::stream::iter([pb::RegisterVersionRequest { part }]);
    Ok(fleet.registry.register_version(parts).await?.into_inner())
}

fn variant(name: &str) -> TinyOptions {
    TinyOptions { variant: name.into(), ..TinyOptions::default() }
}

async fn models(fleet: &mut TestFleet) -> Vec<pb::Model> {
    fleet.registry.list_models(timed(pb::ListModelsRequest::default())).await.unwrap().into_inner().models
}

async fn history(fleet: &mut TestFleet) -> Vec<pb::HistoryEntry> {
    let request = pb::GetHistoryRequest { model: MODEL.into(), after_sequence: 0 };
    fleet.registry.get_history(timed(request)).await.unwrap().into_inner().entries
}

fn all_ids(bundle: &Bundle) -> Vec<String> {
    bundle.manifest().shard_count.indices().flat_map(|shard| bundle.items(shard).unwrap().ids).collect()
}
