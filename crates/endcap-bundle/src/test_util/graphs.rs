//! ONNX files with one property each, for tests of what runs them.

use crate::onnx::{FLOAT, Graph, INT64, Node};

use super::models::{floats, int, model, node, value};

/// A ranker `score[N, 1]` of `features[N, widths[0]]`: dense layers of these widths, and one of width 1.
pub fn dense(widths: &[usize]) -> Vec<u8> {
    let outputs = widths.iter().skip(1).copied().chain([1]);
    let (mut nodes, mut weights, mut from) = (Vec::new(), Vec::new(), "features".to_owned());
    for (layer, (rows, columns)) in widths.iter().copied().zip(outputs).enumerate() {
        let [name, product, to] = ["weights", "product", "layer"].map(|kind| format!("{kind}{layer}"));
        // Any numbers will do, if products neither grow nor vanish.
        let number = |i: usize| ((i * 7919 % 1009) as f32 / 504.0 - 1.0) / (rows as f32).sqrt();
        let values: Vec<f32> = (0..rows * columns).map(number).collect();
        weights.push(floats(&name, &[rows as i64, columns as i64], &values));
        nodes.push(node("MatMul", &[&from, &name], &product, &[]));
        nodes.push(node("Relu", &[&product], &to, &[]));
        from = to;
    }
    nodes.push(node("Identity", &[&from], "score", &[]));
    ranker(nodes, weights, widths[0])
}

/// `score[N, 1]` of `id[N, 1]`, an int64: the number at that place of a table. An id beyond it makes the run fail.
pub fn table(scores: &[f32]) -> Vec<u8> {
    model(Graph {
        name: "table".to_owned(),
        node: vec![node("Gather", &["scores", "id"], "score", &[])],
        initializer: vec![floats("scores", &[scores.len() as i64], scores)],
        input: vec![value("id", INT64, &[0, 1])],
        output: vec![value("score", FLOAT, &[0, 1])],
    })
}

/// What a row's score depends on beside the row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Neighbours {
    /// The mean over the run: wrong as soon as a row is not alone.
    Mean,
    /// Whether it stands behind the 17th place.
    Place,
    /// Whether the run has more than 30 rows.
    Number,
}

/// A linear ranker that mixes rows.
pub fn mixing(weights: &[f32], neighbours: Neighbours) -> Vec<u8> {
    let mut nodes = vec![node("MatMul", &["features", "weights"], "own", &[])];
    nodes.extend(match neighbours {
        Neighbours::Mean => vec![node("ReduceMean", &["own"], "other", &[("keepdims", 1)])],
        Neighbours::Place => vec![
            node("Mul", &["own", "zero"], "zeros", &[]),
            node("Add", &["zeros", "one"], "ones", &[]),
            node("CumSum", &["ones", "first"], "place", &[]),
            node("Greater", &["place", "seventeen"], "behind", &[]),
            node("Cast", &["behind"], "other", &[("to", FLOAT.into())]),
        ],
        Neighbours::Number => vec![
            node("Shape", &["features"], "shape", &[]),
            node("Gather", &["shape", "first"], "number", &[]),
            node("Greater", &["number", "thirty"], "many", &[]),
            node("Cast", &["many"], "other", &[("to", FLOAT.into())]),
        ],
    });
    nodes.push(node("Add", &["own", "other"], "score", &[]));
    let k = weights.len();
    let constants = vec![
        floats("weights", &[k as i64, 1], weights),
        floats("zero", &[1], &[0.0]),
        floats("one", &[1], &[1.0]),
        floats("seventeen", &[1], &[17.0]),
        int("first", 0),
        int("thirty", 30),
    ];
    ranker(nodes, constants, k)
}

fn ranker(node: Vec<Node>, initializer: Vec<crate::onnx::Tensor>, width: usize) -> Vec<u8> {
    model(Graph {
        name: "ranker".to_owned(),
        node,
        initializer,
        input: vec![value("features", FLOAT, &[0, width as i64])],
        output: vec![value("score", FLOAT, &[0, 1])],
    })
}
