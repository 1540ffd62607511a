//! ONNX files that a bundle must not have, made from good ones.

use std::fs;

use endcap_types::ShardCount;
use prost::Message as _;
use tempfile::TempDir;

use super::*;
use crate::{
    Bundle,
    test_util::{TinyOptions, tiny_bundle},
};

fn sound() -> (TempDir, Bundle) {
    let folder = tempfile::tempdir().unwrap();
    let options = TinyOptions { items: 8, ..TinyOptions::default() };
    let bundle = tiny_bundle(folder.path(), &options, ShardCount::try_from(1).unwrap()).unwrap();
    bundle.check().unwrap();
    (folder, bundle)
}

struct Case {
    name: &'static str,
    file: &'static str,
    damage: fn(&mut Model),
    variant: &'static str,
    /// Parts of the message, in their order.
    expected: &'static [&'static str],
}

fn graph(model: &mut Model) -> &mut Graph {
    model.graph.as_mut().unwrap()
}

fn dim(value: &mut ValueInfo, at: usize) -> &mut Dimension {
    &mut value.value_type.as_mut().unwrap().tensor.as_mut().unwrap().shape.as_mut().unwrap().dim[at]
}

fn set_type(value: &mut ValueInfo, elem_type: i32) {
    value.value_type.as_mut().unwrap().tensor.as_mut().unwrap().elem_type = elem_type;
}

fn dynamic() -> Node {
    Node { op_type: "DynamicQuantizeLinear".to_owned(), name: "q".to_owned(), ..Node::default() }
}

fn constant(tensor: Tensor) -> Node {
    let value = Attribute { name: "value".to_owned(), t: Some(tensor), ..Attribute::default() };
    Node { op_type: "Constant".to_owned(), name: "c".to_owned(), attribute: vec![value], ..Node::default() }
}

fn branch(node: Node) -> Node {
    let inner = Graph { node: vec![node], ..Graph::default() };
    let attribute = Attribute { name: "then_branch".to_owned(), g: Some(inner), ..Attribute::default() };
    Node { op_type: "If".to_owned(), attribute: vec![attribute], ..Node::default() }
}

const CASES: &[Case] = &[
    Case {
        name: "no graph",
        file: "ranker.onnx",
        damage: |m| m.graph = None,
        variant: "NotOnnx",
        expected: &["ranker.onnx is not an ONNX model", "no graph", "export"],
    },
    Case {
        name: "no operator set",
        file: "ranker.onnx",
        damage: |m| m.opset_import.clear(),
        variant: "NotOnnx",
        expected: &["no operator set"],
    },
    Case {
        name: "input of another name",
        file: "ranker.onnx",
        damage: |m| graph(m).input[0].name = "x".to_owned(),
        variant: "OnnxInputs",
        expected: &["ranker.onnx are [\"x\"]", "binds [\"features\"]", "bind every"],
    },
    Case {
        name: "one input more",
        file: "ranker.onnx",
        damage: |m| {
            let mut more = graph(m).input[0].clone();
            more.name = "more".to_owned();
            graph(m).input.push(more);
        },
        variant: "OnnxInputs",
        expected: &["[\"features\", \"more\"]"],
    },
    Case {
        name: "output of another name",
        file: "ranker.onnx",
        damage: |m| graph(m).output[0].name = "y".to_owned(),
        variant: "OnnxOutput",
        expected: &["ranker.onnx has the outputs [\"y\"]", "\"score\""],
    },
    Case {
        name: "encoder inputs of other names",
        file: "encoder.onnx",
        damage: |m| graph(m).input[1].name = "mask".to_owned(),
        variant: "OnnxInputs",
        expected: &["encoder.onnx", "mask", "attention_mask"],
    },
    Case {
        name: "too wide",
        file: "ranker.onnx",
        damage: |m| dim(&mut graph(m).input[0], 1).value = 6,
        variant: "OnnxShape",
        expected: &["\"features\" of ranker.onnx", "[?, 6]", "expected [rows, 5]"],
    },
    Case {
        name: "one row only",
        file: "ranker.onnx",
        damage: |m| dim(&mut graph(m).input[0], 0).value = 1,
        variant: "OnnxShape",
        expected: &["[1, 5]", "dynamic rows"],
    },
    Case {
        name: "two scores a row",
        file: "ranker.onnx",
        damage: |m| dim(&mut graph(m).output[0], 1).value = 2,
        variant: "OnnxShape",
        expected: &["\"score\"", "[?, 2]", "[rows, 1]"],
    },
    Case {
        name: "texts of one length only",
        file: "encoder.onnx",
        damage: |m| dim(&mut graph(m).input[0], 1).value = 128,
        variant: "OnnxShape",
        expected: &["input_ids", "[?, 128]", "both dynamic"],
    },
    Case {
        name: "vectors of another length",
        file: "encoder.onnx",
        damage: |m| dim(&mut graph(m).output[0], 1).value = 9,
        variant: "OnnxShape",
        expected: &["\"vector\" of encoder.onnx", "[?, 9]", "[batch, 8]"],
    },
    Case {
        name: "input of doubles",
        file: "ranker.onnx",
        damage: |m| set_type(&mut graph(m).input[0], DOUBLE),
        variant: "OnnxType",
        expected: &["\"features\"", "f64", "expected f32"],
    },
    Case {
        name: "tokens of 32 bits",
        file: "encoder.onnx",
        damage: |m| set_type(&mut graph(m).input[0], 6),
        variant: "OnnxType",
        expected: &["input_ids", "i32", "expected i64"],
    },
    Case {
        name: "NaN in raw data",
        file: "ranker.onnx",
        damage: |m| {
            let mut raw = graph(m).initializer[0].raw_data.to_vec();
            raw[8..12].copy_from_slice(&f32::NAN.to_le_bytes());
            graph(m).initializer[0].raw_data = raw.into();
        },
        variant: "OnnxNotFinite",
        expected: &["\"weights\" of ranker.onnx", "NaN at position 2", "train or export"],
    },
    Case {
        name: "NaN in typed data",
        file: "encoder.onnx",
        damage: |m| {
            graph(m).initializer[0].raw_data.clear();
            graph(m).initializer[0].float_data = vec![0.0, f32::NAN];
        },
        variant: "OnnxNotFinite",
        expected: &["\"embeddings\" of encoder.onnx", "position 1"],
    },
    Case {
        name: "NaN as a half",
        file: "ranker.onnx",
        damage: |m| {
            let bits = half::f16::NAN.to_bits();
            let tensor = Tensor { data_type: FLOAT16, int32_data: vec![0, bits.into()], ..Tensor::default() };
            graph(m).node.push(constant(tensor));
        },
        variant: "OnnxNotFinite",
        expected: &["c.value", "position 1"],
    },
    Case {
        name: "NaN as a double, in a branch",
        file: "ranker.onnx",
        damage: |m| {
            let raw_data = Bytes::copy_from_slice(&f64::NAN.to_le_bytes());
            let tensor = Tensor { data_type: DOUBLE, raw_data, ..Tensor::default() };
            graph(m).node.push(branch(constant(tensor)));
        },
        variant: "OnnxNotFinite",
        expected: &["c.value", "position 0"],
    },
    Case {
        name: "NaN in a tree",
        file: "ranker.onnx",
        damage: |m| {
            let values = Attribute {
                name: "nodes_values".to_owned(),
                floats: vec![1.0, f32::NAN],
                ..Attribute::default()
            };
            let name = "trees".to_owned();
            graph(m).node.push(Node { name, attribute: vec![values], ..Node::default() });
        },
        variant: "OnnxNotFinite",
        expected: &["trees.nodes_values", "position 1"],
    },
    Case {
        name: "weights elsewhere",
        file: "ranker.onnx",
        damage: |m| graph(m).initializer[0].data_location = EXTERNAL,
        variant: "ExternalData",
        expected: &["\"weights\" of ranker.onnx", "external", "one file"],
    },
    Case {
        name: "dynamic quantization",
        file: "ranker.onnx",
        damage: |m| graph(m).node.push(dynamic()),
        variant: "DynamicQuantization",
        expected: &["ranker.onnx uses DynamicQuantizeLinear (node \"q\")", "quantize statically"],
    },
    Case {
        name: "dynamic quantization in a branch",
        file: "ranker.onnx",
        damage: |m| graph(m).node.push(branch(dynamic())),
        variant: "DynamicQuantization",
        expected: &["ranker.onnx"],
    },
    Case {
        name: "dynamic quantization in a local function",
        file: "ranker.onnx",
        damage: |m| m.functions.push(Function { node: vec![dynamic()] }),
        variant: "DynamicQuantization",
        expected: &["DynamicQuantizeLinear"],
    },
    Case {
        name: "dynamic quantization, fused",
        file: "ranker.onnx",
        damage: |m| {
            graph(m).node.push(Node { op_type: "DynamicQuantizeMatMul".to_owned(), ..Node::default() });
        },
        variant: "DynamicQuantization",
        expected: &["DynamicQuantizeMatMul"],
    },
];

#[test]
fn every_bad_model_is_refused_with_file_found_and_expected() {
    for case in CASES {
        let (_folder, bundle) = sound();
        let path = bundle.path(case.file);
        let mut model = Model::decode(Bytes::from(fs::read(&path).unwrap())).unwrap();
        (case.damage)(&mut model);
        fs::write(&path, model.encode_to_vec()).unwrap();
        let Err(error) = bundle.check() else { panic!("{}: not noticed", case.name) };
        let (debug, message) = (format!("{error:?}"), error.to_string());
        assert_eq!(debug.split([' ', '{']).next(), Some(case.variant), "{}: {message}", case.name);
        let mut rest = message.as_str();
        for part in case.expected {
            let found = rest.split_once(part);
            rest = found.unwrap_or_else(|| panic!("{}: no {part:?} in {message:?}", case.name)).1;
        }
    }
}

#[test]
fn a_file_that_is_no_model_is_called_so() {
    let (_folder, bundle) = sound();
    let whole = fs::read(bundle.path("ranker.onnx")).unwrap();
    let half = whole[..whole.len() / 2].to_vec();
    for bytes in [Vec::new(), b"hello, world".to_vec(), vec![0; 100], vec![0xff; 100], half] {
        fs::write(bundle.path("ranker.onnx"), &bytes).unwrap();
        let error = bundle.check().unwrap_err();
        assert!(matches!(&error, BundleError::NotOnnx { file, .. } if file == "ranker.onnx"), "{error}");
    }
}

#[test]
fn what_is_unusual_but_right_is_accepted() {
    let accepted: [fn(&mut Model); 5] = [
        // As onnxmltools writes a dynamic dimension.
        |m| *dim(&mut graph(m).input[0], 0) = Dimension::default(),
        // A graph may keep its shapes to itself.
        |m| graph(m).input[0].value_type.as_mut().unwrap().tensor.as_mut().unwrap().shape = None,
        // Weights are inputs, too, in files of before 2019.
        |m| {
            let weights = ValueInfo { name: "weights".to_owned(), value_type: None };
            graph(m).input.push(weights);
        },
        // A mask is often made of infinities.
        |m| {
            let tensor =
                Tensor { data_type: FLOAT, float_data: vec![f32::NEG_INFINITY], ..Tensor::default() };
            graph(m).node.push(constant(tensor));
        },
        // One more output is nobody's business.
        |m| {
            let mut more = graph(m).output[0].clone();
            more.name = "label".to_owned();
            graph(m).output.push(more);
        },
    ];
    for edit in accepted {
        let (_folder, bundle) = sound();
        let path = bundle.path("ranker.onnx");
        let mut model = Model::decode(Bytes::from(fs::read(&path).unwrap())).unwrap();
        edit(&mut model);
        fs::write(&path, model.encode_to_vec()).unwrap();
        bundle.check().unwrap();
    }
}

#[test]
fn an_encoder_may_be_quantized_dynamically_as_it_runs_one_text_at_a_time() {
    let (_folder, bundle) = sound();
    let path = bundle.path("encoder.onnx");
    let mut model = Model::decode(Bytes::from(fs::read(&path).unwrap())).unwrap();
    graph(&mut model).node.push(dynamic());
    model.functions.push(Function { node: vec![dynamic()] });
    fs::write(&path, model.encode_to_vec()).unwrap();
    bundle.check().unwrap();
}

#[test]
fn activations_that_are_rounded_are_seen_wherever_they_are_and_weights_are_none() {
    let node = |op: &str| Node { op_type: op.to_owned(), ..Node::default() };
    let graph = |nodes: Vec<Node>| Graph { node: nodes, ..Graph::default() };
    for op in ["QuantizeLinear", "DynamicQuantizeLinear", "QLinearMatMul", "MatMulInteger", "ConvInteger"] {
        assert!(graph(vec![node("MatMul"), node(op)]).rounds(), "{op}");
        let branch = Attribute { g: Some(graph(vec![node(op)])), ..Attribute::default() };
        assert!(graph(vec![Node { attribute: vec![branch], ..node("If") }]).rounds(), "{op} in a branch");
    }
    // Weights that are kept in int8 come back as the same numbers everywhere.
    assert!(!graph(vec![node("DequantizeLinear"), node("MatMul"), node("Cast")]).rounds());
}
