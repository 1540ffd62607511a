//! The part of the ONNX format that a check without ONNX Runtime needs: names, types, shapes, operators, weights.
//! Field numbers are those of onnx.proto3.

use bytes::Bytes;
use prost::Message;

use crate::BundleError;

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Model {
    #[prost(int64, tag = "1")]
    pub(crate) ir_version: i64,
    #[prost(message, optional, tag = "7")]
    pub(crate) graph: Option<Graph>,
    #[prost(message, repeated, tag = "8")]
    pub(crate) opset_import: Vec<OperatorSet>,
    #[prost(message, repeated, tag = "25")]
    pub(crate) functions: Vec<Function>,
}

/// An operator made of others, local to its model.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Function {
    #[prost(message, repeated, tag = "7")]
    pub(crate) node: Vec<Node>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct OperatorSet {
    #[prost(string, tag = "1")]
    pub(crate) domain: String,
    #[prost(int64, tag = "2")]
    pub(crate) version: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Graph {
    #[prost(message, repeated, tag = "1")]
    pub(crate) node: Vec<Node>,
    #[prost(string, tag = "2")]
    pub(crate) name: String,
    #[prost(message, repeated, tag = "5")]
    pub(crate) initializer: Vec<Tensor>,
    #[prost(message, repeated, tag = "11")]
    pub(crate) input: Vec<ValueInfo>,
    #[prost(message, repeated, tag = "12")]
    pub(crate) output: Vec<ValueInfo>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Node {
    #[prost(string, repeated, tag = "1")]
    pub(crate) input: Vec<String>,
    #[prost(string, repeated, tag = "2")]
    pub(crate) output: Vec<String>,
    #[prost(string, tag = "3")]
    pub(crate) name: String,
    #[prost(string, tag = "4")]
    pub(crate) op_type: String,
    #[prost(message, repeated, tag = "5")]
    pub(crate) attribute: Vec<Attribute>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Attribute {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(int64, tag = "3")]
    pub(crate) i: i64,
    #[prost(message, optional, tag = "5")]
    pub(crate) t: Option<Tensor>,
    #[prost(message, optional, tag = "6")]
    pub(crate) g: Option<Graph>,
    #[prost(float, repeated, tag = "7")]
    pub(crate) floats: Vec<f32>,
    #[prost(message, repeated, tag = "11")]
    pub(crate) graphs: Vec<Graph>,
    #[prost(int32, tag = "20")]
    pub(crate) kind: i32,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Tensor {
    #[prost(int64, repeated, tag = "1")]
    pub(crate) dims: Vec<i64>,
    #[prost(int32, tag = "2")]
    pub(crate) data_type: i32,
    #[prost(float, repeated, tag = "4")]
    pub(crate) float_data: Vec<f32>,
    /// Halves, as their bits.
    #[prost(int32, repeated, tag = "5")]
    pub(crate) int32_data: Vec<i32>,
    #[prost(string, tag = "8")]
    pub(crate) name: String,
    #[prost(bytes = "bytes", tag = "9")]
    pub(crate) raw_data: Bytes,
    #[prost(double, repeated, tag = "10")]
    pub(crate) double_data: Vec<f64>,
    #[prost(int32, tag = "14")]
    pub(crate) data_location: i32,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct ValueInfo {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(message, optional, tag = "2")]
    pub(crate) value_type: Option<ValueType>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct ValueType {
    #[prost(message, optional, tag = "1")]
    pub(crate) tensor: Option<TensorType>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct TensorType {
    #[prost(int32, tag = "1")]
    pub(crate) elem_type: i32,
    #[prost(message, optional, tag = "2")]
    pub(crate) shape: Option<Shape>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Shape {
    #[prost(message, repeated, tag = "1")]
    pub(crate) dim: Vec<Dimension>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Dimension {
    /// 0 when the dimension is dynamic.
    #[prost(int64, tag = "1")]
    pub(crate) value: i64,
    #[prost(string, tag = "2")]
    pub(crate) param: String,
}

pub(crate) const FLOAT: i32 = 1;
pub(crate) const INT64: i32 = 7;
const FLOAT16: i32 = 10;
const DOUBLE: i32 = 11;
const BFLOAT16: i32 = 16;
const EXTERNAL: i32 = 1;

/// `DynamicQuantizeLinear`, and what ONNX Runtime fuses it to (`DynamicQuantizeMatMul`, `DynamicQuantizeLSTM`): a row's
/// result depends on the other rows of its batch.
const BATCH_DEPENDENT: &str = "DynamicQuantize";

/// Operators that round what flows through the graph to a few steps, by the beginning of their names. A number on the
/// edge of two steps falls to this side on one device and to that side on another, and everything after it moves.
const ROUNDING: [&str; 5] = ["QuantizeLinear", "DynamicQuantize", "QLinear", "MatMulInteger", "ConvInteger"];

/// Whose rows share a run of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rows {
    /// Those of different requests: none may depend on another.
    OfMany,
    /// Those of one request: they may.
    OfOne,
}

/// Name of an element type, for people.
pub(crate) fn type_name(elem_type: i32) -> String {
    match elem_type {
        FLOAT => "f32".to_owned(),
        INT64 => "i64".to_owned(),
        6 => "i32".to_owned(),
        FLOAT16 => "f16".to_owned(),
        DOUBLE => "f64".to_owned(),
        other => format!("ONNX type {other}"),
    }
}

/// Reads a model and refuses what must not be in one.
pub(crate) fn read(bytes: Bytes, file: &str, rows: Rows) -> Result<Graph, BundleError> {
    let refused = |detail: &str| BundleError::NotOnnx { file: file.to_owned(), detail: detail.to_owned() };
    let model = Model::decode(bytes).map_err(|error| refused(&error.to_string()))?;
    if model.ir_version <= 0 || model.opset_import.is_empty() {
        return Err(refused("it has no IR version or no operator set"));
    }
    let graph = model.graph.ok_or_else(|| refused("it has no graph"))?;
    inspect(&graph, file, rows)?;
    for function in &model.functions {
        inspect_nodes(&function.node, file, rows)?;
    }
    Ok(graph)
}

impl Graph {
    /// Whether activations are quantized; weights alone may be without.
    pub(crate) fn rounds(&self) -> bool {
        self.node.iter().any(|node| {
            ROUNDING.iter().any(|op| node.op_type.starts_with(op))
                || node.attribute.iter().flat_map(|a| a.g.iter().chain(&a.graphs)).any(Self::rounds)
        })
    }
}

fn inspect(graph: &Graph, file: &str, rows: Rows) -> Result<(), BundleError> {
    for tensor in &graph.initializer {
        inspect_tensor(tensor, &tensor.name, file)?;
    }
    inspect_nodes(&graph.node, file, rows)
}

fn inspect_nodes(nodes: &[Node], file: &str, rows: Rows) -> Result<(), BundleError> {
    for node in nodes {
        if rows == Rows::OfMany && node.op_type.starts_with(BATCH_DEPENDENT) {
            let (node, op) = (node.name.clone(), node.op_type.clone());
            return Err(BundleError::DynamicQuantization { file: file.to_owned(), node, op });
        }
        for attribute in &node.attribute {
            finite(
                attribute.floats.iter().map(|value| f64::from(*value)),
                &format!("{}.{}", node.name, attribute.name),
                file,
            )?;
            if let Some(tensor) = &attribute.t {
                inspect_tensor(tensor, &format!("{}.{}", node.name, attribute.name), file)?;
            }
            for graph in attribute.g.iter().chain(&attribute.graphs) {
                inspect(graph, file, rows)?;
            }
        }
    }
    Ok(())
}

fn inspect_tensor(tensor: &Tensor, name: &str, file: &str) -> Result<(), BundleError> {
    if tensor.data_location == EXTERNAL {
        return Err(BundleError::ExternalData { file: file.to_owned(), tensor: name.to_owned() });
    }
    // A tensor's numbers are either in `raw_data` or in the field of their type.
    let raw = &tensor.raw_data;
    let halves = raw.as_chunks::<2>().0.iter().map(|bytes| u16::from_le_bytes(*bytes));
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the lower 16 bits are the half"
    )]
    let halves = halves.chain(tensor.int32_data.iter().map(|bits| *bits as u16));
    match tensor.data_type {
        FLOAT => {
            let raw = raw.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes));
            finite(raw.chain(tensor.float_data.iter().copied()).map(f64::from), name, file)
        }
        DOUBLE => {
            let raw = raw.as_chunks::<8>().0.iter().map(|bytes| f64::from_le_bytes(*bytes));
            finite(raw.chain(tensor.double_data.iter().copied()), name, file)
        }
        FLOAT16 => finite(halves.map(|bits| half::f16::from_bits(bits).to_f64()), name, file),
        BFLOAT16 => finite(halves.map(|bits| half::bf16::from_bits(bits).to_f64()), name, file),
        _ => Ok(()),
    }
}

/// Infinity is a usual constant (a mask's, say); NaN never is.
fn finite(mut values: impl Iterator<Item = f64>, tensor: &str, file: &str) -> Result<(), BundleError> {
    match values.position(f64::is_nan) {
        None => Ok(()),
        Some(position) => Err(BundleError::OnnxNotFinite {
            file: file.to_owned(),
            tensor: tensor.to_owned(),
            found: f64::NAN,
            position,
        }),
    }
}

impl ValueInfo {
    pub(crate) fn elem_type(&self) -> i32 {
        self.value_type.as_ref().and_then(|t| t.tensor.as_ref()).map_or(0, |tensor| tensor.elem_type)
    }

    /// Dimensions; `None` for a dynamic one. Nothing when the graph does not say.
    pub(crate) fn dims(&self) -> Option<Vec<Option<i64>>> {
        let shape = self.value_type.as_ref()?.tensor.as_ref()?.shape.as_ref()?;
        Some(shape.dim.iter().map(|dim| (dim.value > 0).then_some(dim.value)).collect())
    }
}

#[cfg(test)]
mod tests;
