//! The ONNX files of tiny bundles, written by hand.

use bytes::Bytes;
use prost::Message as _;
use serde_json::json;

use crate::onnx::{
    Attribute, Dimension, FLOAT, Graph, INT64, Model, Node, OperatorSet, Shape, Tensor, TensorType,
    ValueInfo, ValueType,
};

const ATTRIBUTE_INT: i32 = 2;

/// `score[N, 1] = features[N, k] x weights[k, 1]`.
pub(super) fn ranker(weights: &[f32]) -> Vec<u8> {
    let k = weights.len() as i64;
    model(Graph {
        name: "ranker".to_owned(),
        node: vec![node("MatMul", &["features", "weights"], "score", &[])],
        initializer: vec![floats("weights", &[k, 1], weights)],
        input: vec![value("features", FLOAT, &[0, k])],
        output: vec![value("score", FLOAT, &[0, 1])],
    })
}

/// The unit-length sum of the tokens' embeddings.
pub(super) fn encoder(embeddings: &[f32], dim: usize) -> Vec<u8> {
    let (dim, rows) = (dim as i64, (embeddings.len() / dim) as i64);
    model(Graph {
        name: "encoder".to_owned(),
        node: vec![
            node("Gather", &["embeddings", "input_ids"], "tokens", &[]),
            node("Cast", &["attention_mask"], "mask", &[("to", FLOAT.into())]),
            node("Unsqueeze", &["mask", "last"], "mask3", &[]),
            node("Mul", &["tokens", "mask3"], "masked", &[]),
            node("ReduceSum", &["masked", "middle"], "sum", &[("keepdims", 0)]),
            node("LpNormalization", &["sum"], "vector", &[("axis", 1), ("p", 2)]),
        ],
        initializer: vec![floats("embeddings", &[rows, dim], embeddings), int("last", 2), int("middle", 1)],
        input: vec![value("input_ids", INT64, &[0, 0]), value("attention_mask", INT64, &[0, 0])],
        output: vec![value("vector", FLOAT, &[0, dim])],
    })
}

/// A word-level tokenizer; id 0 is the unknown word.
pub(super) fn tokenizer(words: &[&str]) -> serde_json::Value {
    let known = words.iter().enumerate().map(|(i, word)| ((*word).to_owned(), json!(i + 1)));
    let vocabulary: serde_json::Map<_, _> =
        std::iter::once(("[UNK]".to_owned(), json!(0))).chain(known).collect();
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
        "normalizer": { "type": "Lowercase" }, "pre_tokenizer": { "type": "Whitespace" },
        "post_processor": null, "decoder": null,
        "model": { "type": "WordLevel", "vocab": vocabulary, "unk_token": "[UNK]" },
    })
}

pub(super) fn model(graph: Graph) -> Vec<u8> {
    let opset = OperatorSet { domain: String::new(), version: 17 };
    Model { ir_version: 8, graph: Some(graph), opset_import: vec![opset], functions: Vec::new() }
        .encode_to_vec()
}

pub(super) fn node(op: &str, inputs: &[&str], output: &str, ints: &[(&str, i64)]) -> Node {
    Node {
        input: inputs.iter().map(ToString::to_string).collect(),
        output: vec![output.to_owned()],
        name: format!("make_{output}"),
        op_type: op.to_owned(),
        attribute: ints
            .iter()
            .map(|(name, i)| Attribute {
                name: (*name).to_owned(),
                i: *i,
                kind: ATTRIBUTE_INT,
                ..Attribute::default()
            })
            .collect(),
    }
}

pub(super) fn floats(name: &str, dims: &[i64], values: &[f32]) -> Tensor {
    let raw: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    Tensor {
        dims: dims.to_vec(),
        data_type: FLOAT,
        name: name.to_owned(),
        raw_data: Bytes::from(raw),
        ..Tensor::default()
    }
}

pub(super) fn int(name: &str, value: i64) -> Tensor {
    let raw_data = Bytes::copy_from_slice(&value.to_le_bytes());
    Tensor { dims: vec![1], data_type: INT64, name: name.to_owned(), raw_data, ..Tensor::default() }
}

/// A graph input or output; a dimension of 0 is dynamic.
pub(super) fn value(name: &str, elem_type: i32, dims: &[i64]) -> ValueInfo {
    let dim = dims.iter().enumerate().map(|(i, value)| Dimension {
        value: *value,
        param: if *value == 0 { format!("d{i}") } else { String::new() },
    });
    let shape = Some(Shape { dim: dim.collect() });
    let tensor = Some(TensorType { elem_type, shape });
    ValueInfo { name: name.to_owned(), value_type: Some(ValueType { tensor }) }
}
