//! How many calls a server takes at once: as many as it may, and fewer while answers come late.
//!
//! By Little's law the time in a server is the calls in it over the calls that leave it a second; what leaves does not
//! grow beyond what the machine can do, so calls that are let in above that only make all of them late. What the machine
//! can do is not known, so the limit is moved by what comes of it, as TCP moves its window (AIMD; Chiu and Jain, 1989;
//! Netflix's concurrency-limits does so for servers).

use std::{
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::Instant;

/// How often the limit may move, and how many answers it takes to judge.
const WINDOW: Duration = Duration::from_millis(100);
const ANSWERS: usize = 10;
/// An answer is late when it took more than this share of the time that its caller gave.
const LATE: f64 = 0.75;
/// So many late answers are the callers' own doing: they ask for what takes longer than they wait.
const TOLERATED: f64 = 0.1;
const FEWER: f64 = 0.7;
const MORE: f64 = 1.1;
/// Never fewer than this for each core: then work, not waiting, would be what is short.
const LEAST_PER_CORE: usize = 32;

/// The calls of one server.
#[derive(Debug)]
pub(crate) struct Limit {
    least: usize,
    most: usize,
    now: AtomicUsize,
    in_flight: AtomicUsize,
    window: Mutex<Window>,
}

#[derive(Debug)]
struct Window {
    began: Instant,
    answers: usize,
    late: usize,
    /// Most calls at once.
    peak: usize,
}

/// One call's place. Dropping it makes room.
#[derive(Debug)]
pub(crate) struct Place<'a>(&'a Limit);

impl Limit {
    pub(crate) fn new(most: usize) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let window = Window { began: Instant::now(), answers: 0, late: 0, peak: 0 };
        Self {
            least: (LEAST_PER_CORE * cores).min(most),
            most,
            now: AtomicUsize::new(most),
            in_flight: AtomicUsize::new(0),
            window: Mutex::new(window),
        }
    }

    /// Calls that are let in at once now.
    pub(crate) fn now(&self) -> usize {
        self.now.load(Relaxed)
    }

    /// A place, or how many there are.
    pub(crate) fn enter(&self) -> Result<Place<'_>, usize> {
        let limit = self.now();
        let entered =
            self.in_flight.fetch_update(Relaxed, Relaxed, |calls| (calls < limit).then_some(calls + 1));
        entered.map(|_| Place(self)).map_err(|_| limit)
    }

    /// A call that had a deadline has ended.
    pub(crate) fn answered(&self, now: Instant, took: Duration, had: Duration) {
        let in_flight = self.in_flight.load(Relaxed);
        let mut window = self.window.lock();
        window.answers += 1;
        window.late += usize::from(took > had.mul_f64(LATE));
        window.peak = window.peak.max(in_flight);
        if window.answers >= ANSWERS && now - window.began >= WINDOW {
            let next = self.next(&window);
            self.now.store(next, Relaxed);
            *window = Window { began: now, answers: 0, late: 0, peak: 0 };
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "counts of calls")]
    fn next(&self, window: &Window) -> usize {
        let now = self.now.load(Relaxed);
        let late = window.late as f64 > TOLERATED * window.answers as f64;
        // Few calls that are late wait for something else than each other.
        if late && window.peak > self.least {
            return times(window.peak.min(now), FEWER).max(self.least);
        }
        // Who is not pressed against the limit says nothing about it.
        let pressed = !late && window.peak as f64 >= FEWER * now as f64;
        if pressed { (times(now, MORE) + 1).min(self.most) } else { now }
    }
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "counts of calls, times a factor near 1"
)]
fn times(count: usize, factor: f64) -> usize {
    (count as f64 * factor) as usize
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HAD: Duration = Duration::from_millis(200);

    /// A server that does one call in a millisecond, asked `factor` times as often: what it does in the last of so many
    /// seconds, and the places it had then.
    async fn overloaded(limit: &Limit, factor: usize, seconds: usize) -> (usize, usize) {
        let mut queue = std::collections::VecDeque::new();
        let (mut good, mut refused) = (0, 0);
        for millisecond in 0..seconds * 1000 {
            if millisecond == (seconds - 1) * 1000 {
                (good, refused) = (0, 0);
            }
            for _ in 0..factor {
                match limit.enter() {
                    Ok(place) => queue.push_back((Instant::now(), place)),
                    Err(_) => refused += 1,
                }
            }
            // A call that expires still had its work: the server learns of it when it gets there.
            if let Some((arrived, place)) = queue.pop_front() {
                let took: Duration = arrived.elapsed();
                limit.answered(Instant::now(), took, HAD);
                good += usize::from(took <= HAD);
                drop(place);
            }
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        (good, refused)
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_is_asked_too_much_does_what_it_can_in_time() {
        for factor in [2, 5] {
            let limit = Limit { least: 16, ..Limit::new(1024) };
            let (good, refused) = overloaded(&limit, factor, 10).await;
            assert!(good >= 950, "{factor} times: {good} of 1000 in time");
            assert!(refused >= 900 * (factor - 1), "{factor} times: {refused} refused");
            // Once it is over, nobody is refused any more.
            let (good, refused) = overloaded(&limit, 1, 3).await;
            assert_eq!((good, refused), (1000, 0));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_few_impatient_callers_take_nobody_elses_place() {
        let limit = Limit::new(100);
        for i in 0..1000 {
            let _place = limit.enter().unwrap();
            limit.answered(Instant::now(), HAD, if i % 20 == 0 { HAD } else { HAD * 10 });
            tokio::time::advance(Duration::from_millis(5)).await;
        }
        assert_eq!(limit.now.load(Relaxed), 100);
    }

    #[tokio::test(start_paused = true)]
    async fn however_late_all_are_the_cores_have_work() {
        let limit = Limit::new(1024);
        for _ in 0..1000 {
            let places: Vec<_> = std::iter::from_fn(|| limit.enter().ok()).collect();
            limit.answered(Instant::now(), HAD, HAD);
            tokio::time::advance(Duration::from_millis(20)).await;
            drop(places);
        }
        assert_eq!(limit.now(), limit.least);
        assert!(limit.least >= LEAST_PER_CORE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_few_late_calls_are_no_overload() {
        let limit = Limit::new(1024);
        for _ in 0..1000 {
            let _place = limit.enter().unwrap();
            limit.answered(Instant::now(), HAD, HAD);
            tokio::time::advance(Duration::from_millis(20)).await;
        }
        assert_eq!(limit.now(), 1024);
    }
}
