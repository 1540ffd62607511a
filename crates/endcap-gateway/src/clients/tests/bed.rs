//! A fake worker behind the real layer stack, and ways to ask it.

use std::sync::atomic::{AtomicUsize, Ordering};

use endcap_proto::pb::shard_service_server::{ShardService, ShardServiceServer};
use endcap_service::{
    GrpcConfig, GrpcServer, Readiness, RequestId,
    exchange::{self, Replies},
    status::to_status,
    task::Tasks,
};
use endcap_types::{Digest, FieldViolation, Version};
use tokio::{
    runtime::Runtime,
    sync::{Notify, mpsc},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Status, Streaming};

use super::super::*;

/// Longer than anything here takes on a busy machine.
pub(in crate::clients) const PATIENCE: Duration = Duration::from_secs(30);
pub(in crate::clients) const CODES: [ErrorCode; 6] = [
    ErrorCode::InvalidArgument,
    ErrorCode::FailedPrecondition,
    ErrorCode::Overloaded,
    ErrorCode::Unavailable,
    ErrorCode::DataLoss,
    ErrorCode::Internal,
];

/// A worker that does what the query of a request says.
#[derive(Debug, Clone)]
pub(in crate::clients) struct Fake {
    streams: bool,
    pub(in crate::clients) seen: Arc<Seen>,
    /// What became of calls that were begun: "begun", "dropped".
    news: mpsc::UnboundedSender<&'static str>,
    pub(in crate::clients) release: Arc<Notify>,
    pub(in crate::clients) draining: CancellationToken,
}

#[derive(Debug, Default)]
pub(in crate::clients) struct Seen {
    pub(in crate::clients) streams: AtomicUsize,
    pub(in crate::clients) calls: AtomicUsize,
    /// Calls that came by themselves.
    pub(in crate::clients) singly: AtomicUsize,
}

struct Dropped(mpsc::UnboundedSender<&'static str>);

impl Drop for Dropped {
    fn drop(&mut self) {
        let _nobody = self.0.send("dropped");
    }
}

pub(in crate::clients) fn error(code: ErrorCode) -> RemoteError {
    let violations = vec![FieldViolation { field: "fields[3]".into(), description: "no such column".into() }];
    RemoteError { code, message: format!("as told: {code:?}"), violations, retry_after: None }
}

impl Fake {
    /// And what becomes of the calls to it.
    pub(in crate::clients) fn new(streams: bool) -> (Self, mpsc::UnboundedReceiver<&'static str>) {
        let (news, heard) = mpsc::unbounded_channel();
        let (seen, release, draining) = (Arc::default(), Arc::default(), CancellationToken::new());
        (Self { streams, seen, news, release, draining }, heard)
    }

    async fn act<T>(&self, query: &str, request: &Request<T>) -> Result<(), Status> {
        self.seen.calls.fetch_add(1, Ordering::Relaxed);
        if request.metadata().contains_key("user-agent") {
            self.seen.singly.fetch_add(1, Ordering::Relaxed);
        }
        if let Some(code) = CODES.iter().find(|code| query == format!("{code:?}")) {
            let retry_after = (*code == ErrorCode::Overloaded).then_some(Duration::from_millis(70));
            return Err(to_status(&RemoteError { retry_after, ..error(*code) }, &RequestId::of(request)));
        }
        assert_ne!(query, "panic");
        if query == "wait" {
            let _nobody = self.news.send("begun");
            let _guard = Dropped(self.news.clone());
            self.release.notified().await;
        }
        Ok(())
    }
}

#[tonic::async_trait]
impl ShardService for Fake {
    type ExchangeStream = Replies;

    async fn encode(
        &self,
        request: Request<pb::EncodeRequest>,
    ) -> Result<Response<pb::EncodeResponse>, Status> {
        self.act(&request.get_ref().query, &request).await?;
        let vector = columns::encode_f32(&[0.5, -1.0]);
        Ok(Response::new(pb::EncodeResponse { pin: request.into_inner().pin, vector }))
    }

    async fn score(&self, request: Request<pb::ScoreRequest>) -> Result<Response<pb::ScoreResponse>, Status> {
        self.act(&request.get_ref().query, &request).await?;
        let request = request.into_inner();
        let mut answer = pb::ScoreResponse {
            pin: request.pin,
            shard: request.shard,
            item_ids: vec!["a".into(), "b".into()],
            scores: columns::encode_f32(&[2.0, 1.0]),
            items_considered: 7,
            ..Default::default()
        };
        match request.query.as_str() {
            "ragged" => answer.scores = vec![1, 2, 3].into(),
            "too large" => answer.item_ids[0] = "a".repeat(exchange::LARGEST_MESSAGE),
            "another shard" => answer.shard += 1,
            "another version" => answer.pin.as_mut().unwrap().version += 1,
            _ => {}
        }
        Ok(Response::new(answer))
    }

    async fn exchange(
        &self,
        request: Request<Streaming<pb::ExchangeRequest>>,
    ) -> Result<Response<Replies>, Status> {
        self.seen.streams.fetch_add(1, Ordering::Relaxed);
        if !self.streams {
            return Err(Status::unimplemented("an old worker"));
        }
        let draining = self.draining.clone();
        Ok(Response::new(exchange::serve(Arc::new(self.clone()), request, draining, &Tasks::new())))
    }
}

/// A fake worker behind the real layer stack, on a runtime of its own so that it can be killed, and a way to ask it.
pub(in crate::clients) struct Bed {
    pub(in crate::clients) remote: Remote,
    pub(in crate::clients) endpoint: String,
    pub(in crate::clients) fake: Fake,
    pub(in crate::clients) news: mpsc::UnboundedReceiver<&'static str>,
    pub(in crate::clients) served: JoinHandle<()>,
    runtime: Option<Runtime>,
}

impl Drop for Bed {
    fn drop(&mut self) {
        self.kill();
    }
}

pub(in crate::clients) fn config(max_in_flight: usize) -> GrpcConfig {
    GrpcConfig {
        listen: "127.0.0.1:0".parse().unwrap(),
        advertise: String::new(),
        max_in_flight,
        drain_delay: Duration::ZERO,
        drain_grace: 2 * PATIENCE,
    }
}

impl Bed {
    /// Workers that know streams are asked over one when `stream`.
    pub(in crate::clients) async fn new(stream: bool, knows_streams: bool, max_in_flight: usize) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.unwrap();
        let (fake, news) = Fake::new(knows_streams);
        let config = config(max_in_flight);
        let binding = runtime.spawn(async { GrpcServer::bind("worker", config).await.unwrap() });
        let server = binding.await.unwrap();
        let endpoint = server.advertised();
        let server = server.add_service(ShardServiceServer::new(fake.clone()));
        let serving = server.serve(Readiness::new(), fake.draining.clone());
        let served = runtime.spawn(async { serving.await.unwrap() });
        let channels = Arc::<Channels>::default();
        let exchanges = stream.then(|| Exchanges::new(Arc::clone(&channels), Tasks::new()));
        let remote = Remote { channels, exchanges };
        let bed = Self { remote, endpoint, fake, news, served, runtime: Some(runtime) };
        if stream && knows_streams {
            bed.until_open(true).await;
        }
        bed
    }

    pub(in crate::clients) async fn until_open(&self, open: bool) {
        let exchanges = self.remote.exchanges.as_ref().unwrap();
        until(async || exchanges.get(&self.endpoint).is_some() == open).await;
    }

    pub(in crate::clients) async fn score(
        &self,
        query: &str,
        deadline: Duration,
    ) -> Result<Pinned<ShardAnswer>, RemoteError> {
        let (question, part) =
            (question(query), Part { shard: 1, work: Work::Retrieve { depth: 5, exclude: Vec::new() } });
        self.remote.score(&self.endpoint, &question, &part, call(deadline)).await
    }

    pub(in crate::clients) async fn hears(&mut self, news: &str) {
        let heard = tokio::time::timeout(PATIENCE, self.news.recv()).await;
        assert_eq!(heard.expect(news), Some(news));
    }

    pub(in crate::clients) fn kill(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

pub(in crate::clients) async fn until(mut condition: impl AsyncFnMut() -> bool) {
    let polling = async {
        let mut pause = tokio::time::interval(Duration::from_millis(2));
        while !condition().await {
            pause.tick().await;
        }
    };
    tokio::time::timeout(PATIENCE, polling).await.expect("the condition comes true");
}

pub(in crate::clients) fn call(deadline: Duration) -> Call {
    Call { deadline: Deadline::after(deadline), id: RequestId::from_header(Some(b"the-request")) }
}

pub(in crate::clients) fn pin() -> VersionPin {
    VersionPin {
        model: "m".parse().unwrap(),
        version: Version::try_from(1).unwrap(),
        digest: Digest::from_bytes([1; 32]),
    }
}

pub(in crate::clients) fn question(query: &str) -> Question {
    Question {
        pin: pin(),
        query: query.to_owned(),
        vector: Arc::default(),
        features: std::collections::BTreeMap::new(),
        fields: Vec::new(),
    }
}

/// Both ways of asking the same kind of worker.
pub(in crate::clients) async fn both(max_in_flight: usize) -> [Bed; 2] {
    [Bed::new(false, true, max_in_flight).await, Bed::new(true, true, max_in_flight).await]
}
