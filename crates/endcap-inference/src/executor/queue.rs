//! What waits for a model: first come, first served, until admitted work dies of old age; then newest first.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use super::{Ran, Tensor, TensorData, learn::Learned, meters::Meters};
use crate::InferError;

/// How long one death in the queue turns its order around: `CoDel`'s interval (Nichols and Jacobson, 2012).
const INTERVAL: Duration = Duration::from_millis(100);
/// Every so many batches one is half as large or, in turn, twice, so that the knee is compared with its neighbours as
/// they are now.
const PROBE: u64 = 64;

pub(super) type Reply = oneshot::Sender<Result<Ran, InferError>>;

/// One request's rows.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) inputs: Vec<Tensor>,
    pub(super) rows: usize,
    pub(super) cells: usize,
    pub(super) arrived: Instant,
    pub(super) deadline: Instant,
    /// What it adds to the time that the queue takes, in seconds.
    pub(super) share: f64,
    pub(super) reply: Reply,
}

impl Job {
    pub(super) fn expire(self, now: Instant, meters: &Meters) {
        meters.expired_in_queue.increment(1);
        let queued = now.saturating_duration_since(self.arrived);
        let _gone = self.reply.send(Err(InferError::Expired { queued }));
    }
}

/// How large a batch may be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) rows: usize,
    /// Longest run, by what is learned.
    pub(super) seconds: f64,
}

#[derive(Debug)]
struct Waiting {
    job: Job,
    /// Nobody comes back for it: a thread must take it.
    parked: bool,
}

/// Jobs that wait, by the shape of their rows: only equal shapes can share a run.
#[derive(Debug, Default)]
pub(super) struct Queue {
    shapes: Vec<BTreeMap<u64, Waiting>>,
    arrivals: u64,
    rows: usize,
    parked: usize,
    seconds: f64,
    batches: u64,
    last_death: Option<Instant>,
}

impl Queue {
    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// Jobs that only a thread will take.
    pub(super) fn parked(&self) -> usize {
        self.parked
    }

    /// How long one session would need for all that waits.
    pub(super) fn seconds(&self) -> f64 {
        self.seconds
    }

    /// Adds a job; its number is its place.
    pub(super) fn push(&mut self, job: Job, meters: &Meters) -> u64 {
        let place = self.arrivals;
        self.arrivals += 1;
        self.rows += job.rows;
        self.seconds += job.share;
        meters.pending(job.rows, true);
        let fits = |jobs: &BTreeMap<u64, Waiting>| {
            jobs.first_key_value().is_some_and(|(_, first)| same_shape(&first.job.inputs, &job.inputs))
        };
        let shape = self.shapes.iter().position(fits).unwrap_or_else(|| {
            self.shapes.push(BTreeMap::new());
            self.shapes.len() - 1
        });
        self.shapes[shape].insert(place, Waiting { job, parked: false });
        place
    }

    pub(super) fn holds(&self, place: u64) -> bool {
        self.shapes.iter().any(|jobs| jobs.contains_key(&place))
    }

    /// Nobody will come back for this job. Whether it still waits.
    pub(super) fn park(&mut self, place: u64) -> bool {
        let Some(waiting) = self.shapes.iter_mut().find_map(|jobs| jobs.get_mut(&place)) else {
            return false;
        };
        self.parked += usize::from(!waiting.parked);
        waiting.parked = true;
        true
    }

    /// Takes a job out.
    pub(super) fn remove(&mut self, place: u64, meters: &Meters) -> Option<Job> {
        let shape = self.shapes.iter().position(|jobs| jobs.contains_key(&place))?;
        let Waiting { job, parked } = self.shapes[shape].remove(&place)?;
        if self.shapes[shape].is_empty() {
            self.shapes.swap_remove(shape);
        }
        self.parked -= usize::from(parked);
        self.rows -= job.rows;
        // Sums of fractions drift; an empty queue is a good time to begin again.
        self.seconds = if self.rows == 0 { 0.0 } else { (self.seconds - job.share).max(0.0) };
        meters.pending(job.rows, false);
        Some(job)
    }

    /// The jobs of the next run: whatever waits already, has the same shape and fits. Nobody waits for company. Rows
    /// are added up to the knee of the learned run times, and as long as the run is done by the earliest deadline in
    /// it. Jobs that cannot be done in time are answered and left out.
    pub(super) fn next_batch(
        &mut self,
        limits: Limits,
        learned: &Learned,
        now: Instant,
        meters: &Meters,
    ) -> Vec<Job> {
        self.bury_front(now, meters);
        let (mut knee, mut least) = (learned.knee(), 1);
        if self.batches % PROBE == PROBE - 1 {
            // Large jobs jump over the double: two of them are more than one, whatever the knee.
            (knee, least) = if (self.batches / PROBE).is_multiple_of(2) {
                (knee / 2, 1)
            } else {
                (knee.saturating_mul(2), 2)
            };
        }
        let mut batch =
            Batch { limits, knee, least, now, rows: 0, cells: 0, tightest: None, jobs: Vec::new() };
        let newest_first = self.is_behind(now);
        while let Some((place, job)) = self.peek(batch.jobs.first(), newest_first) {
            // One is always tried, or what is believed could never be corrected.
            let hopeless = job.rows < self.rows && !batch.meets(job.deadline, job.cells, learned);
            if is_dead(job, now) || hopeless && batch.jobs.is_empty() {
                self.bury(place, now, meters);
                continue;
            }
            if !batch.has_room(job, learned) {
                break;
            }
            if let Some(job) = self.remove(place, meters) {
                batch.push(job);
            }
        }
        self.batches += u64::from(!batch.jobs.is_empty());
        batch.jobs
    }

    /// The next job of the shape of `first`, or of any.
    fn peek(&self, first: Option<&Job>, newest_first: bool) -> Option<(u64, &Job)> {
        let mine = self.shapes.iter().filter(|jobs| {
            let other = jobs.first_key_value().map(|(_, other)| &other.job.inputs);
            first.zip(other).is_none_or(|(first, other)| same_shape(&first.inputs, other))
        });
        let found = if newest_first {
            mine.filter_map(|jobs| jobs.last_key_value()).max_by_key(|(place, _)| **place)
        } else {
            mine.filter_map(|jobs| jobs.first_key_value()).min_by_key(|(place, _)| **place)
        };
        found.map(|(place, waiting)| (*place, &waiting.job))
    }

    /// Buries those at the front whose deadline has passed, which matters when the newest goes first.
    fn bury_front(&mut self, now: Instant, meters: &Meters) {
        let front = |jobs: &BTreeMap<u64, Waiting>| {
            jobs.first_key_value().filter(|(_, waiting)| is_dead(&waiting.job, now)).map(|(place, _)| *place)
        };
        while let Some(place) = self.shapes.iter().find_map(front) {
            self.bury(place, now, meters);
        }
    }

    /// Takes out a job that will not be run.
    fn bury(&mut self, place: u64, now: Instant, meters: &Meters) {
        if let Some(job) = self.remove(place, meters)
            && !job.reply.is_closed()
        {
            self.last_death = Some(now);
            job.expire(now, meters);
        }
    }

    /// While admission predicts well, nobody dies in the queue. When somebody has, the queue is longer than deadlines
    /// allow, and then the oldest is the worst choice: all that is served is nearly late (adaptive LIFO; Maurer, Fail
    /// at Scale, 2015).
    fn is_behind(&self, now: Instant) -> bool {
        self.last_death.is_some_and(|death| now.saturating_duration_since(death) < INTERVAL)
    }
}

/// A batch being filled.
struct Batch {
    limits: Limits,
    knee: usize,
    /// Jobs that may be more than the knee together.
    least: usize,
    now: Instant,
    rows: usize,
    cells: usize,
    tightest: Option<Instant>,
    jobs: Vec<Job>,
}

impl Batch {
    fn has_room(&self, job: &Job, learned: &Learned) -> bool {
        let cells = self.cells + job.cells;
        let short = learned.seconds(cells).is_none_or(|seconds| seconds <= self.limits.seconds);
        // A job larger than any batch runs alone.
        let alone = self.jobs.is_empty();
        let pays = cells <= self.knee || self.jobs.len() < self.least;
        let fits = self.rows + job.rows <= self.limits.rows && pays;
        short && (alone || fits && self.meets(job.deadline, cells, learned))
    }

    /// Whether a run of so many cells would be done by this deadline and all others of the batch.
    fn meets(&self, deadline: Instant, cells: usize, learned: &Learned) -> bool {
        let tightest = self.tightest.map_or(deadline, |tightest| tightest.min(deadline));
        let remaining = tightest.saturating_duration_since(self.now).as_secs_f64();
        learned.seconds(cells).is_none_or(|seconds| seconds <= remaining)
    }

    fn push(&mut self, job: Job) {
        self.rows += job.rows;
        self.cells += job.cells;
        self.tightest = Some(self.tightest.map_or(job.deadline, |tightest| tightest.min(job.deadline)));
        self.jobs.push(job);
    }
}

/// Too late, or nobody waits for it any more.
fn is_dead(job: &Job, now: Instant) -> bool {
    job.deadline <= now || job.reply.is_closed()
}

fn same_shape(left: &[Tensor], right: &[Tensor]) -> bool {
    let kind = |tensor: &Tensor| (tensor.width, matches!(tensor.data, TensorData::F32(_)));
    left.iter().map(kind).eq(right.iter().map(kind))
}

#[cfg(test)]
mod tests;
