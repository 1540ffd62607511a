//! The closed loop: a fixed number of requests in flight, each followed by the next. For throughput alone.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{task::JoinSet, time::Instant};

use crate::{Answer, BenchError, Limits, Progress, Recorder, Step, Target, record::Times};

/// Keeps `max_outstanding` requests in flight for `duration`.
///
/// A slow server is asked less here, so latencies say nothing of a shop's traffic: use it for capacity, where an open
/// loop would only fill queues, and compare rates.
pub async fn closed_loop(
    target: Arc<dyn Target>,
    duration: Duration,
    limits: &Limits,
    progress: &dyn Progress,
) -> Result<Step, BenchError> {
    let mut recorder = Recorder::new(limits)?;
    let started = Instant::now();
    let end = started + duration;
    let next_index = Arc::new(AtomicU64::new(0));
    let mut callers = JoinSet::new();
    for _ in 0..limits.max_outstanding.max(1) {
        callers.spawn(call_until(
            Arc::clone(&target),
            started..end,
            limits.deadline,
            Arc::clone(&next_index),
        ));
    }
    progress.step(&format!("{} in flight", limits.max_outstanding), 0, 1);
    while let Some(answers) = callers.join_next().await {
        for (times, answer) in answers.map_err(BenchError::Panicked)? {
            recorder.answered(times, &answer)?;
        }
    }
    let elapsed = started.elapsed();
    let rate = recorder.done() as f64 / elapsed.as_secs_f64().max(1e-9);
    Ok(recorder.finish(rate, elapsed))
}

async fn call_until(
    target: Arc<dyn Target>,
    time: Range<Instant>,
    deadline: Duration,
    next_index: Arc<AtomicU64>,
) -> Vec<(Times, Answer)> {
    let mut answers = Vec::new();
    while Instant::now() < time.end {
        let sent = Instant::now();
        let answer = target.ask(next_index.fetch_add(1, Ordering::Relaxed), deadline).await;
        let times = Times { due: sent - time.start, lag: Duration::ZERO, latency: sent.elapsed() };
        answers.push((times, answer));
    }
    answers
}
