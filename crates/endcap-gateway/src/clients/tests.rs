//! What holds of every way to ask a worker: a call each time, and one stream for all of them.

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

use super::*;

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);
const CODES: [ErrorCode; 6] = [
    ErrorCode::InvalidArgument,
    ErrorCode::FailedPrecondition,
    ErrorCode::Overloaded,
    ErrorCode::Unavailable,
    ErrorCode::DataLoss,
    ErrorCode::Internal,
];

/// A worker that does what the query of a request says.
#[derive(Debug, Clone)]
struct Fake {
    streams: bool,
    seen: Arc<Seen>,
    /// What became of calls that were begun: "begun", "dropped".
    news: mpsc::UnboundedSender<&'static str>,
    release: Arc<Notify>,
    draining: CancellationToken,
}

#[derive(Debug, Default)]
struct Seen {
    streams: AtomicUsize,
    calls: AtomicUsize,
    /// Calls that came by themselves.
    singly: AtomicUsize,
}

struct Dropped(mpsc::UnboundedSender<&'static str>);

impl Drop for Dropped {
    fn drop(&mut self) {
        let _nobody = self.0.send("dropped");
    }
}

fn error(code: ErrorCode) -> RemoteError {
    let violations = vec![FieldViolation { field: "fields[3]".into(), description: "no such column".into() }];
    RemoteError { code, message: format!("as told: {code:?}"), violations, retry_after: None }
}

impl Fake {
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
pub(super) struct Bed {
    pub(super) remote: Remote,
    pub(super) endpoint: String,
    fake: Fake,
    news: mpsc::UnboundedReceiver<&'static str>,
    served: JoinHandle<()>,
    runtime: Option<Runtime>,
}

impl Drop for Bed {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Bed {
    /// Workers that know streams are asked over one when `stream`.
    pub(super) async fn new(stream: bool, knows_streams: bool, max_in_flight: usize) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.unwrap();
        let config = GrpcConfig {
            listen: "127.0.0.1:0".parse().unwrap(),
            advertise: String::new(),
            max_in_flight,
            drain_delay: Duration::ZERO,
            drain_grace: 2 * PATIENCE,
        };
        let (sender, news) = mpsc::unbounded_channel();
        let fake = Fake {
            streams: knows_streams,
            seen: Arc::default(),
            news: sender,
            release: Arc::default(),
            draining: CancellationToken::new(),
        };
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

    pub(super) async fn until_open(&self, open: bool) {
        let exchanges = self.remote.exchanges.as_ref().unwrap();
        until(async || exchanges.get(&self.endpoint).is_some() == open).await;
    }

    async fn score(&self, query: &str, deadline: Duration) -> Result<Pinned<ShardAnswer>, RemoteError> {
        let (question, part) =
            (question(query), Part { shard: 1, work: Work::Retrieve { depth: 5, exclude: Vec::new() } });
        self.remote.score(&self.endpoint, &question, &part, call(deadline)).await
    }

    async fn hears(&mut self, news: &str) {
        let heard = tokio::time::timeout(PATIENCE, self.news.recv()).await;
        assert_eq!(heard.expect(news), Some(news));
    }

    fn kill(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

pub(super) async fn until(mut condition: impl AsyncFnMut() -> bool) {
    let polling = async {
        let mut pause = tokio::time::interval(Duration::from_millis(2));
        while !condition().await {
            pause.tick().await;
        }
    };
    tokio::time::timeout(PATIENCE, polling).await.expect("the condition comes true");
}

fn call(deadline: Duration) -> Call {
    Call { deadline: Deadline::after(deadline), id: RequestId::from_header(Some(b"the-request")) }
}

fn pin() -> VersionPin {
    VersionPin {
        model: "m".parse().unwrap(),
        version: Version::try_from(1).unwrap(),
        digest: Digest::from_bytes([1; 32]),
    }
}

fn question(query: &str) -> Question {
    Question {
        pin: pin(),
        query: query.to_owned(),
        vector: Arc::default(),
        features: std::collections::BTreeMap::new(),
        fields: Vec::new(),
    }
}

/// Both ways of asking the same kind of worker.
async fn both(max_in_flight: usize) -> [Bed; 2] {
    [Bed::new(false, true, max_in_flight).await, Bed::new(true, true, max_in_flight).await]
}

#[tokio::test]
async fn both_ways_bring_the_same_answers_and_the_same_errors() {
    let [singly, streamed] = both(100).await;
    let codes = CODES.map(|code| format!("{code:?}"));
    let others = ["fine", "panic", "ragged", "another shard", "another version"].map(str::to_owned);
    for query in codes.iter().chain(&others) {
        let asked = [singly.score(query, PATIENCE).await, streamed.score(query, PATIENCE).await];
        let same = asked.map(|answer| answer.map_err(|e| mask(e, &[&singly.endpoint, &streamed.endpoint])));
        assert_eq!(same[0], same[1], "{query}");
        let [answer, _] = same;
        match query.as_str() {
            "fine" => assert_eq!(answer.unwrap().pin, Some(pin())),
            "another version" => assert_ne!(answer.unwrap().pin, Some(pin())),
            "panic" | "ragged" | "another shard" | "Internal" => {
                assert_eq!(answer.unwrap_err().code, ErrorCode::Internal, "{query}");
            }
            "Overloaded" => {
                assert_eq!(answer.unwrap_err().retry_after, Some(Duration::from_millis(70)));
            }
            _ => assert_eq!(answer.unwrap_err().violations, error(ErrorCode::Internal).violations),
        }
    }
    for bed in [&singly, &streamed] {
        let vector = bed.remote.encode(&bed.endpoint, &pin(), "fine", call(PATIENCE)).await.unwrap();
        assert_eq!(vector.answer, [0.5, -1.0]);
    }
    let calls = |bed: &Bed| {
        (bed.fake.seen.calls.load(Ordering::Relaxed), bed.fake.seen.singly.load(Ordering::Relaxed))
    };
    let count = CODES.len() + others.len() + 1;
    assert_eq!((calls(&singly), calls(&streamed)), ((count, count), (count, 0)));
    assert_eq!(streamed.fake.seen.streams.load(Ordering::Relaxed), 1);
}

/// Messages name the worker that gave them; here are two.
fn mask(mut error: RemoteError, endpoints: &[&str]) -> RemoteError {
    for endpoint in endpoints {
        error.message = error.message.replace(endpoint, "worker");
    }
    error
}

#[tokio::test]
async fn a_call_ends_at_its_deadline_and_so_does_its_work() {
    for mut bed in both(100).await {
        let late = bed.score("wait", Duration::from_millis(300)).await.unwrap_err();
        assert_eq!(late.code, ErrorCode::DeadlineExceeded, "{late:?}");
        bed.hears("begun").await;
        bed.hears("dropped").await;
        let expired = bed.score("fine", Duration::ZERO).await.unwrap_err();
        assert_eq!(expired.code, ErrorCode::DeadlineExceeded, "{expired:?}");
        bed.score("fine", PATIENCE).await.expect("the worker goes on");
    }
}

#[tokio::test]
async fn an_answer_too_large_to_send_fails_alone() {
    let mut bed = Bed::new(true, true, 100).await;
    let (waited, large) = tokio::join!(bed.score("wait", PATIENCE), async {
        let large = bed.score("too large", PATIENCE).await;
        bed.fake.release.notify_one();
        large
    });
    let large = large.unwrap_err();
    assert!(large.code == ErrorCode::InvalidArgument && large.message.contains("fewer items"), "{large:?}");
    waited.expect("its neighbour goes on");
    bed.hears("begun").await;
    assert_eq!(bed.fake.seen.streams.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn work_that_nobody_waits_for_is_dropped() {
    for mut bed in both(100).await {
        let asked =
            (question("wait"), Part { shard: 1, work: Work::Retrieve { depth: 5, exclude: Vec::new() } });
        let remote = bed.remote.clone();
        let endpoint = bed.endpoint.clone();
        {
            let asking = remote.score(&endpoint, &asked.0, &asked.1, call(2 * PATIENCE));
            tokio::select! {
                answer = asking => panic!("answered {answer:?}"),
                () = bed.hears("begun") => {}
            }
        }
        bed.hears("dropped").await;
        bed.score("fine", PATIENCE).await.expect("the worker goes on");
    }
}

#[tokio::test]
async fn beyond_the_cap_calls_are_refused_and_say_when_to_come_back() {
    for mut bed in both(1).await {
        let remote = bed.remote.clone();
        let (endpoint, asked) = (bed.endpoint.clone(), question("wait"));
        let part = Part { shard: 1, work: Work::Retrieve { depth: 5, exclude: Vec::new() } };
        let first = remote.score(&endpoint, &asked, &part, call(PATIENCE));
        let others = async {
            bed.hears("begun").await;
            let refused = bed.score("fine", PATIENCE).await.unwrap_err();
            bed.fake.release.notify_one();
            refused
        };
        let (first, refused) = tokio::join!(first, others);
        assert_eq!(first.unwrap().answer.item_ids.len(), 2);
        assert_eq!(refused.code, ErrorCode::Overloaded, "{refused:?}");
        assert_eq!(refused.retry_after, Some(Duration::from_millis(50)));
    }
}

#[tokio::test]
async fn a_worker_that_dies_is_unavailable_at_once_and_again_later() {
    for mut bed in both(100).await {
        let remote = bed.remote.clone();
        let (endpoint, asked) = (bed.endpoint.clone(), question("wait"));
        let part = Part { shard: 1, work: Work::Retrieve { depth: 5, exclude: Vec::new() } };
        let killed = async {
            bed.hears("begun").await;
            bed.kill();
        };
        let asking = remote.score(&endpoint, &asked, &part, call(2 * PATIENCE));
        let asking = tokio::time::timeout(PATIENCE, asking);
        let (answer, ()) = tokio::join!(asking, killed);
        for error in [answer.expect("it waited for the dead").unwrap_err()]
            .into_iter()
            .chain(bed.score("fine", PATIENCE).await.err())
        {
            assert_eq!(error.code, ErrorCode::Unavailable, "{error:?}");
        }
    }
}

#[tokio::test]
async fn a_worker_that_leaves_answers_what_is_in_flight_and_is_gone() {
    for mut bed in both(100).await {
        let remote = bed.remote.clone();
        let (endpoint, asked) = (bed.endpoint.clone(), question("wait"));
        let part = Part { shard: 1, work: Work::Retrieve { depth: 5, exclude: Vec::new() } };
        let leaving = async {
            bed.hears("begun").await;
            bed.fake.draining.cancel();
            if bed.remote.exchanges.is_some() {
                bed.until_open(false).await;
            }
            bed.fake.release.notify_one();
            bed.hears("dropped").await;
        };
        let (answer, ()) = tokio::join!(remote.score(&endpoint, &asked, &part, call(PATIENCE)), leaving);
        assert_eq!(answer.unwrap().answer.items_considered, 7);
        let served = tokio::time::timeout(PATIENCE, &mut bed.served).await;
        served.expect("the worker ends as soon as nothing is in flight").unwrap();
    }
}

#[tokio::test]
async fn a_worker_without_streams_is_asked_singly() {
    let bed = Bed::new(true, false, 100).await;
    for _ in 0..20 {
        bed.score("fine", PATIENCE).await.unwrap();
    }
    let seen = &bed.fake.seen;
    assert_eq!((seen.calls.load(Ordering::Relaxed), seen.singly.load(Ordering::Relaxed)), (20, 20));
    assert!(seen.streams.load(Ordering::Relaxed) <= 1, "it was asked for a stream again and again");
}

#[tokio::test]
async fn a_worker_that_is_gone_from_the_fleet_has_its_stream_ended() {
    let bed = Bed::new(true, true, 100).await;
    bed.remote.retain(|_| false);
    bed.fake.draining.cancel();
    let mut bed = bed;
    let served = tokio::time::timeout(PATIENCE, &mut bed.served).await;
    served.expect("nothing holds the stream open").unwrap();
}

/// `cargo test --release -p endcap-gateway --lib -- --ignored --nocapture what_a_stream_saves`
#[tokio::test]
#[ignore = "a measurement"]
async fn what_a_stream_saves() {
    let beds = both(1000).await;
    let mut ratios = Vec::new();
    for _ in 0..15 {
        let mut took = [Duration::ZERO; 2];
        for (bed, took) in beds.iter().zip(&mut took) {
            let started = std::time::Instant::now();
            let asking = futures::future::join_all((0..64).map(async |_| {
                for _ in 0..50 {
                    bed.score("fine", PATIENCE).await.unwrap();
                }
            }));
            asking.await;
            *took = started.elapsed();
        }
        ratios.push(took[0].as_secs_f64() / took[1].as_secs_f64());
    }
    ratios.sort_by(f64::total_cmp);
    println!("64 in flight: a call each takes {:.2} times as long (median of 15 rounds)", ratios[7]);
}
