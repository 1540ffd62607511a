//! What an executor's callers and threads share: the queue, the idle sessions, and what runs take.

use std::time::{Duration, Instant};

use super::{
    ExecutorOptions,
    lane::Lane,
    learn::Learned,
    meters::Meters,
    queue::{Job, Limits, Queue},
};
use crate::InferError;

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) queue: Queue,
    pub(super) learned: Learned,
    pub(super) idle: Vec<Lane>,
    /// Per session: when its run should end.
    ends: Vec<Option<Instant>>,
    pub(super) closed: bool,
}

impl State {
    pub(super) fn new(idle: Vec<Lane>) -> Self {
        Self { ends: vec![None; idle.len()], idle, ..Self::default() }
    }

    /// Refuses a request that would be answered too late, by what waits before it and what runs take: then its caller
    /// can ask another replica while there is time (after the admission of xAI's Phoenix). One that nothing is ahead
    /// of is always tried, or a wrong belief about run times would never be corrected. Gives the request's share of
    /// the queue's time, in seconds.
    pub(super) fn admit(
        &self,
        options: &ExecutorOptions,
        job: &Job,
        remaining: Duration,
        meters: &Meters,
    ) -> Result<f64, InferError> {
        let (rows, asked, limit) = (self.queue.rows(), job.rows, options.queue_rows);
        // A request larger than the whole queue may still run when nothing else waits.
        if rows > 0 && rows + asked > limit {
            meters.rejected_full.increment(1);
            return Err(InferError::Overloaded { rows, asked, limit });
        }
        let ahead = self.free_in() + self.queue.seconds() / lanes(options);
        let predicted = ahead + self.learned.seconds(job.cells).unwrap_or_default();
        if ahead > 0.0 && predicted > remaining.as_secs_f64() {
            meters.rejected_predicted.increment(1);
            let predicted = Duration::from_secs_f64(predicted);
            return Err(InferError::TooLate { rows, predicted, remaining });
        }
        Ok(self.learned.share(job.cells))
    }

    /// An idle session and the jobs to run on it, if there are both.
    pub(super) fn next(&mut self, limits: Limits, meters: &Meters) -> Option<(Lane, Vec<Job>)> {
        if self.idle.is_empty() {
            return None;
        }
        let now = Instant::now();
        let batch = self.queue.next_batch(limits, &self.learned, now, meters);
        if batch.is_empty() {
            return None;
        }
        if self.queue.rows() > 0 {
            self.learned.crowd();
        }
        let cells = batch.iter().map(|job| job.cells).sum();
        Some((self.begin(cells, now)?, batch))
    }

    /// An idle session and the job at `place`, whatever waits before it, if there are both.
    pub(super) fn alone(&mut self, place: u64, meters: &Meters) -> Option<(Lane, Job)> {
        if self.idle.is_empty() {
            return None;
        }
        let job = self.queue.remove(place, meters)?;
        Some((self.begin(job.cells, Instant::now())?, job))
    }

    /// Takes an idle session for a run of so many cells.
    fn begin(&mut self, cells: usize, now: Instant) -> Option<Lane> {
        let lane = self.idle.pop()?;
        let seconds = self.learned.seconds(cells).unwrap_or_default();
        if let Some(end) = self.ends.get_mut(lane.id) {
            *end = Some(now + Duration::from_secs_f64(seconds));
        }
        Some(lane)
    }

    pub(super) fn give_back(&mut self, lane: Lane) {
        if let Some(end) = self.ends.get_mut(lane.id) {
            *end = None;
        }
        self.idle.push(lane);
    }

    /// Whether a thread should wake: somebody relies on one, and there is a session for it.
    pub(super) fn needs_thread(&self) -> bool {
        self.queue.parked() > 0 && !self.idle.is_empty()
    }

    /// Seconds until a session is free.
    fn free_in(&self) -> f64 {
        if !self.idle.is_empty() {
            return 0.0;
        }
        let now = Instant::now();
        let ends = self.ends.iter().flatten();
        // A run that should have ended may end now; that it has not is the least that can be said.
        let left = ends.map(|end| end.saturating_duration_since(now).as_secs_f64().max(1e-6));
        left.reduce(f64::min).unwrap_or_default()
    }
}

#[expect(clippy::cast_precision_loss, reason = "a count of threads")]
fn lanes(options: &ExecutorOptions) -> f64 {
    options.threads.max(1) as f64
}
