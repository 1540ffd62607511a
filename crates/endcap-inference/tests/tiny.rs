//! The tiny bundle on the real ONNX Runtime.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::{
    collections::{BTreeMap, HashSet},
    time::Duration,
};

use endcap_bundle::{
    Bundle, PackOptions, assemble,
    test_util::{
        TinyOptions,
        graphs::{Neighbours, mixing},
        tiny_source,
    },
};
use endcap_inference::{
    InferError, LoadError, ModelOptions, Runtime, RuntimeOptions, ShardTable, VersionModel,
};
use endcap_types::{FeatureValue, RetrievalMode, ShardCount};
use tempfile::TempDir;
use tokio::time::Instant;

const OPTIONS: ModelOptions = ModelOptions {
    threads: 1,
    max_batch_rows: 256,
    max_batch_rows_cuda: 256,
    queue_rows: 1000,
    inline_max: Duration::from_millis(2),
    pin_threads: false,
    graph_min_items: 300_000,
};

fn bundle(options: &TinyOptions, shards: u32) -> (TempDir, Bundle) {
    bundle_with(options, shards, None)
}

/// A tiny bundle, perhaps with another ranker.
fn bundle_with(options: &TinyOptions, shards: u32, ranker: Option<Vec<u8>>) -> (TempDir, Bundle) {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("source");
    std::fs::create_dir(&source).unwrap();
    tiny_source(&source, options).unwrap();
    if let Some(ranker) = ranker {
        std::fs::write(source.join("ranker.onnx"), ranker).unwrap();
    }
    let pack =
        PackOptions { shards: ShardCount::try_from(shards).unwrap(), created: "2026-01-01T00:00:00Z".into() };
    let bundle = assemble(&source, &folder.path().join("bundle"), &pack, &()).unwrap();
    bundle.check().unwrap();
    (folder, bundle)
}

fn load(bundle: &Bundle) -> (VersionModel, Vec<ShardTable>) {
    let runtime = Runtime::load(&RuntimeOptions::default()).unwrap();
    let model = VersionModel::load(&runtime, bundle, &OPTIONS).unwrap();
    let shards = bundle.manifest().shard_count.indices();
    let tables = shards.map(|shard| model.bind(bundle.items(shard).unwrap()).unwrap()).collect();
    (model, tables)
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(30)
}

#[test]
fn golden_requests_are_answered_as_recorded() {
    // With lists, the recorded rows hold what the shards make of the recorded standing.
    for mode in [RetrievalMode::Dense, RetrievalMode::Fused] {
        let (_folder, bundle) = bundle(&TinyOptions { mode, ..TinyOptions::default() }, 3);
        let (model, tables) = load(&bundle);
        let golden = bundle.golden().unwrap();
        model.check_golden(&golden, None).unwrap();
        for table in &tables {
            model.check_golden(&golden, Some(table)).unwrap();
        }
    }
}

#[test]
fn items_are_listed_by_vector_and_by_words_with_both_scores() {
    let (_folder, bundle) = bundle(&TinyOptions { mode: RetrievalMode::Fused, ..TinyOptions::default() }, 1);
    let (model, tables) = load(&bundle);
    let vector = bundle.golden().unwrap()[0].query_vector.clone().unwrap();
    let query = model.query_features("red kettle", Some(&vector), BTreeMap::new()).unwrap();
    let listed = tables[0].list(&query, 20, &HashSet::from([3]));
    assert!((20..=40).contains(&listed.len()), "two lists of 20 that may overlap: {}", listed.len());
    assert!(listed.iter().all(|item| item.row != 3));
    assert!(listed.iter().filter(|item| item.lexical > 0.0).count() >= 20);
    for item in &listed {
        assert_eq!(item.dense, tables[0].similarity(item.row, &vector));
    }
}

#[test]
fn a_wrong_golden_answer_is_told_with_line_expected_and_found() {
    let (_folder, bundle) = bundle(&TinyOptions::default(), 1);
    let (model, tables) = load(&bundle);
    let mut golden = bundle.golden().unwrap();
    golden[1].scores[2] += 0.5;
    let mismatch = model.check_golden(&golden, None).unwrap_err();
    assert_eq!(mismatch.line, 2);
    assert!(mismatch.to_string().contains(&golden[1].item_ids[2]), "{mismatch}");

    let mut golden = bundle.golden().unwrap();
    let Some(FeatureValue::F32(row)) = golden[0].inputs.get_mut("features").map(|rows| &mut rows[0]) else {
        panic!("the tiny ranker reads floats");
    };
    row[2] += 1.0;
    let mismatch = model.check_golden(&golden, Some(&tables[0])).unwrap_err();
    assert!(mismatch.what.starts_with("item.rating of item"), "{mismatch}");
}

#[tokio::test(flavor = "multi_thread")]
async fn scores_do_not_depend_on_who_shares_the_batch() {
    let (_folder, bundle) = bundle(&TinyOptions::default(), 1);
    let (model, tables) = tokio::task::block_in_place(|| load(&bundle));
    let vector = model.encode("red kettle", soon()).await.unwrap();
    let query = model.query_features("red kettle", Some(&vector), BTreeMap::new()).unwrap();
    let rows: Vec<u32> = (0..100).collect();
    let together = model.rank(&tables[0], &rows, &query, soon()).await.unwrap().scores;
    let alone = futures_of(&model, &tables[0], &query, &rows).await;
    for (row, (a, b)) in together.iter().zip(&alone).enumerate() {
        assert!((a - b).abs() <= 1e-5, "row {row}: {a} together, {b} alone");
    }
}

/// Every row in a request of its own, all at once, so that they share runs.
async fn futures_of(
    model: &VersionModel,
    table: &ShardTable,
    query: &endcap_inference::QueryFeatures,
    rows: &[u32],
) -> Vec<f32> {
    let calls = rows.iter().map(|row| async {
        let row = [*row];
        model.rank(table, &row, query, soon()).await.unwrap().scores[0]
    });
    let mut scores = Vec::new();
    for call in calls {
        scores.push(call.await);
    }
    scores
}

#[test]
fn a_ranker_whose_scores_depend_on_the_neighbours_is_refused_however_it_mixes_them() {
    let runtime = Runtime::load(&RuntimeOptions::default()).unwrap();
    let cases = [
        (Neighbours::Mean, "alone"),
        (Neighbours::Place, "in another order"),
        (Neighbours::Number, "in a larger batch"),
    ];
    for (neighbours, expected) in cases {
        let ranker = mixing(&[2.0, 0.25, 0.5, 0.125, 0.03125], neighbours);
        let (_folder, bundle) = bundle_with(&TinyOptions::default(), 1, Some(ranker));
        let error = VersionModel::load(&runtime, &bundle, &OPTIONS).unwrap_err();
        let LoadError::BatchDependent { how, .. } = error else { panic!("{neighbours:?}: {error}") };
        assert_eq!(how, expected, "{neighbours:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_run_never_starts() {
    let (_folder, bundle) = bundle(&TinyOptions::default(), 1);
    let (model, tables) = tokio::task::block_in_place(|| load(&bundle));
    let query = model.query_features("lamp", None, BTreeMap::new()).unwrap();
    let expired = model.rank(&tables[0], &[0], &query, Instant::now()).await.unwrap_err();
    assert!(matches!(expired, InferError::Expired { .. }), "{expired}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_request_does_not_bring_is_at_its_default() {
    let (_folder, bundle) = bundle(&TinyOptions::default(), 1);
    let (model, tables) = tokio::task::block_in_place(|| load(&bundle));
    let vector = model.encode("red kettle", soon()).await.unwrap();
    let schema = bundle.features().unwrap();
    let name = "context.hour".parse().unwrap();
    let default = schema.get(&name).unwrap().default.clone();
    assert_ne!(default, FeatureValue::F32(vec![0.0]), "zero would say nothing");
    let rank = async |given| {
        let query = model.query_features("red kettle", Some(&vector), given).unwrap();
        model.rank(&tables[0], &[0, 1, 2], &query, soon()).await.unwrap().scores
    };
    let absent = rank(BTreeMap::new()).await;
    assert_eq!(absent, rank(BTreeMap::from([(name.clone(), default)])).await);
    assert_ne!(absent, rank(BTreeMap::from([(name, FeatureValue::F32(vec![-3.0]))])).await);
}

#[test]
fn wrong_features_are_told_by_name() {
    let (_folder, bundle) = bundle(&TinyOptions::default(), 1);
    let (model, _) = load(&bundle);
    let cases = [
        ("context.hour", FeatureValue::F32(vec![1.0, 2.0]), "has 2 numbers; expected 1"),
        ("context.hour", FeatureValue::F32(vec![f32::NAN]), "finite"),
        ("context.no_such", FeatureValue::F32(vec![1.0]), "no such feature"),
    ];
    for (name, value, says) in cases {
        let given = BTreeMap::from([(name.parse().unwrap(), value)]);
        let error = model.query_features("lamp", None, given).unwrap_err();
        assert!(error.to_string().contains(says) && error.to_string().contains(name), "{error}");
    }
}
