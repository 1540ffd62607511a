//! Every way in which a bundle's parts can fail to fit together has an error of its own, which names the file, what was
//! found, what was expected and what to do.

#![expect(clippy::unwrap_used, reason = "a test's helpers fail as its tests do")]

mod features;
mod golden;
mod manifest;

use std::{
    fs::{self, File},
    path::Path,
};

use arrow::{array::UInt32Array, compute::take_record_batch};
use endcap_bundle::{
    Bundle, BundleError,
    test_util::{TinyOptions, tiny_bundle},
};
use endcap_types::{Coded as _, ErrorCode, ShardCount};
use parquet::arrow::{ArrowWriter, arrow_reader::ParquetRecordBatchReaderBuilder};
use serde_json::{Value, json};

const FIRST_SHARD: &str = "items/shard-00000-of-00003.parquet";
const SECOND_SHARD: &str = "items/shard-00001-of-00003.parquet";

struct Case {
    name: &'static str,
    /// Damages a sound bundle folder.
    damage: fn(&Path),
    /// The error's variant, and parts of its message in their order.
    expected: (&'static str, &'static [&'static str]),
}

fn run(cases: &[Case]) {
    let options = TinyOptions { items: 24, ..TinyOptions::default() };
    for case in cases {
        let folder = tempfile::tempdir().unwrap();
        let bundle = tiny_bundle(folder.path(), &options, ShardCount::try_from(3).unwrap()).unwrap();
        bundle.check().unwrap();
        (case.damage)(bundle.dir());
        // The manifest may be what was damaged.
        let error = match Bundle::open(bundle.dir()).and_then(|bundle| bundle.check()) {
            Ok(()) => panic!("{}: the damage was not noticed", case.name),
            Err(error) => error,
        };
        expect(case.name, &error, case.expected);
        assert_eq!(error.code(), ErrorCode::InvalidArgument, "{}", case.name);
    }
}

fn expect(name: &str, error: &BundleError, (variant, parts): (&str, &[&str])) {
    let (debug, message) = (format!("{error:?}"), error.to_string());
    let found = debug.split([' ', '{']).next().unwrap();
    assert_eq!(found, variant, "{name}: {message}");
    let mut rest = message.as_str();
    for part in parts {
        let (_, after) =
            rest.split_once(part).unwrap_or_else(|| panic!("{name}: no {part:?} in {message:?}"));
        rest = after;
    }
}

fn edit_json(dir: &Path, file: &str, edit: impl FnOnce(&mut Value)) {
    let path = dir.join(file);
    let mut value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    edit(&mut value);
    fs::write(path, serde_json::to_vec(&value).unwrap()).unwrap();
}

/// Edits the first line of a file of JSON lines.
fn edit_line(dir: &Path, file: &str, edit: impl FnOnce(&mut Value)) {
    let path = dir.join(file);
    let text = fs::read_to_string(&path).unwrap();
    let (first, rest) = text.split_once('\n').unwrap();
    let mut value = serde_json::from_str(first).unwrap();
    edit(&mut value);
    fs::write(path, format!("{value}\n{rest}")).unwrap();
}

/// Edits the entry of one feature in features.json.
fn edit_feature(dir: &Path, name: &str, edit: impl FnOnce(&mut Value)) {
    edit_json(dir, "features.json", |schema| {
        let features = schema["features"].as_array_mut().unwrap();
        edit(features.iter_mut().find(|feature| feature["name"] == name).unwrap());
    });
}

/// Writes the first shard again with these of its own rows.
fn rewrite_rows(dir: &Path, rows: impl FnOnce(u32) -> Vec<u32>) {
    let file = File::open(dir.join(FIRST_SHARD)).unwrap();
    let mut reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap();
    let batch = reader.next().unwrap().unwrap();
    let rows = UInt32Array::from(rows(u32::try_from(batch.num_rows()).unwrap()));
    let batch = take_record_batch(&batch, &rows).unwrap();
    let file = File::create(dir.join(FIRST_SHARD)).unwrap();
    let mut writer = ArrowWriter::try_new(file, batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

#[test]
fn shard_files_hold_exactly_their_own_items() {
    run(SHARDS);
}

const SHARDS: &[Case] = &[
    Case {
        name: "not parquet",
        damage: |dir| fs::write(dir.join(FIRST_SHARD), "rows").unwrap(),
        expected: ("Parquet", &["shard-00000", "not a readable parquet file", "write it again"]),
    },
    Case {
        name: "items of another shard",
        damage: |dir| {
            fs::copy(dir.join(SECOND_SHARD), dir.join(FIRST_SHARD)).unwrap();
            edit_json(dir, "bundle.json", |m| {
                let other = m["shard_rows"][1].as_u64().unwrap();
                let own = m["shard_rows"][0].as_u64().unwrap();
                m["shard_rows"][0] = json!(other);
                m["items_total"] = json!(24 - own + other);
            });
        },
        expected: ("WrongShard", &["item-", "shard-00000", "hashes to shard 1", "pack"]),
    },
    Case {
        name: "an item twice",
        damage: |dir| rewrite_rows(dir, |rows| [0].into_iter().chain(0..rows - 1).collect()),
        expected: ("DuplicateItem", &["item-", "shard-00000", "more than once", "remove"]),
    },
    Case {
        name: "items out of order",
        damage: |dir| rewrite_rows(dir, |rows| (0..rows).rev().collect()),
        expected: ("ItemOrder", &["item-", "shard-00000", "expected ascending", "pack"]),
    },
    Case {
        name: "a row less",
        damage: |dir| rewrite_rows(dir, |rows| (1..rows).collect()),
        expected: ("RowCount", &["shard-00000", "rows, bundle.json says"]),
    },
    Case {
        name: "another number of rows",
        damage: |dir| {
            edit_json(dir, "bundle.json", |m| {
                m["shard_rows"][0] = json!(m["shard_rows"][0].as_u64().unwrap() + 1);
                m["items_total"] = json!(25);
            });
        },
        expected: ("RowCount", &["shard-00000", "rows", "bundle.json says", "pack"]),
    },
    Case {
        name: "vectors of another length than the encoder's",
        damage: |dir| edit_json(dir, "bundle.json", |m| m["spec"]["encoder"]["dim"] = json!(9)),
        expected: ("OnnxShape", &["\"vector\" of encoder.onnx", "8", "expected [batch, 9]"]),
    },
];

#[test]
fn popular_items_are_distinct_and_in_the_catalogue() {
    run(POPULAR);
}

const POPULAR: &[Case] = &[
    Case {
        name: "unknown",
        damage: |dir| edit_json(dir, "popular.json", |p| p["overall"] = json!(["item-00000", "ghost"])),
        expected: ("PopularUnknown", &["popular.json", "\"ghost\"", "overall", "remove it"]),
    },
    Case {
        name: "unknown in a segment",
        damage: |dir| edit_json(dir, "popular.json", |p| p["segments"] = json!({"new": ["ghost"]})),
        expected: ("PopularUnknown", &["ghost", "new"]),
    },
    Case {
        name: "twice",
        damage: |dir| edit_json(dir, "popular.json", |p| p["overall"] = json!(["item-00000", "item-00000"])),
        expected: ("PopularDuplicate", &["item-00000", "twice in overall"]),
    },
    Case {
        name: "none",
        damage: |dir| edit_json(dir, "popular.json", |p| p["overall"] = json!([])),
        expected: ("PopularEmpty", &["popular.json", "add some"]),
    },
];
