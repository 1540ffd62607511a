//! Models on threads of their own, behind one queue that counts rows.

use std::{
    borrow::Cow,
    collections::VecDeque,
    path::Path,
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use ort::{
    session::{Session, SessionInputValue},
    value::Tensor as OrtTensor,
};
use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;

use crate::{InferError, LoadError, Runtime, Statistics, statistics::Counters};

/// Numbers of one input.
#[derive(Debug, Clone, PartialEq)]
pub enum TensorData {
    F32(Vec<f32>),
    I64(Vec<i64>),
}

/// One input of a run: `[rows, width]`, row-major.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    pub width: usize,
    pub data: TensorData,
}

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
    pub threads: usize,
    pub max_batch_rows: usize,
    pub queue_rows: usize,
}

/// Sessions of one model, one per thread. Dropping it ends the threads and frees the sessions.
#[derive(Debug)]
pub struct Executor {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    counters: Counters,
}

#[derive(Debug)]
struct Shared {
    options: ExecutorOptions,
    queue: Mutex<Queue>,
    arrived: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    jobs: VecDeque<Job>,
    rows: usize,
    closed: bool,
}

#[derive(Debug)]
struct Job {
    inputs: Vec<Tensor>,
    rows: usize,
    deadline: Instant,
    arrived: Instant,
    reply: oneshot::Sender<Result<Ran, InferError>>,
}

impl Executor {
    /// Makes the sessions, one after another, and their threads. Blocking.
    pub fn start(runtime: &Runtime, path: &Path, options: ExecutorOptions) -> Result<Self, LoadError> {
        let sessions = (0..options.threads.max(1))
            .map(|_| runtime.session(path, &options.file))
            .collect::<Result<Vec<_>, _>>()?;
        let shared =
            Arc::new(Shared { options, queue: Mutex::new(Queue::default()), arrived: Condvar::new() });
        let mut executor =
            Self { shared: Arc::clone(&shared), threads: Vec::new(), counters: Counters::default() };
        for session in sessions {
            let shared = Arc::clone(&shared);
            let thread = std::thread::Builder::new()
                .name(format!("infer {}", shared.options.file))
                .spawn(move || shared.work(session))
                .map_err(|error| LoadError::Session {
                    file: executor.shared.options.file.clone(),
                    detail: format!("no thread for it: {error}"),
                })?;
            executor.threads.push(thread);
        }
        Ok(executor)
    }

    /// Queues a run and waits. Dropping the future takes the job out before it is run.
    pub async fn run(
        &self,
        inputs: Vec<Tensor>,
        rows: usize,
        deadline: tokio::time::Instant,
    ) -> Result<Ran, InferError> {
        let counting = self.counters.begin(rows);
        let answer = self.submit(inputs, rows, deadline.into_std())?;
        counting.end(answer.await.unwrap_or(Err(InferError::Closed)))
    }

    /// The same from a thread that may block.
    pub fn run_blocking(&self, inputs: Vec<Tensor>, rows: usize) -> Result<Ran, InferError> {
        let patient = Instant::now() + Duration::from_secs(60);
        self.submit(inputs, rows, patient)?.blocking_recv().unwrap_or(Err(InferError::Closed))
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
        self.shared.queue.lock().rows
    }

    fn submit(
        &self,
        inputs: Vec<Tensor>,
        rows: usize,
        deadline: Instant,
    ) -> Result<oneshot::Receiver<Result<Ran, InferError>>, InferError> {
        let (reply, answer) = oneshot::channel();
        let arrived = Instant::now();
        if deadline <= arrived {
            return Err(InferError::Expired { queued: Duration::ZERO });
        }
        let limit = self.shared.options.queue_rows;
        let mut queue = self.shared.queue.lock();
        // A request larger than the whole queue may still run when nothing else waits.
        if queue.rows > 0 && queue.rows + rows > limit {
            return Err(InferError::Overloaded { rows: queue.rows, asked: rows, limit });
        }
        queue.rows += rows;
        crate::metrics::queued(&self.shared.options.file, rows);
        queue.jobs.push_back(Job { inputs, rows, deadline, arrived, reply });
        drop(queue);
        self.shared.arrived.notify_one();
        Ok(answer)
    }
}

impl Drop for Executor {
    fn drop(&mut self) {
        self.shared.queue.lock().closed = true;
        self.shared.arrived.notify_all();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!(file = self.shared.options.file, "an inference thread panicked");
            }
        }
    }
}

impl Shared {
    fn work(&self, mut session: Session) {
        while let Some(batch) = self.next_batch() {
            self.run_batch(&mut session, batch);
        }
    }

    /// The first job, and with it whatever waits already and fits: nobody waits for company.
    fn next_batch(&self) -> Option<Vec<Job>> {
        let mut queue = self.queue.lock();
        let mut batch: Vec<Job> = Vec::new();
        let mut rows = 0;
        loop {
            while let Some(job) = queue.jobs.front() {
                let fits = batch.first().is_none_or(|first| {
                    rows + job.rows <= self.options.max_batch_rows && same_shape(&first.inputs, &job.inputs)
                });
                if !fits {
                    return Some(batch);
                }
                let Some(job) = queue.jobs.pop_front() else { break };
                queue.rows -= job.rows;
                crate::metrics::taken(&self.options.file, job.rows);
                // Nobody waits for it any more, or its answer would come too late: it is not run.
                if job.reply.is_closed() {
                    continue;
                }
                let now = Instant::now();
                if job.deadline <= now {
                    metrics::counter!("endcap_expired_total", "stage" => "queue").increment(1);
                    let _gone = job.reply.send(Err(InferError::Expired { queued: now - job.arrived }));
                    continue;
                }
                rows += job.rows;
                batch.push(job);
            }
            if !batch.is_empty() {
                return Some(batch);
            }
            if queue.closed {
                return None;
            }
            self.arrived.wait(&mut queue);
        }
    }

    fn run_batch(&self, session: &mut Session, batch: Vec<Job>) {
        let rows = batch.iter().map(|job| job.rows).sum();
        let started = Instant::now();
        match self.run(session, batch.iter().map(|job| job.inputs.as_slice()), rows) {
            Ok((output, width)) => {
                let inferred = started.elapsed();
                let mut rest = output.as_slice();
                for (i, job) in batch.into_iter().enumerate() {
                    let (mine, others) = rest.split_at(job.rows * width);
                    rest = others;
                    let queued = started - job.arrived;
                    crate::metrics::waited(&self.options.file, queued);
                    let ran = Ran { output: mine.to_vec(), width, queued, inferred, led: i == 0 };
                    let _gone = job.reply.send(Ok(ran));
                }
            }
            // One request's fault must not be its neighbours': each is tried alone, once.
            Err(_) if batch.len() > 1 => batch.into_iter().for_each(|job| self.run_batch(session, vec![job])),
            Err(error) => batch.into_iter().for_each(|job| {
                let _gone = job.reply.send(Err(error.clone()));
            }),
        }
    }

    fn run<'a>(
        &self,
        session: &mut Session,
        jobs: impl Iterator<Item = &'a [Tensor]> + Clone,
        rows: usize,
    ) -> Result<(Vec<f32>, usize), InferError> {
        let failed = |error: &dyn std::fmt::Display| InferError::Failed { detail: error.to_string() };
        let mut inputs = Vec::with_capacity(self.options.inputs.len());
        for (i, name) in self.options.inputs.iter().enumerate() {
            let value = joined(jobs.clone().map(|tensors| &tensors[i]), rows).map_err(|e| failed(&e))?;
            inputs.push((Cow::Borrowed(name.as_str()), value));
        }
        let outputs = session.run(inputs).map_err(|e| InferError::of_run(&e))?;
        let output = outputs.get(&self.options.output).ok_or_else(|| failed(&"the output is missing"))?;
        let (shape, data) = output.try_extract_tensor::<f32>().map_err(|e| failed(&e))?;
        if rows == 0 || data.len() % rows != 0 || shape.first() != Some(&i64::try_from(rows).unwrap_or(-1)) {
            return Err(failed(&format!("{rows} rows gave an output of shape {shape:?}")));
        }
        metrics::counter!("endcap_inference_executions_total", "file" => self.options.file.clone())
            .increment(1);
        metrics::counter!("endcap_inference_rows_total", "file" => self.options.file.clone())
            .increment(rows as u64);
        #[expect(clippy::cast_precision_loss, reason = "a count of rows")]
        metrics::histogram!("endcap_batch_rows", "file" => self.options.file.clone()).record(rows as f64);
        Ok((data.to_vec(), data.len() / rows))
    }
}

fn same_shape(left: &[Tensor], right: &[Tensor]) -> bool {
    left.iter().map(|tensor| tensor.width).eq(right.iter().map(|tensor| tensor.width))
}

/// One input of all jobs of a batch, one below the other.
fn joined<'a>(
    tensors: impl Iterator<Item = &'a Tensor> + Clone,
    rows: usize,
) -> ort::Result<SessionInputValue<'static>> {
    let width = tensors.clone().next().map_or(0, |tensor| tensor.width);
    let (mut floats, mut ints) = (Vec::new(), Vec::new());
    for tensor in tensors {
        match &tensor.data {
            TensorData::F32(values) => floats.extend_from_slice(values),
            TensorData::I64(values) => ints.extend_from_slice(values),
        }
    }
    let shape = [rows, width];
    if ints.is_empty() {
        Ok(OrtTensor::from_array((shape, floats))?.into())
    } else {
        Ok(OrtTensor::from_array((shape, ints))?.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An executor that never takes a job out, so that what waits is known.
    fn stalled(queue_rows: usize) -> Executor {
        let options = ExecutorOptions {
            file: "ranker.onnx".into(),
            inputs: vec!["features".into()],
            output: "score".into(),
            threads: 0,
            max_batch_rows: 100,
            queue_rows,
        };
        let shared = Shared { options, queue: Mutex::new(Queue::default()), arrived: Condvar::new() };
        Executor { shared: Arc::new(shared), threads: Vec::new(), counters: Counters::default() }
    }

    fn submit(executor: &Executor, rows: usize) -> Result<(), InferError> {
        let inputs = vec![Tensor { width: 1, data: TensorData::F32(vec![0.0; rows]) }];
        executor.submit(inputs, rows, Instant::now() + Duration::from_secs(60)).map(|_| ())
    }

    #[test]
    fn a_full_queue_refuses_and_keeps_what_it_has() {
        let executor = stalled(1_000);
        submit(&executor, 600).unwrap();
        assert_eq!(
            submit(&executor, 401).unwrap_err(),
            InferError::Overloaded { rows: 600, asked: 401, limit: 1_000 }
        );
        submit(&executor, 400).unwrap();
        assert_eq!(executor.pending_rows(), 1_000);
    }

    #[test]
    fn a_request_larger_than_the_queue_runs_when_nothing_waits() {
        let executor = stalled(1_000);
        submit(&executor, 5_000).unwrap();
        assert!(matches!(submit(&executor, 1), Err(InferError::Overloaded { .. })));
    }
}
