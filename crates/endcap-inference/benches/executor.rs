//! What the executor costs beside the bare ONNX Runtime loop on the same model, in percent of the loop's speed.
//!
//! Both are run in turns in one process, and the median of the ratios is shown, so that other work on the machine
//! falls on both. `cargo bench -p endcap-inference`.
#![expect(clippy::unwrap_used, reason = "a benchmark fails by panicking")]

use std::time::{Duration, Instant};

use endcap_bundle::test_util::graphs;
use endcap_inference::{Executor, ExecutorOptions, Runtime, RuntimeOptions, Tensor, TensorData};
use ort::{session::Session, value::TensorRef};

const WIDTH: usize = 192;
const ROUNDS: usize = 201;
/// Rows of a request, and requests at once.
const CASES: [(usize, usize); 5] = [(1, 1), (32, 1), (200, 1), (1, 32), (200, 16)];

fn main() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ranker.onnx");
    std::fs::write(&path, graphs::dense(&[WIDTH, 256, 128])).unwrap();
    let runtime = Runtime::load(&RuntimeOptions::default()).unwrap();
    let mut bare = runtime.session(&path, "ranker.onnx").unwrap();
    let tokio = tokio::runtime::Builder::new_current_thread().build().unwrap();
    println!("rows  in flight  inline: bare us  executor us  percent   threads: percent");
    let executors = [Duration::from_millis(2), Duration::ZERO].map(|inline_max| {
        let executor = Executor::start(&runtime, &path, options(inline_max)).unwrap();
        executor
            .warm_up([1024, 512, 256, 128, 64, 32, 16, 8, 4, 2, 1].map(|rows| (ones(rows), rows)))
            .unwrap();
        executor
    });
    for (rows, in_flight) in CASES {
        let times = (2000 / (rows * in_flight)).clamp(3, 50);
        let mut rounds = Vec::new();
        for _ in 0..ROUNDS {
            let data = vec![1.0_f32; rows * WIDTH];
            let loops = timed(times * in_flight, || run_bare(&mut bare, &data, rows));
            let [inline, threads] = executors.each_ref().map(|executor| {
                timed(times, || tokio.block_on(run(executor, rows, in_flight))) / in_flight as f64
            });
            rounds.push((loops, inline, threads));
        }
        let median = |of: fn(&(f64, f64, f64)) -> f64| {
            let mut values: Vec<f64> = rounds.iter().map(of).collect();
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        };
        println!(
            "{rows:4}  {in_flight:9}  {:15.1}  {:11.1}  {:7.0}   {:16.0}",
            median(|round| round.0 * 1e6),
            median(|round| round.1 * 1e6),
            median(|round| 100.0 * round.0 / round.1),
            median(|round| 100.0 * round.0 / round.2),
        );
    }
}

/// Seconds per call.
fn timed(times: usize, mut call: impl FnMut()) -> f64 {
    let started = Instant::now();
    (0..times).for_each(|_| call());
    started.elapsed().as_secs_f64() / times as f64
}

fn run_bare(session: &mut Session, data: &[f32], rows: usize) {
    let input = TensorRef::from_array_view(([rows, WIDTH], data)).unwrap();
    let outputs = session.run(ort::inputs!["features" => input]).unwrap();
    assert_eq!(outputs["score"].try_extract_tensor::<f32>().unwrap().1.len(), rows);
}

/// As a request does it: rows are written into memory of an earlier one.
async fn run(executor: &Executor, rows: usize, in_flight: usize) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    let request = || async {
        let mut inputs = executor.buffers();
        match inputs.first_mut() {
            Some(Tensor { data: TensorData::F32(values), .. }) => {
                values.clear();
                values.resize(rows * WIDTH, 1.0);
            }
            _ => inputs = ones(rows),
        }
        assert_eq!(executor.run(inputs, rows, deadline).await.unwrap().output.len(), rows);
    };
    futures::future::join_all((0..in_flight).map(|_| request())).await;
}

fn ones(rows: usize) -> Vec<Tensor> {
    vec![Tensor { width: WIDTH, data: TensorData::F32(vec![1.0; rows * WIDTH]) }]
}

fn options(inline_max: Duration) -> ExecutorOptions {
    ExecutorOptions {
        file: "ranker.onnx".into(),
        inputs: vec!["features".into()],
        output: "score".into(),
        threads: 1,
        max_batch_rows: 1024,
        queue_rows: 10_000,
        inline_max,
        pin_threads: false,
    }
}
