//! From a source folder to a bundle: which item files are understood, which are refused, and that a refusal leaves
//! nothing behind.

#![expect(clippy::unwrap_used, reason = "a test's helpers fail as its tests do")]

use std::{fs, path::Path, sync::Arc};

use arrow::{
    array::{
        Array, ArrayRef, BooleanArray, Date32Array, FixedSizeListArray, Float16Array, Float32Array,
        Float64Array, Int32Array, LargeListArray, LargeStringArray, ListArray, RecordBatch, StringArray,
    },
    buffer::OffsetBuffer,
    datatypes::{DataType, Field, Schema},
};
use endcap_bundle::{
    Bundle, BundleError, Column, PackOptions, assemble,
    test_util::{TinyOptions, tiny_source},
};
use endcap_types::ShardCount;
use half::f16;
use parquet::arrow::ArrowWriter;

const DIM: usize = 2;

fn options(shards: u32) -> PackOptions {
    PackOptions { shards: ShardCount::try_from(shards).unwrap(), created: "2026-01-01T00:00:00Z".to_owned() }
}

/// A sound source of a model with vectors of two numbers; its items are then replaced.
fn source(folder: &Path) {
    let options = TinyOptions { items: 8, dim: DIM, ..TinyOptions::default() };
    tiny_source(folder, &options).unwrap();
}

fn write_items(folder: &Path, columns: Vec<(&str, ArrayRef)>) {
    let fields: Vec<Field> =
        columns.iter().map(|(name, column)| Field::new(*name, column.data_type().clone(), true)).collect();
    let arrays = columns.into_iter().map(|(_, column)| column).collect();
    let batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays).unwrap();
    let file = fs::File::create(folder.join("items.parquet")).unwrap();
    let mut writer = ArrowWriter::try_new(file, batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

fn texts(values: &[&str]) -> ArrayRef {
    Arc::new(StringArray::from(values.to_vec()))
}

fn fixed(values: ArrayRef, width: i32) -> ArrayRef {
    let item = Arc::new(Field::new("item", values.data_type().clone(), true));
    Arc::new(FixedSizeListArray::new(item, width, values, None))
}

fn list(values: ArrayRef, lengths: &[usize]) -> ArrayRef {
    let item = Arc::new(Field::new("item", values.data_type().clone(), true));
    Arc::new(ListArray::new(item, OffsetBuffer::from_lengths(lengths.iter().copied()), values, None))
}

fn large_list(values: ArrayRef, lengths: &[usize]) -> ArrayRef {
    let item = Arc::new(Field::new("item", values.data_type().clone(), true));
    Arc::new(LargeListArray::new(item, OffsetBuffer::from_lengths(lengths.iter().copied()), values, None))
}

fn floats(values: &[f32]) -> ArrayRef {
    Arc::new(Float32Array::from(values.to_vec()))
}

#[test]
fn vectors_may_come_as_any_list_of_floats() {
    // Of the same exact numbers in every type.
    let numbers = [0.5_f32, -1.0, 0.25, 2.0, 0.0, 1.5];
    let halves: ArrayRef =
        Arc::new(numbers.iter().map(|v| Some(f16::from_f32(*v))).collect::<Float16Array>());
    let doubles: ArrayRef = Arc::new(numbers.iter().map(|v| Some(f64::from(*v))).collect::<Float64Array>());
    let three = [DIM; 3];
    let kinds: [(&str, ArrayRef); 7] = [
        ("fixed f32", fixed(floats(&numbers), 2)),
        ("fixed f16", fixed(Arc::clone(&halves), 2)),
        ("fixed f64", fixed(Arc::clone(&doubles), 2)),
        ("list f32", list(floats(&numbers), &three)),
        ("list f16", list(Arc::clone(&halves), &three)),
        ("large list f32", large_list(floats(&numbers), &three)),
        ("large list f64", large_list(doubles, &three)),
    ];
    for (name, vector) in kinds {
        let folder = tempfile::tempdir().unwrap();
        source(&folder.path().join("source"));
        write_items(
            &folder.path().join("source"),
            vec![("item_id", texts(&["b", "c", "a"])), ("vector", vector)],
        );
        // Far more shards than items: those without any know the vectors' length, too.
        let bundle =
            assemble(&folder.path().join("source"), &folder.path().join("bundle"), &options(16), &())
                .unwrap();
        let tables: Vec<_> = (0..16).map(|shard| bundle.items(shard).unwrap()).collect();
        for table in &tables {
            assert_eq!(table.vectors.as_ref().unwrap().dim, DIM, "{name}");
        }
        let mut items: Vec<_> = tables
            .iter()
            .flat_map(|table| table.ids.iter().cloned().zip(table.vectors.as_ref().unwrap().data.chunks(DIM)))
            .collect();
        items.sort_by(|a, b| a.0.cmp(&b.0));
        let expected = [("a", &numbers[4..]), ("b", &numbers[..2]), ("c", &numbers[2..4])];
        assert_eq!(items.iter().map(|(id, v)| (id.as_str(), *v)).collect::<Vec<_>>(), expected, "{name}");
    }
}

#[test]
fn halves_stay_halves_on_disk() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path().join("source");
    source(&at);
    let halves: ArrayRef = Arc::new((0..4).map(|i| Some(f16::from_f32(i as f32))).collect::<Float16Array>());
    write_items(&at, vec![("item_id", texts(&["a", "b"])), ("vector", fixed(halves, 2))]);
    let bundle = assemble(&at, &folder.path().join("bundle"), &options(1), &()).unwrap();
    let file = fs::File::open(bundle.path("items/shard-00000-of-00001.parquet")).unwrap();
    let reader = parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
    let vector = reader.schema().field_with_name("vector").unwrap().data_type().clone();
    assert!(
        matches!(&vector, DataType::FixedSizeList(item, 2) if *item.data_type() == DataType::Float16),
        "{vector}"
    );
}

#[test]
fn columns_become_f32_i64_or_text_and_keep_their_gaps() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path().join("source");
    source(&at);
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("item_id", Arc::new(LargeStringArray::from(vec!["b", "a"]))),
        ("double", Arc::new(Float64Array::from(vec![Some(1.5), None]))),
        ("small", Arc::new(Int32Array::from(vec![None, Some(-7)]))),
        ("flag", Arc::new(BooleanArray::from(vec![Some(true), None]))),
        ("text", Arc::new(StringArray::from(vec![Some("é"), None]))),
        ("vector", fixed(floats(&[1.0, 2.0, 3.0, 4.0]), 2)),
    ];
    write_items(&at, columns);
    let table = assemble(&at, &folder.path().join("bundle"), &options(1), &()).unwrap().items(0).unwrap();
    assert_eq!(table.ids, ["a", "b"]);
    assert_eq!(table.columns["double"], Column::F32(vec![None, Some(1.5)]));
    assert_eq!(table.columns["small"], Column::I64(vec![Some(-7), None]));
    assert_eq!(table.columns["flag"], Column::I64(vec![None, Some(1)]));
    assert_eq!(table.columns["text"], Column::Text(vec![None, Some("é".to_owned())]));
    assert_eq!(table.vectors.unwrap().data, [3.0, 4.0, 1.0, 2.0]);
}

struct Case {
    name: &'static str,
    damage: fn(&Path),
    /// Parts of the message, in their order.
    expected: &'static [&'static str],
    variant: &'static str,
}

const CASES: &[Case] = &[
    Case {
        name: "no items",
        damage: |at| write_items(at, vec![("item_id", texts(&[])), ("vector", fixed(floats(&[]), 2))]),
        variant: "NoItems",
        expected: &["items.parquet has no items", "at least one"],
    },
    Case {
        name: "no ids",
        damage: |at| write_items(at, vec![("id", texts(&["a"]))]),
        variant: "ColumnType",
        expected: &["\"item_id\" of items.parquet is absent", "expected text"],
    },
    Case {
        name: "ids that are numbers",
        damage: |at| write_items(at, vec![("item_id", Arc::new(Int32Array::from(vec![1])))]),
        variant: "ColumnType",
        expected: &["item_id", "Int64", "expected text"],
    },
    Case {
        name: "an item without id",
        damage: |at| write_items(at, vec![("item_id", Arc::new(StringArray::from(vec![Some("a"), None])))]),
        variant: "ItemId",
        expected: &["row 1 of items.parquet", "None", "1 to 512"],
    },
    Case {
        name: "an empty id",
        damage: |at| write_items(at, vec![("item_id", texts(&[""]))]),
        variant: "ItemId",
        expected: &["row 0", "\"\""],
    },
    Case {
        name: "an endless id",
        damage: |at| write_items(at, vec![("item_id", texts(&[&"x".repeat(513)]))]),
        variant: "ItemId",
        expected: &["row 0", "xxx"],
    },
    Case {
        name: "an id twice",
        damage: |at| write_items(at, vec![("item_id", texts(&["a", "b", "a"]))]),
        variant: "DuplicateItem",
        expected: &["\"a\" is in items.parquet more than once", "remove"],
    },
    Case {
        name: "a date",
        damage: |at| {
            write_items(
                at,
                vec![("item_id", texts(&["a"])), ("since", Arc::new(Date32Array::from(vec![1])))],
            );
        },
        variant: "ColumnType",
        expected: &["\"since\" of items.parquet is Date32", "expected text, a float"],
    },
    Case {
        name: "vectors of unequal length",
        damage: |at| {
            let vector = list(floats(&[1.0, 2.0, 3.0]), &[2, 1]);
            write_items(at, vec![("item_id", texts(&["a", "b"])), ("vector", vector)]);
        },
        variant: "VectorDimension",
        expected: &["item \"b\" in items.parquet has 1 numbers", "expected 2"],
    },
    Case {
        name: "an empty vector",
        damage: |at| write_items(at, vec![("item_id", texts(&["a"])), ("vector", list(floats(&[]), &[0]))]),
        variant: "VectorDimension",
        expected: &["item \"a\"", "0 numbers", "expected 1"],
    },
    Case {
        name: "a vector with NaN",
        damage: |at| {
            let vector = fixed(floats(&[1.0, 2.0, 3.0, f32::NAN]), 2);
            write_items(at, vec![("item_id", texts(&["a", "b"])), ("vector", vector)]);
        },
        variant: "VectorNotFinite",
        expected: &["item \"b\"", "NaN at position 1", "finite"],
    },
    Case {
        name: "a vector with a gap",
        damage: |at| {
            let vector = fixed(Arc::new(Float32Array::from(vec![None, Some(1.0)])), 2);
            write_items(at, vec![("item_id", texts(&["a"])), ("vector", vector)]);
        },
        variant: "VectorNotFinite",
        expected: &["item \"a\"", "position 0"],
    },
    Case {
        name: "vectors of text",
        damage: |at| {
            let vector = list(texts(&["x", "y"]), &[2]);
            write_items(at, vec![("item_id", texts(&["a"])), ("vector", vector)]);
        },
        variant: "ColumnType",
        expected: &["\"vector\" of items.parquet", "Utf8", "a list of f32 or f16"],
    },
    Case {
        name: "not parquet",
        damage: |at| fs::write(at.join("items.parquet"), "item_id,price").unwrap(),
        variant: "Parquet",
        expected: &["items.parquet is not a readable parquet file", "write it again"],
    },
    Case {
        name: "no item file",
        damage: |at| fs::remove_file(at.join("items.parquet")).unwrap(),
        variant: "MissingFile",
        expected: &["items.parquet is missing", "add it"],
    },
    Case {
        name: "no model.json",
        damage: |at| fs::remove_file(at.join("model.json")).unwrap(),
        variant: "MissingFile",
        expected: &["model.json is missing", "add it"],
    },
    Case {
        name: "a model.json that is not one",
        damage: |at| fs::write(at.join("model.json"), r#"{"model":"Bad Name"}"#).unwrap(),
        variant: "Json",
        expected: &["model.json", "Bad Name", "mend"],
    },
    Case {
        name: "no ranker",
        damage: |at| fs::remove_file(at.join("ranker.onnx")).unwrap(),
        variant: "MissingFile",
        expected: &["ranker.onnx is missing"],
    },
    Case {
        name: "a ranker outside of the source",
        damage: |at| {
            let spec = fs::read_to_string(at.join("model.json")).unwrap();
            fs::write(at.join("model.json"), spec.replace("ranker.onnx", "../../ranker.onnx")).unwrap();
        },
        variant: "UnsafePath",
        expected: &["../../ranker.onnx"],
    },
    Case {
        name: "a ranker in place of the manifest",
        damage: |at| {
            let spec = fs::read_to_string(at.join("model.json")).unwrap();
            fs::write(at.join("model.json"), spec.replace("ranker.onnx", "bundle.json")).unwrap();
        },
        variant: "UnsafePath",
        expected: &["bundle.json"],
    },
];

#[test]
fn a_bad_source_is_refused_by_name_and_leaves_nothing_behind() {
    for case in CASES {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().join("source");
        source(&at);
        (case.damage)(&at);
        let out = folder.path().join("out");
        let error = assemble(&at, &out.join("bundle"), &options(2), &()).unwrap_err();
        expect(case, &error);
        let left: Vec<_> = fs::read_dir(&out).into_iter().flatten().collect();
        assert!(left.is_empty(), "{}: left behind {left:?}", case.name);
    }
}

fn expect(case: &Case, error: &BundleError) {
    let (debug, message) = (format!("{error:?}"), error.to_string());
    assert_eq!(debug.split([' ', '{']).next(), Some(case.variant), "{}: {message}", case.name);
    let mut rest = message.as_str();
    for part in case.expected {
        let found = rest.split_once(part);
        rest = found.unwrap_or_else(|| panic!("{}: no {part:?} in {message:?}", case.name)).1;
    }
}

/// What only a look at all parts together can tell.
#[test]
fn the_items_must_fit_the_model() {
    let checked = |columns: Vec<(&'static str, ArrayRef)>| -> BundleError {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().join("source");
        source(&at);
        write_items(&at, columns);
        let bundle: Bundle = assemble(&at, &folder.path().join("bundle"), &options(1), &()).unwrap();
        bundle.check().unwrap_err()
    };
    let name = || ("name", texts(&["x"]));
    let rating = || ("rating", floats(&[1.0]));
    let id = || ("item_id", texts(&["item-00000"]));

    let wide = checked(vec![id(), name(), rating(), ("vector", fixed(floats(&[1.0, 2.0, 3.0]), 3))]);
    assert!(matches!(wide, BundleError::VectorDimension { found: 3, expected: 2, .. }), "{wide}");
    let none = checked(vec![id(), name(), rating()]);
    assert!(matches!(none, BundleError::VectorsMissing { .. }), "{none}");
    let vector = || ("vector", fixed(floats(&[1.0, 2.0]), 2));
    let no_rating = checked(vec![id(), name(), vector()]);
    assert!(
        matches!(&no_rating, BundleError::ColumnMissing { column, .. } if column == "rating"),
        "{no_rating}"
    );
    let text_rating = checked(vec![id(), name(), vector(), ("rating", texts(&["good"]))]);
    assert!(
        matches!(&text_rating, BundleError::ColumnType { column, .. } if column == "rating"),
        "{text_rating}"
    );
}

#[test]
fn an_occupied_destination_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path().join("source");
    source(&at);
    let dest = folder.path().join("bundle");
    fs::create_dir(&dest).unwrap();
    fs::write(dest.join("precious"), "mine").unwrap();
    let error = assemble(&at, &dest, &options(1), &()).unwrap_err();
    assert!(matches!(error, BundleError::DestinationExists { .. }), "{error}");
    assert_eq!(fs::read_to_string(dest.join("precious")).unwrap(), "mine");
}
