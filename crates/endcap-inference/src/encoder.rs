//! The query encoder: tokenizer and model.

use std::path::Path;

use endcap_bundle::{EncoderSpec, in_background};
use tokenizers::{Tokenizer, TruncationParams};

use crate::{
    Executor, ExecutorOptions, InferError, LoadError, Runtime, Tensor, TensorData, version::ModelOptions,
};

/// Turns a text into a vector of unit length.
#[derive(Debug)]
pub struct Encoder {
    tokenizer: Tokenizer,
    executor: Executor,
    dim: usize,
}

impl Encoder {
    /// Loads tokenizer and model from a folder. Blocking.
    pub fn load(
        runtime: &Runtime,
        folder: &Path,
        spec: &EncoderSpec,
        options: &ModelOptions,
    ) -> Result<Self, LoadError> {
        let refused = |detail: String| LoadError::Tokenizer { file: spec.tokenizer.clone(), detail };
        let mut tokenizer =
            Tokenizer::from_file(folder.join(&spec.tokenizer)).map_err(|error| refused(error.to_string()))?;
        // Padding to a fixed length costs seven times the run; a batch here has one length anyway.
        tokenizer.with_padding(None);
        let truncation = TruncationParams { max_length: spec.max_tokens, ..TruncationParams::default() };
        tokenizer.with_truncation(Some(truncation)).map_err(|error| refused(error.to_string()))?;
        let executor = Executor::start(
            runtime,
            &folder.join(&spec.file),
            ExecutorOptions {
                file: spec.file.clone(),
                inputs: vec![spec.input_ids.clone(), spec.attention_mask.clone()],
                output: spec.output.clone(),
                threads: options.threads,
                // Texts in one run would save little and cost the first one time; and an encoder that is quantized
                // dynamically would give each of them a vector that depends on the others.
                max_batch_rows: 1,
                queue_rows: options.queue_rows,
                inline_max: options.inline_max,
                pin_threads: options.pin_threads,
            },
        )?;
        let encoder = Self { tokenizer, executor, dim: spec.dim };
        in_background(|| encoder.warm_up(spec))?;
        Ok(encoder)
    }

    fn warm_up(&self, spec: &EncoderSpec) -> Result<(), LoadError> {
        let refused = |detail: String| LoadError::WarmUp { file: spec.file.clone(), detail };
        let longest = spec.max_tokens.max(1);
        let lengths = std::iter::once(longest).chain((0..longest.ilog2()).rev().map(|power| 1 << power));
        let texts = lengths.map(|tokens| (inputs(vec![1; tokens], vec![1; tokens]), 1));
        let width = self.executor.warm_up(texts).map_err(|error| refused(error.to_string()))?;
        if width != self.dim {
            return Err(refused(format!("vectors have {width} numbers; expected {}", self.dim)));
        }
        Ok(())
    }

    pub fn dim(&self) -> usize {
        self.dim
    }

    pub(crate) fn executor(&self) -> &Executor {
        &self.executor
    }

    /// Encodes one text.
    pub async fn encode(&self, text: &str, deadline: tokio::time::Instant) -> Result<Vec<f32>, InferError> {
        self.vector(self.executor.run(self.tokenize(text)?, 1, deadline).await?.output)
    }

    /// The same from a thread that may block.
    pub fn encode_blocking(&self, text: &str) -> Result<Vec<f32>, InferError> {
        self.vector(self.executor.run_blocking(self.tokenize(text)?, 1)?.output)
    }

    fn vector(&self, output: Vec<f32>) -> Result<Vec<f32>, InferError> {
        if output.len() == self.dim && output.iter().all(|value| value.is_finite()) {
            return Ok(output);
        }
        Err(InferError::Failed { detail: "the encoder gave a vector that is not one".to_owned() })
    }

    fn tokenize(&self, text: &str) -> Result<Vec<Tensor>, InferError> {
        let encoding = self
            .tokenizer
            .encode_fast(text, true)
            .map_err(|error| InferError::Failed { detail: format!("tokenize: {error}") })?;
        let mut ids: Vec<i64> = encoding.get_ids().iter().map(|id| i64::from(*id)).collect();
        let mut mask: Vec<i64> = encoding.get_attention_mask().iter().map(|one| i64::from(*one)).collect();
        if ids.is_empty() {
            // A text without any token: one masked position gives the models a shape and no content.
            (ids, mask) = (vec![0], vec![0]);
        }
        Ok(inputs(ids, mask))
    }
}

fn inputs(ids: Vec<i64>, mask: Vec<i64>) -> Vec<Tensor> {
    let width = ids.len();
    [ids, mask].map(|values| Tensor { width, data: TensorData::I64(values) }).into()
}
