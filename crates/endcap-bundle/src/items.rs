//! Items as columns, read from and written to Parquet.

use std::{collections::BTreeMap, fs::File, path::Path, sync::Arc};

use arrow::{
    array::{
        Array, ArrayRef, FixedSizeListArray, Float16Array, Float32Array, Float64Array, Int64Array,
        LargeListArray, ListArray, RecordBatch, StringArray, UInt32Array, new_empty_array,
    },
    compute::{cast, concat, take},
    datatypes::{DataType, Field, Schema},
};
use endcap_types::ItemId;
use parquet::{
    arrow::{ArrowWriter, arrow_reader::ParquetRecordBatchReaderBuilder},
    basic::{Compression, ZstdLevel},
    file::properties::WriterProperties,
};

use crate::BundleError;

const ITEM_ID: &str = "item_id";
const VECTOR: &str = "vector";
/// Longest item id, in bytes.
const LONGEST_ID: usize = 512;

/// The items of a shard, or of a whole catalogue, as columns of equal length.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ItemTable {
    pub ids: Vec<ItemId>,
    /// By name, without `item_id` and `vector`.
    pub columns: BTreeMap<String, Column>,
    pub vectors: Option<Vectors>,
}

/// One column; `None` where an item has no value.
#[derive(Debug, Clone, PartialEq)]
pub enum Column {
    F32(Vec<Option<f32>>),
    I64(Vec<Option<i64>>),
    Text(Vec<Option<String>>),
}

impl Column {
    pub fn kind(&self) -> &'static str {
        match self {
            Self::F32(_) => "f32",
            Self::I64(_) => "i64",
            Self::Text(_) => "text",
        }
    }
}

/// One vector per item.
#[derive(Debug, Clone, PartialEq)]
pub struct Vectors {
    pub dim: usize,
    /// Row-major, items x dim.
    pub data: Vec<f32>,
}

/// A Parquet file's rows as one batch of the types that bundles hold.
pub(crate) fn read_batch(path: &Path, file: &str) -> Result<RecordBatch, BundleError> {
    let refused = |error: &dyn std::fmt::Display| BundleError::Parquet {
        file: file.to_owned(),
        detail: error.to_string(),
    };
    let handle = File::open(path).map_err(BundleError::open(path, file))?;
    let reader = ParquetRecordBatchReaderBuilder::try_new(handle).map_err(|e| refused(&e))?;
    let schema = Arc::clone(reader.schema());
    let reader = reader.build().map_err(|e| refused(&e))?;
    let batches: Vec<RecordBatch> = reader.collect::<Result<_, _>>().map_err(|e| refused(&e))?;
    let (mut fields, mut columns) = (Vec::<Field>::new(), Vec::new());
    for (i, field) in schema.fields().iter().enumerate() {
        if fields.iter().any(|known| known.name() == field.name()) {
            return Err(BundleError::ColumnType {
                file: file.to_owned(),
                column: field.name().clone(),
                found: "there twice".to_owned(),
                expected: "distinct columns".to_owned(),
            });
        }
        let chunks: Vec<&dyn Array> = batches.iter().map(|batch| batch.column(i).as_ref()).collect();
        let column = if chunks.is_empty() {
            new_empty_array(field.data_type())
        } else {
            concat(&chunks).map_err(|e| refused(&e))?
        };
        let column = narrow(file, field.name(), &column)?;
        fields.push(Field::new(field.name(), column.data_type().clone(), true));
        columns.push(column);
    }
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).map_err(|e| refused(&e))
}

/// Casts a column to one of the types that bundles hold.
fn narrow(file: &str, name: &str, column: &ArrayRef) -> Result<ArrayRef, BundleError> {
    let target = match column.data_type() {
        kind if name == VECTOR => return vector_column(file, kind).map(|()| Arc::clone(column)),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Dictionary(..) => {
            DataType::Utf8
        }
        // A column without a single value: no type was ever chosen for it.
        DataType::Null => DataType::Utf8,
        DataType::Float16 | DataType::Float32 | DataType::Float64 => DataType::Float32,
        DataType::Boolean
        | DataType::Int8
        | DataType::Int16
        | DataType::Int32
        | DataType::Int64
        | DataType::UInt8
        | DataType::UInt16
        | DataType::UInt32 => DataType::Int64,
        other => {
            return Err(BundleError::ColumnType {
                file: file.to_owned(),
                column: name.to_owned(),
                found: other.to_string(),
                expected: "text, a float, an integer or a bool".to_owned(),
            });
        }
    };
    cast(column, &target)
        .map_err(|error| BundleError::Parquet { file: file.to_owned(), detail: error.to_string() })
}

fn vector_column(file: &str, kind: &DataType) -> Result<(), BundleError> {
    let item = match kind {
        DataType::FixedSizeList(item, _) | DataType::List(item) | DataType::LargeList(item) => {
            Some(item.data_type())
        }
        _ => None,
    };
    if matches!(item, Some(DataType::Float16 | DataType::Float32 | DataType::Float64)) {
        return Ok(());
    }
    Err(BundleError::ColumnType {
        file: file.to_owned(),
        column: VECTOR.to_owned(),
        found: kind.to_string(),
        expected: "a list of f32 or f16".to_owned(),
    })
}

/// The rows of a batch, in this order.
pub(crate) fn select(batch: &RecordBatch, rows: &[u32], file: &str) -> Result<RecordBatch, BundleError> {
    let refused = |error: arrow::error::ArrowError| BundleError::Parquet {
        file: file.to_owned(),
        detail: error.to_string(),
    };
    let indices = UInt32Array::from(rows.to_vec());
    let columns = batch
        .columns()
        .iter()
        .map(|column| take(column, &indices, None))
        .collect::<Result<Vec<_>, _>>()
        .map_err(refused)?;
    RecordBatch::try_new(batch.schema(), columns).map_err(refused)
}

/// Writes a batch. The same rows give the same bytes.
pub(crate) fn write_batch(batch: &RecordBatch, path: &Path, file: &str) -> Result<(), BundleError> {
    let refused = |error: parquet::errors::ParquetError| BundleError::Parquet {
        file: file.to_owned(),
        detail: error.to_string(),
    };
    let level = ZstdLevel::try_new(9).map_err(refused)?;
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(level))
        .set_created_by("endcap".to_owned())
        .build();
    let handle = File::create(path).map_err(BundleError::io("create", path))?;
    let mut writer = ArrowWriter::try_new(handle, batch.schema(), Some(properties)).map_err(refused)?;
    writer.write(batch).map_err(refused)?;
    writer.close().map_err(refused)?;
    Ok(())
}

impl ItemTable {
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    pub(crate) fn read(path: &Path, file: &str) -> Result<Self, BundleError> {
        Self::from_batch(&read_batch(path, file)?, file)
    }

    pub(crate) fn from_batch(batch: &RecordBatch, file: &str) -> Result<Self, BundleError> {
        let mut table = Self { ids: ids(batch, file)?, ..Self::default() };
        for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
            match field.name().as_str() {
                ITEM_ID => {}
                VECTOR => table.vectors = Some(vectors(column, &table.ids, file)?),
                name => {
                    let column = to_column(column).ok_or_else(|| BundleError::ColumnType {
                        file: file.to_owned(),
                        column: name.to_owned(),
                        found: field.data_type().to_string(),
                        expected: "text, f32 or i64".to_owned(),
                    })?;
                    table.columns.insert(name.to_owned(), column);
                }
            }
        }
        Ok(table)
    }
}

pub(crate) fn ids(batch: &RecordBatch, file: &str) -> Result<Vec<ItemId>, BundleError> {
    let column =
        batch.column_by_name(ITEM_ID).and_then(|column| column.as_any().downcast_ref::<StringArray>());
    let column = column.ok_or_else(|| BundleError::ColumnType {
        file: file.to_owned(),
        column: ITEM_ID.to_owned(),
        found: batch.column_by_name(ITEM_ID).map_or("absent".to_owned(), |c| c.data_type().to_string()),
        expected: "text".to_owned(),
    })?;
    let legal = |id: &str| (1..=LONGEST_ID).contains(&id.len());
    column
        .iter()
        .enumerate()
        .map(|(row, id)| match id {
            Some(id) if legal(id) => Ok(id.to_owned()),
            found => Err(BundleError::ItemId {
                file: file.to_owned(),
                row,
                found: found.map(|id| id.chars().take(80).collect()),
            }),
        })
        .collect()
}

/// A text column, if there is one of that name.
pub(crate) fn texts<'a>(batch: &'a RecordBatch, name: &str) -> Option<&'a StringArray> {
    batch.column_by_name(name)?.as_any().downcast_ref()
}

/// The text of a row, if it has one.
pub(crate) fn text(column: &StringArray, row: usize) -> Option<&str> {
    column.is_valid(row).then(|| column.value(row))
}

fn to_column(column: &ArrayRef) -> Option<Column> {
    let any = column.as_any();
    if let Some(texts) = any.downcast_ref::<StringArray>() {
        return Some(Column::Text(texts.iter().map(|text| text.map(str::to_owned)).collect()));
    }
    if let Some(floats) = any.downcast_ref::<Float32Array>() {
        return Some(Column::F32(floats.iter().collect()));
    }
    any.downcast_ref::<Int64Array>().map(|ints| Column::I64(ints.iter().collect()))
}

fn vectors(column: &ArrayRef, ids: &[ItemId], file: &str) -> Result<Vectors, BundleError> {
    let mut vectors = Vectors { dim: 0, data: Vec::new() };
    let rows: Vec<Option<ArrayRef>> =
        if let Some(lists) = column.as_any().downcast_ref::<FixedSizeListArray>() {
            // Known even where a shard has no items.
            vectors.dim = usize::try_from(lists.value_length()).unwrap_or_default();
            lists.iter().collect()
        } else if let Some(lists) = column.as_any().downcast_ref::<ListArray>() {
            lists.iter().collect()
        } else if let Some(lists) = column.as_any().downcast_ref::<LargeListArray>() {
            lists.iter().collect()
        } else {
            return Err(BundleError::ColumnType {
                file: file.to_owned(),
                column: VECTOR.to_owned(),
                found: column.data_type().to_string(),
                expected: "a list of f32 or f16".to_owned(),
            });
        };
    for (item_id, row) in ids.iter().zip(rows) {
        let values = row.map(|row| numbers(&row)).unwrap_or_default();
        if vectors.dim == 0 {
            vectors.dim = values.len();
        }
        if values.len() != vectors.dim || values.is_empty() {
            return Err(BundleError::VectorDimension {
                file: file.to_owned(),
                item_id: item_id.clone(),
                found: values.len(),
                expected: vectors.dim.max(1),
            });
        }
        if let Some(position) = values.iter().position(|value| !value.is_finite()) {
            return Err(BundleError::VectorNotFinite {
                file: file.to_owned(),
                item_id: item_id.clone(),
                found: values[position],
                position,
            });
        }
        vectors.data.extend(values);
    }
    Ok(vectors)
}

fn numbers(row: &ArrayRef) -> Vec<f32> {
    if let Some(halves) = row.as_any().downcast_ref::<Float16Array>() {
        return halves.iter().map(|value| value.map_or(f32::NAN, half::f16::to_f32)).collect();
    }
    if let Some(floats) = row.as_any().downcast_ref::<Float32Array>() {
        return floats.iter().map(|value| value.unwrap_or(f32::NAN)).collect();
    }
    if let Some(doubles) = row.as_any().downcast_ref::<Float64Array>() {
        #[expect(clippy::cast_possible_truncation, reason = "vectors are held as f32")]
        return doubles.iter().map(|value| value.map_or(f32::NAN, |value| value as f32)).collect();
    }
    Vec::new()
}

/// The same batch with its vectors, once they are known to be finite and of one length, as lists of that length: then
/// even a shard without items says how long they are.
pub(crate) fn with_fixed_vectors(
    batch: RecordBatch,
    ids: &[ItemId],
    file: &str,
) -> Result<RecordBatch, BundleError> {
    let refused = |error: arrow::error::ArrowError| BundleError::Parquet {
        file: file.to_owned(),
        detail: error.to_string(),
    };
    let Some(column) = batch.column_by_name(VECTOR) else {
        return Ok(batch);
    };
    let found = vectors(column, ids, file)?;
    let width = i32::try_from(found.dim).unwrap_or(i32::MAX);
    let numbers: ArrayRef = if is_half(column.data_type()) {
        Arc::new(
            found.data.into_iter().map(|value| Some(half::f16::from_f32(value))).collect::<Float16Array>(),
        )
    } else {
        Arc::new(Float32Array::from(found.data))
    };
    let item = Arc::new(Field::new("item", numbers.data_type().clone(), true));
    let lists: ArrayRef = Arc::new(FixedSizeListArray::try_new(item, width, numbers, None).map_err(refused)?);
    let (mut fields, mut columns) = (Vec::new(), Vec::new());
    for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
        let column = if field.name() == VECTOR { Arc::clone(&lists) } else { Arc::clone(column) };
        fields.push(Field::new(field.name(), column.data_type().clone(), true));
        columns.push(column);
    }
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).map_err(refused)
}

fn is_half(list: &DataType) -> bool {
    match list {
        DataType::FixedSizeList(item, _) | DataType::List(item) | DataType::LargeList(item) => {
            *item.data_type() == DataType::Float16
        }
        _ => false,
    }
}
