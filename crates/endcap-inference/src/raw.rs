//! A version's models as they are: what each takes and gives, and runs on rows that a caller made.

use endcap_bundle::Bundle;
use endcap_types::DType;

use crate::{
    Encoder, Executor, InferError, LoadError, Ran, Statistics, Tensor, VersionModel, binding::Binding,
};

/// One of a version's models.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    Ranker,
    Encoder,
}

/// Numbers per row of an input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Width {
    Fixed(usize),
    /// As many as the caller likes, from 1; the same for every such input of a request.
    UpTo(usize),
}

/// An input, `[rows, width]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InputSignature {
    pub name: String,
    pub dtype: DType,
    pub width: Width,
}

/// What a model takes and gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    /// In the order in which [`VersionModel::infer`] takes them.
    pub inputs: Vec<InputSignature>,
    pub output: String,
    /// Dimensions of the output, f32, rows first; -1 for the number of rows.
    pub output_shape: Vec<i64>,
    /// Most rows of one request.
    pub max_rows: usize,
}

/// Of a version's models.
#[derive(Debug)]
pub(crate) struct Signatures {
    ranker: Signature,
    encoder: Option<Signature>,
}

/// Texts in one raw call of the encoder, which runs them one after the other.
const MOST_TEXTS: usize = 8;

impl Signatures {
    pub(crate) fn read(bundle: &Bundle, binding: &Binding, ranker: &Executor) -> Result<Self, LoadError> {
        let spec = bundle.spec();
        let inputs = binding.inputs.iter().map(|input| InputSignature {
            name: input.name.clone(),
            dtype: input.dtype,
            width: Width::Fixed(input.width),
        });
        // A score per row: the graph says whether as a column of its own. One that does not say gives a column.
        let output = &spec.ranker.output;
        let flat = bundle.output_dims(&spec.ranker.file, output)?.is_some_and(|dims| dims.len() == 1);
        let ranker = Signature {
            inputs: inputs.collect(),
            output: output.clone(),
            output_shape: if flat { vec![-1] } else { vec![-1, 1] },
            max_rows: ranker.max_batch_rows(),
        };
        let encoder = spec.encoder.as_ref().map(|spec| Signature {
            inputs: [&spec.input_ids, &spec.attention_mask]
                .map(|name| InputSignature {
                    name: name.clone(),
                    dtype: DType::I64,
                    width: Width::UpTo(spec.max_tokens),
                })
                .into(),
            output: spec.output.clone(),
            output_shape: vec![-1, i64::try_from(spec.dim).unwrap_or(i64::MAX)],
            max_rows: MOST_TEXTS,
        });
        Ok(Self { ranker, encoder })
    }
}

impl VersionModel {
    /// What a model takes and gives; nothing for an encoder that the version does not have.
    pub fn signature(&self, part: Part) -> Option<&Signature> {
        match part {
            Part::Ranker => Some(&self.signatures().ranker),
            Part::Encoder => self.signatures().encoder.as_ref(),
        }
    }

    /// What a model has done since it was loaded, whoever asked.
    pub fn statistics(&self, part: Part) -> Option<Statistics> {
        Some(self.executor(part)?.statistics())
    }

    /// Runs a model on rows as they are: `inputs` must be what its [`Signature`] says, `rows` from 1 to its `max_rows`.
    ///
    /// # Errors
    /// Besides those of every run, [`InferError::Refused`] when the model refuses these very values.
    pub async fn infer(
        &self,
        part: Part,
        inputs: Vec<Tensor>,
        rows: usize,
        deadline: tokio::time::Instant,
    ) -> Result<Ran, InferError> {
        self.executor(part).ok_or(InferError::NoEncoder)?.run(inputs, rows, deadline).await
    }

    fn executor(&self, part: Part) -> Option<&Executor> {
        match part {
            Part::Ranker => Some(self.ranker()),
            Part::Encoder => self.encoder().map(Encoder::executor),
        }
    }
}
