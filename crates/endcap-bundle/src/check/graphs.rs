//! The ONNX files against `model.json`.

use std::collections::HashSet;

use bytes::Bytes;
use endcap_types::DType;

use crate::{
    Bundle, BundleError, EncoderSpec, FeatureSchema, RankerSpec,
    onnx::{self, FLOAT, Graph, INT64, Rows, ValueInfo, type_name},
};

pub(super) fn check(bundle: &Bundle, schema: &FeatureSchema) -> Result<(), BundleError> {
    let ranker = &bundle.spec().ranker;
    check_ranker(&read(bundle, &ranker.file, Rows::OfMany)?, ranker, schema)?;
    if let Some(encoder) = &bundle.spec().encoder {
        // Workers run a text at a time.
        check_encoder(&read(bundle, &encoder.file, Rows::OfOne)?, encoder)?;
    }
    Ok(())
}

impl Bundle {
    /// Dimensions of an output of one of the ONNX files, by the graph's own account; `None` for a dynamic one. Nothing
    /// when the graph does not say.
    pub fn output_dims(&self, file: &str, name: &str) -> Result<Option<Vec<Option<i64>>>, BundleError> {
        Ok(output(&read(self, file, Rows::OfOne)?, file, name)?.dims())
    }

    /// Whether one of the ONNX files has quantized activations, so that other devices give other numbers.
    pub fn is_quantized(&self, file: &str) -> Result<bool, BundleError> {
        Ok(read(self, file, Rows::OfOne)?.rounds())
    }
}

fn read(bundle: &Bundle, file: &str, rows: Rows) -> Result<Graph, BundleError> {
    let path = bundle.path(file);
    let bytes = std::fs::read(&path).map_err(BundleError::open(&path, file))?;
    onnx::read(Bytes::from(bytes), file, rows)
}

/// Inputs that a caller must give: older files list their weights as inputs too.
fn inputs(graph: &Graph) -> Vec<&ValueInfo> {
    let weights: HashSet<&str> = graph.initializer.iter().map(|tensor| tensor.name.as_str()).collect();
    graph.input.iter().filter(|input| !weights.contains(input.name.as_str())).collect()
}

fn check_names(graph: &Graph, file: &str, mut expected: Vec<String>) -> Result<(), BundleError> {
    let mut found: Vec<String> = inputs(graph).into_iter().map(|input| input.name.clone()).collect();
    found.sort();
    expected.sort();
    if found == expected {
        Ok(())
    } else {
        Err(BundleError::OnnxInputs { file: file.to_owned(), found, expected })
    }
}

fn check_ranker(graph: &Graph, ranker: &RankerSpec, schema: &FeatureSchema) -> Result<(), BundleError> {
    let file = ranker.file.as_str();
    check_names(graph, file, ranker.inputs.iter().map(|input| input.name.clone()).collect())?;
    for binding in &ranker.inputs {
        let Some(input) = graph.input.iter().find(|input| input.name == binding.name) else {
            continue;
        };
        let specs = binding.features.iter().filter_map(|name| schema.get(name));
        let (mut width, mut dtype) = (0, DType::F32);
        for spec in specs {
            width += spec.width;
            dtype = spec.dtype;
        }
        let expected = match dtype {
            DType::F32 => FLOAT,
            DType::I64 => INT64,
        };
        check_type(input, file, expected)?;
        check_shape(input, file, &format!("[rows, {width}] with dynamic rows"), |dims| {
            dims.len() == 2
                && dims[0].is_none()
                && dims[1].is_none_or(|dim| usize::try_from(dim) == Ok(width))
        })?;
    }
    let output = output(graph, file, &ranker.output)?;
    check_type(output, file, FLOAT)?;
    check_shape(output, file, "[rows] or [rows, 1]", |dims| {
        dims.len() == 1 || (dims.len() == 2 && dims[1].is_none_or(|dim| dim == 1))
    })
}

fn check_encoder(graph: &Graph, encoder: &EncoderSpec) -> Result<(), BundleError> {
    let file = encoder.file.as_str();
    check_names(graph, file, vec![encoder.input_ids.clone(), encoder.attention_mask.clone()])?;
    for input in inputs(graph) {
        check_type(input, file, INT64)?;
        check_shape(input, file, "[batch, tokens], both dynamic", |dims| {
            dims.len() == 2 && dims.iter().all(Option::is_none)
        })?;
    }
    let output = output(graph, file, &encoder.output)?;
    check_type(output, file, FLOAT)?;
    check_shape(output, file, &format!("[batch, {}]", encoder.dim), |dims| {
        dims.len() == 2 && dims[1].is_none_or(|dim| usize::try_from(dim) == Ok(encoder.dim))
    })
}

fn output<'a>(graph: &'a Graph, file: &str, name: &str) -> Result<&'a ValueInfo, BundleError> {
    graph.output.iter().find(|output| output.name == name).ok_or_else(|| BundleError::OnnxOutput {
        file: file.to_owned(),
        found: graph.output.iter().map(|output| output.name.clone()).collect(),
        expected: name.to_owned(),
    })
}

fn check_type(value: &ValueInfo, file: &str, expected: i32) -> Result<(), BundleError> {
    let found = value.elem_type();
    if found == expected {
        return Ok(());
    }
    Err(BundleError::OnnxType {
        file: file.to_owned(),
        value: value.name.clone(),
        found: type_name(found),
        expected: type_name(expected),
    })
}

fn check_shape(
    value: &ValueInfo,
    file: &str,
    expected: &str,
    fits: impl Fn(&[Option<i64>]) -> bool,
) -> Result<(), BundleError> {
    // A graph that does not say is believed until a worker runs it.
    let Some(dims) = value.dims() else { return Ok(()) };
    if fits(&dims) {
        return Ok(());
    }
    let dims: Vec<_> = dims.iter().map(|dim| dim.map_or("?".to_owned(), |dim| dim.to_string())).collect();
    Err(BundleError::OnnxShape {
        file: file.to_owned(),
        value: value.name.clone(),
        found: format!("[{}]", dims.join(", ")),
        expected: expected.to_owned(),
    })
}
