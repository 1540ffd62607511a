//! One version's models on a worker, shared by its shards.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use endcap_bundle::{Bundle, GoldenRequest, ItemTable, Precision, in_background};
use endcap_types::{DType, FeatureName, FeatureValue};

use crate::{
    Encoder, Executor, ExecutorOptions, GoldenMismatch, InferError, LoadError, QueryFeatures, Runtime,
    ShardTable, Tensor, TensorData,
    binding::Binding,
    golden::{self, Tolerance},
    index::VectorOptions,
    raw::Signatures,
};

/// How a version's models are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ModelOptions {
    /// Threads of each model, one session each.
    pub threads: usize,
    pub max_batch_rows: usize,
    /// The same on a GPU, which smaller batches leave idle.
    pub max_batch_rows_cuda: usize,
    /// Rows that may wait.
    pub queue_rows: usize,
    /// Longest run that a request makes on its own thread.
    pub inline_max: Duration,
    pub pin_threads: bool,
    /// Items of a shard from which a graph finds the nearest vectors.
    pub graph_min_items: usize,
}

impl Default for ModelOptions {
    fn default() -> Self {
        Self {
            threads: 1,
            max_batch_rows: 1024,
            max_batch_rows_cuda: 8192,
            queue_rows: 20_000,
            inline_max: Duration::from_millis(2),
            pin_threads: false,
            graph_min_items: 300_000,
        }
    }
}

/// Scores of some items, and where the time went.
#[derive(Debug, Clone, PartialEq)]
pub struct Ranked {
    /// One per item, in the order asked; all finite.
    pub scores: Vec<f32>,
    pub assembled: Duration,
    pub queued: Duration,
    pub inferred: Duration,
}

/// Ranker and encoder of one version.
#[derive(Debug)]
pub struct VersionModel {
    binding: Binding,
    ranker: Executor,
    encoder: Option<Encoder>,
    signatures: Signatures,
    memory_bytes: u64,
    vectors: VectorOptions,
    tolerance: Tolerance,
}

impl VersionModel {
    /// Loads, binds and warms the models. Blocking. The bundle's files must have been verified.
    pub fn load(runtime: &Runtime, bundle: &Bundle, options: &ModelOptions) -> Result<Self, LoadError> {
        let spec = bundle.spec();
        let binding = Binding::compile(spec, &bundle.features()?, bundle.lexical()?)?;
        let largest = if runtime.is_cuda() { options.max_batch_rows_cuda } else { options.max_batch_rows };
        let ranker = Executor::start(
            runtime,
            &bundle.path(&spec.ranker.file),
            ExecutorOptions {
                file: spec.ranker.file.clone(),
                inputs: binding.inputs.iter().map(|input| input.name.clone()).collect(),
                output: spec.ranker.output.clone(),
                threads: options.threads,
                max_batch_rows: largest,
                queue_rows: options.queue_rows,
                inline_max: options.inline_max,
                pin_threads: options.pin_threads,
            },
        )?;
        let encoder = spec.encoder.as_ref().map(|spec| Encoder::load(runtime, bundle.dir(), spec, options));
        let encoder = encoder.transpose()?;
        let signatures = Signatures::read(bundle, &binding, &ranker)?;
        let files = spec.encoder.iter().map(|encoder| &encoder.file).chain([&spec.ranker.file]);
        let sizes = files.filter_map(|file| bundle.manifest().files.get(file)).map(|entry| entry.size);
        let memory_bytes = sizes.sum::<u64>() * options.threads.max(1) as u64;
        let precision = spec.retrieval.as_ref().map_or(Precision::F32, |retrieval| retrieval.precision);
        let vectors = VectorOptions { precision, graph_min_items: options.graph_min_items };
        let quantized =
            spec.encoder.as_ref().map(|encoder| bundle.is_quantized(&encoder.file)).transpose()?;
        let tolerance = Tolerance::of(runtime, quantized.unwrap_or(false));
        let model = Self { binding, ranker, encoder, signatures, memory_bytes, vectors, tolerance };
        let golden = bundle.golden()?;
        in_background(|| {
            model.warm_up(&spec.ranker.file, largest)?;
            golden::check_batches(&model, &golden)
        })?;
        Ok(model)
    }

    /// Every power of two of rows up to the largest batch, that one first.
    fn warm_up(&self, file: &str, largest: usize) -> Result<(), LoadError> {
        let refused = |detail: String| LoadError::WarmUp { file: file.to_owned(), detail };
        let sizes = std::iter::once(largest).chain((0..largest.ilog2()).rev().map(|power| 1 << power));
        let zeros = sizes.map(|rows| {
            let inputs = self.binding.inputs.iter();
            let zeros = inputs.map(|input| Tensor {
                width: input.width,
                data: TensorData::zeros(input.dtype, input.width * rows),
            });
            (zeros.collect(), rows)
        });
        let width = self.ranker.warm_up(zeros).map_err(|error| refused(error.to_string()))?;
        if width == 1 { Ok(()) } else { Err(refused(format!("{width} scores per row; expected 1"))) }
    }

    /// Lays a shard's items out for this ranker, and for the version's own way to scan vectors.
    pub fn bind(&self, table: ItemTable) -> Result<ShardTable, LoadError> {
        let shard = ShardTable::build(&self.binding, table, self.vectors)?;
        match (self.dim(), shard.dim()) {
            (Some(expected), Some(found)) if expected != found && !shard.is_empty() => {
                Err(LoadError::Vectors {
                    feature: "the encoder".to_owned(),
                    expected: expected.to_string(),
                    found: found.to_string(),
                })
            }
            _ => Ok(shard),
        }
    }

    /// What of the rows depends on the request alone. What is not given stays at its default.
    pub fn query_features(
        &self,
        query: &str,
        vector: Option<&[f32]>,
        given: BTreeMap<FeatureName, FeatureValue>,
    ) -> Result<QueryFeatures, InferError> {
        self.binding.query_features(query, vector, given)
    }

    /// dtype and width of a feature that requests may bring, if the ranker reads it.
    pub fn given_feature(&self, name: &FeatureName) -> Option<(DType, usize)> {
        let slot = self.binding.given.iter().find(|slot| slot.spec.name == *name)?;
        Some((slot.spec.dtype, slot.spec.width))
    }

    pub async fn encode(&self, query: &str, deadline: tokio::time::Instant) -> Result<Vec<f32>, InferError> {
        self.encoder.as_ref().ok_or(InferError::NoEncoder)?.encode(query, deadline).await
    }

    /// Scores items of a shard.
    pub async fn rank(
        &self,
        shard: &ShardTable,
        rows: &[u32],
        query: &QueryFeatures,
        deadline: tokio::time::Instant,
    ) -> Result<Ranked, InferError> {
        let started = Instant::now();
        if rows.is_empty() {
            let zero = Duration::ZERO;
            return Ok(Ranked { scores: Vec::new(), assembled: zero, queued: zero, inferred: zero });
        }
        let inputs = self.binding.assemble(shard, rows, query, self.ranker.buffers());
        let assembled = started.elapsed();
        let ran = self.ranker.run(inputs, rows.len(), deadline).await?;
        if let Some(bad) = ran.output.iter().position(|score| !score.is_finite()) {
            return Err(InferError::NotFinite { item_id: shard.item_id(rows[bad]).to_owned() });
        }
        Ok(Ranked { scores: ran.output, assembled, queued: ran.queued, inferred: ran.inferred })
    }

    /// Answers the golden requests: the recorded rows must give the recorded scores, the query the recorded vector,
    /// and, for items of `shard`, the worker's own rows must equal the recorded ones. Gives how far the farthest of the
    /// scores and of the vector's numbers is from the recorded one, absolute or relative, whichever is less. Blocking.
    pub fn check_golden(
        &self,
        golden: &[GoldenRequest],
        shard: Option<&ShardTable>,
    ) -> Result<f32, GoldenMismatch> {
        golden::check(self, golden, shard)
    }

    /// Length of query vectors, if the version has an encoder.
    pub fn dim(&self) -> Option<usize> {
        self.encoder.as_ref().map(Encoder::dim)
    }

    /// What the models take, by the size of their files.
    pub fn memory_bytes(&self) -> u64 {
        self.memory_bytes
    }

    /// Rows that wait for the ranker now.
    pub fn pending_rows(&self) -> usize {
        self.ranker.pending_rows()
    }

    pub(crate) fn tolerance(&self) -> Tolerance {
        self.tolerance
    }

    pub(crate) fn binding(&self) -> &Binding {
        &self.binding
    }

    pub(crate) fn ranker(&self) -> &Executor {
        &self.ranker
    }

    pub(crate) fn encoder(&self) -> Option<&Encoder> {
        self.encoder.as_ref()
    }
    pub(crate) fn signatures(&self) -> &Signatures {
        &self.signatures
    }
}
