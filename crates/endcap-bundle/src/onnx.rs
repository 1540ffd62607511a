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
    #[prost(string, tag = "8")]
    pub(crate) name: String,
    #[prost(bytes = "bytes", tag = "9")]
    pub(crate) raw_data: Bytes,
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
const EXTERNAL: i32 = 1;

/// Operators with which a row's result depends on the other rows of its batch.
const BATCH_DEPENDENT: [&str; 1] = ["DynamicQuantizeLinear"];

/// Name of an element type, for people.
pub(crate) fn type_name(elem_type: i32) -> String {
    match elem_type {
        FLOAT => "f32".to_owned(),
        INT64 => "i64".to_owned(),
        6 => "i32".to_owned(),
        10 => "f16".to_owned(),
        11 => "f64".to_owned(),
        other => format!("ONNX type {other}"),
    }
}

/// Reads a model and refuses what must not be in one.
pub(crate) fn read(bytes: Bytes, file: &str) -> Result<Graph, BundleError> {
    let refused = |detail: &str| BundleError::NotOnnx { file: file.to_owned(), detail: detail.to_owned() };
    let model = Model::decode(bytes).map_err(|error| refused(&error.to_string()))?;
    if model.ir_version <= 0 || model.opset_import.is_empty() {
        return Err(refused("it has no IR version or no operator set"));
    }
    let graph = model.graph.ok_or_else(|| refused("it has no graph"))?;
    inspect(&graph, file)?;
    Ok(graph)
}

fn inspect(graph: &Graph, file: &str) -> Result<(), BundleError> {
    for tensor in &graph.initializer {
        inspect_tensor(tensor, &tensor.name, file)?;
    }
    for node in &graph.node {
        if BATCH_DEPENDENT.contains(&node.op_type.as_str()) {
            let (node, op) = (node.name.clone(), node.op_type.clone());
            return Err(BundleError::DynamicQuantization { file: file.to_owned(), node, op });
        }
        for attribute in &node.attribute {
            finite(attribute.floats.iter().copied(), &format!("{}.{}", node.name, attribute.name), file)?;
            if let Some(tensor) = &attribute.t {
                inspect_tensor(tensor, &format!("{}.{}", node.name, attribute.name), file)?;
            }
            for graph in attribute.g.iter().chain(&attribute.graphs) {
                inspect(graph, file)?;
            }
        }
    }
    Ok(())
}

fn inspect_tensor(tensor: &Tensor, name: &str, file: &str) -> Result<(), BundleError> {
    if tensor.data_location == EXTERNAL {
        return Err(BundleError::ExternalData { file: file.to_owned(), tensor: name.to_owned() });
    }
    if tensor.data_type != FLOAT {
        return Ok(());
    }
    let (raw, _ragged) = tensor.raw_data.as_chunks::<4>();
    finite(tensor.float_data.iter().copied(), name, file)?;
    finite(raw.iter().map(|bytes| f32::from_le_bytes(*bytes)), name, file)
}

/// Infinity is a usual constant (a mask's, say); NaN never is.
fn finite(mut values: impl Iterator<Item = f32>, tensor: &str, file: &str) -> Result<(), BundleError> {
    match values.position(f32::is_nan) {
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
