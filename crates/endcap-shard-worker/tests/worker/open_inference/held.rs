//! What a worker says of what it holds, and of what it does not.

use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

use super::*;

const SERVICE: &str = "inference.GRPCInferenceService";

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
