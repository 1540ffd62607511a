//! Values that the model itself refuses: which input's?

use endcap_inference::{InferError, Signature};
use endcap_proto::inference::ModelInferRequest;
use endcap_types::{DType, Violations};

use super::request::place_of;
use crate::error::WorkError;

/// Begins what an operator says in ONNX Runtime's errors.
const OPERATOR_SAYS: &str = "Status Message: ";
/// How operators that look rows up name the index which is not there, before the number.
const INDEX: &str = "idx=";

/// A refusal as a fault of the request. Neighbours in the batch cannot have caused it: who fails in a batch is run again
/// alone.
pub(super) fn explained(error: InferError, request: &ModelInferRequest, signature: &Signature) -> WorkError {
    let InferError::Refused { detail } = error else {
        return error.into();
    };
    let said = detail.rsplit_once(OPERATOR_SAYS).map_or(detail.as_str(), |(_, said)| said).trim();
    let mut violations = Violations::default();
    match culprit(said, request, signature) {
        Some((input, index)) => {
            violations.push(format!("inputs[{input:?}]"), format!("holds {index}; the model says: {said}"));
        }
        None => violations.push("inputs", format!("the model refuses these values: {said}")),
    }
    violations.into()
}

/// The input that holds the index which the model does not have, if there is only one.
fn culprit<'a>(said: &str, request: &ModelInferRequest, signature: &'a Signature) -> Option<(&'a str, i64)> {
    let (_, rest) = said.split_once(INDEX)?;
    let end = rest.find(|c: char| c != '-' && !c.is_ascii_digit()).unwrap_or(rest.len());
    let index: i64 = rest[..end].parse().ok()?;
    let indices = signature.inputs.iter().enumerate().filter(|(_, input)| input.dtype == DType::I64);
    let mut holding = indices.filter(|(position, input)| {
        place_of(request, *position, &input.name).is_some_and(|place| holds(request, place, index))
    });
    match (holding.next(), holding.next()) {
        (Some((_, input)), None) => Some((&input.name, index)),
        _ => None,
    }
}

fn holds(request: &ModelInferRequest, place: usize, index: i64) -> bool {
    if let Some(raw) = request.raw_input_contents.get(place) {
        return raw.as_chunks::<8>().0.iter().any(|bytes| i64::from_le_bytes(*bytes) == index);
    }
    let contents = request.inputs.get(place).and_then(|input| input.contents.as_ref());
    contents.is_some_and(|contents| contents.int64_contents.contains(&index))
}
