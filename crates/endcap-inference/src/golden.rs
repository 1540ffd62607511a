//! Golden requests: a replica proves on its own device that it computes what the training side recorded.

use endcap_bundle::GoldenRequest;
use endcap_types::FeatureValue;

use crate::{GoldenMismatch, InferError, LoadError, Runtime, ShardTable, Tensor, TensorData, VersionModel};

/// How far the worker's own rows may be from the recorded ones.
const ROWS: f32 = 1e-4;
/// Rows tried alone; an operator that mixes rows shows in the first few.
const ALONE: usize = 16;

/// How far the numbers of a model may move, each both absolute and relative.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tolerance {
    /// From what was recorded: other CPUs and providers sum in another order.
    golden: f32,
    /// With a row's neighbours.
    batch: f32,
    /// Of the query's vector: each number as above, or, of an encoder that rounds on its way, only its direction.
    direction: Option<f32>,
}

/// Least cosine of an encoder's vector with the recorded one, where it is quantized. On a GPU, which computes the same
/// steps in f32, one query in eleven of the sample's was another vector by then, at a cosine of .93 at least; that is
/// what the quantized form was judged with.
const SAME_DIRECTION: f32 = 0.9;

impl Tolerance {
    /// A GPU chooses another kernel for another number of rows, and so another order.
    pub(crate) fn of(runtime: &Runtime, encoder_is_quantized: bool) -> Self {
        let (golden, batch) = if runtime.is_cuda() { (1e-3, 1e-4) } else { (1e-4, 1e-5) };
        Self { golden, batch, direction: encoder_is_quantized.then_some(SAME_DIRECTION) }
    }
}

/// Gives how far the model's numbers are from the recorded ones at most.
pub(crate) fn check(
    model: &VersionModel,
    golden: &[GoldenRequest],
    shard: Option<&ShardTable>,
) -> Result<f32, GoldenMismatch> {
    let mut farthest = 0.0_f32;
    for (i, request) in golden.iter().enumerate() {
        let at = At { line: i + 1, request };
        match shard {
            // The models are the version's: once per version is enough.
            None => farthest = farthest.max(check_models(model, &at)?),
            Some(shard) => check_rows(model, &at, shard)?,
        }
    }
    Ok(farthest)
}

/// Whether a row scores the same alone, in the recorded batch, in that batch shuffled, and among others.
pub(crate) fn check_batches(model: &VersionModel, golden: &[GoldenRequest]) -> Result<(), LoadError> {
    let Some(request) = golden.iter().max_by_key(|request| request.item_ids.len()) else {
        return Ok(());
    };
    let rows = request.item_ids.len();
    if rows == 0 {
        return Ok(());
    }
    let together = scores(model, request, 0..rows)?;
    let same = |row: usize, otherwise: f32, how: &'static str| {
        let batched = together[row];
        if differs(otherwise, batched, model.tolerance().batch) {
            return Err(LoadError::BatchDependent { batched, rows, otherwise, how });
        }
        Ok(())
    };
    for row in 0..rows.min(ALONE) {
        same(row, scores(model, request, [row])?[0], "alone")?;
    }
    let mut shuffled: Vec<usize> = (0..rows).rev().collect();
    shuffled.rotate_left(rows / 3);
    let found = scores(model, request, shuffled.iter().copied())?;
    for (row, score) in shuffled.into_iter().zip(found) {
        same(row, score, "in another order")?;
    }
    // Every row twice: each has other neighbours, and the run another size.
    let found = scores(model, request, (0..rows).flat_map(|row| [row, row]))?;
    for (row, score) in (0..rows).flat_map(|row| [row, row]).zip(found) {
        same(row, score, "in a larger batch")?;
    }
    Ok(())
}

/// Scores of the recorded rows, in this order, in one run.
fn scores(
    model: &VersionModel,
    request: &GoldenRequest,
    rows: impl IntoIterator<Item = usize>,
) -> Result<Vec<f32>, LoadError> {
    let rows: Vec<usize> = rows.into_iter().collect();
    let ran = model.ranker().run_blocking(recorded(model, request, rows.iter().copied()), rows.len());
    let refused =
        |error: InferError| LoadError::WarmUp { file: "golden.jsonl".to_owned(), detail: error.to_string() };
    Ok(ran.map_err(refused)?.output)
}

struct At<'a> {
    line: usize,
    request: &'a GoldenRequest,
}

impl At<'_> {
    fn mismatch(
        &self,
        what: impl Into<String>,
        expected: impl ToString,
        found: impl ToString,
    ) -> GoldenMismatch {
        GoldenMismatch {
            line: self.line,
            query: self.request.query.clone(),
            what: what.into(),
            expected: expected.to_string(),
            found: found.to_string(),
        }
    }
}

fn check_models(model: &VersionModel, at: &At<'_>) -> Result<f32, GoldenMismatch> {
    let (request, tolerance) = (at.request, model.tolerance().golden);
    let mut farthest = 0.0_f32;
    if let (Some(expected), Some(encoder)) = (&request.query_vector, model.encoder()) {
        let found = encoder
            .encode_blocking(&request.query)
            .map_err(|error| at.mismatch("the query's vector", "a vector", error))?;
        farthest = check_vector(expected, &found, model.tolerance(), at)?;
    }
    let rows = request.item_ids.len();
    if rows == 0 {
        return Ok(farthest);
    }
    let ran = model
        .ranker()
        .run_blocking(recorded(model, request, 0..rows), rows)
        .map_err(|error| at.mismatch("the recorded rows", "scores", error))?;
    for (row, (expected, found)) in request.scores.iter().zip(&ran.output).enumerate() {
        if differs(*expected, *found, tolerance) {
            let what = format!("the score of item {}", request.item_ids[row]);
            return Err(at.mismatch(what, expected, found));
        }
        farthest = farthest.max(distance(*expected, *found));
    }
    Ok(farthest)
}

fn check_vector(
    expected: &[f32],
    found: &[f32],
    tolerance: Tolerance,
    at: &At<'_>,
) -> Result<f32, GoldenMismatch> {
    let mut farthest = 0.0_f32;
    if let Some(least) = tolerance.direction {
        let cosine = cosine(expected, found);
        // A NaN is no direction.
        let near = cosine >= least;
        if !near {
            let what = "the cosine of the query's vector, by a quantized encoder, with the recorded one";
            return Err(at.mismatch(what, format!("at least {least}"), cosine));
        }
        return Ok(farthest);
    }
    for (i, (expected, found)) in expected.iter().zip(found).enumerate() {
        if differs(*expected, *found, tolerance.golden) {
            return Err(at.mismatch(format!("number {i} of the query's vector"), expected, found));
        }
        farthest = farthest.max(distance(*expected, *found));
    }
    Ok(farthest)
}

/// Whether the worker's own rows equal the recorded ones, for the items that the shard has.
fn check_rows(model: &VersionModel, at: &At<'_>, shard: &ShardTable) -> Result<(), GoldenMismatch> {
    let request = at.request;
    let mine: Vec<(usize, u32)> = request
        .item_ids
        .iter()
        .enumerate()
        .filter_map(|(i, item_id)| shard.row_of(item_id).map(|row| (i, row)))
        .collect();
    let query = model
        .query_features(&request.query, request.query_vector.as_deref(), request.features.clone())
        .map_err(|error| at.mismatch("the request's features", "features of the ranker", error))?;
    let query = match &request.standing {
        Some(standing) => query.placed(standing, shard, &request.item_ids),
        None => query,
    };
    let rows: Vec<u32> = mine.iter().map(|(_, row)| *row).collect();
    let assembled = model.binding().assemble(shard, &rows, &query, Vec::new());
    for (input, tensor) in model.binding().inputs.iter().zip(&assembled) {
        let recorded = request.inputs.get(&input.name).map_or(&[][..], Vec::as_slice);
        for (position, (i, _)) in mine.iter().enumerate() {
            let expected = recorded.get(*i).map(numbers).unwrap_or_default();
            let found = row(tensor, position);
            if let Some(bad) = (0..found.len())
                .find(|n| expected.get(*n).is_none_or(|expected| differs(*expected, found[*n], ROWS)))
            {
                let feature = feature_at(model, &input.name, bad);
                let what = format!("{feature} of item {}", request.item_ids[*i]);
                let expected = expected.get(bad).map_or("nothing".to_owned(), ToString::to_string);
                return Err(at.mismatch(what, expected, found[bad]));
            }
        }
    }
    Ok(())
}

/// The name of the feature whose number is at `offset` of an input.
fn feature_at(model: &VersionModel, input: &str, offset: usize) -> String {
    let binding = model.binding();
    let index = binding.inputs.iter().position(|known| known.name == input);
    [&binding.items, &binding.given, &binding.query, &binding.matches]
        .into_iter()
        .flatten()
        .find(|slot| {
            Some(slot.input) == index && (slot.offset..slot.offset + slot.spec.width).contains(&offset)
        })
        .map_or_else(|| format!("number {offset} of {input}"), |slot| slot.spec.name.to_string())
}

/// The recorded rows, as model inputs.
fn recorded(
    model: &VersionModel,
    request: &GoldenRequest,
    rows: impl Iterator<Item = usize> + Clone,
) -> Vec<Tensor> {
    model
        .binding()
        .inputs
        .iter()
        .map(|input| {
            let values = request.inputs.get(&input.name).map_or(&[][..], Vec::as_slice);
            let values = rows.clone().filter_map(|row| values.get(row));
            let converted = values.filter_map(|value| value.clone().into_dtype(input.dtype));
            let mut data = TensorData::zeros(input.dtype, 0);
            for value in converted {
                match (&mut data, value) {
                    (TensorData::F32(all), FeatureValue::F32(row)) => all.extend(row),
                    (TensorData::I64(all), FeatureValue::I64(row)) => all.extend(row),
                    (TensorData::F32(_), FeatureValue::I64(_))
                    | (TensorData::I64(_), FeatureValue::F32(_)) => {}
                }
            }
            Tensor { width: input.width, data }
        })
        .collect()
}

#[expect(clippy::cast_precision_loss, reason = "compared with a tolerance far above it")]
fn numbers(value: &FeatureValue) -> Vec<f32> {
    match value {
        FeatureValue::F32(values) => values.clone(),
        FeatureValue::I64(values) => values.iter().map(|value| *value as f32).collect(),
    }
}

#[expect(clippy::cast_precision_loss, reason = "compared with a tolerance far above it")]
fn row(tensor: &Tensor, row: usize) -> Vec<f32> {
    let range = row * tensor.width..(row + 1) * tensor.width;
    match &tensor.data {
        TensorData::F32(values) => values[range].to_vec(),
        TensorData::I64(values) => values[range].iter().map(|value| *value as f32).collect(),
    }
}

fn differs(expected: f32, found: f32, tolerance: f32) -> bool {
    // A NaN is never near anything.
    let near = distance(expected, found) <= tolerance;
    !near
}

fn cosine(left: &[f32], right: &[f32]) -> f32 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    dot(left, right) / (dot(left, left) * dot(right, right)).sqrt()
}

/// Absolute for small numbers, relative for large ones.
fn distance(expected: f32, found: f32) -> f32 {
    (expected - found).abs() / (1.0 + expected.abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantized_encoder_is_held_to_the_direction_of_its_vectors() {
        let golden = br#"{"query": "q", "item_ids": [], "inputs": {}, "scores": []}"#;
        let request: GoldenRequest = serde_json::from_slice(golden).unwrap();
        let at = At { line: 3, request: &request };
        let plain = Tolerance { golden: 1e-4, batch: 1e-5, direction: None };
        let quantized = Tolerance { direction: Some(SAME_DIRECTION), ..plain };
        let recorded = [0.6, 0.8, 0.0];
        let [near, other, none] = [[0.5, 0.8, 0.1], [0.8, -0.6, 0.0], [f32::NAN; 3]];
        assert_eq!(check_vector(&recorded, &near, quantized, &at).unwrap().to_bits(), 0);
        let mismatch = check_vector(&recorded, &near, plain, &at).unwrap_err();
        assert_eq!((mismatch.line, mismatch.what.as_str()), (3, "number 0 of the query's vector"));
        for found in [other, none] {
            let mismatch = check_vector(&recorded, &found, quantized, &at).unwrap_err();
            assert_eq!(mismatch.expected, "at least 0.9");
        }
    }
}
