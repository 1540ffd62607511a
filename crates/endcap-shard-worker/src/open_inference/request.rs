//! A request's inputs as rows for the model. What is right is checked in passing; what is wrong is told all at once.

use endcap_inference::{InputSignature, Signature, Tensor, TensorData, Width};
use endcap_proto::inference::{ModelInferRequest, model_infer_request::InferInputTensor};
use endcap_types::{DType, Violations};

use super::{datatype, shown};

/// Inputs and outputs beyond the model's own that are told by name; more are only counted, for errors travel in headers.
const MOST_STRANGERS: usize = 8;

/// The model's inputs in its order, and how many rows they have.
pub(super) fn rows(
    request: &ModelInferRequest,
    signature: &Signature,
) -> Result<(Vec<Tensor>, usize), Violations> {
    let mut reading = Reading { request, signature, agreed: None, violations: Violations::default() };
    reading.counts()?;
    reading.extras();
    let mut tensors = Vec::with_capacity(signature.inputs.len());
    for (position, input) in signature.inputs.iter().enumerate() {
        match place_of(request, position, &input.name) {
            Some(place) => tensors.extend(reading.tensor(place, input)),
            None => reading.violations.push(
                format!("inputs[{:?}]", input.name),
                format!("is missing; expected {} {}", datatype(input.dtype), shape_of(input)),
            ),
        }
    }
    let rows = reading.agreed.map_or(0, |agreed| agreed.rows);
    reading.violations.or((tensors, rows))
}

/// Where the request has an input: most often where the model has it.
pub(super) fn place_of(request: &ModelInferRequest, position: usize, name: &str) -> Option<usize> {
    let is_it = |input: &InferInputTensor| input.name == name;
    if request.inputs.get(position).is_some_and(is_it) {
        return Some(position);
    }
    request.inputs.iter().position(is_it)
}

struct Reading<'a> {
    request: &'a ModelInferRequest,
    signature: &'a Signature,
    agreed: Option<Agreed<'a>>,
    violations: Violations,
}

/// What the first good input says of all.
#[derive(Clone, Copy)]
struct Agreed<'a> {
    input: &'a str,
    rows: usize,
    /// Of inputs whose width the caller chooses.
    width: Option<usize>,
}

impl<'a> Reading<'a> {
    /// Refuses lists that are far too long before anything looks at their entries.
    fn counts(&self) -> Result<(), Violations> {
        let mut violations = Violations::default();
        let lists = [
            ("inputs", self.request.inputs.len(), self.signature.inputs.len()),
            ("outputs", self.request.outputs.len(), 1),
        ];
        for (field, found, expected) in lists {
            if found > expected + MOST_STRANGERS {
                violations.push(field, format!("has {found} entries; expected {expected}"));
            }
        }
        violations.or(())
    }

    /// Everything beside the model's own inputs.
    fn extras(&mut self) {
        let (request, known) = (self.request, &self.signature.inputs);
        let (raw, inputs) = (request.raw_input_contents.len(), request.inputs.len());
        if raw != 0 && raw != inputs {
            let found = format!("has {raw} entries; expected {inputs}, one per input, or none");
            self.violations.push("raw_input_contents", found);
        }
        if let Some(name) = request.parameters.keys().next() {
            self.unsupported(format!("parameters[{:?}]", shown(name)));
        }
        for (i, input) in request.inputs.iter().enumerate() {
            let field = || format!("inputs[{:?}]", shown(&input.name));
            if let Some(name) = input.parameters.keys().next() {
                self.unsupported(format!("{}.parameters[{:?}]", field(), shown(name)));
            }
            if known.iter().all(|known| known.name != input.name) {
                let names: Vec<_> = known.iter().map(|known| format!("{:?}", known.name)).collect();
                let expected = names.join(", ");
                self.violations.push(field(), format!("is no input of this model; expected {expected}"));
            } else if request.inputs[..i].iter().any(|earlier| earlier.name == input.name) {
                self.violations.push(field(), "is given twice");
            }
        }
        for (i, output) in request.outputs.iter().enumerate() {
            let (found, expected) = (&output.name, &self.signature.output);
            if found != expected {
                let found = format!("is {:?}; expected {expected:?}", shown(found));
                self.violations.push(format!("outputs[{i}].name"), found);
            }
            if let Some(name) = output.parameters.keys().next() {
                self.unsupported(format!("outputs[{i}].parameters[{:?}]", shown(name)));
            }
        }
    }

    fn unsupported(&mut self, field: String) {
        self.violations.push(field, "is not supported; leave it out");
    }

    /// The numbers of an input that the request has at `place`; nothing, and why, if they are not what it must have.
    fn tensor(&mut self, place: usize, input: &'a InputSignature) -> Option<Tensor> {
        let given = &self.request.inputs[place];
        let expected = datatype(input.dtype);
        if given.datatype != expected {
            let found = format!("is {:?}; expected {expected:?}", shown(&given.datatype));
            self.violations.push(format!("inputs[{:?}].datatype", input.name), found);
            return None;
        }
        let (rows, width) = self.shape(&given.shape, input)?;
        let cells = rows * width;
        let data = match self.request.raw_input_contents.get(place) {
            Some(raw) => self.raw(raw, place, input, cells),
            None => self.typed(given, input, cells),
        }?;
        Some(Tensor { width, data })
    }

    /// Rows and width, within the model's limits and equal to those of the inputs before.
    fn shape(&mut self, given: &[i64], input: &'a InputSignature) -> Option<(usize, usize)> {
        let field = || format!("inputs[{:?}].shape", input.name);
        let sizes = match given {
            [rows, width] => usize::try_from(*rows).ok().zip(usize::try_from(*width).ok()),
            _ => None,
        };
        let fitting = sizes.filter(|(_, width)| match input.width {
            Width::Fixed(expected) => *width == expected,
            Width::UpTo(longest) => (1..=longest).contains(width),
        });
        let Some((rows, width)) = fitting else {
            // A shape can be as long as a message.
            let found = shown(&format!("{:?}", &given[..given.len().min(MOST_STRANGERS)]));
            self.violations.push(field(), format!("is {found}; expected {}", shape_of(input)));
            return None;
        };
        let most = self.signature.max_rows;
        if !(1..=most).contains(&rows) {
            self.violations.push(field(), format!("has {rows} rows; expected 1 to {most}"));
            return None;
        }
        let chosen = matches!(input.width, Width::UpTo(_)).then_some(width);
        let agreed = *self.agreed.get_or_insert(Agreed { input: &input.name, rows, width: chosen });
        if agreed.rows != rows {
            let found = format!("has {rows} rows; input {:?} has {}", agreed.input, agreed.rows);
            self.violations.push(field(), found);
            return None;
        }
        if let (Some(found), Some(expected)) = (chosen, agreed.width)
            && found != expected
        {
            let found = format!("has {found} numbers per row; input {:?} has {expected}", agreed.input);
            self.violations.push(field(), found);
            return None;
        }
        Some((rows, width))
    }

    /// The one copy of a request's bytes: numbers must be aligned, bytes in a message lie anywhere.
    fn raw(
        &mut self,
        bytes: &[u8],
        place: usize,
        input: &InputSignature,
        cells: usize,
    ) -> Option<TensorData> {
        let size = match input.dtype {
            DType::F32 => size_of::<f32>(),
            DType::I64 => size_of::<i64>(),
        };
        if self.request.inputs[place].contents.is_some() {
            let field = format!("inputs[{:?}].contents", input.name);
            self.violations.push(field, "is given beside raw_input_contents; expected one of them");
            return None;
        }
        if bytes.len() != cells * size {
            let (found, expected) = (bytes.len(), cells * size);
            let found = format!("has {found} bytes; input {:?} has the shape of {expected}", input.name);
            self.violations.push(format!("raw_input_contents[{place}]"), found);
            return None;
        }
        TensorData::from_le_bytes(input.dtype, bytes)
    }

    fn typed(
        &mut self,
        given: &InferInputTensor,
        input: &InputSignature,
        cells: usize,
    ) -> Option<TensorData> {
        let contents = given.contents.as_ref();
        let (field, found) = match input.dtype {
            DType::F32 => ("fp32_contents", contents.map_or(0, |contents| contents.fp32_contents.len())),
            DType::I64 => ("int64_contents", contents.map_or(0, |contents| contents.int64_contents.len())),
        };
        if found != cells {
            let field = format!("inputs[{:?}].contents.{field}", input.name);
            self.violations.push(field, format!("has {found} numbers; expected {cells}, as the shape says"));
            return None;
        }
        contents.map(|contents| match input.dtype {
            DType::F32 => TensorData::F32(contents.fp32_contents.clone()),
            DType::I64 => TensorData::I64(contents.int64_contents.clone()),
        })
    }
}

/// The shape that an input must have.
fn shape_of(input: &InputSignature) -> String {
    match input.width {
        Width::Fixed(width) => format!("[rows, {width}]"),
        Width::UpTo(longest) => format!("[rows, 1 to {longest}]"),
    }
}
