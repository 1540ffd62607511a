//! The golden files of a real data folder (`ENDCAP_DATA`), through the same code that workers run. Without the folder
//! each test reads as ignored, by name.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use endcap_bundle::EncoderSpec;
use endcap_inference::{
    Encoder, Executor, ExecutorOptions, ModelOptions, Runtime, RuntimeOptions, Tensor, TensorData,
};
use libtest_mimic::{Arguments, Failed, Trial};
use serde::{Deserialize, de::DeserializeOwned};

const TOLERANCE: f32 = 1e-4;
const OPTIONS: ModelOptions = ModelOptions {
    threads: 1,
    max_batch_rows: 256,
    max_batch_rows_cuda: 256,
    queue_rows: 1000,
    inline_max: Duration::from_millis(2),
    pin_threads: false,
    graph_min_items: 300_000,
};

fn main() -> std::process::ExitCode {
    let arguments = Arguments::from_args();
    let data = std::env::var_os("ENDCAP_DATA").filter(|folder| !folder.is_empty()).map(PathBuf::from);
    let ignored = data.is_none();
    let folder = data.unwrap_or_default();
    let (one, two) = (folder.clone(), folder);
    let tests = vec![
        Trial::test("the_encoders_golden_file_is_reproduced", move || encoder(&one))
            .with_ignored_flag(ignored),
        Trial::test("the_rankers_golden_file_is_reproduced", move || ranker(&two)).with_ignored_flag(ignored),
    ];
    libtest_mimic::run(&arguments, tests).exit_code()
}

#[derive(Deserialize)]
struct GoldenText {
    text: String,
    embedding: Vec<f32>,
}

#[derive(Deserialize)]
struct GoldenRanker {
    cases: Vec<GoldenCase>,
}

#[derive(Deserialize)]
struct GoldenCase {
    features: Vec<Vec<f32>>,
    score: Vec<f32>,
}

fn encoder(data: &Path) -> Result<(), Failed> {
    let spec = EncoderSpec {
        file: "encoder_fp32.onnx".into(),
        tokenizer: "tokenizer.json".into(),
        input_ids: "input_ids".into(),
        attention_mask: "attention_mask".into(),
        output: "sentence_embedding".into(),
        dim: 384,
        max_tokens: 128,
    };
    let encoder = Encoder::load(&Runtime::load(&RuntimeOptions::default())?, data, &spec, &OPTIONS)?;
    let golden: Vec<GoldenText> = read(data, "encoder_golden.json")?;
    for GoldenText { text, embedding } in golden {
        let found = encoder.encode_blocking(&text)?;
        near(&embedding, &found).map_err(|error| format!("{text:?}: {error}"))?;
    }
    Ok(())
}

fn ranker(data: &Path) -> Result<(), Failed> {
    let options = ExecutorOptions {
        file: "ranker.onnx".into(),
        inputs: vec!["features".into()],
        output: "score".into(),
        threads: 1,
        max_batch_rows: 1024,
        queue_rows: 10_000,
        inline_max: OPTIONS.inline_max,
        pin_threads: false,
    };
    let runtime = Runtime::load(&RuntimeOptions::default())?;
    let executor = Executor::start(&runtime, &data.join("ranker.onnx"), options)?;
    let golden: GoldenRanker = read(data, "ranker_golden.json")?;
    for case in golden.cases {
        let rows = case.features.len();
        let width = case.features[0].len();
        let data = TensorData::F32(case.features.into_iter().flatten().collect());
        let ran = executor.run_blocking(vec![Tensor { width, data }], rows)?;
        near(&case.score, &ran.output)?;
    }
    Ok(())
}

fn read<T: DeserializeOwned>(data: &Path, file: &str) -> Result<T, Failed> {
    Ok(serde_json::from_slice(&std::fs::read(data.join(file))?)?)
}

fn near(expected: &[f32], found: &[f32]) -> Result<(), String> {
    if expected.len() != found.len() {
        return Err(format!("{} numbers; expected {}", found.len(), expected.len()));
    }
    for (i, (expected, found)) in expected.iter().zip(found).enumerate() {
        if (expected - found).abs() > TOLERANCE {
            return Err(format!("number {i} is {found}; expected {expected}"));
        }
    }
    Ok(())
}
