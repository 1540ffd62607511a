//! `Score` over the fleet's own stream (`ShardService.Exchange`) as a target: what a gateway asks of a worker.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use endcap_proto::{
    inference::{ModelMetadataRequest, grpc_inference_service_client::GrpcInferenceServiceClient},
    pb::{
        self, ExchangeRequest, ExchangeResponse, exchange_request::Call, exchange_response::Reply,
        shard_service_client::ShardServiceClient,
    },
};
use rand::{SeedableRng as _, seq::IndexedRandom as _};
use rand_chacha::ChaCha8Rng;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::timeout,
};
use tonic::{Code, Status, Streaming, transport::Channel};

use crate::{Answer, BenchError, Target, recommend::channels, target::distinct};

const MAX_MESSAGE: usize = 64 << 20;
/// Frames that may wait for room on a stream.
const QUEUE: usize = 256;

/// What to ask of a worker.
#[derive(Debug, Clone)]
pub struct ShardConfig {
    pub url: String,
    /// Streams, each on a connection of its own; a gateway has one.
    pub connections: usize,
    pub model: String,
    /// Of the bundle that the worker must hold, lower-case hex.
    pub digest: String,
    pub shard: u32,
    /// Items of that shard, of which each request ranks `rows`.
    pub items: Vec<String>,
    pub rows: usize,
    pub seed: u64,
}

/// Asks a worker to rank items of one shard, many requests at once on few streams.
#[derive(Debug)]
pub struct ShardTarget {
    streams: Vec<Stream>,
    requests: Vec<pb::ScoreRequest>,
    /// The last one given to a call. Not the caller's index: that begins anew with each measurement.
    sequence: AtomicU64,
    /// Hands out replies until the target is dropped.
    _readers: JoinSet<()>,
}

/// The calls without a reply, by sequence number.
type Waiting = Arc<parking_lot::Mutex<HashMap<u64, oneshot::Sender<Result<(), Code>>>>>;

#[derive(Debug)]
struct Stream {
    frames: mpsc::Sender<ExchangeRequest>,
    waiting: Waiting,
}

impl ShardTarget {
    /// Opens the streams and draws the items of each request.
    pub async fn new(config: &ShardConfig) -> Result<Self, BenchError> {
        if config.items.len() < config.rows {
            return Err(BenchError::TooFewItems { found: config.items.len(), wanted: config.rows });
        }
        let channels = channels(&config.url, config.connections)?;
        let pin = pb::VersionPin {
            model: config.model.clone(),
            version: newest_version(&config.model, channels[0].clone()).await?,
            digest: config.digest.clone(),
        };
        let mut random = ChaCha8Rng::seed_from_u64(config.seed);
        let mut draw = || pb::ScoreRequest {
            pin: Some(pin.clone()),
            shard: config.shard,
            mode: Some(pb::score_request::Mode::Rerank(pb::Rerank {
                item_ids: config.items.choose_multiple(&mut random, config.rows).cloned().collect(),
                standing: None,
            })),
            ..Default::default()
        };
        let requests = (0..distinct(config.rows)).map(|_| draw()).collect();
        let mut readers = JoinSet::new();
        let mut streams = Vec::new();
        for channel in channels {
            let client = ShardServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE);
            streams.push(Stream::open(client, &mut readers).await?);
        }
        Ok(Self { streams, requests, sequence: AtomicU64::new(0), _readers: readers })
    }
}

/// The newest version of a model that a worker holds.
async fn newest_version(model: &str, channel: Channel) -> Result<u64, BenchError> {
    let mut request =
        tonic::Request::new(ModelMetadataRequest { name: model.to_owned(), ..Default::default() });
    request.set_timeout(Duration::from_secs(5));
    let metadata = GrpcInferenceServiceClient::new(channel).model_metadata(request).await;
    let metadata = metadata.map_err(|status| BenchError::Remote {
        what: "ask which versions the worker holds",
        status: Box::new(status),
    })?;
    let versions = &metadata.get_ref().versions;
    versions
        .iter()
        .filter_map(|version| version.parse().ok())
        .max()
        .ok_or_else(|| BenchError::NotHeld { model: model.to_owned(), found: versions.join(", ") })
}

impl Stream {
    async fn open(
        mut client: ShardServiceClient<Channel>,
        readers: &mut JoinSet<()>,
    ) -> Result<Self, BenchError> {
        let (frames, mut queue) = mpsc::channel(QUEUE);
        let outgoing = futures::stream::poll_fn(move |context| queue.poll_recv(context));
        let opened = timeout(Duration::from_secs(5), client.exchange(outgoing))
            .await
            .unwrap_or_else(|_elapsed| Err(Status::deadline_exceeded("no answer within 5 s")));
        let replies = opened
            .map_err(|status| BenchError::Remote { what: "open a stream", status: Box::new(status) })?
            .into_inner();
        let waiting = Waiting::default();
        readers.spawn(read(replies, Arc::clone(&waiting)));
        Ok(Self { frames, waiting })
    }

    async fn call(&self, frame: ExchangeRequest) -> Result<(), Code> {
        let (answer, reply) = oneshot::channel();
        self.waiting.lock().insert(frame.sequence, answer);
        // Both are gone once the stream has ended.
        self.frames.send(frame).await.map_err(|_| Code::Unavailable)?;
        reply.await.unwrap_or(Err(Code::Unavailable))
    }
}

/// Hands each reply to the call that waits for it; those that are left when the stream ends fail.
async fn read(mut replies: Streaming<ExchangeResponse>, waiting: Waiting) {
    while let Ok(Some(ExchangeResponse { sequence, reply })) = replies.message().await {
        let Some(answer) = waiting.lock().remove(&sequence) else { continue };
        let outcome = match reply {
            Some(Reply::Score(_)) => Ok(()),
            Some(Reply::Error(error)) => Err(Code::from_i32(error.code)),
            _ => Err(Code::Unknown),
        };
        let _late = answer.send(outcome);
    }
    waiting.lock().clear();
}

#[async_trait]
impl Target for ShardTarget {
    async fn ask(&self, index: u64, deadline: Duration) -> Answer {
        let stream = &self.streams[index as usize % self.streams.len()];
        // 0 is a goodbye's.
        let sequence = self.sequence.fetch_add(1, Ordering::Relaxed) + 1;
        let frame = ExchangeRequest {
            sequence,
            remaining_us: u64::try_from(deadline.as_micros()).unwrap_or(u64::MAX),
            request_id: format!("bench-{sequence}"),
            call: Some(Call::Score(self.requests[index as usize % self.requests.len()].clone())),
            ..Default::default()
        };
        match timeout(deadline, stream.call(frame)).await {
            Ok(Ok(())) => Answer::Good { rung: None },
            Ok(Err(code)) => Answer::Failed { code },
            Err(_elapsed) => {
                stream.waiting.lock().remove(&sequence);
                Answer::Failed { code: Code::DeadlineExceeded }
            }
        }
    }
}
