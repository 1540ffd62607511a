//! What a model has done since it was loaded, counted without locks.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use crate::{InferError, Ran};

/// How often, and how long altogether.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sum {
    pub count: u64,
    pub nanos: u64,
}

/// A model's statistics at one moment. Requests that are counted meanwhile may be in some of the numbers only.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Requests that were answered, from their arrival to the answer.
    pub success: Sum,
    /// Requests that were not: turned away, expired, refused by the model, or given up by whoever asked.
    pub fail: Sum,
    /// Waiting in the queue, of those that were answered.
    pub queue: Sum,
    /// The runs that answered them; each request of a batch counts the whole of its run.
    pub infer: Sum,
    /// Rows of those that were answered.
    pub rows: u64,
    /// Runs that answered them.
    pub executions: u64,
    /// When the last one was answered, in milliseconds since 1970; 0 for never.
    pub last_millis: u64,
}

/// Counts the requests of one model.
#[derive(Debug)]
pub(crate) struct Counters {
    created: Instant,
    success: Total,
    fail: Total,
    queue: Total,
    infer: Total,
    rows: AtomicU64,
    executions: AtomicU64,
    /// When the last one was answered, in nanoseconds since the counters are there; 0 for never.
    last_nanos: AtomicU64,
}

impl Default for Counters {
    fn default() -> Self {
        let total = Total::default;
        Self {
            created: Instant::now(),
            success: total(),
            fail: total(),
            queue: total(),
            infer: total(),
            rows: AtomicU64::new(0),
            executions: AtomicU64::new(0),
            last_nanos: AtomicU64::new(0),
        }
    }
}

#[derive(Debug, Default)]
struct Total {
    count: AtomicU64,
    nanos: AtomicU64,
}

/// One request. Dropping it without an answer counts a failure.
#[derive(Debug)]
pub(crate) struct Counting<'a> {
    counters: &'a Counters,
    rows: usize,
    began: Instant,
    answered: bool,
}

impl Counters {
    pub(crate) fn begin(&self, rows: usize, began: Instant) -> Counting<'_> {
        Counting { counters: self, rows, began, answered: false }
    }

    pub(crate) fn read(&self) -> Statistics {
        Statistics {
            success: self.success.read(),
            fail: self.fail.read(),
            queue: self.queue.read(),
            infer: self.infer.read(),
            rows: self.rows.load(Relaxed),
            executions: self.executions.load(Relaxed),
            last_millis: self.last_millis(),
        }
    }

    /// By the wall's clock, which only whoever asks need read.
    fn last_millis(&self) -> u64 {
        let last = Duration::from_nanos(self.last_nanos.load(Relaxed));
        if last.is_zero() {
            return 0;
        }
        let ago = self.created.elapsed().saturating_sub(last);
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().saturating_sub(ago);
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }
}

impl Counting<'_> {
    pub(crate) fn end(mut self, outcome: Result<Ran, InferError>) -> Result<Ran, InferError> {
        if let Ok(ran) = &outcome {
            self.answered = true;
            let counters = self.counters;
            let now = Instant::now();
            counters.success.add(now.saturating_duration_since(self.began));
            counters.queue.add(ran.queued);
            counters.infer.add(ran.inferred);
            counters.rows.fetch_add(self.rows as u64, Relaxed);
            counters.executions.fetch_add(u64::from(ran.led), Relaxed);
            counters.last_nanos.fetch_max(nanos(now.saturating_duration_since(counters.created)), Relaxed);
        }
        outcome
    }
}

impl Drop for Counting<'_> {
    fn drop(&mut self) {
        if !self.answered {
            self.counters.fail.add(self.began.elapsed());
        }
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

impl Total {
    fn add(&self, time: Duration) {
        self.count.fetch_add(1, Relaxed);
        self.nanos.fetch_add(nanos(time), Relaxed);
    }

    fn read(&self) -> Sum {
        Sum { count: self.count.load(Relaxed), nanos: self.nanos.load(Relaxed) }
    }
}
