//! The compiled binding: which feature's numbers go where in each model input.
//!
//! Compiled once at load, so that a request only copies: a row starts as the item's own columns, laid out in the
//! model's order, and what depends on the query is written over it.

use std::collections::BTreeMap;

use endcap_bundle::{FeatureSchema, LexicalStats, ModelSpec};
use endcap_types::{DType, FeatureName, FeatureSpec, FeatureValue, Namespace, Standing, Violations};

use crate::{
    InferError, LoadError, Tensor, TensorData,
    matching::{Lookup, Places},
    shard::ShardTable,
    text::QueryTokens,
};

/// Where a feature's numbers go.
#[derive(Debug, Clone)]
pub(crate) struct Slot {
    pub(crate) input: usize,
    pub(crate) offset: usize,
    pub(crate) spec: FeatureSpec,
}

impl Slot {
    /// The default of a feature of width 1.
    pub(crate) fn default(&self) -> f32 {
        match self.spec.default.clone().into_dtype(DType::F32) {
            Some(FeatureValue::F32(values)) => values.first().copied().unwrap_or_default(),
            _ => 0.0,
        }
    }
}

/// One model input.
#[derive(Debug, Clone)]
pub(crate) struct Input {
    pub(crate) name: String,
    pub(crate) dtype: DType,
    pub(crate) width: usize,
}

/// The slots of a ranker, by where their values come from.
#[derive(Debug, Clone, Default)]
pub(crate) struct Binding {
    pub(crate) inputs: Vec<Input>,
    pub(crate) items: Vec<Slot>,
    /// User, session and context: given with the request, or the default.
    pub(crate) given: Vec<Slot>,
    pub(crate) query: Vec<Slot>,
    pub(crate) matches: Vec<Slot>,
    /// The whole catalogue's statistics.
    pub(crate) lexical: LexicalStats,
    /// The text columns of the lexical list; empty without one.
    pub(crate) listed: Vec<String>,
}

impl Binding {
    pub(crate) fn compile(
        spec: &ModelSpec,
        schema: &FeatureSchema,
        lexical: LexicalStats,
    ) -> Result<Self, LoadError> {
        let listed = spec.retrieval.iter().flat_map(|retrieval| retrieval.lexical_columns.clone()).collect();
        let mut binding = Self { lexical, listed, ..Self::default() };
        for (input, spec) in spec.ranker.inputs.iter().enumerate() {
            let (mut width, mut dtype) = (0, DType::F32);
            for name in &spec.features {
                let feature = schema.get(name).ok_or_else(|| LoadError::MissingFeature {
                    input: spec.name.clone(),
                    feature: name.to_string(),
                })?;
                let slot = Slot { input, offset: width, spec: feature.clone() };
                (width, dtype) = (width + feature.width, feature.dtype);
                match name.namespace() {
                    Namespace::Item => binding.items.push(slot),
                    Namespace::User | Namespace::Session | Namespace::Context => binding.given.push(slot),
                    Namespace::Query => binding.query.push(slot),
                    Namespace::Match => binding.matches.push(slot),
                }
            }
            binding.inputs.push(Input { name: spec.name.clone(), dtype, width });
        }
        Ok(binding)
    }

    /// What of a row depends on the query alone.
    pub(crate) fn query_features(
        &self,
        query: &str,
        vector: Option<&[f32]>,
        mut given: BTreeMap<FeatureName, FeatureValue>,
    ) -> Result<QueryFeatures, InferError> {
        let mut violations = Violations::default();
        let mut constants = Constants::default();
        for slot in &self.given {
            let value = given.remove(&slot.spec.name);
            if let Some(value) = value.and_then(|value| checked(value, &slot.spec, &mut violations)) {
                constants.push(slot, value);
            }
        }
        for name in given.keys().filter(|name| name.namespace() == Namespace::Context) {
            violations.push(format!("context[{name:?}]"), "this version's ranker has no such feature");
        }
        violations.or(())?;
        let tokens = QueryTokens::of(query);
        for slot in &self.query {
            constants.push(slot, FeatureValue::F32(vec![count(tokens.all.len())]));
        }
        let vector = vector.map(<[f32]>::to_vec);
        Ok(QueryFeatures { constants, tokens, vector, places: Places::default(), is_placed: false })
    }

    /// The rows of these items, ready for the model, in the memory of `spare` where that fits.
    pub(crate) fn assemble(
        &self,
        shard: &ShardTable,
        rows: &[u32],
        query: &QueryFeatures,
        spare: Vec<Tensor>,
    ) -> Vec<Tensor> {
        let mut tensors = shard.rows_of(rows, spare);
        let lookups = self.matches.iter().map(|slot| Lookup::of(slot, shard, query, &self.lexical));
        let lookups: Vec<_> = lookups.collect();
        for (input, tensor) in tensors.iter_mut().enumerate() {
            for (_, offset, value) in query.constants.0.iter().filter(|(of, ..)| *of == input) {
                write_everywhere(tensor, *offset, value);
            }
            let width = tensor.width;
            let TensorData::F32(values) = &mut tensor.data else {
                continue;
            };
            for (slot, lookup) in self.matches.iter().zip(&lookups).filter(|(slot, _)| slot.input == input) {
                for (row, values) in rows.iter().zip(values.chunks_exact_mut(width)) {
                    values[slot.offset] = lookup.value(shard, *row);
                }
            }
        }
        tensors
    }
}

/// What of a request is the same for all of its items.
#[derive(Debug, Clone)]
pub struct QueryFeatures {
    constants: Constants,
    pub(crate) tokens: QueryTokens,
    pub(crate) vector: Option<Vec<f32>>,
    pub(crate) places: Places,
    /// Whether anybody said where items stand in the whole catalogue.
    pub(crate) is_placed: bool,
}

/// Numbers that go into every row: input, offset and numbers. Those that lie beside each other are one entry, so that a
/// row is written in few pieces.
#[derive(Debug, Clone, Default)]
struct Constants(Vec<(usize, usize, FeatureValue)>);

impl Constants {
    fn push(&mut self, slot: &Slot, value: FeatureValue) {
        if let Some((input, offset, before)) = self.0.last_mut()
            && *input == slot.input
            && *offset + before.len() == slot.offset
        {
            match (before, &value) {
                (FeatureValue::F32(before), FeatureValue::F32(value)) => return before.extend(value),
                (FeatureValue::I64(before), FeatureValue::I64(value)) => return before.extend(value),
                _ => {}
            }
        }
        self.0.push((slot.input, slot.offset, value));
    }
}

impl QueryFeatures {
    /// Tells where items stand in the whole catalogue; `item_ids` are those of the standing, in its order.
    #[must_use]
    pub fn placed(self, standing: &Standing, shard: &ShardTable, item_ids: &[String]) -> Self {
        let rows = item_ids.iter().map(|item_id| shard.row_of(item_id));
        Self { places: Places::of(standing, rows), is_placed: true, ..self }
    }
}

/// The value if it fits its feature; else nothing and a violation.
fn checked(value: FeatureValue, spec: &FeatureSpec, violations: &mut Violations) -> Option<FeatureValue> {
    let field = || format!("features[{:?}]", spec.name.as_str());
    if value.len() != spec.width {
        violations.push(field(), format!("has {} numbers; expected {}", value.len(), spec.width));
        return None;
    }
    if let FeatureValue::F32(values) = &value
        && let Some(found) = values.iter().find(|value| !value.is_finite())
    {
        violations.push(field(), format!("holds {found}; expected finite numbers"));
        return None;
    }
    let found = value.dtype();
    let fitting = value.into_dtype(spec.dtype);
    if fitting.is_none() {
        violations.push(field(), format!("is {found:?}; expected {:?}", spec.dtype));
    }
    fitting
}

/// Into every row of an input.
pub(crate) fn write_everywhere(tensor: &mut Tensor, offset: usize, value: &FeatureValue) {
    let width = tensor.width.max(1);
    match (&mut tensor.data, value) {
        (TensorData::F32(rows), FeatureValue::F32(value)) => {
            rows.chunks_exact_mut(width)
                .for_each(|row| row[offset..offset + value.len()].copy_from_slice(value));
        }
        (TensorData::I64(rows), FeatureValue::I64(value)) => {
            rows.chunks_exact_mut(width)
                .for_each(|row| row[offset..offset + value.len()].copy_from_slice(value));
        }
        // The slot's value was converted to its input's dtype when it was bound.
        (TensorData::F32(_), FeatureValue::I64(_)) | (TensorData::I64(_), FeatureValue::F32(_)) => {}
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts of a query's tokens")]
pub(crate) fn count(number: usize) -> f32 {
    number as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(input: usize, offset: usize, dtype: DType) -> Slot {
        let default = FeatureValue::F32(vec![0.0]);
        let name = "context.x".parse().unwrap();
        let spec = FeatureSpec { name, dtype, width: 1, default, ttl_s: None, compute: None };
        Slot { input, offset, spec }
    }

    #[test]
    fn numbers_beside_each_other_are_written_at_once() {
        let mut constants = Constants::default();
        for (offset, values) in [(2, vec![1.0]), (3, vec![2.0, 3.0]), (6, vec![4.0])] {
            constants.push(&slot(0, offset, DType::F32), FeatureValue::F32(values));
        }
        for (offset, values) in [(7, vec![5]), (8, vec![6])] {
            constants.push(&slot(1, offset, DType::I64), FeatureValue::I64(values));
        }
        let expected = [
            (0, 2, FeatureValue::F32(vec![1.0, 2.0, 3.0])),
            (0, 6, FeatureValue::F32(vec![4.0])),
            (1, 7, FeatureValue::I64(vec![5, 6])),
        ];
        assert_eq!(constants.0, expected);
        let mut tensor = Tensor { width: 8, data: TensorData::zeros(DType::F32, 16) };
        for (_, offset, value) in &constants.0[..2] {
            write_everywhere(&mut tensor, *offset, value);
        }
        let row = [0.0, 0.0, 1.0, 2.0, 3.0, 0.0, 4.0, 0.0];
        assert_eq!(tensor.data, TensorData::F32([row, row].concat()));
    }
}
