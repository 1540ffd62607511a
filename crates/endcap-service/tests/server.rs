//! The server over real connections: what each layer does, health, the admin listener, and the drain.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]
#![expect(clippy::disallowed_methods, reason = "the callers of a test are nobody's background tasks")]

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use endcap_proto::pb::{
    self,
    feature_service_client::FeatureServiceClient,
    feature_service_server::{FeatureService, FeatureServiceServer},
};
use endcap_service::{
    Deadline, GrpcConfig, GrpcServer, Readiness, RequestId,
    admin::{AdminConfig, AdminServer},
    client,
    status::from_status,
};
use endcap_types::ErrorCode;
use prost::Message as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::Notify,
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status, transport::Channel};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_types::StatusExt as _;

const PATIENCE: Duration = Duration::from_secs(30);

/// Does what the first entity's id says.
#[derive(Debug, Default)]
struct Scripted {
    entered: Notify,
    go_on: Notify,
    /// Who asked by a number.
    begun: parking_lot::Mutex<BTreeSet<u64>>,
}

/// The test keeps the other half.
#[derive(Debug)]
struct Shared(Arc<Scripted>);

#[tonic::async_trait]
impl FeatureService for Shared {
    async fn get_features(
        &self,
        request: Request<pb::GetFeaturesRequest>,
    ) -> Result<Response<pb::GetFeaturesResponse>, Status> {
        match request.get_ref().keys.first().map(|key| key.entity_id.as_str()) {
            Some("panic") => panic!("a secret of the handler"),
            Some("wait") => {
                self.0.entered.notify_one();
                self.0.go_on.notified().await;
            }
            Some("deadline") => {
                let remaining = Deadline::of(&request, PATIENCE).remaining();
                assert!(remaining < Duration::from_secs(8), "{remaining:?} of 7 s remain");
            }
            Some(number) => {
                if let Ok(number) = number.parse() {
                    self.0.begun.lock().insert(number);
                    // Some answers leave at once, some after the others.
                    tokio::time::sleep(Duration::from_micros(number % 5 * 300)).await;
                }
            }
            None => {}
        }
        Ok(Response::new(pb::GetFeaturesResponse::default()))
    }

    async fn put_features(
        &self,
        _request: Request<pb::PutFeaturesRequest>,
    ) -> Result<Response<pb::PutFeaturesResponse>, Status> {
        Ok(Response::new(pb::PutFeaturesResponse {}))
    }
}

struct Running {
    service: Arc<Scripted>,
    client: FeatureServiceClient<Channel>,
    channel: Channel,
    address: SocketAddr,
    readiness: Readiness,
    shutdown: CancellationToken,
    served: JoinHandle<()>,
}

async fn start(max_in_flight: usize) -> Running {
    let config = GrpcConfig {
        listen: "127.0.0.1:0".parse().unwrap(),
        advertise: String::new(),
        max_in_flight,
        drain_delay: Duration::ZERO,
        drain_grace: Duration::from_secs(20),
    };
    let service = Arc::new(Scripted::default());
    let server = GrpcServer::bind("test", config).await.unwrap();
    let (address, channel) = (server.local_addr(), client::channel(&server.advertised()).unwrap());
    let server = server.add_service(FeatureServiceServer::new(Shared(Arc::clone(&service))));
    let (readiness, shutdown) = (Readiness::new(), CancellationToken::new());
    let serving = server.serve(readiness.clone(), shutdown.clone());
    let served = tokio::spawn(async move { serving.await.unwrap() });
    let client = FeatureServiceClient::new(channel.clone());
    Running { service, client, channel, address, readiness, shutdown, served }
}

fn ask(what: &str) -> Request<pb::GetFeaturesRequest> {
    let key = pb::FeatureKey { namespace: "user".into(), entity_id: what.into() };
    Request::new(pb::GetFeaturesRequest { keys: vec![key] })
}

#[tokio::test]
async fn a_panic_is_an_internal_error_of_its_own_call_and_tells_nothing() {
    let mut running = start(10).await;
    let mut request = ask("panic");
    request.metadata_mut().insert("x-request-id", "call-7".parse().unwrap());
    let status = running.client.get_features(request).await.unwrap_err();
    assert_eq!(status.code(), Code::Internal);
    assert!(status.message().contains("call-7") && !status.message().contains("secret"), "{status:?}");
    running.client.get_features(ask("fine")).await.expect("the server goes on");
}

#[tokio::test]
async fn the_request_id_comes_back_or_is_made() {
    let mut running = start(10).await;
    let mut request = ask("fine");
    request.metadata_mut().insert("x-request-id", "call-8".parse().unwrap());
    let answer = running.client.get_features(request).await.unwrap();
    assert_eq!(answer.metadata().get("x-request-id").unwrap(), "call-8");
    let answer = running.client.get_features(ask("fine")).await.unwrap();
    assert_eq!(answer.metadata().get("x-request-id").unwrap().len(), RequestId::new().as_str().len());
}

#[tokio::test]
async fn deadlines_reach_the_handler_and_end_its_call() {
    let mut running = start(10).await;
    let mut request = ask("deadline");
    request.set_timeout(Duration::from_secs(7));
    running.client.get_features(request).await.expect("the handler saw the deadline");

    let mut request = ask("wait");
    request.set_timeout(Duration::from_millis(50));
    let status = running.client.get_features(request).await.unwrap_err();
    assert_eq!(from_status(&status).code, ErrorCode::DeadlineExceeded, "{status:?}");
    assert_eq!(status_within(running.address, "50m", ask("wait").into_inner()).await, Code::DeadlineExceeded);
}

/// The status of a call with this `grpc-timeout`, by a client that has no timer of its own to end it.
async fn status_within(address: SocketAddr, timeout: &str, message: pb::GetFeaturesRequest) -> Code {
    let connection = TcpStream::connect(address).await.unwrap();
    let (client, connection) = h2::client::handshake(connection).await.unwrap();
    tokio::spawn(connection);
    let request = http::Request::post(format!("http://{address}/endcap.v1.FeatureService/GetFeatures"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("grpc-timeout", timeout)
        .body(())
        .unwrap();
    let (response, mut body) = client.ready().await.unwrap().send_request(request, false).unwrap();
    // A message is framed by a byte that says "not compressed" and its length.
    let message = message.encode_to_vec();
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    body.send_data([&[0], &length[..], &message].concat().into(), true).unwrap();
    let response = tokio::time::timeout(PATIENCE, response).await.expect("the call ends").unwrap();
    Code::from_bytes(response.headers()["grpc-status"].as_bytes())
}

#[tokio::test]
async fn beyond_the_cap_calls_are_turned_away_with_when_to_come_back() {
    let running = start(1).await;
    let mut first = running.client.clone();
    let waiting = tokio::spawn(async move { first.get_features(ask("wait")).await });
    running.service.entered.notified().await;
    let asked = Instant::now();
    let status = running.client.clone().get_features(ask("fine")).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(asked.elapsed() < Duration::from_secs(5), "a rejection waited for a place");
    assert!(status.metadata().get("grpc-retry-pushback-ms").is_some(), "{status:?}");
    assert!(status.get_error_details().retry_info().is_some());
    running.service.go_on.notify_one();
    waiting.await.unwrap().expect("the first call is not disturbed");
}

#[tokio::test]
async fn a_drain_finishes_calls_in_flight_and_takes_no_new_connection() {
    let running = start(10).await;
    let mut first = running.client.clone();
    let waiting = tokio::spawn(async move { first.get_features(ask("wait")).await });
    running.service.entered.notified().await;
    running.shutdown.cancel();
    let not_ready = running.readiness.changed_from(true);
    tokio::time::timeout(PATIENCE, not_ready).await.expect("readiness drops first");
    running.service.go_on.notify_one();
    waiting.await.unwrap().expect("a call in flight is finished");
    tokio::time::timeout(PATIENCE, running.served).await.expect("the server ends").unwrap();
    let status = running.client.clone().get_features(ask("fine")).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
}

/// A client's call may leave as the server closes, and fails then: it can be asked again elsewhere without being done
/// twice only if the server never took it in. Servers have a runtime each that ends with them, as their processes do.
#[tokio::test(flavor = "multi_thread")]
async fn a_drain_answers_every_call_that_it_let_in() {
    let (mut answered, mut refused, mut codes) = (0, 0, BTreeSet::new());
    for _ in 0..40 {
        let process = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let process = process.unwrap();
        let running = process.spawn(start(1000)).await.unwrap();
        let client = FeatureServiceClient::new(client::channel(&running.address.to_string()).unwrap());
        let callers: Vec<_> =
            (0..8).map(|caller| tokio::spawn(until_it_fails(client.clone(), caller << 32))).collect();
        while running.service.begun.lock().len() < 200 {
            tokio::task::yield_now().await;
        }
        running.shutdown.cancel();
        tokio::time::timeout(PATIENCE, running.served).await.expect("within the grace").unwrap();
        process.shutdown_background();
        let failed = futures::future::join_all(callers);
        let failed = tokio::time::timeout(PATIENCE, failed).await.expect("calls end with the server");
        let begun = running.service.begun.lock();
        for ended in failed {
            let (number, status) = ended.unwrap();
            assert!(!begun.contains(&number), "{number} was let in and got {status:?}");
            assert_eq!(from_status(&status).code, ErrorCode::Unavailable, "{status:?}");
            codes.insert(format!("{:?}: {}", status.code(), status.message()));
            refused += 1;
        }
        answered += begun.len();
    }
    println!("{answered} answered, {refused} not let in: {codes:?}");
}

/// Asks with one number after another; the one that failed, and how.
async fn until_it_fails(mut client: FeatureServiceClient<Channel>, mut number: u64) -> (u64, Status) {
    loop {
        number += 1;
        if let Err(status) = client.get_features(ask(&number.to_string())).await {
            return (number, status);
        }
    }
}

#[tokio::test]
async fn health_and_readyz_follow_the_latches() {
    let running = start(10).await;
    let latch = running.readiness.latch("routing snapshot");
    let admin = AdminConfig { listen: "127.0.0.1:0".parse().unwrap() };
    let admin = AdminServer::bind(&admin, vec![running.readiness.clone()]).await.unwrap();
    let address = admin.local_addr();
    let admin = tokio::spawn(admin.serve(CancellationToken::new()));
    let mut health = HealthClient::new(running.channel.clone());
    let request = HealthCheckRequest { service: "endcap.v1.FeatureService".into() };
    let mut changes = health.watch(request).await.unwrap().into_inner();
    // NOT_SERVING, possibly after a SERVING from before the latch.
    while changes.message().await.unwrap().unwrap().status != 2 {}
    let page = get(address, "/readyz").await;
    assert!(page.starts_with("HTTP/1.1 503") && page.contains("routing snapshot"), "{page}");
    assert!(get(address, "/livez").await.starts_with("HTTP/1.1 200"));

    latch.release();
    assert_eq!(changes.message().await.unwrap().unwrap().status, 1);
    assert!(get(address, "/readyz").await.starts_with("HTTP/1.1 200"));

    running.client.clone().get_features(ask("fine")).await.unwrap();
    let metrics = get(address, "/metrics").await;
    for expected in [
        r#"endcap_requests_total{service="test",rpc="GetFeatures",code="OK"}"#,
        r#"endcap_request_duration_seconds_bucket{service="test",rpc="GetFeatures",le="0.1"}"#,
    ] {
        assert!(metrics.contains(expected), "no {expected} in:\n{metrics}");
    }
    admin.abort();
}

#[tokio::test]
async fn a_service_with_a_health_of_its_own_serves_ahead_of_the_whole_and_drains_with_it() {
    let (whole, own, shutdown) = (Readiness::new(), Readiness::new(), CancellationToken::new());
    let (_held, latch) = (whole.latch("everything"), own.latch("something"));
    let config = GrpcConfig {
        listen: "127.0.0.1:0".parse().unwrap(),
        advertise: String::new(),
        max_in_flight: 10,
        drain_delay: Duration::ZERO,
        drain_grace: PATIENCE,
    };
    let server = GrpcServer::bind("test", config).await.unwrap();
    let channel = client::channel(&server.advertised()).unwrap();
    let name = "endcap.v1.FeatureService";
    let server = server.add_service(FeatureServiceServer::new(Shared(Arc::default())));
    let serving = server.with_health(name, own.clone()).serve(whole, shutdown.clone());
    let served = tokio::spawn(async move { serving.await.unwrap() });
    let mut changes = HealthClient::new(channel.clone());
    let request = HealthCheckRequest { service: name.into() };
    let mut changes = changes.watch(request).await.unwrap().into_inner();
    while changes.message().await.unwrap().unwrap().status != 2 {}
    latch.release();
    assert_eq!(changes.message().await.unwrap().unwrap().status, 1);
    let serves =
        async |service| client::is_serving(channel.clone(), service, Deadline::after(PATIENCE)).await;
    assert!(serves(name).await && !serves("").await);
    shutdown.cancel();
    assert_eq!(changes.message().await.unwrap().unwrap().status, 2);
    drop(changes);
    tokio::time::timeout(PATIENCE, served).await.expect("the server ends").unwrap();
    assert_eq!(own.pending(), ["draining"]);
}

async fn get(address: std::net::SocketAddr, path: &str) -> String {
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    text
}
