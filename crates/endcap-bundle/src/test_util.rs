//! Tiny bundles that ONNX Runtime can really run, for tests: a bag-of-words encoder and a linear ranker, with every
//! expected number computed here.

pub mod graphs;
mod models;
pub mod s3;

use std::{collections::BTreeMap, path::Path, sync::Arc};

use arrow::{
    array::{ArrayRef, FixedSizeListArray, Float32Array, RecordBatch, StringArray},
    datatypes::{DataType, Field, Schema},
};
use endcap_types::{
    Compute, DType, FeatureName, FeatureSpec, FeatureValue, RetrievalMode, Retriever, ShardCount, Standing,
};
use serde_json::json;

use crate::{
    Bundle, BundleError, EncoderSpec, Evaluation, FeatureSchema, GoldenRequest, InputBinding, LabelledQuery,
    ModelSpec, PackOptions, Popular, Precision, RankerSpec, RetrievalSpec, assemble, items,
};

/// What a tiny bundle is like. Equal options give equal bytes.
#[derive(Debug, Clone, PartialEq)]
pub struct TinyOptions {
    pub items: usize,
    pub dim: usize,
    pub seed: u64,
    /// Goes into the lineage: two variants differ in their digest.
    pub variant: String,
    /// Multiplies every weight of the ranker: two scales differ in their scores.
    pub weight_scale: f32,
    /// Unless dense, the ranker also reads where items stand in the whole catalogue's lists.
    pub mode: RetrievalMode,
}

impl Default for TinyOptions {
    fn default() -> Self {
        Self {
            items: 120,
            dim: 8,
            seed: 7,
            variant: "a".to_owned(),
            weight_scale: 1.0,
            mode: RetrievalMode::Dense,
        }
    }
}

/// Words that items and queries are made of; the tokenizer knows these and no others.
const WORDS: [&str; 12] =
    ["red", "blue", "green", "small", "large", "kettle", "lamp", "chair", "table", "mug", "without", "steel"];
const DEPTH: u32 = 60;
/// Ranker weights, in the order of [`FEATURES`].
const WEIGHTS: [f32; 5] = [2.0, 0.25, 0.5, 0.125, 0.03125];
const FEATURES: [&str; 5] =
    ["match.cosine", "match.overlap_name", "item.rating", "user.affinity", "context.hour"];
/// The same for what follows from the whole catalogue's lists.
const LIST_WEIGHTS: [f32; 4] = [1.0, 0.5, 0.25, 0.5];
const LIST_FEATURES: [&str; 4] = ["match.rrf", "match.below_top", "match.over_top", "match.word_rank"];
/// Items of each list.
const LIST_DEPTH: u32 = 20;
/// The best similarity, as golden requests have it.
const GOLDEN_TOP: f32 = 0.5;
/// Rating of items that have none.
const DEFAULT_RATING: f32 = 3.0;

/// Makes a tiny bundle in `dir/bundle`, from a source in `dir/source`.
pub fn tiny_bundle(dir: &Path, options: &TinyOptions, shards: ShardCount) -> Result<Bundle, BundleError> {
    let source = dir.join("source");
    tiny_source(&source, options)?;
    let pack = PackOptions { shards, created: "2026-01-01T00:00:00Z".to_owned() };
    assemble(&source, &dir.join("bundle"), &pack, &())
}

/// Writes the source folder of a tiny bundle of the model `tiny`; makes the folder if need be.
pub fn tiny_source(dir: &Path, options: &TinyOptions) -> Result<(), BundleError> {
    std::fs::create_dir_all(dir).map_err(BundleError::io("create", dir))?;
    let tiny = Tiny::new(options);
    let write = |file: &str, bytes: Vec<u8>| {
        let path = dir.join(file);
        std::fs::write(&path, bytes).map_err(BundleError::io("write", &path))
    };
    write("model.json", to_json(&tiny.spec())?)?;
    write("features.json", to_json(&schema(options.mode))?)?;
    write("ranker.onnx", models::ranker(&tiny.weights))?;
    write("encoder.onnx", models::encoder(&tiny.embeddings, options.dim))?;
    write("tokenizer.json", to_json(&models::tokenizer(&WORDS))?)?;
    write("popular.json", to_json(&tiny.popular())?)?;
    write("golden.jsonl", lines(&tiny.golden())?)?;
    write("labels.jsonl", lines(&tiny.labels())?)?;
    write("evaluation.json", to_json(&Evaluation::default())?)?;
    items::write_batch(&tiny.batch()?, &dir.join("items.parquet"), "items.parquet")
}

struct Tiny {
    options: TinyOptions,
    names: Vec<String>,
    ratings: Vec<Option<f32>>,
    prices: Vec<f32>,
    weights: Vec<f32>,
    /// Row 0 is the unknown word's.
    embeddings: Vec<f32>,
}

impl Tiny {
    fn new(options: &TinyOptions) -> Self {
        let mut random = Random(options.seed);
        let embeddings = (0..(WORDS.len() + 1) * options.dim).map(|_| random.unit() * 2.0 - 1.0).collect();
        let name = |random: &mut Random| {
            [&WORDS[..3], &WORDS[3..5], &WORDS[5..10]].map(|words| words[random.below(words.len())]).join(" ")
        };
        let names = (0..options.items).map(|_| name(&mut random)).collect();
        let ratings = (0..options.items).map(|i| (i % 7 != 3).then(|| 1.0 + random.unit() * 4.0)).collect();
        let prices = (0..options.items).map(|_| (random.unit() * 100.0).round()).collect();
        let listed = if options.mode == RetrievalMode::Dense { &[][..] } else { &LIST_WEIGHTS };
        let weights = WEIGHTS.iter().chain(listed).map(|weight| weight * options.weight_scale).collect();
        Self { options: options.clone(), names, ratings, prices, weights, embeddings }
    }

    fn id(row: usize) -> String {
        format!("item-{row:05}")
    }

    fn ids(&self) -> Vec<String> {
        (0..self.options.items).map(Self::id).collect()
    }

    /// What the encoder makes of a text.
    fn vector(&self, text: &str) -> Vec<f32> {
        let dim = self.options.dim;
        let mut sum = vec![0.0; dim];
        for word in text.to_lowercase().split_whitespace() {
            let token = WORDS.iter().position(|known| *known == word).map_or(0, |i| i + 1);
            for (sum, value) in sum.iter_mut().zip(&self.embeddings[token * dim..]) {
                *sum += value;
            }
        }
        let norm = sum.iter().map(|value| value * value).sum::<f32>().sqrt();
        sum.iter().map(|value| if norm > 0.0 { value / norm } else { 0.0 }).collect()
    }

    fn spec(&self) -> ModelSpec {
        let listed = self.options.mode != RetrievalMode::Dense;
        let also = if listed { &LIST_FEATURES[..] } else { &[] };
        let features = FEATURES.iter().chain(also).map(|name| feature(name)).collect();
        let words = if listed { vec!["name".to_owned(), "brand".to_owned()] } else { Vec::new() };
        ModelSpec {
            model: "tiny".parse().unwrap_or_else(|_| unreachable!("a valid name")),
            ranker: RankerSpec {
                file: "ranker.onnx".to_owned(),
                inputs: vec![InputBinding { name: "features".to_owned(), features }],
                output: "score".to_owned(),
            },
            encoder: Some(EncoderSpec {
                file: "encoder.onnx".to_owned(),
                tokenizer: "tokenizer.json".to_owned(),
                input_ids: "input_ids".to_owned(),
                attention_mask: "attention_mask".to_owned(),
                output: "vector".to_owned(),
                dim: self.options.dim,
                max_tokens: 32,
            }),
            retrieval: Some(RetrievalSpec {
                mode: self.options.mode,
                depth: DEPTH,
                list_depth: LIST_DEPTH,
                lexical_columns: words,
                precision: Precision::F32,
            }),
            lineage: BTreeMap::from([("variant".to_owned(), self.options.variant.clone())]),
        }
    }

    fn row(&self, item: usize, query: &str, query_vector: &[f32], given: [f32; 2]) -> Vec<f32> {
        let vector = self.vector(&self.names[item]);
        let cosine = vector.iter().zip(query_vector).map(|(a, b)| a * b).sum();
        let words: std::collections::BTreeSet<_> = query.split_whitespace().collect();
        let overlap = words.iter().filter(|word| self.names[item].split(' ').any(|w| w == **word)).count();
        let overlap = u16::try_from(overlap).map_or(0.0, f32::from);
        let rating = self.ratings[item].unwrap_or(DEFAULT_RATING);
        let mut row = vec![cosine, overlap, rating, given[0], given[1]];
        if self.options.mode != RetrievalMode::Dense {
            let [dense, lexical] = golden_ranks(item);
            let inverse = |k: f32, rank: u32| {
                let listed = (1..=LIST_DEPTH).contains(&rank);
                if listed { 1.0 / (k + u16::try_from(rank).map_or(0.0, f32::from)) } else { 0.0 }
            };
            let fused = 60.0 * (inverse(60.0, dense) + inverse(60.0, lexical));
            row.extend([fused, cosine - GOLDEN_TOP, 0.0, inverse(0.0, lexical)]);
        }
        row
    }

    fn golden(&self) -> Vec<GoldenRequest> {
        let queries = ["red kettle", "blue lamp without steel", "large green chair", "unheard of"];
        queries
            .iter()
            .zip([[0.0, 12.0], [1.5, 12.0], [0.0, 3.0], [-1.0, 23.0]])
            .map(|(query, given)| {
                let query_vector = self.vector(query);
                let items: Vec<usize> = (0..self.options.items).step_by(3).take(20).collect();
                let rows: Vec<_> =
                    items.iter().map(|item| self.row(*item, query, &query_vector, given)).collect();
                let score = |row: &Vec<f32>| row.iter().zip(&self.weights).map(|(x, w)| x * w).sum();
                GoldenRequest {
                    query: (*query).to_owned(),
                    features: BTreeMap::from([
                        (feature("user.affinity"), FeatureValue::F32(vec![given[0]])),
                        (feature("context.hour"), FeatureValue::F32(vec![given[1]])),
                    ]),
                    query_vector: Some(query_vector),
                    standing: self.golden_standing(&items),
                    item_ids: items.iter().map(|item| Self::id(*item)).collect(),
                    scores: rows.iter().map(score).collect(),
                    inputs: BTreeMap::from([(
                        "features".to_owned(),
                        rows.into_iter().map(FeatureValue::F32).collect(),
                    )]),
                }
            })
            .collect()
    }

    fn golden_standing(&self, items: &[usize]) -> Option<Standing> {
        let ranks = |list: usize| items.iter().map(|item| golden_ranks(*item)[list]).collect();
        (self.options.mode != RetrievalMode::Dense).then(|| Standing {
            dense_top: GOLDEN_TOP,
            // Nothing has a word of the query: what BM25 makes of the words is no business of this.
            lexical_top: 0.0,
            dense_ranks: ranks(0),
            lexical_ranks: ranks(1),
        })
    }

    fn labels(&self) -> Vec<LabelledQuery> {
        ["red kettle", "blue lamp"]
            .iter()
            .enumerate()
            .map(|(i, query)| {
                let exact = |name: &str| query.split(' ').all(|word| name.contains(word));
                let gains = self.names.iter().enumerate().filter(|(_, name)| exact(name));
                LabelledQuery {
                    query_id: format!("q{i}"),
                    query: (*query).to_owned(),
                    gains: gains.map(|(row, _)| (Self::id(row), 1.0)).collect(),
                }
            })
            .collect()
    }

    fn popular(&self) -> Popular {
        let mut rows: Vec<usize> = (0..self.options.items).collect();
        rows.sort_by(|a, b| {
            self.ratings[*b]
                .unwrap_or_default()
                .total_cmp(&self.ratings[*a].unwrap_or_default())
                .then(a.cmp(b))
        });
        Popular { overall: rows.into_iter().take(50).map(Self::id).collect(), segments: BTreeMap::new() }
    }

    fn batch(&self) -> Result<RecordBatch, BundleError> {
        let failed = |error: arrow::error::ArrowError| BundleError::Parquet {
            file: "items.parquet".to_owned(),
            detail: error.to_string(),
        };
        let dim = self.options.dim;
        let vectors: Vec<f32> = self.names.iter().flat_map(|name| self.vector(name)).collect();
        let item = Arc::new(Field::new("item", DataType::Float32, true));
        let width = i32::try_from(dim).unwrap_or(i32::MAX);
        let vectors = FixedSizeListArray::try_new(item, width, Arc::new(Float32Array::from(vectors)), None);
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("item_id", Arc::new(StringArray::from(self.ids()))),
            ("name", Arc::new(StringArray::from(self.names.clone()))),
            ("brand", Arc::new(StringArray::from(vec!["Brasso"; self.options.items]))),
            ("price", Arc::new(Float32Array::from(self.prices.clone()))),
            ("rating", Arc::new(Float32Array::from(self.ratings.clone()))),
            ("vector", Arc::new(vectors.map_err(failed)?)),
        ];
        let fields: Vec<_> = columns
            .iter()
            .map(|(name, column)| Field::new(*name, column.data_type().clone(), true))
            .collect();
        let arrays = columns.into_iter().map(|(_, column)| column).collect();
        RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays).map_err(failed)
    }
}

/// Where golden requests place an item: some in neither list, some beyond where they are cut.
fn golden_ranks(item: usize) -> [u32; 2] {
    let rank = |step: usize| u32::try_from(item * step % 31).unwrap_or_default();
    [rank(1), rank(7)]
}

fn schema(mode: RetrievalMode) -> FeatureSchema {
    let spec = |name: &str, default: f32, compute: Option<Compute>| FeatureSpec {
        name: feature(name),
        dtype: DType::F32,
        width: 1,
        default: FeatureValue::F32(vec![default]),
        ttl_s: None,
        compute,
    };
    let overlap = Compute::TokenOverlap { column: "name".to_owned() };
    let mut schema = FeatureSchema {
        features: vec![
            spec("match.cosine", 0.0, Some(Compute::VectorScore)),
            spec("match.overlap_name", 0.0, Some(overlap)),
            spec("item.rating", DEFAULT_RATING, None),
            spec("user.affinity", 0.0, None),
            spec("context.hour", 12.0, None),
        ],
    };
    if mode != RetrievalMode::Dense {
        let word_rank = Compute::ReciprocalRank { list: Retriever::Lexical, depth: LIST_DEPTH };
        let listed = [
            Compute::ReciprocalRankFusion { k: 60, depth: LIST_DEPTH },
            Compute::VectorBelowTop,
            Compute::LexicalOverTop,
            word_rank,
        ];
        let specs = LIST_FEATURES.iter().zip(listed).map(|(name, compute)| spec(name, 0.0, Some(compute)));
        schema.features.extend(specs);
    }
    schema
}

fn feature(name: &str) -> FeatureName {
    name.parse().unwrap_or_else(|_| unreachable!("a valid name"))
}

fn to_json(value: &impl serde::Serialize) -> Result<Vec<u8>, BundleError> {
    serde_json::to_vec_pretty(&json!(value)).map_err(BundleError::json("a test's file"))
}

fn lines(values: &[impl serde::Serialize]) -> Result<Vec<u8>, BundleError> {
    let mut text = Vec::new();
    for value in values {
        serde_json::to_writer(&mut text, value).map_err(BundleError::json("a test's file"))?;
        text.push(b'\n');
    }
    Ok(text)
}

/// SplitMix64: small, seeded, the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    #[expect(clippy::cast_precision_loss, reason = "24 bits fit an f32")]
    fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1_u64 << 24) as f32
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit as u64).unwrap_or_default()
    }
}
