//! A server that stands still for a second, and what is said of it.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use endcap_bench::{
    Answer, Arrivals, Limits, Load, Queries, RecommendConfig, RecommendTarget, Schedule, Step, Target,
    open_loop,
};
use endcap_proto::pb::{
    self,
    recommend_service_server::{RecommendService, RecommendServiceServer},
};
use parking_lot::Mutex;
use tokio::{net::TcpListener, task::JoinSet};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

const STALL: Duration = Duration::from_secs(1);
const STALLED_REQUEST: u64 = 100;

/// Answers at once, but stands still in one request, and the whole process with it, as a long pause of a collector, a
/// scheduler or a disk would have it.
#[derive(Default)]
struct Stalling {
    asked: AtomicU64,
}

#[tonic::async_trait]
impl RecommendService for Stalling {
    async fn recommend(
        &self,
        _request: Request<pb::RecommendRequest>,
    ) -> Result<Response<pb::RecommendResponse>, Status> {
        if self.asked.fetch_add(1, Ordering::Relaxed) == STALLED_REQUEST {
            #[expect(clippy::disallowed_methods, reason = "the stall is what is tested")]
            std::thread::sleep(STALL);
        }
        let quality = pb::Quality { rung: pb::Rung::Full.into(), ..Default::default() };
        Ok(Response::new(pb::RecommendResponse { quality: Some(quality), ..Default::default() }))
    }
}

/// Measures each request from its send, as a tool with coordinated omission would.
struct FromSend {
    inner: RecommendTarget,
    took: Mutex<Vec<Duration>>,
}

#[tonic::async_trait]
impl Target for FromSend {
    async fn ask(&self, index: u64, deadline: Duration) -> Answer {
        let sent = Instant::now();
        let answer = self.inner.ask(index, deadline).await;
        self.took.lock().push(sent.elapsed());
        answer
    }
}

async fn serve(server: Stalling, tasks: &mut JoinSet<()>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let router = tonic::transport::Server::builder().add_service(RecommendServiceServer::new(server));
    tasks.spawn(async move {
        router.serve_with_incoming(TcpListenerStream::new(listener)).await.unwrap();
    });
    url
}

fn target(url: String) -> RecommendTarget {
    RecommendTarget::new(RecommendConfig {
        url,
        connections: 2,
        model: String::new(),
        queries: Queries::new(vec!["red kettle".to_owned()], None),
        limit: 10,
        items: Vec::new(),
        candidates: 0,
    })
    .unwrap()
}

async fn measure(target: Arc<dyn Target>, rate: f64, seconds: u64) -> Step {
    let load = Load {
        schedule: Schedule::new(rate, Duration::from_secs(seconds), Arrivals::Constant, 1).unwrap(),
        limits: Limits {
            deadline: Duration::from_secs(10),
            max_outstanding: 10_000,
            objective: None,
            window: None,
        },
    };
    open_loop(target, &load, &()).await.unwrap()
}

/// One thread, so that the stall keeps requests from being sent, too.
#[tokio::test]
async fn a_stall_is_felt_by_every_request_that_was_due_during_it() {
    let mut tasks = JoinSet::new();
    let url = serve(Stalling::default(), &mut tasks).await;
    let target = Arc::new(FromSend { inner: target(url), took: Mutex::default() });
    let step = measure(Arc::clone(&target) as Arc<dyn Target>, 200.0, 2).await;

    assert_eq!((step.offered, step.answered, step.not_sent), (400, 400, 0), "{step:?}");
    assert_eq!(step.rungs["FULL"], 400);
    // Half of all requests were due during the stall and waited half of it on average.
    assert!(step.latency_us.p90 > 600_000, "{step:?}");
    assert!(step.latency_us.p99 > 900_000, "{step:?}");
    assert!(step.send_lag_us.p90 > 600_000, "the report says that this process was late, too: {step:?}");

    let mut from_send = target.took.lock().clone();
    from_send.sort();
    let blind = from_send[from_send.len() * 9 / 10];
    assert!(
        blind.as_micros() * 2 < u128::from(step.latency_us.p90),
        "measured from the send, the stall hides: {blind:?}"
    );
}

#[tokio::test]
async fn a_deadline_that_passes_is_an_error_by_its_code_and_a_dead_server_too() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let load = Load {
        schedule: Schedule::new(50.0, Duration::from_millis(100), Arrivals::Poisson, 1).unwrap(),
        limits: Limits {
            deadline: Duration::from_millis(200),
            max_outstanding: 10,
            objective: None,
            window: None,
        },
    };
    // It accepts and never says a word.
    let silent = open_loop(Arc::new(target(url.clone())), &load, &()).await.unwrap();
    assert_eq!(silent.errors.get("DEADLINE_EXCEEDED"), Some(&5), "{silent:?}");
    assert_eq!(silent.in_deadline_share, 0.0);
    drop(listener);
    let dead = open_loop(Arc::new(target(url)), &load, &()).await.unwrap();
    assert_eq!(dead.errors.get("UNAVAILABLE"), Some(&5), "{dead:?}");
}
