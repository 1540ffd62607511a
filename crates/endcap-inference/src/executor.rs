//! Models behind one queue that counts rows.
//!
//! Whoever asks for a run publishes it, lets other tasks that are ready publish theirs, and then, if a session is
//! idle, runs whatever waits on its own thread: its own rows and its neighbours' (flat combining; Hendler, Incze,
//! Shavit and Tzafrir, 2010). That saves a lone request two changes of thread, and makes batches of small requests
//! without a timer: nobody waits for company that is not there. Runs that take longer than a task may block its thread
//! go to the executor's own threads, and so does what its owner no longer comes back for.
//!
//! No wake-up is lost, since all of it is under one lock: a job whose owner sleeps is *parked*, and whenever a job is
//! parked while a session is idle, or a session becomes idle while a job is parked, a thread is woken.

mod lane;
mod learn;
mod meters;
mod queue;
mod state;
mod tensor;

use std::{
    panic::AssertUnwindSafe,
    path::Path,
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use endcap_bundle::in_background;
use parking_lot::{Condvar, Mutex, MutexGuard};
use tokio::sync::oneshot;

use crate::{InferError, LoadError, Runtime, Statistics, statistics::Counters, thread};

pub use self::tensor::{Tensor, TensorData};
use self::{
    lane::Lane,
    meters::Meters,
    queue::{Job, Limits},
    state::State,
};

/// Buffers kept for the next requests, and the largest one that is.
const SPARE: usize = 32;
const SPARE_BYTES: usize = 1 << 20;
/// Runs per size at warm-up; the quickest counts, for the first ones are up to half again as slow.
const WARM_UP_RUNS: usize = 3;

/// What a run gave.
#[derive(Debug, Clone, PartialEq)]
pub struct Ran {
    /// `[rows, width]`, row-major.
    pub output: Vec<f32>,
    pub width: usize,
    pub queued: Duration,
    pub inferred: Duration,
    /// Whether it came first in its batch: one of each batch does, so that these count runs.
    pub led: bool,
}

/// How a model is run.
#[derive(Debug, Clone)]
pub struct ExecutorOptions {
    /// File name in the bundle, for errors and metrics.
    pub file: String,
    /// Input names, in the order in which runs bring them.
    pub inputs: Vec<String>,
    pub output: String,
    /// Sessions, and threads of the executor's own.
    pub threads: usize,
    pub max_batch_rows: usize,
    pub queue_rows: usize,
    /// Longest run that a caller makes on its own thread; zero leaves all to the executor's threads.
    pub inline_max: Duration,
    /// Ties each of the executor's threads to a core.
    pub pin_threads: bool,
}

/// Sessions of one model. Dropping it ends the threads and frees the sessions.
#[derive(Debug)]
pub struct Executor {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    counters: Counters,
}

#[derive(Debug)]
struct Shared {
    options: ExecutorOptions,
    meters: Meters,
    state: Mutex<State>,
    /// Wakes the threads.
    needed: Condvar,
    /// Inputs of runs that are done, for the next requests to fill.
    spare: Mutex<Vec<Vec<Tensor>>>,
}

/// A job's place in the queue. Dropping it takes the job out, if it still waits.
struct Place<'a> {
    shared: &'a Shared,
    number: u64,
}

type Answer = oneshot::Receiver<Result<Ran, InferError>>;

impl Executor {
    /// Makes the sessions, one after another and in the background, and their threads. Blocking.
    pub fn start(runtime: &Runtime, path: &Path, options: ExecutorOptions) -> Result<Self, LoadError> {
        let lanes = in_background(|| {
            let lane = |id| Ok(Lane::new(id, runtime.session(path, &options.file)?, options.inputs.len()));
            (0..options.threads.max(1)).map(lane).collect::<Result<Vec<_>, LoadError>>()
        })?;
        let shared = Arc::new(Shared::new(options, lanes));
        let mut executor = Self { shared, threads: Vec::new(), counters: Counters::default() };
        for number in 0..executor.shared.options.threads.max(1) {
            let shared = Arc::clone(&executor.shared);
            let thread = std::thread::Builder::new()
                .name(format!("infer {}", shared.options.file))
                .spawn(move || shared.work(number))
                .map_err(|error| LoadError::Session {
                    file: executor.shared.options.file.clone(),
                    detail: format!("no thread for it: {error}"),
                })?;
            executor.threads.push(thread);
        }
        Ok(executor)
    }

    /// Runs these inputs on every session, largest first, so that memory is there when requests come, and learns what
    /// each size takes. Gives the width of the output. Blocking; for a model that does not serve yet.
    pub fn warm_up(
        &self,
        sizes: impl IntoIterator<Item = (Vec<Tensor>, usize)>,
    ) -> Result<usize, InferError> {
        let mut width = 0;
        for (inputs, rows) in sizes {
            let now = Instant::now();
            let (job, _answer) = self.shared.job(inputs, rows, now, now)?;
            let (cells, batch) = (job.cells, [job]);
            let mut lanes = std::mem::take(&mut self.shared.state.lock().idle);
            let mut quickest = Duration::MAX;
            let ran: Result<(), InferError> = lanes.iter_mut().try_for_each(|lane| {
                for _ in 0..WARM_UP_RUNS {
                    let started = Instant::now();
                    width = lane.run(&self.shared.options, &batch)?.width;
                    quickest = quickest.min(started.elapsed());
                }
                Ok(())
            });
            let mut state = self.shared.state.lock();
            state.idle.append(&mut lanes);
            ran?;
            state.learned.record(cells, quickest);
        }
        Ok(width)
    }

    /// Runs rows, together with others that wait. Dropping the future takes them out of the queue.
    pub async fn run(
        &self,
        inputs: Vec<Tensor>,
        rows: usize,
        deadline: tokio::time::Instant,
    ) -> Result<Ran, InferError> {
        let arrived = Instant::now();
        let counting = self.counters.begin(rows, arrived);
        let longest = self.shared.options.inline_max;
        let (place, answer) = self.shared.submit(inputs, rows, arrived, deadline.into_std())?;
        if !longest.is_zero() {
            // Tasks that are ready publish their rows first; where there are none, this takes a microsecond.
            tokio::task::yield_now().await;
        }
        self.shared.combine(place.number, longest);
        counting.end(answer.await.unwrap_or(Err(InferError::Closed)))
    }

    /// The same from a thread that may block, for however long it takes. It may stand back for others, too: its own rows
    /// are all that it runs.
    pub fn run_blocking(&self, inputs: Vec<Tensor>, rows: usize) -> Result<Ran, InferError> {
        let patience = Duration::from_secs(60);
        let arrived = Instant::now();
        let (place, answer) = self.shared.submit(inputs, rows, arrived, arrived + patience)?;
        self.shared.run_alone(place.number);
        answer.blocking_recv().unwrap_or(Err(InferError::Closed))
    }

    /// Inputs of an earlier run, empty or full, whose memory a request may use again. Not that of large ones.
    pub fn buffers(&self) -> Vec<Tensor> {
        self.shared.spare.lock().pop().unwrap_or_default()
    }

    /// What was asked by [`Executor::run`] so far.
    pub fn statistics(&self) -> Statistics {
        self.counters.read()
    }

    /// Most rows of one run, but for a request that is larger by itself.
    pub fn max_batch_rows(&self) -> usize {
        self.shared.options.max_batch_rows
    }

    /// Rows that wait now.
    pub fn pending_rows(&self) -> usize {
        self.shared.state.lock().queue.rows()
    }
}

impl Drop for Executor {
    fn drop(&mut self) {
        self.shared.state.lock().closed = true;
        self.shared.needed.notify_all();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!(file = self.shared.options.file, "an inference thread panicked");
            }
        }
    }
}

impl Shared {
    fn new(options: ExecutorOptions, lanes: Vec<Lane>) -> Self {
        let (meters, state) = (Meters::new(&options.file), Mutex::new(State::new(lanes)));
        Self { options, meters, state, needed: Condvar::new(), spare: Mutex::new(Vec::new()) }
    }

    fn submit(
        &self,
        inputs: Vec<Tensor>,
        rows: usize,
        arrived: Instant,
        deadline: Instant,
    ) -> Result<(Place<'_>, Answer), InferError> {
        let (mut job, answer) = self.job(inputs, rows, arrived, deadline)?;
        let remaining = deadline.saturating_duration_since(arrived);
        if remaining.is_zero() {
            self.meters.expired_on_arrival.increment(1);
            return Err(InferError::Expired { queued: Duration::ZERO });
        }
        let mut state = self.state.lock();
        job.share = state.admit(&self.options, &job, remaining, &self.meters)?;
        let number = state.queue.push(job, &self.meters);
        Ok((Place { shared: self, number }, answer))
    }

    /// A job whose inputs are what the model reads: a wrong length would shift its neighbours' rows.
    fn job(
        &self,
        inputs: Vec<Tensor>,
        rows: usize,
        arrived: Instant,
        deadline: Instant,
    ) -> Result<(Job, Answer), InferError> {
        let expected = self.options.inputs.len();
        if inputs.len() != expected {
            let detail = format!("{} inputs were given; expected {expected}", inputs.len());
            return Err(InferError::Failed { detail });
        }
        for (input, name) in inputs.iter().zip(&self.options.inputs) {
            let (found, width) = (input.data.len(), input.width);
            if rows.checked_mul(width) != Some(found) {
                let detail = format!("input {name:?} has {found} numbers; expected {rows} rows of {width}");
                return Err(InferError::Failed { detail });
            }
        }
        let cells = rows * inputs.first().map_or(1, |input| input.width.max(1));
        let (reply, answer) = oneshot::channel();
        Ok((Job { inputs, rows, cells, arrived, deadline, share: 0.0, reply }, answer))
    }

    /// Runs what waits until the job at `place` is done, for at most about `longest`; then, or if no session is idle,
    /// leaves it to the threads.
    fn combine(&self, place: u64, longest: Duration) {
        // Most find that a neighbour ran their rows, and need no clock.
        let mut began = None;
        let mut state = self.state.lock();
        while state.queue.holds(place) {
            let spent = began.get_or_insert_with(Instant::now).elapsed();
            let seconds = longest.saturating_sub(spent).as_secs_f64();
            let limits = Limits { rows: self.options.max_batch_rows, seconds };
            let next = if longest.is_zero() { None } else { state.next(limits, &self.meters) };
            let Some((mut lane, batch)) = next else {
                state.queue.park(place);
                break;
            };
            drop(state);
            let took = self.run_batch(&mut lane, batch);
            state = self.state.lock();
            self.finish(&mut state, lane, took);
        }
        if state.needs_thread() {
            self.needed.notify_one();
        }
    }

    /// Runs the job at `place` and no other; if no session is idle, leaves it to the threads.
    fn run_alone(&self, place: u64) {
        let mut state = self.state.lock();
        match state.alone(place, &self.meters) {
            Some((mut lane, job)) => {
                drop(state);
                let took = self.run_batch(&mut lane, vec![job]);
                state = self.state.lock();
                self.finish(&mut state, lane, took);
            }
            None => drop(state.queue.park(place)),
        }
        if state.needs_thread() {
            self.needed.notify_one();
        }
    }

    /// A thread's life.
    fn work(&self, number: usize) {
        if self.options.pin_threads {
            thread::pin(number);
        }
        let limits = Limits { rows: self.options.max_batch_rows, seconds: f64::INFINITY };
        let mut state = self.state.lock();
        while !state.closed {
            let next = if state.needs_thread() { state.next(limits, &self.meters) } else { None };
            let Some((mut lane, batch)) = next else {
                self.needed.wait(&mut state);
                continue;
            };
            drop(state);
            let took = self.run_batch(&mut lane, batch);
            state = self.state.lock();
            self.finish(&mut state, lane, took);
            if !self.options.inline_max.is_zero() {
                // Callers that are ready go first: a thread that kept the session would find that each of them had to
                // leave its rows to it, and never be done.
                MutexGuard::unlocked(&mut state, std::thread::yield_now);
            }
        }
    }

    fn finish(&self, state: &mut State, lane: Lane, took: Option<(usize, Duration)>) {
        if let Some((cells, took)) = took {
            state.learned.record(cells, took);
        }
        state.give_back(lane);
    }

    /// Runs a batch and answers its jobs. Gives its size and how long it took, if it succeeded as a whole.
    fn run_batch(&self, lane: &mut Lane, batch: Vec<Job>) -> Option<(usize, Duration)> {
        let started = Instant::now();
        let guarded = AssertUnwindSafe(|| lane.run(&self.options, &batch));
        let outcome = std::panic::catch_unwind(guarded)
            .unwrap_or_else(|_| Err(InferError::Failed { detail: "the run panicked".to_owned() }));
        let inferred = started.elapsed();
        match outcome {
            Ok(outputs) => {
                let (rows, cells) = batch.iter().fold((0, 0), |(r, c), job| (r + job.rows, c + job.cells));
                self.meters.ran(rows);
                for (i, (job, output)) in batch.into_iter().zip(outputs.each).enumerate() {
                    let queued = started.saturating_duration_since(job.arrived);
                    self.meters.queued.record(queued.as_secs_f64());
                    let ran = Ran { output, width: outputs.width, queued, inferred, led: i == 0 };
                    let _gone = job.reply.send(Ok(ran));
                    self.keep(job.inputs);
                }
                Some((cells, inferred))
            }
            // One request's fault must not be its neighbours': each is tried alone, once, if there is time.
            Err(_) if batch.len() > 1 => {
                for job in batch {
                    let now = Instant::now();
                    if job.deadline <= now {
                        job.expire(now, &self.meters);
                    } else {
                        self.run_batch(lane, vec![job]);
                    }
                }
                None
            }
            Err(error) => {
                batch.into_iter().for_each(|job| drop(job.reply.send(Err(error.clone()))));
                None
            }
        }
    }

    fn keep(&self, inputs: Vec<Tensor>) {
        let bytes: usize = inputs.iter().map(|input| input.data.bytes()).sum();
        if bytes <= SPARE_BYTES {
            let mut spare = self.spare.lock();
            if spare.len() < SPARE {
                spare.push(inputs);
            }
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.shared.state.lock().queue.remove(self.number, &self.shared.meters);
    }
}

#[cfg(test)]
mod tests;
