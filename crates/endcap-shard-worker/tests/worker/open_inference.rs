//! The Open Inference Protocol of a real worker.

use std::{collections::BTreeMap, path::Path};

use endcap_bundle::test_util::TinyOptions;
use endcap_proto::{
    columns,
    inference::{
        self as wire, InferTensorContents, ModelInferRequest, ModelInferResponse,
        grpc_inference_service_client::GrpcInferenceServiceClient,
        model_infer_request::{InferInputTensor, InferRequestedOutputTensor},
    },
};
use tonic::{Code, Request, Status, transport::Channel};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};
use tonic_types::StatusExt as _;

use crate::support::{Worker, until};

type Client = GrpcInferenceServiceClient<Channel>;

/// The tiny ranker's.
const WEIGHTS: [f32; 5] = [2.0, 0.25, 0.5, 0.125, 0.031_25];
const SERVICE: &str = "inference.GRPCInferenceService";

/// A worker that holds a shard of version 1 of the tiny model.
async fn ready(set: &[(&str, &str)]) -> (Worker, Client) {
    let worker = Worker::start(set).await;
    let (pin, _) = worker.store(1, &TinyOptions::default(), 2).await;
    worker.assign(&pin, 0).await;
    worker.until_ready(&pin, 0).await;
    let client = Client::new(worker.channel.clone());
    (worker, client)
}

fn tensor(name: &str, datatype: &str, shape: &[i64]) -> InferInputTensor {
    let (name, datatype) = (name.to_owned(), datatype.to_owned());
    InferInputTensor { name, datatype, shape: shape.into(), ..Default::default() }
}

fn scored(features: &[f32]) -> ModelInferRequest {
    let rows = i64::try_from(features.len() / 5).unwrap();
    ModelInferRequest {
        model_name: "tiny".into(),
        id: "seven".into(),
        inputs: vec![tensor("features", "FP32", &[rows, 5])],
        raw_input_contents: vec![columns::encode_f32(features)],
        ..Default::default()
    }
}

/// Three good rows, but for a change.
fn with(change: impl FnOnce(&mut ModelInferRequest)) -> ModelInferRequest {
    let mut request = scored(&[0.5; 15]);
    change(&mut request);
    request
}

fn encoded(ids: &[i64], shape: [i64; 2]) -> ModelInferRequest {
    ModelInferRequest {
        model_name: "tiny.encoder".into(),
        inputs: vec![tensor("input_ids", "INT64", &shape), tensor("attention_mask", "INT64", &shape)],
        raw_input_contents: vec![columns::encode_i64(ids), columns::encode_i64(&vec![1; ids.len()])],
        ..Default::default()
    }
}

fn numbers(answer: &ModelInferResponse) -> Vec<f32> {
    assert_eq!(answer.raw_output_contents.len(), 1);
    columns::decode_f32(&answer.raw_output_contents[0]).unwrap()
}

/// Fields at fault and why.
fn violations(status: &Status) -> BTreeMap<String, String> {
    let details = status.get_error_details();
    let violations = details.bad_request().map(|bad| bad.field_violations.clone()).unwrap_or_default();
    violations.into_iter().map(|violation| (violation.field, violation.description)).collect()
}

/// The call is refused for this field and reason.
async fn refused(client: &mut Client, field: &str, why: &str, request: ModelInferRequest) {
    let status = client.model_infer(request).await.expect_err(field);
    assert_eq!(status.code(), Code::InvalidArgument, "{field}: {status:?}");
    let found = violations(&status);
    assert!(found.get(field).is_some_and(|found| found.contains(why)), "{field}, {why}: {found:?}");
}

async fn is_ready(client: &mut Client, name: &str, version: &str) -> bool {
    let request = wire::ModelReadyRequest { name: name.into(), version: version.into() };
    client.model_ready(request).await.unwrap().into_inner().ready
}

async fn statistics(client: &mut Client, name: &str) -> wire::ModelStatistics {
    let request = wire::ModelStatisticsRequest { name: name.into(), version: String::new() };
    let answer = client.model_statistics(request).await.unwrap().into_inner();
    assert_eq!(answer.model_stats.len(), 1);
    answer.model_stats.into_iter().next().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_is_ready_only_once_it_is_held_and_describes_itself() {
    let worker = Worker::start(&[]).await;
    let (pin, _) = worker.store(1, &TinyOptions::default(), 2).await;
    let mut client = Client::new(worker.channel.clone());
    assert!(client.server_live(wire::ServerLiveRequest {}).await.unwrap().into_inner().live);
    assert!(client.server_ready(wire::ServerReadyRequest {}).await.unwrap().into_inner().ready);
    assert!(!is_ready(&mut client, "tiny", "").await);
    worker.assign(&pin, 0).await;
    worker.until_ready(&pin, 0).await;
    for (name, version) in [("tiny", ""), ("tiny", "1"), ("tiny.encoder", "")] {
        assert!(is_ready(&mut client, name, version).await, "{name} {version}");
    }
    for (name, version) in [("tiny", "2"), ("tin", ""), ("", ""), ("tiny.ranker", ""), (".encoder", "")] {
        assert!(!is_ready(&mut client, name, version).await, "{name} {version}");
    }
    let request = wire::ModelReadyRequest { name: "tiny".into(), version: "first".into() };
    let status = client.model_ready(request).await.unwrap_err();
    assert!(violations(&status).contains_key("version"), "{status:?}");

    let about = client.server_metadata(wire::ServerMetadataRequest {}).await.unwrap().into_inner();
    assert_eq!((about.name.as_str(), about.version.as_str()), ("endcap", env!("CARGO_PKG_VERSION")));
    let described = async |name: &str| {
        let request = wire::ModelMetadataRequest { name: name.into(), version: String::new() };
        client.clone().model_metadata(request).await.unwrap().into_inner()
    };
    let tensors = |tensors: &[wire::model_metadata_response::TensorMetadata]| {
        let each = tensors.iter().map(|t| format!("{} {} {:?}", t.name, t.datatype, t.shape));
        each.collect::<Vec<_>>().join(", ")
    };
    let ranker = described("tiny").await;
    assert_eq!((ranker.versions, ranker.platform), (vec!["1".to_owned()], "onnxruntime_onnx".to_owned()));
    assert_eq!(tensors(&ranker.inputs), "features FP32 [-1, 5]");
    assert_eq!(tensors(&ranker.outputs), "score FP32 [-1, 1]");
    let encoder = described("tiny.encoder").await;
    assert_eq!(tensors(&encoder.inputs), "input_ids INT64 [-1, -1], attention_mask INT64 [-1, -1]");
    assert_eq!(tensors(&encoder.outputs), "vector FP32 [-1, 8]");
}

#[tokio::test(flavor = "multi_thread")]
async fn raw_and_typed_contents_give_what_the_model_computes() {
    let (worker, mut client) = ready(&[]).await;
    let features: Vec<f32> = (0..15_u8).map(|i| f32::from(i) - 4.5).collect();
    let dot = |row: &[f32]| row.iter().zip(&WEIGHTS).map(|(x, w)| x * w).sum::<f32>();
    let expected: Vec<f32> = features.chunks(5).map(dot).collect();
    let raw = client.model_infer(scored(&features)).await.unwrap().into_inner();
    assert_eq!(
        (raw.model_name.as_str(), raw.model_version.as_str(), raw.id.as_str()),
        ("tiny", "1", "seven")
    );
    let output = &raw.outputs[0];
    assert_eq!((output.name.as_str(), output.datatype.as_str()), ("score", "FP32"));
    assert_eq!(output.shape, [3, 1]);
    for (expected, found) in expected.iter().zip(numbers(&raw)) {
        assert!((expected - found).abs() < 1e-5, "{expected} {found}");
    }
    let mut typed = scored(&features);
    typed.raw_input_contents.clear();
    typed.inputs[0].contents = Some(InferTensorContents { fp32_contents: features, ..Default::default() });
    typed.outputs = vec![InferRequestedOutputTensor { name: "score".into(), ..Default::default() }];
    assert_eq!(numbers(&client.model_infer(typed).await.unwrap().into_inner()), numbers(&raw));

    // What the model gives is passed on, whatever it is.
    let nan = client.model_infer(scored(&[f32::NAN, 0.0, 0.0, 0.0, 0.0])).await.unwrap().into_inner();
    assert!(numbers(&nan)[0].is_nan());

    // Inputs in the other order are the same inputs; another version has other weights.
    let vector = client.model_infer(encoded(&[1, 6, 2, 7], [2, 2])).await.unwrap().into_inner();
    assert_eq!((vector.outputs[0].shape.as_slice(), numbers(&vector).len()), (&[2, 8][..], 16));
    let mut turned = encoded(&[1, 6, 2, 7], [2, 2]);
    turned.inputs.reverse();
    turned.raw_input_contents.reverse();
    assert_eq!(numbers(&client.model_infer(turned).await.unwrap().into_inner()), numbers(&vector));
    let heavier = TinyOptions { weight_scale: 3.0, ..TinyOptions::default() };
    let (two, _) = worker.store(2, &heavier, 1).await;
    worker.assign(&two, 0).await;
    worker.until_ready(&two, 0).await;
    let highest = client.model_infer(scored(&[1.0; 5])).await.unwrap().into_inner();
    let mut first = scored(&[1.0; 5]);
    first.model_version = "1".into();
    let first = client.model_infer(first).await.unwrap().into_inner();
    assert_eq!((highest.model_version.as_str(), first.model_version.as_str()), ("2", "1"));
    assert!((numbers(&highest)[0] - 3.0 * numbers(&first)[0]).abs() < 1e-4);
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_wrong_with_a_request_is_told_by_field() {
    let (_worker, mut client) = ready(&[("worker.max_batch_rows", "16")]).await;
    let shape = "inputs[\"features\"].shape";
    let cases = [
        (
            "inputs[\"features\"]",
            "is missing; expected FP32 [rows, 5]",
            with(|r| r.inputs[0].name = "x".into()),
        ),
        (
            "inputs[\"x\"]",
            "is no input of this model; expected \"features\"",
            with(|r| r.inputs[0].name = "x".into()),
        ),
        (
            "inputs[\"features\"]",
            "is missing",
            with(|r| (r.inputs, r.raw_input_contents) = Default::default()),
        ),
        (
            "inputs[\"features\"].datatype",
            "is \"FP64\"; expected \"FP32\"",
            with(|r| r.inputs[0].datatype = "FP64".into()),
        ),
        (shape, "is [3, 4]; expected [rows, 5]", with(|r| r.inputs[0].shape = vec![3, 4])),
        (shape, "is [15]; expected [rows, 5]", with(|r| r.inputs[0].shape = vec![15])),
        (shape, "is [-1, 5]; expected [rows, 5]", with(|r| r.inputs[0].shape = vec![-1, 5])),
        (shape, "has 0 rows; expected 1 to 16", with(|r| r.inputs[0].shape = vec![0, 5])),
        (shape, "has 17 rows; expected 1 to 16", scored(&[0.5; 85])),
        (
            "raw_input_contents[0]",
            "has 60 bytes; input \"features\" has the shape of 40",
            with(|r| r.inputs[0].shape = vec![2, 5]),
        ),
        (
            "raw_input_contents",
            "has 2 entries; expected 1",
            with(|r| r.raw_input_contents.push(vec![].into())),
        ),
        (
            "inputs[\"features\"].contents.fp32_contents",
            "has 0 numbers; expected 15",
            with(|r| r.raw_input_contents.clear()),
        ),
        (
            "inputs[\"features\"].contents",
            "beside raw_input_contents",
            with(|r| r.inputs[0].contents = Some(InferTensorContents::default())),
        ),
        (
            "inputs[\"features\"]",
            "is given twice",
            with(|r| {
                r.inputs.push(r.inputs[0].clone());
                r.raw_input_contents.push(r.raw_input_contents[0].clone());
            }),
        ),
        ("inputs", "has 1000 entries; expected 1", with(|r| r.inputs = vec![r.inputs[0].clone(); 1000])),
    ];
    for (field, why, request) in cases {
        refused(&mut client, field, why, request).await;
    }
    client.model_infer(scored(&[0.5; 15])).await.expect("the worker goes on");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_held_or_not_supported_and_inputs_that_disagree_are_told() {
    let (_worker, mut client) = ready(&[]).await;
    let good = scored(&[0.5; 15]);
    let parameter = wire::InferParameter::default();
    let cases = [
        (
            "outputs[0].name",
            "is \"logits\"; expected \"score\"",
            with(|r| {
                r.outputs = vec![InferRequestedOutputTensor { name: "logits".into(), ..Default::default() }]
            }),
        ),
        (
            "parameters[\"sequence_id\"]",
            "is not supported",
            with(|r| drop(r.parameters.insert("sequence_id".into(), parameter.clone()))),
        ),
        (
            "inputs[\"features\"].parameters[\"shared_memory_region\"]",
            "is not supported",
            with(|r| drop(r.inputs[0].parameters.insert("shared_memory_region".into(), parameter.clone()))),
        ),
        (
            "model_version",
            "a version is a number from 1",
            ModelInferRequest { model_version: "stable".into(), ..good.clone() },
        ),
        ("inputs[\"input_ids\"].shape", "is [1, 33]; expected [rows, 1 to 32]", encoded(&[1; 33], [1, 33])),
        ("inputs[\"attention_mask\"].shape", "has 3 rows; input \"input_ids\" has 2", {
            let mut request = encoded(&[1; 6], [2, 3]);
            request.inputs[1].shape = vec![3, 2];
            request
        }),
        ("inputs[\"attention_mask\"].shape", "has 2 numbers per row; input \"input_ids\" has 3", {
            let mut request = encoded(&[1; 6], [2, 3]);
            request.inputs[1].shape = vec![2, 2];
            request
        }),
    ];
    for (field, why, request) in cases {
        refused(&mut client, field, why, request).await;
    }
    for (name, version, holds) in [("tin", "", "tiny, tiny.encoder"), ("tiny", "9", "1")] {
        let request =
            ModelInferRequest { model_name: name.into(), model_version: version.into(), ..good.clone() };
        let status = client.model_infer(request).await.unwrap_err();
        assert_eq!(status.code(), Code::NotFound, "{status:?}");
        assert!(status.message().ends_with(&format!("it holds {holds}")), "{status:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_that_the_model_does_not_have_fails_its_own_request_and_no_neighbour() {
    let (_worker, client) = ready(&[]).await;
    let asked = (0..64_i64).map(|i| {
        let mut client = client.clone();
        let id = if i % 8 == 3 { 900 + i } else { i % 13 };
        async move { (id, client.model_infer(encoded(&[1, id], [1, 2])).await) }
    });
    for (id, answer) in futures::future::join_all(asked).await {
        if id < 900 {
            assert_eq!(numbers(&answer.expect("a good request is answered").into_inner()).len(), 8);
            continue;
        }
        let status = answer.expect_err("there is no such id");
        assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
        let found = violations(&status);
        let why = found.get("inputs[\"input_ids\"]").expect("the input is named");
        assert!(why.contains(&format!("holds {id}")) && why.contains("[-13,12]"), "{why}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_time_and_no_room_are_told_apart() {
    let (_worker, client) = ready(&[("worker.queue_rows", "1")]).await;
    // The transport cancels calls that are late, too, and may be quicker with it than the worker with its answer.
    until(async || {
        let mut late = Request::new(scored(&[0.5; 5]));
        late.metadata_mut().insert("grpc-timeout", "0n".parse().unwrap());
        let code = client.clone().model_infer(late).await.unwrap_err().code();
        assert!([Code::DeadlineExceeded, Code::Cancelled].contains(&code), "{code:?}");
        code == Code::DeadlineExceeded
    })
    .await;
    // Of many at once, some find a row that waits already.
    until(async || {
        let asked = (0..64).map(|_| {
            let mut client = client.clone();
            async move { client.model_infer(scored(&[0.5; 500])).await }
        });
        let answers = futures::future::join_all(asked).await;
        let Some(status) = answers.into_iter().find_map(Result::err) else { return false };
        assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
        assert!(status.get_error_details().retry_info().is_some(), "{status:?}");
        true
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn statistics_count_requests_rows_and_runs() {
    let (_worker, mut client) = ready(&[]).await;
    let idle = statistics(&mut client, "tiny").await;
    assert_eq!((idle.inference_count, idle.execution_count, idle.last_inference), (0, 0, 0));
    client.model_infer(scored(&[0.5; 15])).await.unwrap();
    client.model_infer(scored(&[0.5; 5])).await.unwrap();
    client.model_infer(encoded(&[900], [1, 1])).await.unwrap_err();
    let ranker = statistics(&mut client, "tiny").await;
    assert_eq!((ranker.inference_count, ranker.execution_count), (4, 2));
    assert!(ranker.last_inference > 1_700_000_000_000, "{ranker:?}");
    let times = ranker.inference_stats.unwrap();
    let (success, fail) = (times.success.unwrap(), times.fail.unwrap());
    let (queue, infer) = (times.queue.unwrap(), times.compute_infer.unwrap());
    assert_eq!([success.count, queue.count, infer.count, fail.count], [2, 2, 2, 0]);
    assert!(infer.ns > 0 && success.ns >= queue.ns + infer.ns, "{success:?} {queue:?} {infer:?}");
    let encoder = statistics(&mut client, "tiny.encoder").await;
    let times = encoder.inference_stats.unwrap();
    assert_eq!((encoder.inference_count, times.fail.unwrap().count), (0, 1));
    let all = client.model_statistics(wire::ModelStatisticsRequest::default()).await.unwrap().into_inner();
    let names: Vec<_> = all.model_stats.iter().map(|stats| stats.name.as_str()).collect();
    assert_eq!(names, ["tiny", "tiny.encoder"]);
    for (name, version, code) in [("tin", "", Code::NotFound), ("tiny", "x", Code::InvalidArgument)] {
        let request = wire::ModelStatisticsRequest { name: name.into(), version: version.into() };
        assert_eq!(client.model_statistics(request).await.unwrap_err().code(), code);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_index_says_what_is_ready_and_why_the_rest_is_not() {
    let (worker, mut client) = ready(&[]).await;
    let (two, bundle) =
        worker.store(2, &TinyOptions { variant: "two".into(), ..TinyOptions::default() }, 1).await;
    let stored = worker.folder.path().join("bundles").join(bundle.digest().to_hex());
    std::fs::write(stored.join("items/shard-00000-of-00001.parquet"), "nonsense").unwrap();
    worker.assign(&two, 0).await;
    until(async || worker.failure(&two, 0).await.is_some()).await;
    let request = wire::RepositoryIndexRequest::default();
    let index = client.repository_index(request).await.unwrap().into_inner().models;
    let states: Vec<_> =
        index.iter().map(|m| (m.name.as_str(), m.version.as_str(), m.state.as_str())).collect();
    let ready = [("tiny", "1", "READY"), ("tiny.encoder", "1", "READY")];
    assert_eq!(states, [ready[0], ("tiny", "2", "UNAVAILABLE"), ready[1]]);
    assert!(index[1].reason.contains("shard-00000-of-00001.parquet"), "{:?}", index[1]);
    assert!(!is_ready(&mut client, "tiny", "2").await);
    let request = wire::RepositoryIndexRequest { ready: true, ..Default::default() };
    assert_eq!(client.repository_index(request).await.unwrap().into_inner().models.len(), 2);
    // It is no longer wanted: nothing is known of it.
    worker.unassign(&two, 0).await;
    until(async || {
        let request = wire::RepositoryIndexRequest::default();
        client.repository_index(request).await.unwrap().into_inner().models.len() == 2
    })
    .await;
    let request = wire::RepositoryIndexRequest { repository_name: "models".into(), ready: false };
    assert_eq!(client.repository_index(request).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn health_and_reflection_know_the_service() {
    let worker = Worker::start(&[]).await;
    let request = HealthCheckRequest { service: SERVICE.into() };
    let health = HealthClient::new(worker.channel.clone());
    until(async || {
        let answer = health.clone().check(request.clone()).await.unwrap().into_inner();
        answer.status() == tonic_health::pb::health_check_response::ServingStatus::Serving
    })
    .await;
    let list = ServerReflectionRequest {
        message_request: Some(MessageRequest::ListServices(String::new())),
        ..Default::default()
    };
    let mut client = ServerReflectionClient::new(worker.channel.clone());
    let answers = client.server_reflection_info(tokio_stream::once(list)).await.unwrap();
    let answer = answers.into_inner().message().await.unwrap().unwrap();
    let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else {
        panic!("{answer:?}")
    };
    let mut names: Vec<_> = list.service.iter().map(|service| service.name.as_str()).collect();
    names.sort_unstable();
    let others = ["endcap.v1.ShardService", "grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection"];
    assert_eq!(names, [&others[..], &[SERVICE]].concat());
}

#[tokio::test(flavor = "multi_thread")]
async fn tritons_own_client_gets_what_onnx_runtime_computes() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let python = here.join(".tools/tests/bin/python");
    assert!(python.exists(), "{} is missing: `make setup-tests` gets it", python.display());
    let worker = Worker::start(&[]).await;
    let packed = std::fs::File::open(here.join("deploy/demo/search-ranker.endcap")).unwrap();
    let folder = worker.folder.path().join("demo");
    let bundle = endcap_bundle::unpack(packed, &folder).unwrap();
    let pin = worker.put(7, &bundle).await;
    worker.assign(&pin, 0).await;
    worker.until_ready(&pin, 0).await;
    let script = here.join("tests/tools/open_inference.py");
    let mut command = std::process::Command::new(python);
    command.arg(script).arg(&worker.address).arg(pin.model.as_str()).arg(&folder);
    let done = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let said = [done.stdout, done.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    assert!(done.status.success(), "{}\n{}", said[0], said[1]);
}
