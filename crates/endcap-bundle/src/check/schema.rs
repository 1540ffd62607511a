//! `features.json`, the ranker's bindings, and the columns they need.

use std::collections::HashSet;

use endcap_types::{Compute, DType, FeatureSpec, Namespace, Retriever};

use super::is_finite;
use crate::{BundleError, Column, FeatureSchema, ItemTable, ModelSpec};

/// Numbers per feature; more is a mistake in `width`.
const WIDEST: usize = 65_536;
/// What a worker lists at once.
const DEEPEST_LIST: u32 = 10_000;

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
    let Some(retrieval) = &spec.retrieval else { return Ok(()) };
    let reads = |retriever| retrieval.mode.reads(retriever);
    if reads(Retriever::Dense) && spec.encoder.is_none() {
        return wrong("encoder", "absent", "one, since `retrieval` needs query vectors");
    }
    if reads(Retriever::Lexical) && retrieval.lexical_columns.is_empty() {
        return wrong("retrieval.lexical_columns", "empty", "the text columns that are searched by words");
    }
    let depths = [("retrieval.depth", retrieval.depth), ("retrieval.list_depth", retrieval.list_depth)];
    match depths.into_iter().find(|(_, depth)| *depth == 0) {
        Some((field, _)) => wrong(field, "0", "at least 1"),
        None => Ok(()),
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
        check_lists(feature, spec)?;
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

/// A feature of the whole catalogue's lists needs the lists.
fn check_lists(feature: &FeatureSpec, spec: &ModelSpec) -> Result<(), BundleError> {
    let Some(compute) = &feature.compute else { return Ok(()) };
    let wrong = |expected: &str| {
        let (feature, found) = (feature.name.clone(), format!("{compute:?}"));
        Err(BundleError::ComputeWrong { feature, found, expected: expected.to_owned() })
    };
    if compute.list_depth().is_some_and(|depth| !(1..=DEEPEST_LIST).contains(&depth)) {
        return wrong("a depth of 1 to 10000");
    }
    if compute.columns().is_empty() && compute.has_columns() {
        return wrong("at least one text column");
    }
    let lexical = spec.retrieval.as_ref().is_some_and(|retrieval| !retrieval.lexical_columns.is_empty());
    if compute.list_depth().is_none() || lexical || !compute.reads(Retriever::Lexical) {
        return Ok(());
    }
    wrong("`retrieval.lexical_columns` in model.json for it")
}

/// Whether a shard has the text columns that are searched by words.
pub(super) fn check_lexical(spec: &ModelSpec, table: &ItemTable, file: &str) -> Result<(), BundleError> {
    let columns = spec.retrieval.iter().flat_map(|retrieval| &retrieval.lexical_columns);
    for column in columns {
        let needed =
            Needed { by: "retrieval.lexical_columns".to_owned(), column, expected: "text".to_owned() };
        require(table, file, &needed, |column| matches!(column, Column::Text(_)))?;
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
            let needed = Needed {
                by: feature.name.to_string(),
                column: feature.name.local(),
                expected: format!("{:?}", feature.dtype),
            };
            require(table, file, &needed, fits)?;
        }
        for column in feature.compute.iter().flat_map(Compute::columns) {
            let needed = Needed { by: feature.name.to_string(), column, expected: "text".to_owned() };
            require(table, file, &needed, |column| matches!(column, Column::Text(_)))?;
        }
        let reads_vectors = matches!(feature.compute, Some(Compute::VectorScore | Compute::VectorBelowTop));
        if reads_vectors && table.vectors.is_none() {
            let needed_by = feature.name.to_string();
            return Err(BundleError::VectorsMissing { file: file.to_owned(), needed_by });
        }
    }
    Ok(())
}

/// A column that a feature or the retrieval needs.
struct Needed<'a> {
    by: String,
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
            needed_by: needed.by.clone(),
            found: table.columns.keys().cloned().collect(),
        }),
    }
}
