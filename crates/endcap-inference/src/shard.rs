//! One shard in memory: items as the model's own rows, vectors, tokens and display columns.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashSet},
};

use endcap_bundle::{Column, ItemTable};
use endcap_types::{Compute, DType, FeatureValue};

use crate::{
    LoadError, QueryFeatures, Tensor, TensorData,
    binding::{Binding, Slot, write_everywhere},
    index::{VectorIndex, VectorOptions},
    item_ids::ItemIds,
    words::Words,
};

/// The items of one shard, ready to be found and ranked.
#[derive(Debug)]
pub struct ShardTable {
    /// Ascending, so that the order of rows is the order in which ties are broken.
    ids: ItemIds,
    columns: BTreeMap<String, Column>,
    vectors: Option<VectorIndex>,
    /// Per model input: every item's row with the item's own columns in place, and defaults for what requests bring.
    templates: Vec<Tensor>,
    words: Words,
}

/// An item in a shard's lists, with its score in either.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Listed {
    pub row: u32,
    /// Inner product with the query's vector; 0 without one.
    pub dense: f32,
    /// BM25 over the version's lexical columns; 0 without any.
    pub lexical: f32,
}

impl ShardTable {
    pub(crate) fn build(
        binding: &Binding,
        table: ItemTable,
        options: VectorOptions,
    ) -> Result<Self, LoadError> {
        let mut templates: Vec<Tensor> = binding
            .inputs
            .iter()
            .map(|input| {
                let cells = input.width * table.len();
                let data = match input.dtype {
                    DType::F32 => TensorData::F32(vec![0.0; cells]),
                    DType::I64 => TensorData::I64(vec![0; cells]),
                };
                Tensor { width: input.width, data }
            })
            .collect();
        for slot in &binding.items {
            lay_out(&mut templates[slot.input], slot, &table)?;
        }
        for slot in &binding.given {
            if let Some(default) = slot.spec.default.clone().into_dtype(slot.spec.dtype) {
                write_everywhere(&mut templates[slot.input], slot.offset, &default);
            }
        }
        let reads_vectors =
            |slot: &&Slot| matches!(slot.spec.compute, Some(Compute::VectorScore | Compute::VectorBelowTop));
        if let Some(slot) = binding.matches.iter().find(reads_vectors)
            && table.vectors.is_none()
            && !table.is_empty()
        {
            return Err(LoadError::Vectors {
                feature: slot.spec.name.to_string(),
                expected: "some".to_owned(),
                found: "none".to_owned(),
            });
        }
        let words = Words::build(binding, &table)?;
        let ItemTable { ids, columns, vectors } = table;
        let vectors = vectors.map(|vectors| VectorIndex::build(vectors, options)).transpose()?;
        Ok(Self { ids: ItemIds::new(ids), columns, vectors, templates, words })
    }

    pub fn len(&self) -> usize {
        self.ids.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    pub fn item_id(&self, row: u32) -> &str {
        self.ids.id(row)
    }

    pub fn row_of(&self, item_id: &str) -> Option<u32> {
        self.ids.row(item_id)
    }

    pub fn has_column(&self, column: &str) -> bool {
        self.columns.contains_key(column)
    }

    /// Names of the display columns.
    pub fn column_names(&self) -> impl Iterator<Item = &str> {
        self.columns.keys().map(String::as_str)
    }

    /// A column's value as text; nothing where the item has none.
    pub fn text(&self, column: &str, row: u32) -> Option<Cow<'_, str>> {
        let row = row as usize;
        match self.columns.get(column)? {
            Column::Text(values) => values[row].as_deref().map(Cow::Borrowed),
            Column::F32(values) => values[row].map(|value| Cow::Owned(value.to_string())),
            Column::I64(values) => values[row].map(|value| Cow::Owned(value.to_string())),
        }
    }

    /// The `depth` most similar items and their similarity, best first, ties by item id. Excluded ones don't count.
    pub fn retrieve(&self, vector: &[f32], depth: usize, excluded: &HashSet<u32>) -> Vec<(u32, f32)> {
        self.vectors.as_ref().map_or_else(Vec::new, |vectors| vectors.top(vector, depth, excluded))
    }

    /// The `depth` best items by the query's vector and the `depth` best by its words, as far as there are any, each
    /// with both scores. Excluded ones don't count.
    pub fn list(&self, query: &QueryFeatures, depth: usize, excluded: &HashSet<u32>) -> Vec<Listed> {
        let words = self.known_tokens(&query.tokens.all);
        let field = self.lexical_field(self.listed_columns());
        let vector = query.vector.as_deref();
        let dense = vector.map_or_else(Vec::new, |vector| self.retrieve(vector, depth, excluded));
        let lexical = field.map_or_else(Vec::new, |field| {
            self.words.fields[field].top(&words, depth, |row| !excluded.contains(&row))
        });
        let seen: HashSet<u32> = dense.iter().map(|(row, _)| *row).collect();
        let also = lexical.iter().filter(|(row, _)| !seen.contains(row)).map(|(row, _)| *row);
        let rows = dense.iter().map(|(row, _)| *row).chain(also);
        rows.map(|row| Listed {
            row,
            dense: vector.map_or(0.0, |vector| self.similarity(row, vector)),
            lexical: field.map_or(0.0, |field| self.bm25(field, row, &words)),
        })
        .collect()
    }

    /// Length of the vectors, if items have any.
    pub fn dim(&self) -> Option<usize> {
        self.vectors.as_ref().map(VectorIndex::dim)
    }

    /// What it takes, within a few percent.
    pub fn memory_bytes(&self) -> u64 {
        let columns: u64 = self.columns.values().map(column_bytes).sum();
        let vectors = self.vectors.as_ref().map_or(0, VectorIndex::bytes);
        let templates: u64 = self.templates.iter().map(tensor_bytes).sum();
        self.ids.bytes() + columns + vectors + templates + self.words.bytes()
    }

    /// Copies of these items' rows, per input, in the memory of `spare` where that fits.
    pub(crate) fn rows_of(&self, rows: &[u32], spare: Vec<Tensor>) -> Vec<Tensor> {
        let mut spare = spare.into_iter().map(|tensor| tensor.data);
        self.templates
            .iter()
            .map(|template| {
                let width = template.width;
                let data = match (&template.data, spare.next()) {
                    (TensorData::F32(values), Some(TensorData::F32(into))) => {
                        TensorData::F32(copy_rows(values, rows, width, into))
                    }
                    (TensorData::I64(values), Some(TensorData::I64(into))) => {
                        TensorData::I64(copy_rows(values, rows, width, into))
                    }
                    (TensorData::F32(values), _) => {
                        TensorData::F32(copy_rows(values, rows, width, Vec::new()))
                    }
                    (TensorData::I64(values), _) => {
                        TensorData::I64(copy_rows(values, rows, width, Vec::new()))
                    }
                };
                Tensor { width, data }
            })
            .collect()
    }

    /// Inner product of an item's vector and `vector`, which must be [`ShardTable::dim`] long; 0 without vectors.
    pub fn similarity(&self, row: u32, vector: &[f32]) -> f32 {
        self.vectors.as_ref().map_or(0.0, |vectors| vectors.similarity(row, vector))
    }

    /// Indices of text columns that a match feature reads; all of them were tokenized at load.
    pub(crate) fn token_columns(&self, names: &[String]) -> Vec<usize> {
        let known = |name: &String| self.words.columns.iter().position(|(known, _)| known == name);
        names.iter().filter_map(known).collect()
    }

    pub(crate) fn known_tokens(&self, tokens: &[String]) -> Vec<u32> {
        self.words.vocabulary.known(tokens)
    }

    pub(crate) fn known_token(&self, token: &str) -> Option<u32> {
        self.words.vocabulary.number(token)
    }

    pub(crate) fn has_token(&self, column: usize, row: u32, token: u32) -> bool {
        self.words.columns.get(column).is_some_and(|(_, column)| column.has(row, token))
    }

    pub(crate) fn joined_column(&self, name: &str) -> usize {
        self.words.joined.iter().position(|(known, _)| known == name).unwrap_or(usize::MAX)
    }

    /// A text column's tokens, joined by spaces.
    pub(crate) fn joined(&self, column: usize, row: u32) -> &str {
        self.words.joined.get(column).map_or("", |(_, texts)| &texts[row as usize])
    }

    /// Columns of the lexical list; empty without one.
    pub(crate) fn listed_columns(&self) -> &[String] {
        &self.words.listed
    }

    pub(crate) fn lexical_field(&self, columns: &[String]) -> Option<usize> {
        self.words.fields.iter().position(|field| field.columns() == columns)
    }

    pub(crate) fn bm25(&self, field: usize, row: u32, tokens: &[u32]) -> f32 {
        self.words.fields[field].score(row, tokens)
    }
}

/// Writes an item column into every row of an input, with the default where an item has no value.
fn lay_out(template: &mut Tensor, slot: &Slot, table: &ItemTable) -> Result<(), LoadError> {
    let name = slot.spec.name.local();
    let column = table.columns.get(name);
    let width = template.width.max(1);
    match (&mut template.data, column, &slot.spec.default.clone().into_dtype(slot.spec.dtype)) {
        (TensorData::F32(cells), Some(Column::F32(values)), Some(FeatureValue::F32(default))) => {
            for (row, value) in cells.chunks_exact_mut(width).zip(values) {
                row[slot.offset] = value.unwrap_or(default[0]);
            }
        }
        #[expect(clippy::cast_precision_loss, reason = "a declared f32 feature has f32 precision")]
        (TensorData::F32(cells), Some(Column::I64(values)), Some(FeatureValue::F32(default))) => {
            for (row, value) in cells.chunks_exact_mut(width).zip(values) {
                row[slot.offset] = value.map_or(default[0], |value| value as f32);
            }
        }
        (TensorData::I64(cells), Some(Column::I64(values)), Some(FeatureValue::I64(default))) => {
            for (row, value) in cells.chunks_exact_mut(width).zip(values) {
                row[slot.offset] = value.unwrap_or(default[0]);
            }
        }
        (TensorData::F32(_), found, _) => {
            return Err(wrong_column(slot.spec.name.as_str(), name, "f32 or i64", found));
        }
        (TensorData::I64(_), found, _) => {
            return Err(wrong_column(slot.spec.name.as_str(), name, "i64", found));
        }
    }
    Ok(())
}

pub(crate) fn wrong_column(
    needed_by: &str,
    column: &str,
    expected: &'static str,
    found: Option<&Column>,
) -> LoadError {
    LoadError::Column {
        feature: needed_by.to_owned(),
        column: column.to_owned(),
        expected,
        found: found.map_or("no such column", Column::kind).to_owned(),
    }
}

fn copy_rows<T: Copy>(values: &[T], rows: &[u32], width: usize, mut copied: Vec<T>) -> Vec<T> {
    copied.clear();
    copied.reserve(rows.len() * width);
    for row in rows {
        let start = *row as usize * width;
        copied.extend_from_slice(&values[start..start + width]);
    }
    copied
}

fn column_bytes(column: &Column) -> u64 {
    match column {
        Column::F32(values) => values.len() as u64 * 8,
        Column::I64(values) => values.len() as u64 * 16,
        Column::Text(values) => {
            values.iter().map(|v| 24 + v.as_ref().map_or(0, |text| text.len() as u64)).sum()
        }
    }
}

fn tensor_bytes(tensor: &Tensor) -> u64 {
    match &tensor.data {
        TensorData::F32(values) => values.len() as u64 * 4,
        TensorData::I64(values) => values.len() as u64 * 8,
    }
}
