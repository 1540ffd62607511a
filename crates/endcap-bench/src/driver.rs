//! The open loop: requests follow the schedule, never each other.

use std::{
    pin::pin,
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures::{Stream, StreamExt as _};
use tokio::{task::JoinSet, time::Instant};

use crate::{
    Answer, BenchError, Objective, Recorder, Schedule, Step, Target,
    pace::{self, Due},
    record::Times,
};

/// What one step asks.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    pub schedule: Schedule,
    pub limits: Limits,
}

/// What bounds each request, and all of them together.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// From when a request was due.
    pub deadline: Duration,
    /// Requests without an answer at one time. What is due beyond is not sent, and reported as that.
    pub max_outstanding: usize,
    pub objective: Option<Objective>,
    /// Also count by windows of this length, to see what changed when.
    pub window: Option<Duration>,
}

/// Hears how far a step is, several times a second.
pub trait Progress: Sync {
    /// `what` is for people; `done` of `total` requests were due.
    fn step(&self, what: &str, done: u64, total: u64);

    /// Whether an open loop should end now, with what it has measured so far.
    fn is_stopped(&self) -> bool {
        false
    }
}

impl Progress for () {
    fn step(&self, _what: &str, _done: u64, _total: u64) {}
}

/// How often a progress bar moves.
const PROGRESS_EVERY: Duration = Duration::from_millis(100);

/// Runs one step to its end: until every request that was sent has its answer or its deadline.
pub async fn open_loop(
    target: Arc<dyn Target>,
    load: &Load,
    progress: &dyn Progress,
) -> Result<Step, BenchError> {
    drive(target, pace::by_thread(&load.schedule)?, load, progress).await
}

/// The loop itself, over anything that says when requests are due.
pub(crate) async fn drive(
    target: Arc<dyn Target>,
    due: impl Stream<Item = Due>,
    load: &Load,
    progress: &dyn Progress,
) -> Result<Step, BenchError> {
    let limits = &load.limits;
    let mut recorder = Recorder::new(limits)?;
    let mut outstanding = JoinSet::new();
    let (mut started, mut stopped) = (None, false);
    let mut ticks = Ticks { every: PROGRESS_EVERY, next: Instant::now(), total: load.schedule.requests() };
    let mut due = pin!(due);
    loop {
        tokio::select! {
            // What is due goes first: an answer's time was taken when it came.
            biased;
            next = due.next() => {
                let Some(next) = next else { break };
                if progress.is_stopped() {
                    stopped = true;
                    break;
                }
                let started = started.get_or_insert_with(|| Started::new(next.intended));
                ticks.maybe(progress, load, next.index, &recorder);
                if outstanding.len() >= limits.max_outstanding {
                    reap(&mut outstanding, &mut recorder)?;
                }
                if outstanding.len() >= limits.max_outstanding {
                    recorder.not_sent(next.intended - started.due)?;
                } else {
                    outstanding.spawn(ask(Arc::clone(&target), next, started.due, limits.deadline));
                }
            }
            Some(done) = outstanding.join_next() => record(&mut recorder, done)?,
        }
    }
    while let Some(done) = outstanding.join_next().await {
        record(&mut recorder, done)?;
    }
    let elapsed = started.as_ref().map_or(Duration::ZERO, |started| started.due.elapsed());
    // Whatever comes last of a whole step's requests, it is as long as it was meant to be.
    let length = if stopped { elapsed } else { elapsed.max(load.schedule.duration()) };
    let mut step = recorder.finish(load.schedule.rate(), length);
    step.started_unix_ms = started.map_or(0, |started| started.unix_ms);
    Ok(step)
}

/// When the first request was due, on both clocks.
struct Started {
    due: Instant,
    unix_ms: u64,
}

impl Started {
    fn new(due: Instant) -> Self {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let unix_ms = u64::try_from(since.saturating_sub(due.elapsed()).as_millis()).unwrap_or(0);
        Self { due, unix_ms }
    }
}

type Done = Result<(Times, Answer), tokio::task::JoinError>;

async fn ask(target: Arc<dyn Target>, due: Due, started: Instant, deadline: Duration) -> (Times, Answer) {
    let lag = due.intended.elapsed();
    // A millisecond is kept even by a late process: the request is sent, and its answer tells how late it was.
    let left = deadline.saturating_sub(lag).max(Duration::from_millis(1));
    let answer = target.ask(due.index, left).await;
    (Times { due: due.intended - started, lag, latency: due.intended.elapsed() }, answer)
}

/// Takes what is answered already, so that the bound counts only what is not.
fn reap(outstanding: &mut JoinSet<(Times, Answer)>, recorder: &mut Recorder) -> Result<(), BenchError> {
    while let Some(done) = outstanding.try_join_next() {
        record(recorder, done)?;
    }
    Ok(())
}

fn record(recorder: &mut Recorder, done: Done) -> Result<(), BenchError> {
    match done {
        Ok((times, answer)) => recorder.answered(times, &answer),
        // A request that panicked is this program's fault, and nothing it measured is worth having.
        Err(error) => Err(BenchError::Panicked(error)),
    }
}

struct Ticks {
    every: Duration,
    next: Instant,
    total: u64,
}

impl Ticks {
    fn maybe(&mut self, progress: &dyn Progress, load: &Load, index: u64, recorder: &Recorder) {
        let now = Instant::now();
        if now >= self.next {
            self.next = now + self.every;
            let text = format!("{:.0}/s: {} answered", load.schedule.rate(), recorder.done());
            progress.step(&text, index, self.total);
        }
    }
}

#[cfg(test)]
mod tests;
