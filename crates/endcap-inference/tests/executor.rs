//! The executor on the real ONNX Runtime, under many callers.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::{sync::Arc, time::Duration};

use endcap_bundle::test_util::graphs;
use endcap_inference::{Executor, ExecutorOptions, InferError, Runtime, RuntimeOptions, Tensor, TensorData};
use tokio::{task::JoinSet, time::Instant};

const SCORES: [f32; 5] = [0.5, 1.5, 2.5, 3.5, 4.5];
const BEYOND: i64 = 99;

fn executor(threads: usize, inline_max: Duration, pin_threads: bool) -> Executor {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("table.onnx");
    std::fs::write(&path, graphs::table(&SCORES)).unwrap();
    let options = ExecutorOptions {
        file: "table.onnx".into(),
        inputs: vec!["id".into()],
        output: "score".into(),
        threads,
        max_batch_rows: 32,
        queue_rows: 100_000,
        inline_max,
        pin_threads,
    };
    let executor =
        Executor::start(&Runtime::load(&RuntimeOptions::default()).unwrap(), &path, options).unwrap();
    executor.warm_up([32, 8, 1].map(|rows| (ids(&vec![0; rows]), rows))).unwrap();
    executor
}

fn ids(ids: &[i64]) -> Vec<Tensor> {
    vec![Tensor { width: 1, data: TensorData::I64(ids.to_vec()) }]
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

#[tokio::test]
async fn only_the_culprit_of_a_failed_batch_fails() {
    let executor = executor(1, Duration::from_secs(1), false);
    let run = |wanted: [i64; 2]| {
        let executor = &executor;
        async move { executor.run(ids(&wanted), 2, soon()).await }
    };
    let (one, two, three) = tokio::join!(run([0, 1]), run([2, 3]), run([4, 0]));
    let shared = [one.unwrap(), two.unwrap(), three.unwrap()].map(|ran| ran.inferred);
    assert!(shared[0] == shared[1] && shared[1] == shared[2], "three at once share a run");

    let (one, culprit, three) = tokio::join!(run([0, 1]), run([2, BEYOND]), run([4, 0]));
    assert_eq!(one.unwrap().output, [0.5, 1.5]);
    assert!(matches!(culprit, Err(InferError::Refused { .. })), "{culprit:?}");
    assert_eq!(three.unwrap().output, [4.5, 0.5]);
}

/// One caller: many runs, each with rows of its own; some of them given up half-way.
async fn caller(executor: Arc<Executor>, seed: usize) -> usize {
    let mut answered = 0;
    for i in 0..60 {
        let wanted: Vec<i64> = (0..1 + (seed + i) % 9).map(|n| ((seed * 7 + i * 3 + n) % 5) as i64).collect();
        let run = executor.run(ids(&wanted), wanted.len(), soon());
        let given_up = async {
            for _ in 0..(seed + i) % 4 {
                tokio::task::yield_now().await;
            }
            if !(seed + i).is_multiple_of(5) {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            ran = run => {
                let expected: Vec<f32> = wanted.iter().map(|id| SCORES[*id as usize]).collect();
                assert_eq!(ran.unwrap().output, expected);
                answered += 1;
            }
            () = given_up => {}
        }
    }
    answered
}

#[test]
fn everyone_gets_the_answer_to_what_they_asked_wherever_runs_are_made() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_time().build().unwrap();
    for (inline_max, pin_threads) in [(Duration::ZERO, true), (Duration::from_nanos(1), false), (LONG, false)]
    {
        let executor = Arc::new(executor(2, inline_max, pin_threads));
        runtime.block_on(async {
            let mut callers = JoinSet::new();
            (0..48).for_each(|seed| drop(callers.spawn(caller(Arc::clone(&executor), seed))));
            let all = tokio::time::timeout(LONG, callers.join_all()).await.expect("no caller is forgotten");
            assert!(all.into_iter().sum::<usize>() >= 48 * 48);
        });
        assert_eq!(executor.pending_rows(), 0);
    }
}

const LONG: Duration = Duration::from_secs(60);
