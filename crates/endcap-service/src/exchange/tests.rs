//! What becomes of a stream that nobody reads. (The gateway's tests hold streams to what calls do singly.)

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

use endcap_proto::pb::{shard_service_client::ShardServiceClient, shard_service_server::ShardServiceServer};
use tokio::{sync::Semaphore, task::JoinHandle};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Endpoint;

use super::*;
use crate::{GrpcConfig, GrpcServer, Readiness};

const PATIENCE: Duration = Duration::from_secs(30);
/// Calls that the worker takes at once.
const CAP: usize = 8;
/// Of a short answer. A few dozen fill what the connection holds: the smallest window, which is what the gateways here
/// have, and the worker's buffer of 400 KiB.
const SHORT: usize = 32 << 10;
/// Of an answer that fills it alone.
const LONG: usize = 1 << 20;

/// A worker whose `Encode` answers at once, and whose `Score` waits until it may go on.
#[derive(Debug, Clone)]
struct Fake {
    begun: Arc<AtomicUsize>,
    dropped: Arc<AtomicUsize>,
    go_on: Arc<Semaphore>,
    draining: CancellationToken,
    tasks: Tasks,
}

struct Dropped(Arc<AtomicUsize>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.fetch_add(1, Relaxed);
    }
}

#[tonic::async_trait]
impl ShardService for Fake {
    type ExchangeStream = Replies;

    async fn encode(&self, _: Request<pb::EncodeRequest>) -> Result<Response<pb::EncodeResponse>, Status> {
        self.begun.fetch_add(1, Relaxed);
        Ok(Response::new(pb::EncodeResponse { pin: None, vector: vec![0; SHORT].into() }))
    }

    async fn score(&self, _: Request<pb::ScoreRequest>) -> Result<Response<pb::ScoreResponse>, Status> {
        let _guard = Dropped(Arc::clone(&self.dropped));
        self.begun.fetch_add(1, Relaxed);
        self.go_on.acquire().await.unwrap().forget();
        Ok(Response::new(pb::ScoreResponse { item_ids: vec!["a".repeat(LONG)], ..Default::default() }))
    }

    async fn exchange(
        &self,
        request: Request<Streaming<pb::ExchangeRequest>>,
    ) -> Result<Response<Replies>, Status> {
        let draining = self.draining.clone();
        Ok(Response::new(serve(Arc::new(self.clone()), request, draining, &self.tasks)))
    }
}

/// The worker behind the real layer stack, and a stream to it.
struct Bed {
    fake: Fake,
    client: ShardServiceClient<tonic::transport::Channel>,
    frames: Sender<pb::ExchangeRequest>,
    replies: Streaming<pb::ExchangeResponse>,
    served: JoinHandle<()>,
}

async fn bed() -> Bed {
    let config = GrpcConfig {
        listen: "127.0.0.1:0".parse().unwrap(),
        advertise: String::new(),
        max_in_flight: CAP,
        drain_delay: Duration::ZERO,
        drain_grace: 2 * PATIENCE,
    };
    let fake = Fake {
        begun: Arc::default(),
        dropped: Arc::default(),
        go_on: Arc::new(Semaphore::new(0)),
        draining: CancellationToken::new(),
        tasks: Tasks::new(),
    };
    let server = GrpcServer::bind("worker", config).await.unwrap();
    let endpoint = Endpoint::from_shared(format!("http://{}", server.local_addr())).unwrap();
    let server = server.add_service(ShardServiceServer::new(fake.clone()));
    let serving = server.serve(Readiness::new(), fake.draining.clone());
    let served = fake.tasks.spawn("server", async { serving.await.unwrap() });
    let mut client = ShardServiceClient::new(endpoint.initial_stream_window_size(65_535).connect_lazy());
    let (frames, queue) = mpsc::channel(1);
    let replies = client.exchange(ReceiverStream::new(queue)).await.unwrap().into_inner();
    Bed { fake, client, frames, replies, served }
}

fn frame(sequence: u64, call: Call) -> pb::ExchangeRequest {
    let remaining_us = u64::try_from(PATIENCE.as_micros()).unwrap();
    pb::ExchangeRequest { sequence, remaining_us, call: Some(call), ..Default::default() }
}

impl Bed {
    /// Calls that wait, as many as the worker takes.
    async fn fill(&self) {
        for sequence in 1..=CAP as u64 {
            self.frames.send(frame(sequence, Call::Score(pb::ScoreRequest::default()))).await.unwrap();
        }
        until(async || self.fake.begun.load(Relaxed) == CAP).await;
    }
}

async fn until(mut condition: impl AsyncFnMut() -> bool) {
    let polling = async {
        let mut pause = tokio::time::interval(Duration::from_millis(2));
        while !condition().await {
            pause.tick().await;
        }
    };
    tokio::time::timeout(PATIENCE, polling).await.expect("the condition comes true");
}

#[tokio::test]
async fn answers_that_nobody_reads_hold_no_places() {
    let mut bed = bed().await;
    bed.fill().await;
    let full = bed.client.encode(pb::EncodeRequest::default()).await.unwrap_err();
    assert_eq!(full.code(), Code::ResourceExhausted);
    bed.fake.go_on.add_permits(CAP);
    let ask = async |_| {
        let mut client = bed.client.clone();
        until(async || client.score(pb::ScoreRequest::default()).await.is_ok()).await;
    };
    let others = futures::future::join_all((0..CAP).map(ask));
    let all_at_once = async {
        until(async || bed.fake.begun.load(Relaxed) == 2 * CAP).await;
        bed.fake.go_on.add_permits(CAP);
    };
    tokio::join!(others, all_at_once);
}

#[tokio::test]
async fn a_gateway_that_does_not_read_is_not_read_from_and_gets_every_answer_when_it_does() {
    let mut bed = bed().await;
    let (frames, count) = (bed.frames.clone(), 4 * UNREAD as u64);
    let sending = bed.fake.tasks.spawn("gateway", async move {
        for sequence in 1..=count {
            frames.send(frame(sequence, Call::Encode(pb::EncodeRequest::default()))).await.unwrap();
        }
    });
    until(async || bed.fake.begun.load(Relaxed) > UNREAD).await;
    // Time for a worker that would go on to do so.
    for _ in 0..100 {
        bed.client.encode(pb::EncodeRequest::default()).await.unwrap();
    }
    let begun = bed.fake.begun.load(Relaxed) - 100;
    assert!(begun < 2 * UNREAD, "{begun} answers are waiting");

    bed.fake.draining.cancel();
    let mut answered = BTreeSet::new();
    let mut farewells = 0;
    let (mut replies, mut open) = (bed.replies, Some(bed.frames));
    while let Some(pb::ExchangeResponse { sequence, reply }) = replies.message().await.unwrap() {
        match reply.unwrap() {
            Reply::Goodbye(_) => farewells += 1,
            Reply::Encode(_) => assert!(answered.insert(sequence), "{sequence} was answered twice"),
            other => panic!("{other:?}"),
        }
        // The gateway ends its side once all was sent.
        if sending.is_finished() {
            open = None;
        }
    }
    assert_eq!((farewells, answered.len() as u64, open.is_none()), (1, count, true));
    tokio::time::timeout(PATIENCE, bed.served).await.expect("the drain ends").unwrap();
}

#[tokio::test]
async fn a_stream_that_is_dropped_takes_its_calls_with_it() {
    let bed = bed().await;
    bed.fill().await;
    drop((bed.replies, bed.frames));
    until(async || bed.fake.dropped.load(Relaxed) == CAP).await;
}
