//! The golden requests against the schema, the bindings and the catalogue.

use std::collections::HashSet;

use endcap_types::{DType, FeatureValue, ItemId, Namespace};

use super::is_finite;
use crate::{Bundle, BundleError, FeatureSchema, GoldenRequest, ModelSpec};

pub(super) fn check(
    bundle: &Bundle,
    schema: &FeatureSchema,
    ids: &HashSet<ItemId>,
) -> Result<(), BundleError> {
    let golden = bundle.golden()?;
    if golden.is_empty() {
        return Err(BundleError::GoldenEmpty);
    }
    for (i, request) in golden.iter().enumerate() {
        let line = Line { number: i + 1, request };
        line.check_items(ids)?;
        line.check_given(schema)?;
        line.check_inputs(bundle.spec(), schema)?;
        line.check_vector(bundle.spec())?;
    }
    Ok(())
}

/// One request, and where it is among the requests, from 1.
struct Line<'a> {
    number: usize,
    request: &'a GoldenRequest,
}

impl Line<'_> {
    fn length(&self, field: impl Into<String>, found: usize, expected: usize) -> Result<(), BundleError> {
        if found == expected {
            return Ok(());
        }
        Err(BundleError::GoldenLength { line: self.number, field: field.into(), found, expected })
    }

    fn value(
        &self,
        field: impl Into<String>,
        found: impl Into<String>,
        expected: impl Into<String>,
    ) -> BundleError {
        BundleError::GoldenValue {
            line: self.number,
            field: field.into(),
            found: found.into(),
            expected: expected.into(),
        }
    }

    fn check_items(&self, ids: &HashSet<ItemId>) -> Result<(), BundleError> {
        let GoldenRequest { item_ids, scores, standing, .. } = self.request;
        if item_ids.is_empty() {
            return Err(self.value("item_ids", "empty", "at least one item"));
        }
        if let Some(item_id) = item_ids.iter().find(|id| !ids.contains(*id)) {
            return Err(BundleError::GoldenUnknownItem { line: self.number, item_id: item_id.clone() });
        }
        self.length("scores", scores.len(), item_ids.len())?;
        if let Some(standing) = standing {
            self.length("standing.dense_ranks", standing.dense_ranks.len(), item_ids.len())?;
            self.length("standing.lexical_ranks", standing.lexical_ranks.len(), item_ids.len())?;
            if !(standing.dense_top.is_finite() && standing.lexical_top.is_finite()) {
                return Err(self.value("a top of standing", "no number", "a finite number"));
            }
        }
        match scores.iter().find(|score| !score.is_finite()) {
            Some(found) => Err(self.value("a score", found.to_string(), "a finite number")),
            None => Ok(()),
        }
    }

    /// What came with the request: only what can come with one, each as its feature is declared.
    fn check_given(&self, schema: &FeatureSchema) -> Result<(), BundleError> {
        for (name, value) in &self.request.features {
            let field = format!("feature {name}");
            if !matches!(name.namespace(), Namespace::User | Namespace::Session | Namespace::Context) {
                let expected = "a user.*, session.* or context.* feature: the others are computed";
                return Err(self.value(field, "given", expected));
            }
            let Some(spec) = schema.get(name) else {
                return Err(self.value(field, "given", "a feature that features.json declares"));
            };
            self.length(format!("numbers in {field}"), value.len(), spec.width)?;
            self.check_value(field, value, spec.dtype)?;
        }
        Ok(())
    }

    fn check_inputs(&self, spec: &ModelSpec, schema: &FeatureSchema) -> Result<(), BundleError> {
        let bound = |name: &String| spec.ranker.inputs.iter().any(|input| input.name == *name);
        if let Some(name) = self.request.inputs.keys().find(|name| !bound(name)) {
            return Err(self.value(format!("input {name:?}"), "there", "only inputs that model.json binds"));
        }
        for input in &spec.ranker.inputs {
            let rows = self.request.inputs.get(&input.name).map_or(&[][..], Vec::as_slice);
            self.length(format!("rows of input {:?}", input.name), rows.len(), self.request.item_ids.len())?;
            let specs = || input.features.iter().filter_map(|name| schema.get(name));
            let width: usize = specs().map(|spec| spec.width).sum();
            let dtype = specs().next().map_or(DType::F32, |spec| spec.dtype);
            for row in rows {
                self.length(format!("numbers in a row of input {:?}", input.name), row.len(), width)?;
                self.check_value(format!("a row of input {:?}", input.name), row, dtype)?;
            }
        }
        Ok(())
    }

    fn check_value(&self, field: String, value: &FeatureValue, dtype: DType) -> Result<(), BundleError> {
        if value.clone().into_dtype(dtype).is_none() {
            return Err(self.value(field, format!("{:?}", value.dtype()), format!("{dtype:?}")));
        }
        if is_finite(value) { Ok(()) } else { Err(self.value(field, format!("{value:?}"), "finite numbers")) }
    }

    fn check_vector(&self, spec: &ModelSpec) -> Result<(), BundleError> {
        match (&self.request.query_vector, &spec.encoder) {
            (None, _) => Ok(()),
            (Some(_), None) => {
                Err(self.value("query_vector", "there", "none, since the model has no encoder"))
            }
            (Some(vector), Some(encoder)) => {
                self.length("numbers in query_vector", vector.len(), encoder.dim)?;
                self.check_value("query_vector".to_owned(), &FeatureValue::F32(vector.clone()), DType::F32)
            }
        }
    }
}
