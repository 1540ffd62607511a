//! The Open Inference Protocol of a real worker: raw calls.

mod held;

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
use tonic_types::StatusExt as _;

use crate::support::{Worker, until};

type Client = GrpcInferenceServiceClient<Channel>;

/// The tiny ranker's.
const WEIGHTS: [f32; 5] = [2.0, 0.25, 0.5, 0.125, 0.031_25];

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
