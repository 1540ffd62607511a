use std::{future::poll_fn, pin::pin, task::Poll};

use endcap_bundle::test_util::graphs;

use super::*;
use crate::RuntimeOptions;

fn options(queue_rows: usize, inline_max: Duration) -> ExecutorOptions {
    ExecutorOptions {
        file: "table.onnx".into(),
        inputs: vec!["id".into()],
        output: "score".into(),
        threads: 1,
        max_batch_rows: 100,
        queue_rows,
        inline_max,
        pin_threads: false,
    }
}

/// An executor without threads and sessions: what waits stays.
fn stalled(queue_rows: usize) -> Executor {
    let shared = Shared::new(options(queue_rows, Duration::from_secs(1)), Vec::new());
    Executor { shared: Arc::new(shared), threads: Vec::new(), counters: Counters::default() }
}

/// An executor with a session and without threads: only callers can run it.
fn without_threads(inline_max: Duration) -> Executor {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("table.onnx");
    std::fs::write(&path, graphs::table(&[0.5, 1.5])).unwrap();
    let session = Runtime::load(&RuntimeOptions::default()).unwrap().session(&path, "table.onnx").unwrap();
    let shared = Shared::new(options(1000, inline_max), vec![Lane::new(0, session, 1)]);
    Executor { shared: Arc::new(shared), threads: Vec::new(), counters: Counters::default() }
}

fn zeros(rows: usize) -> Vec<Tensor> {
    vec![Tensor { width: 1, data: TensorData::I64(vec![0; rows]) }]
}

/// Leaves the rows in the queue.
fn publish(executor: &Executor, rows: usize, within: Duration) -> Result<(), InferError> {
    let now = Instant::now();
    let (place, _answer) = executor.shared.submit(zeros(rows), rows, now, now + within)?;
    std::mem::forget(place);
    Ok(())
}

const LONG: Duration = Duration::from_secs(60);

#[test]
fn a_full_queue_refuses_and_keeps_what_it_has() {
    let executor = stalled(1_000);
    publish(&executor, 600, LONG).unwrap();
    let refused = publish(&executor, 401, LONG).unwrap_err();
    assert_eq!(refused, InferError::Overloaded { rows: 600, asked: 401, limit: 1_000 });
    publish(&executor, 400, LONG).unwrap();
    assert_eq!(executor.pending_rows(), 1_000);
}

#[test]
fn a_request_larger_than_the_queue_runs_when_nothing_waits() {
    let executor = stalled(1_000);
    publish(&executor, 5_000, LONG).unwrap();
    assert!(matches!(publish(&executor, 1, LONG), Err(InferError::Overloaded { .. })));
}

#[test]
fn a_request_that_would_be_answered_too_late_is_refused_at_once() {
    let executor = stalled(1_000);
    for cells in [1, 100] {
        executor.shared.state.lock().learned.record(cells, Duration::from_millis(cells as u64));
    }
    let soon = Duration::from_millis(15);
    publish(&executor, 20, soon).expect("nothing is ahead of it, so it is tried");
    let refused = publish(&executor, 10, soon).unwrap_err();
    let InferError::TooLate { rows: 20, predicted, remaining } = refused else { panic!("{refused}") };
    assert!(remaining <= soon && predicted.abs_diff(Duration::from_millis(30)) < Duration::from_millis(1));
    publish(&executor, 10, 3 * soon).unwrap();
    assert_eq!(executor.pending_rows(), 30);
}

#[test]
fn inputs_of_the_wrong_size_are_refused_before_they_shift_their_neighbours_rows() {
    let executor = stalled(1_000);
    let refused = |inputs: Vec<Tensor>, rows| executor.run_blocking(inputs, rows).unwrap_err().to_string();
    assert!(refused(zeros(3), 2).contains("has 3 numbers; expected 2 rows of 1"));
    assert!(refused(Vec::new(), 2).contains("0 inputs were given; expected 1"));
}

#[tokio::test]
async fn a_future_that_is_dropped_takes_its_rows_out_of_the_queue() {
    let executor = stalled(1_000);
    {
        let mut run = pin!(executor.run(zeros(7), 7, tokio::time::Instant::now() + LONG));
        for _ in 0..3 {
            let pending = poll_fn(|context| Poll::Ready(run.as_mut().poll(context).is_pending())).await;
            assert!(pending && executor.pending_rows() == 7);
            tokio::task::yield_now().await;
        }
        assert_eq!(executor.shared.state.lock().queue.parked(), 1);
    }
    assert_eq!(executor.pending_rows(), 0);
    assert_eq!(executor.shared.state.lock().queue.parked(), 0);
}

#[tokio::test]
async fn short_runs_are_made_by_their_callers_together_with_what_else_waits() {
    let executor = without_threads(LONG);
    let deadline = tokio::time::Instant::now() + LONG;
    let run = |rows: usize| executor.run(zeros(rows), rows, deadline);
    let (one, two, three) = tokio::join!(run(1), run(2), run(3));
    let (one, two, three) = (one.unwrap(), two.unwrap(), three.unwrap());
    assert_eq!([one.output.len(), two.output.len(), three.output.len()], [1, 2, 3]);
    assert!(one.inferred == two.inferred && two.inferred == three.inferred, "they shared one run");
}

#[test]
fn a_caller_that_may_block_runs_its_own_rows_and_leaves_the_others_to_theirs() {
    let executor = without_threads(LONG);
    publish(&executor, 3, LONG).unwrap();
    let ran = executor.run_blocking(zeros(2), 2).unwrap();
    assert_eq!((ran.output.len(), executor.pending_rows()), (2, 3));
    let state = executor.shared.state.lock();
    assert_eq!((state.idle.len(), state.queue.parked()), (1, 0));
}

#[test]
fn a_caller_that_may_block_and_finds_no_idle_session_leaves_its_rows_to_the_threads() {
    let executor = without_threads(LONG);
    let lane = executor.shared.state.lock().idle.pop().unwrap();
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| executor.run_blocking(zeros(2), 2).unwrap());
        while executor.shared.state.lock().queue.parked() == 0 {
            std::thread::yield_now();
        }
        let mut state = executor.shared.state.lock();
        state.give_back(lane);
        assert!(state.needs_thread());
        let limits = Limits { rows: 100, seconds: f64::INFINITY };
        let (mut lane, batch) = state.next(limits, &executor.shared.meters).unwrap();
        drop(state);
        executor.shared.run_batch(&mut lane, batch);
        assert_eq!(asking.join().unwrap().output.len(), 2);
    });
}

#[tokio::test]
async fn runs_too_long_for_their_caller_wait_for_a_thread() {
    for inline_max in [Duration::ZERO, Duration::from_nanos(1)] {
        let executor = without_threads(inline_max);
        executor.warm_up([(zeros(8), 8)]).unwrap();
        let mut run = pin!(executor.run(zeros(8), 8, tokio::time::Instant::now() + LONG));
        for _ in 0..3 {
            let pending = poll_fn(|context| Poll::Ready(run.as_mut().poll(context).is_pending())).await;
            assert!(pending);
            tokio::task::yield_now().await;
        }
        assert!(executor.shared.state.lock().needs_thread());
    }
}

#[test]
fn warming_up_learns_what_each_size_takes_and_gives_the_sessions_back() {
    let executor = without_threads(LONG);
    let width = executor.warm_up([64, 1].map(|rows| (zeros(rows), rows))).unwrap();
    let state = executor.shared.state.lock();
    assert_eq!((width, state.idle.len()), (1, 1));
    assert!(state.learned.seconds(1) > Some(0.0) && state.learned.seconds(64) > Some(0.0));
    drop(state);
    let beyond = vec![Tensor { width: 1, data: TensorData::I64(vec![99]) }];
    executor.warm_up([(beyond, 1)]).unwrap_err();
    assert_eq!(executor.shared.state.lock().idle.len(), 1);
}

#[test]
fn the_memory_of_a_run_is_there_for_the_next_request() {
    let executor = without_threads(LONG);
    assert!(executor.buffers().is_empty());
    executor.run_blocking(zeros(100), 100).unwrap();
    let buffers = executor.buffers();
    assert!(matches!(&buffers[0].data, TensorData::I64(values) if values.capacity() >= 100));
    assert!(executor.buffers().is_empty());
}

#[test]
fn the_metrics_say_what_waits_what_ran_and_what_was_refused_and_why() {
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    metrics::with_local_recorder(&recorder, || {
        let executor = without_threads(LONG);
        executor.run_blocking(zeros(5), 5).unwrap();
        let executor = stalled(1_000);
        executor.shared.state.lock().learned.record(1, Duration::from_millis(10));
        let soon = Instant::now() + Duration::from_millis(50);
        let (place, _answer) = executor.shared.submit(zeros(20), 20, Instant::now(), soon).unwrap();
        std::mem::forget(place);
        publish(&executor, 10, Duration::from_millis(1)).unwrap_err();
        publish(&executor, 10, Duration::ZERO).unwrap_err();
        publish(&executor, 1_000, LONG).unwrap_err();
        let limits = Limits { rows: 100, seconds: f64::INFINITY };
        let later = Instant::now() + LONG;
        let state = &mut *executor.shared.state.lock();
        assert!(state.queue.next_batch(limits, &state.learned, later, &executor.shared.meters).is_empty());
        state.queue.push(
            executor.shared.job(zeros(7), 7, Instant::now(), later).unwrap().0,
            &executor.shared.meters,
        );
    });
    let metrics = recorder.handle().render();
    for expected in [
        "endcap_inference_executions_total{file=\"table.onnx\"} 1",
        "endcap_inference_rows_total{file=\"table.onnx\"} 5",
        "endcap_batch_rows_sum{file=\"table.onnx\"} 5",
        "endcap_queue_duration_seconds_count{file=\"table.onnx\"} 1",
        "endcap_pending_rows{file=\"table.onnx\"} 7",
        "endcap_rejected_total{service=\"worker\",reason=\"predicted\"} 1",
        "endcap_rejected_total{service=\"worker\",reason=\"queue_full\"} 1",
        "endcap_expired_total{stage=\"arrival\"} 1",
        "endcap_expired_total{stage=\"queue\"} 1",
    ] {
        assert!(metrics.contains(expected), "{expected} is missing from\n{metrics}");
    }
}
