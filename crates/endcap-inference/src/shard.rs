//! One shard in memory: items as the model's own rows, vectors, tokens and display columns.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
};

use endcap_bundle::{Column, ItemTable, Vectors};
use endcap_types::{Compute, DType, FeatureValue, ItemId};

use crate::{
    LoadError, Tensor, TensorData,
    binding::{Binding, Slot},
    scan,
    text::{TokenColumn, Vocabulary},
};

/// The items of one shard, ready to be found and ranked.
#[derive(Debug)]
pub struct ShardTable {
    /// Ascending, so that the order of rows is the order in which ties are broken.
    ids: Vec<ItemId>,
    rows: HashMap<ItemId, u32>,
    columns: BTreeMap<String, Column>,
    vectors: Option<Vectors>,
    /// Per model input: every item's row with the item's own columns in place.
    templates: Vec<Tensor>,
    vocabulary: Vocabulary,
    token_columns: Vec<(String, TokenColumn)>,
}

impl ShardTable {
    pub(crate) fn build(binding: &Binding, table: ItemTable) -> Result<Self, LoadError> {
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
        let (mut vocabulary, mut token_columns) =
            (Vocabulary::default(), Vec::<(String, TokenColumn)>::new());
        for slot in &binding.matches {
            if matches!(slot.spec.compute, Some(Compute::VectorScore))
                && table.vectors.is_none()
                && !table.is_empty()
            {
                return Err(LoadError::Vectors {
                    feature: slot.spec.name.to_string(),
                    expected: "some".to_owned(),
                    found: "none".to_owned(),
                });
            }
            for name in text_columns(slot) {
                if token_columns.iter().all(|(known, _)| known != name) {
                    let column = tokenized(slot, name, &table, &mut vocabulary)?;
                    token_columns.push((name.clone(), column));
                }
            }
        }
        let rows = table.ids.iter().cloned().zip(0..).collect();
        let ItemTable { ids, columns, vectors } = table;
        Ok(Self { ids, rows, columns, vectors, templates, vocabulary, token_columns })
    }

    pub fn len(&self) -> usize {
        self.ids.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    pub fn item_id(&self, row: u32) -> &str {
        &self.ids[row as usize]
    }

    pub fn row_of(&self, item_id: &str) -> Option<u32> {
        self.rows.get(item_id).copied()
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

    /// The `depth` most similar items and their similarity, best first, ties by item id.
    pub fn retrieve(&self, vector: &[f32], depth: usize) -> Vec<(u32, f32)> {
        self.vectors.as_ref().map_or_else(Vec::new, |vectors| scan::top(&vectors.data, vector, depth))
    }

    /// Length of the vectors, if items have any.
    pub fn dim(&self) -> Option<usize> {
        self.vectors.as_ref().map(|vectors| vectors.dim)
    }

    /// What it takes, within a few percent.
    pub fn memory_bytes(&self) -> u64 {
        let ids: u64 = self.ids.iter().map(|id| 2 * (id.len() as u64 + 24) + 16).sum();
        let columns: u64 = self.columns.values().map(column_bytes).sum();
        let vectors = self.vectors.as_ref().map_or(0, |vectors| vectors.data.len() as u64 * 4);
        let templates: u64 = self.templates.iter().map(tensor_bytes).sum();
        let tokens: u64 = self.token_columns.iter().map(|(_, column)| column.bytes()).sum();
        ids + columns + vectors + templates + tokens + self.vocabulary.bytes()
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
        let Some(vectors) = &self.vectors else { return 0.0 };
        let start = row as usize * vectors.dim;
        scan::dot(&vectors.data[start..start + vectors.dim], vector)
    }

    /// Index of a text column that a match feature reads; all of them were tokenized at load.
    pub(crate) fn token_column(&self, name: &str) -> usize {
        self.token_columns.iter().position(|(known, _)| known == name).unwrap_or(usize::MAX)
    }

    pub(crate) fn token_columns(&self, names: &[String]) -> Vec<usize> {
        names.iter().map(|name| self.token_column(name)).collect()
    }

    pub(crate) fn known_tokens(&self, tokens: &[String]) -> Vec<u32> {
        self.vocabulary.known(tokens)
    }

    pub(crate) fn has_token(&self, column: usize, row: u32, token: u32) -> bool {
        self.token_columns.get(column).is_some_and(|(_, column)| column.has(row, token))
    }
}

fn text_columns(slot: &Slot) -> Vec<&String> {
    match &slot.spec.compute {
        Some(Compute::TokenOverlap { column }) => vec![column],
        Some(Compute::MissingTokens { columns } | Compute::NegatedOverlap { columns }) => {
            columns.iter().collect()
        }
        Some(Compute::VectorScore | Compute::TokenCount) | None => Vec::new(),
    }
}

fn tokenized(
    slot: &Slot,
    name: &str,
    table: &ItemTable,
    vocabulary: &mut Vocabulary,
) -> Result<TokenColumn, LoadError> {
    match table.columns.get(name) {
        Some(Column::Text(texts)) => Ok(TokenColumn::of(texts, vocabulary)),
        found => Err(wrong_column(slot, name, "text", found)),
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
        (TensorData::F32(_), found, _) => return Err(wrong_column(slot, name, "f32 or i64", found)),
        (TensorData::I64(_), found, _) => return Err(wrong_column(slot, name, "i64", found)),
    }
    Ok(())
}

fn wrong_column(slot: &Slot, column: &str, expected: &'static str, found: Option<&Column>) -> LoadError {
    LoadError::Column {
        feature: slot.spec.name.to_string(),
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
