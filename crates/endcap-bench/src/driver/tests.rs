use async_trait::async_trait;
use parking_lot::Mutex;
use tonic::Code;

use super::*;
use crate::{Arrivals, Search, closed_loop, find_highest, search::Probe};

/// The same due times on tokio's clock, which tests can pause; whole milliseconds are exact there.
fn by_timer(schedule: &Schedule) -> impl Stream<Item = Due> + use<> {
    let start = Instant::now();
    let offsets = (0..).zip(schedule.offsets());
    futures::stream::iter(offsets).then(move |(index, offset)| async move {
        tokio::time::sleep_until(start + offset).await;
        Due { index, intended: start + offset }
    })
}

/// Answers one request after the other, each in the same time.
struct Queue {
    service: Duration,
    free_at: Mutex<Instant>,
    sent_at: Mutex<Vec<Instant>>,
}

impl Queue {
    fn of_capacity(capacity: f64) -> Arc<Self> {
        let service = Duration::from_secs_f64(1.0 / capacity);
        Arc::new(Self { service, free_at: Mutex::new(Instant::now()), sent_at: Mutex::default() })
    }
}

#[async_trait]
impl Target for Queue {
    async fn ask(&self, _index: u64, deadline: Duration) -> Answer {
        let now = Instant::now();
        self.sent_at.lock().push(now);
        let done = {
            let mut free_at = self.free_at.lock();
            *free_at = (*free_at).max(now) + self.service;
            *free_at
        };
        match tokio::time::timeout(deadline, tokio::time::sleep_until(done)).await {
            Ok(()) => Answer::Good { rung: Some("FULL") },
            Err(_elapsed) => Answer::Failed { code: Code::DeadlineExceeded },
        }
    }
}

fn load(rate: f64, seconds: u64, max_outstanding: usize, objective: Option<&str>) -> Load {
    let duration = Duration::from_secs(seconds);
    Load {
        schedule: Schedule::new(rate, duration, Arrivals::Constant, 0).unwrap(),
        limits: Limits {
            deadline: Duration::from_secs(1),
            max_outstanding,
            objective: objective.map(|o| o.parse().unwrap()),
            window: None,
        },
    }
}

async fn step(target: Arc<Queue>, load: &Load) -> Step {
    drive(target, by_timer(&load.schedule), load, &()).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn requests_are_sent_exactly_when_they_are_due_whatever_is_still_unanswered() {
    let target = Queue::of_capacity(10.0);
    let start = Instant::now();
    let measured = step(Arc::clone(&target), &load(250.0, 2, 10_000, None)).await;
    let sent: Vec<Duration> = target.sent_at.lock().iter().map(|at| *at - start).collect();
    let expected: Vec<Duration> = (0..500).map(|i| Duration::from_millis(4 * i)).collect();
    assert_eq!(sent, expected);
    assert_eq!((measured.offered, measured.sent, measured.not_sent), (500, 500, 0));
    // Ten a second for the second that each may wait, and those that came while they were served.
    assert_eq!(measured.answered + measured.errors["DEADLINE_EXCEEDED"], 500);
    assert!(measured.answered < 40, "{measured:?}");
}

#[tokio::test(start_paused = true)]
async fn a_step_that_is_stopped_says_what_it_measured_so_far() {
    struct Until(Instant);
    impl Progress for Until {
        fn step(&self, _what: &str, _done: u64, _total: u64) {}
        fn is_stopped(&self) -> bool {
            Instant::now() >= self.0
        }
    }
    let load = load(10.0, 3600, 100, None);
    let until = Until(Instant::now() + Duration::from_secs(5));
    let step = drive(Queue::of_capacity(1000.0), by_timer(&load.schedule), &load, &until).await.unwrap();
    assert_eq!((step.offered, step.answered), (50, 50));
    assert!((4.9..5.1).contains(&step.seconds), "{} s", step.seconds);
}

#[tokio::test(start_paused = true)]
async fn what_the_bound_keeps_back_is_reported_as_not_sent() {
    let measured = step(Queue::of_capacity(10.0), &load(100.0, 1, 4, None)).await;
    assert_eq!(measured.offered, 100);
    assert_eq!(measured.sent + measured.not_sent, 100);
    assert!((80..97).contains(&measured.not_sent), "{measured:?}");
    assert!(measured.in_deadline_share < 0.2, "what was not sent counts: {measured:?}");
}

#[tokio::test(start_paused = true)]
async fn latencies_grow_with_the_queue_and_not_beyond_it() {
    let easy = step(Queue::of_capacity(1000.0), &load(500.0, 2, 10_000, None)).await;
    assert_eq!((easy.latency_us.p50, easy.latency_us.max), (1000, 1000));
    let beyond = step(Queue::of_capacity(1000.0), &load(1250.0, 2, 10_000, None)).await;
    // A fifth of two seconds is the backlog of the last request.
    assert!((490_000..=510_000).contains(&beyond.latency_us.max), "{beyond:?}");
}

#[tokio::test(start_paused = true)]
async fn windows_say_what_became_of_the_requests_that_were_due_in_each() {
    let mut load = load(100.0, 2, 4, None);
    load.limits.window = Some(Duration::from_millis(500));
    let measured = step(Queue::of_capacity(10.0), &load).await;
    let offered: Vec<u64> = measured.windows.iter().map(|window| window.offered).collect();
    assert_eq!(offered, [50; 4]);
    let in_deadline: u64 = measured.windows.iter().map(|window| window.in_deadline).sum();
    assert_eq!(in_deadline, measured.in_deadline);
    let seen: u64 =
        measured.windows.iter().flat_map(|window| &window.latency_us).map(|(_, count)| count).sum();
    assert_eq!(seen, measured.answered);
}

#[tokio::test(start_paused = true)]
async fn a_closed_loop_gives_the_throughput_of_a_server() {
    let target = Queue::of_capacity(1000.0);
    let limits = load(1.0, 1, 8, None).limits;
    let measured = closed_loop(target, Duration::from_secs(2), &limits, &()).await.unwrap();
    assert!((990.0..=1005.0).contains(&measured.rate_answered), "{measured:?}");
    assert!((7990..=8010).contains(&measured.latency_us.p99), "{measured:?}");
}

/// A step against a server whose capacity is known.
struct Known {
    capacity: f64,
    tried: Vec<f64>,
}

#[async_trait]
impl Probe for Known {
    async fn measure(&mut self, rate: f64) -> Result<Step, BenchError> {
        self.tried.push(rate);
        Ok(step(Queue::of_capacity(self.capacity), &load(rate, 5, 100_000, Some("p99=50ms"))).await)
    }
}

#[tokio::test(start_paused = true)]
async fn a_search_finds_the_capacity_of_a_server_from_below_and_from_above() {
    for first in [20.0, 1000.0, 30_000.0] {
        let mut known = Known { capacity: 1000.0, tried: Vec::new() };
        let search = Search { objective: "p99=50ms".parse().unwrap(), first, precision: 0.03 };
        let (found, steps) = find_highest(&search, &mut known).await.unwrap();
        let rate = found.rate.expect("some rate is low enough");
        // Just above capacity, the backlog of five seconds is still within the objective.
        assert!((960.0..=1045.0).contains(&rate), "from {first}: {found:?}, tried {:?}", known.tried);
        assert!(found.missed_at.unwrap() <= rate * 1.04, "{found:?}");
        assert_eq!(steps.len(), known.tried.len());
        assert!(known.tried.len() < 25, "{:?}", known.tried);
    }
}

#[tokio::test(start_paused = true)]
async fn a_search_says_so_when_nothing_is_slow_enough() {
    let mut known = Known { capacity: 10.0, tried: Vec::new() };
    let search = Search { objective: "p99=50ms".parse().unwrap(), first: 100.0, precision: 0.05 };
    let (found, _) = find_highest(&search, &mut known).await.unwrap();
    assert_eq!(found.rate, None);
    assert!(found.missed_at.unwrap() <= 1.0, "{found:?}");
}
