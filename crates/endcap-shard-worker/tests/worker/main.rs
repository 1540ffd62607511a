//! A real worker over gRPC, on the real ONNX Runtime.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]
#![expect(clippy::disallowed_methods, reason = "the parts of a test are nobody's background tasks")]

#[expect(dead_code, reason = "the leak test needs more of it")]
mod support;

mod open_inference;

use std::collections::BTreeMap;

use endcap_bundle::test_util::TinyOptions;
use endcap_proto::{
    columns,
    pb::{
        self, exchange_request::Call, exchange_response::Reply, score_request::Mode,
        shard_service_server::SERVICE_NAME,
    },
};
use endcap_service::{Deadline, client};
use endcap_types::{RetrievalMode, Version, VersionPin};
use support::{PATIENCE, Worker, until};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request};
use tonic_types::StatusExt as _;

fn retrieve(pin: &VersionPin, shard: u32, vector: &[f32]) -> pb::ScoreRequest {
    pb::ScoreRequest {
        pin: Some(pin.into()),
        shard,
        mode: Some(Mode::Retrieve(pb::Retrieve { depth: 20, ..Default::default() })),
        query: "red kettle".into(),
        query_vector: columns::encode_f32(vector),
        fields: vec!["name".into()],
        ..Default::default()
    }
}

async fn encoded(worker: &mut Worker, pin: &VersionPin) -> Vec<f32> {
    let request = pb::EncodeRequest { pin: Some(pin.into()), query: "red kettle".into() };
    columns::decode_f32(&worker.client.encode(request).await.unwrap().into_inner().vector).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_assigned_shard_becomes_ready_and_answers_with_its_pin() {
    let mut worker = Worker::start(&[]).await;
    let (pin, bundle) = worker.store(1, &TinyOptions::default(), 2).await;
    worker.assign(&pin, 0).await;
    worker.until_ready(&pin, 0).await;
    let vector = encoded(&mut worker, &pin).await;
    let answer = worker.client.score(retrieve(&pin, 0, &vector)).await.unwrap().into_inner();
    assert_eq!(VersionPin::try_from(&answer.pin.unwrap()).unwrap(), pin);
    assert_eq!(answer.items_considered, bundle.manifest().shard_rows[0]);
    assert_eq!(answer.item_ids.len(), 20);
    let similarities = columns::decode_f32(&answer.retrieval_scores).unwrap();
    assert!(similarities.is_sorted_by(|a, b| a >= b), "{similarities:?}");
    assert_eq!(answer.fields[0].values.len(), 20);
    assert_eq!(columns::decode_f32(&answer.scores).unwrap().len(), 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_held_exactly_is_refused() {
    let mut worker = Worker::start(&[]).await;
    let (pin, _) = worker.store(1, &TinyOptions::default(), 2).await;
    worker.assign(&pin, 0).await;
    worker.until_ready(&pin, 0).await;
    let vector = encoded(&mut worker, &pin).await;
    let other = VersionPin { digest: endcap_types::Digest::from_bytes([7; 32]), ..pin.clone() };
    for request in [retrieve(&other, 0, &vector), retrieve(&pin, 1, &vector)] {
        let status = worker.client.score(request).await.unwrap_err();
        assert_eq!(status.code(), Code::FailedPrecondition);
        assert!(status.message().contains("holds"), "{status:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_is_told_by_field() {
    let mut worker = Worker::start(&[]).await;
    let (pin, _) = worker.store(1, &TinyOptions::default(), 1).await;
    worker.assign(&pin, 0).await;
    worker.until_ready(&pin, 0).await;
    let good = retrieve(&pin, 0, &encoded(&mut worker, &pin).await);
    let feature =
        |name: &str, values: &[u8]| pb::FeatureColumn { name: name.into(), values: values.to_vec().into() };
    let nan = columns::encode_f32(&[f32::NAN]);
    let cases = [
        ("query_vector", pb::ScoreRequest { query_vector: vec![1, 2, 3].into(), ..good.clone() }),
        ("query_vector", pb::ScoreRequest { query_vector: columns::encode_f32(&[1.0; 3]), ..good.clone() }),
        (
            "query_vector[0]",
            pb::ScoreRequest { query_vector: columns::encode_f32(&[f32::NAN; 8]), ..good.clone() },
        ),
        ("query_vector", pb::ScoreRequest { query_vector: Vec::new().into(), ..good.clone() }),
        ("fields[0]", pb::ScoreRequest { fields: vec!["no_such".into()], ..good.clone() }),
        (
            "features[\"nonsense\"]",
            pb::ScoreRequest { features: vec![feature("nonsense", &[])], ..good.clone() },
        ),
        (
            "features[\"context.hour\"]",
            pb::ScoreRequest { features: vec![feature("context.hour", &[1])], ..good.clone() },
        ),
        (
            "features[\"context.hour\"]",
            pb::ScoreRequest { features: vec![feature("context.hour", &nan)], ..good.clone() },
        ),
        (
            "retrieve.depth",
            pb::ScoreRequest { mode: Some(Mode::Retrieve(pb::Retrieve::default())), ..good.clone() },
        ),
        ("mode", pb::ScoreRequest { mode: None, ..good.clone() }),
        ("pin", pb::ScoreRequest { pin: None, ..good.clone() }),
    ];
    for (field, request) in cases {
        let status = worker.client.score(request).await.expect_err(field);
        assert_eq!(status.code(), Code::InvalidArgument, "{field}: {status:?}");
        let details = status.get_error_details();
        let fields: Vec<_> =
            details.bad_request().unwrap().field_violations.iter().map(|v| v.field.as_str()).collect();
        assert!(fields.contains(&field), "{field} is missing in {fields:?}");
    }
    worker.client.score(good).await.expect("the worker goes on");
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_come_with_both_scores_and_standings_are_checked() {
    let mut worker = Worker::start(&[]).await;
    let options = TinyOptions { mode: RetrievalMode::Fused, ..TinyOptions::default() };
    let (pin, bundle) = worker.store(1, &options, 1).await;
    worker.assign(&pin, 0).await;
    worker.until_ready(&pin, 0).await;
    let vector = encoded(&mut worker, &pin).await;
    let list = |vector: &[f32], exclude: &[String]| pb::ScoreRequest {
        mode: Some(Mode::List(pb::List { depth: 10, exclude_item_ids: exclude.to_vec() })),
        fields: Vec::new(),
        ..retrieve(&pin, 0, vector)
    };
    let answer = worker.client.score(list(&vector, &[])).await.unwrap().into_inner();
    let n = answer.item_ids.len();
    assert!((10..=20).contains(&n), "two lists of ten: {n}");
    assert_eq!(columns::decode_f32(&answer.retrieval_scores).unwrap().len(), n);
    assert_eq!(columns::decode_f32(&answer.lexical_scores).unwrap().len(), n);
    assert_eq!((answer.items_considered, answer.scores.len()), (bundle.manifest().items_total, 0));
    let without = worker.client.score(list(&vector, &answer.item_ids)).await.unwrap().into_inner();
    assert!(without.item_ids.iter().all(|id| !answer.item_ids.contains(id)));
    // Without a vector there is the list by words, and only that.
    let words = worker.client.score(list(&[], &[])).await.unwrap().into_inner();
    assert_eq!(words.item_ids.len(), 10);
    assert!(columns::decode_f32(&words.lexical_scores).unwrap().iter().all(|score| *score > 0.0));

    let standing = pb::Standing { dense_ranks: vec![1], ..Default::default() };
    let rerank = pb::Rerank { item_ids: answer.item_ids[..2].to_vec(), standing: Some(standing) };
    let bad = pb::ScoreRequest { mode: Some(Mode::Rerank(rerank)), ..list(&vector, &[]) };
    let status = worker.client.score(bad).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().contains("standing"), "{status:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_versions_are_held_side_by_side_and_one_is_let_go_without_the_other() {
    let mut worker = Worker::start(&[]).await;
    let (one, _) = worker.store(1, &TinyOptions { variant: "one".into(), ..TinyOptions::default() }, 1).await;
    let (two, _) = worker.store(2, &TinyOptions { variant: "two".into(), ..TinyOptions::default() }, 1).await;
    for pin in [&one, &two] {
        worker.assign(pin, 0).await;
        worker.until_ready(pin, 0).await;
    }
    assert!(worker.is_ready(&one, 0).await, "ready is never lost because something else loads");
    let vector = encoded(&mut worker, &two).await;
    worker.unassign(&one, 0).await;
    until(async || !worker.is_ready(&one, 0).await).await;
    worker.client.score(retrieve(&two, 0, &vector)).await.unwrap();
    let mut client = worker.client.clone();
    until(async || {
        let answer = client.score(Request::new(retrieve(&one, 0, &vector))).await;
        answer.is_err_and(|status| status.code() == Code::FailedPrecondition)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_bytes_are_never_ready_and_say_what_was_found() {
    let worker = Worker::start(&[]).await;
    let (pin, bundle) = worker.store(1, &TinyOptions::default(), 2).await;
    let file = "items/shard-00001-of-00002.parquet";
    let stored = worker.folder.path().join("bundles").join(bundle.digest().to_hex()).join(file);
    let mut bytes = std::fs::read(&stored).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xff;
    std::fs::write(&stored, bytes).unwrap();
    worker.assign(&pin, 1).await;
    until(async || worker.failure(&pin, 1).await.is_some()).await;
    let reason = worker.failure(&pin, 1).await.unwrap();
    for word in [file, "expected", "found"] {
        assert!(reason.contains(word), "no {word:?} in {reason:?}");
    }
    assert!(!worker.is_ready(&pin, 1).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_the_memory_budget_is_refused_with_the_numbers() {
    let worker = Worker::start(&[("worker.memory_budget", "1KiB")]).await;
    let (pin, _) = worker.store(1, &TinyOptions::default(), 1).await;
    worker.assign(&pin, 0).await;
    until(async || worker.failure(&pin, 0).await.is_some()).await;
    let reason = worker.failure(&pin, 0).await.unwrap();
    assert!(reason.contains("of 1024") && reason.contains("worker.memory_budget"), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leaving_replica_is_kept_but_never_loaded() {
    let worker = Worker::start(&[]).await;
    let (pin, _) = worker.store(1, &TinyOptions::default(), 3).await;
    worker.assign(&pin, 0).await;
    worker.until_ready(&pin, 0).await;
    // Assignments are followed in order of their keys: once shard 2 is ready, those before it were dealt with.
    worker.leave(&pin, 0).await;
    worker.leave(&pin, 1).await;
    worker.assign(&pin, 2).await;
    worker.until_ready(&pin, 2).await;
    assert!(worker.is_ready(&pin, 0).await);
    assert!(!worker.is_ready(&pin, 1).await);
    worker.unassign(&pin, 0).await;
    until(async || !worker.is_ready(&pin, 0).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_is_not_ready_before_it_has_what_it_was_given() {
    let worker = Worker::start(&[]).await;
    let (pin, _) = worker.store(1, &TinyOptions::default(), 2).await;
    worker.assign_to("w2", &pin, 0).await;
    worker.assign_to("w2", &pin, 1).await;
    let app = worker.another("w2").await;
    let readiness = app.readiness();
    tokio::time::timeout(PATIENCE, readiness.changed_from(false)).await.expect("it becomes ready");
    for shard in [0, 1] {
        assert!(worker.is_ready_at("w2", &pin, shard).await, "ready without shard {shard}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_worker_holds_is_served_while_the_rest_waits_for_the_store() {
    let worker = Worker::start(&[]).await;
    let (pin, _) = worker.store(1, &TinyOptions::default(), 1).await;
    let waiting = VersionPin {
        version: Version::try_from(2).unwrap(),
        digest: endcap_types::Digest::from_bytes([7; 32]),
        ..pin.clone()
    };
    // A store that has a file in the place of the bundle's folder cannot be looked into.
    std::fs::write(worker.folder.path().join("bundles").join(waiting.digest.to_hex()), "").unwrap();
    worker.assign_to("w2", &pin, 0).await;
    worker.assign_to("w2", &waiting, 0).await;
    let app = worker.another("w2").await;
    let (readiness, channel) = (app.readiness(), client::channel(&app.local_addr().to_string()).unwrap());
    tokio::spawn(app.serve(CancellationToken::new()));
    until(async || worker.is_ready_at("w2", &pin, 0).await).await;
    let serves =
        async |service| client::is_serving(channel.clone(), service, Deadline::after(PATIENCE)).await;
    until(async || serves(SERVICE_NAME).await).await;
    assert!(!serves("").await);
    assert_eq!(readiness.pending(), ["assigned shards"]);
}

fn frame(sequence: u64, remaining_us: u64, call: Option<Call>) -> pb::ExchangeRequest {
    pb::ExchangeRequest {
        sequence,
        remaining_us,
        request_id: format!("id-{sequence}"),
        call,
        traceparent: String::new(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_stream_carries_what_calls_carry_singly() {
    let metrics = endcap_service::telemetry::metrics_handle();
    let mut worker = Worker::start(&[]).await;
    let (pin, _) = worker.store(1, &TinyOptions::default(), 2).await;
    worker.assign(&pin, 0).await;
    worker.until_ready(&pin, 0).await;
    let vector = encoded(&mut worker, &pin).await;
    let score = |shard| Some(Call::Score(retrieve(&pin, shard, &vector)));
    let singly = worker.client.score(retrieve(&pin, 0, &vector)).await.unwrap().into_inner();
    let plenty = 60_000_000;
    let encode = pb::EncodeRequest { pin: Some((&pin).into()), query: "red kettle".into() };
    let frames = vec![
        frame(1, plenty, score(0)),
        frame(2, plenty, Some(Call::Encode(encode))),
        frame(3, plenty, score(1)),
        frame(4, 0, score(0)),
        frame(5, plenty, None),
        // Nobody's.
        frame(6, 0, Some(Call::Cancel(pb::CancelCall {}))),
    ];
    // The gateway's side ends at once; what is in flight is answered all the same.
    let mut stream = worker.client.exchange(futures::stream::iter(frames)).await.unwrap().into_inner();
    let mut replies = BTreeMap::new();
    while let Some(reply) = stream.message().await.unwrap() {
        assert!(replies.insert(reply.sequence, reply.reply.unwrap()).is_none());
    }
    assert_eq!(replies.keys().copied().collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
    let Some(Reply::Score(mut answer)) = replies.remove(&1) else { panic!("no score") };
    answer.timing = singly.timing;
    assert_eq!(answer, singly);
    let Some(Reply::Encode(answer)) = replies.remove(&2) else { panic!("no vector") };
    assert_eq!(columns::decode_f32(&answer.vector).unwrap(), vector);
    for (sequence, code) in
        [(3, Code::FailedPrecondition), (4, Code::DeadlineExceeded), (5, Code::InvalidArgument)]
    {
        let Some(Reply::Error(error)) = replies.remove(&sequence) else { panic!("no error") };
        assert_eq!(Code::from(error.code), code, "{error:?}");
    }
    let counted = metrics.render();
    assert!(
        counted
            .contains("endcap_requests_total{service=\"worker\",rpc=\"Score\",code=\"DEADLINE_EXCEEDED\"} 1"),
        "frames are counted as calls are:\n{counted}"
    );
}
