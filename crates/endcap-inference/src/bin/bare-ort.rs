//! `bare-ort MODEL.onnx ROWS IDS_BELOW SECONDS [cuda]`: the floor under every server: ONNX Runtime in a loop on one thread, nothing else.
//! Prints runs a second. Inputs are `dense` f32 `[rows, 64]` and `ids` i64 `[rows, 8]`, as of `deploy/bench/model.py`; ids
//! are drawn as `endcap bench` draws them, so many different requests in turn: rows of a table that are looked up in order,
//! or again and again, are in the processor's own cache, and a run of 200 rows then takes a tenth less time.
#![expect(clippy::print_stdout, reason = "its output is its result")]

use std::time::{Duration, Instant};

use ort::{
    ep,
    logging::LogLevel,
    session::{Session, SessionInputValue, builder::GraphOptimizationLevel},
    value::Tensor,
};

const DENSE: usize = 64;
const TABLES: usize = 8;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (model, rows, ids_below, seconds, cuda) = match arguments.as_slice() {
        [model, rows, ids_below, seconds] => (model, rows, ids_below, seconds, false),
        [model, rows, ids_below, seconds, device] if device == "cuda" => {
            (model, rows, ids_below, seconds, true)
        }
        _ => return Err("usage: bare-ort MODEL.onnx ROWS IDS_BELOW SECONDS [cuda]".into()),
    };
    let (rows, ids_below, seconds): (usize, u64, f64) = (rows.parse()?, ids_below.parse()?, seconds.parse()?);
    let library =
        std::env::var("ORT_DYLIB_PATH").map_err(|_| "set ORT_DYLIB_PATH to ONNX Runtime's library")?;
    let environment = ort::init_from(library)?.with_telemetry(false).build()?;
    environment.set_log_level(LogLevel::Warning);
    // As Endcap's workers make theirs.
    let mut builder = Session::builder(&environment)?
        .with_optimization_level(GraphOptimizationLevel::All)?
        .with_intra_threads(1)?
        .with_inter_threads(1)?;
    if cuda {
        let provider = ep::CUDA::default().with_tf32(false).build().error_on_failure();
        builder = builder.with_execution_providers([provider])?;
    }
    let mut session = builder.commit_from_file(model)?;
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    // As many different ones as `endcap bench` draws.
    let distinct = (25_600 / rows.max(1)).clamp(16, 128);
    let requests: Vec<_> = (0..distinct).map(|_| ids(&mut state, rows * TABLES, ids_below)).collect();
    run_for(&mut session, rows, &requests, Duration::from_secs_f64(seconds / 5.0))?;
    println!("{:.3}", run_for(&mut session, rows, &requests, Duration::from_secs_f64(seconds))?);
    Ok(())
}

fn ids(state: &mut u64, count: usize, below: u64) -> Vec<i64> {
    let mut next = || {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        (*state >> 20) % below.max(1)
    };
    (0..count).map(|_| next() as i64).collect()
}

fn run_for(
    session: &mut Session,
    rows: usize,
    requests: &[Vec<i64>],
    duration: Duration,
) -> ort::Result<f64> {
    let dense: Vec<f32> = (0..rows * DENSE).map(|i| (i % 97) as f32 / 97.0 - 0.5).collect();
    let started = Instant::now();
    let mut runs = 0;
    for ids in requests.iter().cycle() {
        if started.elapsed() >= duration {
            break;
        }
        // New tensors each time: a server's inputs are new, too.
        let inputs: Vec<(&str, SessionInputValue<'_>)> = vec![
            ("dense", Tensor::from_array(([rows, DENSE], dense.clone()))?.into()),
            ("ids", Tensor::from_array(([rows, TABLES], ids.clone()))?.into()),
        ];
        let outputs = session.run(inputs)?;
        std::hint::black_box(outputs["score"].try_extract_tensor::<f32>()?.1[0]);
        runs += 1;
    }
    Ok(f64::from(runs) / started.elapsed().as_secs_f64())
}
