//! `features.json`, the ranker's bindings, and the columns they need.

use std::collections::HashSet;

use endcap_types::{Compute, DType, FeatureSpec, Namespace};

use super::is_finite;
use crate::{BundleError, Column, FeatureSchema, ItemTable, ModelSpec};

/// Numbers per feature; more is a mistake in `width`.
const WIDEST: usize = 65_536;

/// Whether what `model.json` says makes sense by itself.
pub(super) fn check_spec(spec: &ModelSpec) -> Result<(), BundleError> {
    let wrong = |field: &str, found: &str, expected: &str| {
        let (field, found, expected) = (field.to_owned(), found.to_owned(), expected.to_owned());
        Err(BundleError::Manifest { file: "model.json", field, found, expected })
    };
    if spec.ranker.inputs.is_empty() {
        return wrong("ranker.inputs", "empty", "every input of the graph, once");
    }
    if let Some(input) = spec.ranker.inputs.iter().find(|input| input.features.is_empty()) {
        let field = format!("ranker.inputs[{:?}].features", input.name);
        return wrong(&field, "empty", "at least one feature");
    }
    if let Some(encoder) = &spec.encoder {
        let numbers = [("encoder.dim", encoder.dim), ("encoder.max_tokens", encoder.max_tokens)];
        if let Some((field, found)) = numbers.into_iter().find(|(_, number)| !(1..=WIDEST).contains(number)) {
            return wrong(field, &found.to_string(), "1 to 65536");
        }
    }
    match &spec.retrieval {
        Some(_) if spec.encoder.is_none() => {
            wrong("encoder", "absent", "one, since `retrieval` needs query vectors")
        }
        Some(retrieval) if retrieval.depth == 0 => wrong("retrieval.depth", "0", "at least 1"),
        Some(_) | None => Ok(()),
    }
}

pub(super) fn check(schema: &FeatureSchema, spec: &ModelSpec) -> Result<(), BundleError> {
    let mut names = HashSet::new();
    for feature in schema.iter() {
        if !names.insert(&feature.name) {
            return Err(BundleError::FeatureDuplicate { feature: feature.name.clone() });
        }
        check_default(feature)?;
        check_compute(feature)?;
    }
    for input in &spec.ranker.inputs {
        let mut dtype = None;
        for name in &input.features {
            let Some(feature) = schema.get(name) else {
                let (input, feature) = (input.name.clone(), name.clone());
                return Err(BundleError::FeatureMissing { input, feature });
            };
            let first = *dtype.get_or_insert(feature.dtype);
            if first != feature.dtype {
                let (input, feature, found) = (input.name.clone(), name.clone(), feature.dtype);
                return Err(BundleError::MixedTypes { input, first, feature, found });
            }
        }
    }
    Ok(())
}

fn check_default(feature: &FeatureSpec) -> Result<(), BundleError> {
    let name = feature.name.clone();
    if feature.width == 0 || feature.width > WIDEST {
        return Err(BundleError::FeatureWidth {
            feature: name,
            found: feature.width,
            expected: "1 to 65536",
        });
    }
    let found = feature.default.len();
    if found != feature.width {
        return Err(BundleError::DefaultWidth { feature: name, found, expected: feature.width });
    }
    if feature.default.clone().into_dtype(feature.dtype).is_none() {
        let (found, expected) = (feature.default.dtype(), feature.dtype);
        return Err(BundleError::DefaultType { feature: name, found, expected });
    }
    if is_finite(&feature.default) { Ok(()) } else { Err(BundleError::DefaultNotFinite { feature: name }) }
}

fn check_compute(feature: &FeatureSpec) -> Result<(), BundleError> {
    let name = feature.name.clone();
    let computed = matches!(name.namespace(), Namespace::Match | Namespace::Query);
    let Some(compute) = &feature.compute else {
        return if computed { Err(BundleError::ComputeMissing { feature: name }) } else { Ok(()) };
    };
    if !computed {
        return Err(BundleError::ComputeNotAllowed { feature: name });
    }
    let of_query = matches!(compute, Compute::TokenCount);
    if of_query != (name.namespace() == Namespace::Query) {
        let expected = if of_query { "a query.* feature" } else { "a match.* feature" };
        return Err(BundleError::ComputeWrong {
            feature: name,
            found: format!("{compute:?}"),
            expected: format!("{expected} for it"),
        });
    }
    if feature.dtype != DType::F32 || feature.width != 1 {
        return Err(BundleError::ComputeWrong {
            feature: name,
            found: format!("{:?} of width {}", feature.dtype, feature.width),
            expected: "f32 of width 1: that is what a shard computes".to_owned(),
        });
    }
    Ok(())
}

/// Whether a shard has the columns that the schema needs.
pub(super) fn check_columns(
    schema: &FeatureSchema,
    table: &ItemTable,
    file: &str,
) -> Result<(), BundleError> {
    for feature in schema.iter() {
        if feature.name.namespace() == Namespace::Item {
            let fits = |column: &Column| match (column, feature.dtype) {
                (Column::F32(_) | Column::I64(_), DType::F32) | (Column::I64(_), DType::I64) => true,
                (Column::Text(_), _) | (Column::F32(_), DType::I64) => false,
            };
            let needed =
                Needed { feature, column: feature.name.local(), expected: format!("{:?}", feature.dtype) };
            require(table, file, &needed, fits)?;
        }
        let texts: Vec<&String> = match &feature.compute {
            Some(Compute::TokenOverlap { column }) => vec![column],
            Some(Compute::MissingTokens { columns } | Compute::NegatedOverlap { columns }) => {
                columns.iter().collect()
            }
            Some(Compute::VectorScore | Compute::TokenCount) | None => Vec::new(),
        };
        for column in texts {
            let needed = Needed { feature, column, expected: "text".to_owned() };
            require(table, file, &needed, |column| matches!(column, Column::Text(_)))?;
        }
        if matches!(feature.compute, Some(Compute::VectorScore)) && table.vectors.is_none() {
            let needed_by = feature.name.to_string();
            return Err(BundleError::VectorsMissing { file: file.to_owned(), needed_by });
        }
    }
    Ok(())
}

/// A column that a feature needs.
struct Needed<'a> {
    feature: &'a FeatureSpec,
    column: &'a str,
    expected: String,
}

fn require(
    table: &ItemTable,
    file: &str,
    needed: &Needed<'_>,
    fits: impl Fn(&Column) -> bool,
) -> Result<(), BundleError> {
    match table.columns.get(needed.column) {
        Some(found) if fits(found) => Ok(()),
        Some(found) => Err(BundleError::ColumnType {
            file: file.to_owned(),
            column: needed.column.to_owned(),
            found: found.kind().to_owned(),
            expected: needed.expected.clone(),
        }),
        None => Err(BundleError::ColumnMissing {
            file: file.to_owned(),
            column: needed.column.to_owned(),
            needed_by: needed.feature.name.clone(),
            found: table.columns.keys().cloned().collect(),
        }),
    }
}
