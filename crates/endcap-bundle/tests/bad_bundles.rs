//! Every way in which a bundle's parts can fail to fit together has an error of its own, which names the file, what was
//! found, what was expected and what to do.

use std::{fs, path::Path};

use endcap_bundle::{
    Bundle, BundleError,
    test_util::{TinyOptions, tiny_bundle},
};
use endcap_types::{Coded as _, ErrorCode, ShardCount};
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
        let (_, after) = rest.split_once(part).unwrap_or_else(|| panic!("{name}: no {part:?} in {message:?}"));
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

#[test]
fn what_the_manifest_says_must_make_sense() {
    run(&[
        Case {
            name: "not JSON",
            damage: |dir| fs::write(dir.join("bundle.json"), "{").unwrap(),
            expected: ("Json", &["bundle.json is not the JSON", "EOF", "mend"]),
        },
        Case {
            name: "another format, with unknown fields",
            damage: |dir| fs::write(dir.join("bundle.json"), r#"{"format":9,"new":1}"#).unwrap(),
            expected: ("Format", &["format 9", "reads 1", "pack it again"]),
        },
        Case {
            name: "unknown field",
            damage: |dir| edit_json(dir, "bundle.json", |m| m["surprise"] = json!(1)),
            expected: ("Json", &["bundle.json", "surprise"]),
        },
        Case {
            name: "path that climbs",
            damage: |dir| edit_json(dir, "bundle.json", |m| m["files"]["../x"] = m["files"]["ranker.onnx"].clone()),
            expected: ("UnsafePath", &["../x", "expected"]),
        },
        Case {
            name: "absolute path",
            damage: |dir| edit_json(dir, "bundle.json", |m| m["files"]["/etc/x"] = m["files"]["ranker.onnx"].clone()),
            expected: ("UnsafePath", &["/etc/x"]),
        },
        Case {
            name: "path with a backslash",
            damage: |dir| edit_json(dir, "bundle.json", |m| m["files"]["a\\b"] = m["files"]["ranker.onnx"].clone()),
            expected: ("UnsafePath", &["a\\\\b"]),
        },
        Case {
            name: "too few shards counted",
            damage: |dir| edit_json(dir, "bundle.json", |m| m["shard_rows"] = json!([24])),
            expected: ("Manifest", &["shard_rows in bundle.json is 1 numbers", "expected 3"]),
        },
        Case {
            name: "sum of the shards",
            damage: |dir| edit_json(dir, "bundle.json", |m| m["items_total"] = json!(25)),
            expected: ("Manifest", &["items_total", "25", "expected 24"]),
        },
        Case {
            name: "row counts beyond any sum",
            damage: |dir| edit_json(dir, "bundle.json", |m| m["shard_rows"] = json!([u64::MAX, u64::MAX, 1])),
            expected: ("Manifest", &["items_total", "24"]),
        },
        Case {
            name: "no items",
            damage: |dir| {
                edit_json(dir, "bundle.json", |m| {
                    m["shard_rows"] = json!([0, 0, 0]);
                    m["items_total"] = json!(0);
                });
            },
            expected: ("NoItems", &["no items", "at least one"]),
        },
        Case {
            name: "a required file that is not listed",
            damage: |dir| {
                edit_json(dir, "bundle.json", |m| {
                    m["files"].as_object_mut().unwrap().remove("encoder.onnx");
                });
            },
            expected: ("MissingFile", &["encoder.onnx is missing", "add it"]),
        },
        Case {
            name: "retrieval without an encoder",
            damage: |dir| edit_json(dir, "bundle.json", |m| m["spec"]["encoder"] = Value::Null),
            expected: ("Manifest", &["encoder in model.json is absent", "retrieval"]),
        },
        Case {
            name: "retrieval of nothing",
            damage: |dir| edit_json(dir, "bundle.json", |m| m["spec"]["retrieval"]["depth"] = json!(0)),
            expected: ("Manifest", &["retrieval.depth", "0", "at least 1"]),
        },
        Case {
            name: "a ranker without inputs",
            damage: |dir| edit_json(dir, "bundle.json", |m| m["spec"]["ranker"]["inputs"] = json!([])),
            expected: ("Manifest", &["ranker.inputs", "empty", "every input"]),
        },
        Case {
            name: "an input of no features",
            damage: |dir| edit_json(dir, "bundle.json", |m| m["spec"]["ranker"]["inputs"][0]["features"] = json!([])),
            expected: ("Manifest", &["ranker.inputs[\"features\"].features", "empty", "at least one feature"]),
        },
        Case {
            name: "an encoder without tokens",
            damage: |dir| edit_json(dir, "bundle.json", |m| m["spec"]["encoder"]["max_tokens"] = json!(0)),
            expected: ("Manifest", &["encoder.max_tokens", "0", "1 to"]),
        },
    ]);
}

#[test]
fn features_must_be_declared_as_they_are_used() {
    run(&[
        Case {
            name: "missing feature",
            damage: |dir| {
                edit_json(dir, "features.json", |schema| {
                    schema["features"].as_array_mut().unwrap().retain(|f| f["name"] != "item.rating");
                });
            },
            expected: ("FeatureMissing", &["input \"features\"", "item.rating", "declare it"]),
        },
        Case {
            name: "declared twice",
            damage: |dir| {
                edit_json(dir, "features.json", |schema| {
                    let features = schema["features"].as_array_mut().unwrap();
                    features.push(features[0].clone());
                });
            },
            expected: ("FeatureDuplicate", &["twice", "keep one"]),
        },
        Case {
            name: "unknown field",
            damage: |dir| edit_feature(dir, "item.rating", |f| f["defualt"] = json!([1])),
            expected: ("Json", &["features.json", "defualt"]),
        },
        Case {
            name: "unknown namespace",
            damage: |dir| edit_feature(dir, "item.rating", |f| f["name"] = json!("shop.rating")),
            expected: ("Json", &["features.json", "shop.rating"]),
        },
        Case {
            name: "width of nothing",
            damage: |dir| edit_feature(dir, "user.affinity", |f| f["width"] = json!(0)),
            expected: ("FeatureWidth", &["user.affinity", "width 0", "expected 1"]),
        },
        Case {
            name: "default of another width",
            damage: |dir| edit_feature(dir, "user.affinity", |f| f["default"] = json!([0.0, 1.0])),
            expected: ("DefaultWidth", &["user.affinity", "2 numbers", "expected 1"]),
        },
        Case {
            name: "default of another type",
            damage: |dir| {
                edit_feature(dir, "user.affinity", |f| {
                    f["dtype"] = json!("i64");
                    f["default"] = json!([0.5]);
                });
            },
            expected: ("DefaultType", &["user.affinity", "F32", "expected I64"]),
        },
        Case {
            name: "default beyond f32",
            damage: |dir| edit_feature(dir, "user.affinity", |f| f["default"] = json!([1e39])),
            expected: ("DefaultNotFinite", &["user.affinity", "finite"]),
        },
        Case {
            name: "compute missing",
            damage: |dir| edit_feature(dir, "match.cosine", |f| f["compute"] = Value::Null),
            expected: ("ComputeMissing", &["match.cosine", "needs `compute`"]),
        },
        Case {
            name: "compute of a user feature",
            damage: |dir| edit_feature(dir, "user.affinity", |f| f["compute"] = json!({"kind": "token_count"})),
            expected: ("ComputeNotAllowed", &["user.affinity", "remove it"]),
        },
        Case {
            name: "compute of a context feature",
            damage: |dir| edit_feature(dir, "context.hour", |f| f["compute"] = json!({"kind": "vector_score"})),
            expected: ("ComputeNotAllowed", &["context.hour"]),
        },
        Case {
            name: "unknown compute",
            damage: |dir| edit_feature(dir, "match.cosine", |f| f["compute"] = json!({"kind": "magic"})),
            expected: ("Json", &["features.json", "magic"]),
        },
        Case {
            name: "compute of another namespace",
            damage: |dir| edit_feature(dir, "match.cosine", |f| f["compute"] = json!({"kind": "token_count"})),
            expected: ("ComputeWrong", &["match.cosine", "TokenCount", "expected a query.*"]),
        },
        Case {
            name: "two types in one input",
            damage: |dir| {
                edit_feature(dir, "context.hour", |f| {
                    f["dtype"] = json!("i64");
                    f["default"] = json!([12]);
                });
            },
            expected: ("MixedTypes", &["input \"features\"", "F32", "context.hour", "I64", "one dtype"]),
        },
        Case {
            name: "no such column",
            damage: |dir| {
                edit_feature(dir, "match.overlap_name", |f| f["compute"]["column"] = json!("title"));
            },
            expected: ("ColumnMissing", &["shard-00000", "\"title\"", "match.overlap_name", "brand", "add it"]),
        },
        Case {
            name: "a number where text is needed",
            damage: |dir| {
                edit_feature(dir, "match.overlap_name", |f| f["compute"]["column"] = json!("price"));
            },
            expected: ("ColumnType", &["\"price\"", "shard-00000", "f32", "expected text"]),
        },
    ]);
}

#[test]
fn shard_files_hold_exactly_their_own_items() {
    run(&[
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
    ]);
}

#[test]
fn popular_items_are_distinct_and_in_the_catalogue() {
    run(&[
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
    ]);
}

#[test]
fn golden_requests_are_complete() {
    run(&[
        Case {
            name: "not JSON",
            damage: |dir| fs::write(dir.join("golden.jsonl"), "\n{\n").unwrap(),
            expected: ("Line", &["line 2 of golden.jsonl", "mend"]),
        },
        Case {
            name: "none",
            damage: |dir| fs::write(dir.join("golden.jsonl"), "\n").unwrap(),
            expected: ("GoldenEmpty", &["golden.jsonl", "record at least one"]),
        },
        Case {
            name: "no items",
            damage: |dir| edit_line(dir, "golden.jsonl", |g| g["item_ids"] = json!([])),
            expected: ("GoldenValue", &["line 1", "item_ids is empty", "at least one"]),
        },
        Case {
            name: "unknown item",
            damage: |dir| edit_line(dir, "golden.jsonl", |g| g["item_ids"][0] = json!("ghost")),
            expected: ("GoldenUnknownItem", &["line 1", "ghost"]),
        },
        Case {
            name: "too few scores",
            damage: |dir| edit_line(dir, "golden.jsonl", |g| g["scores"] = json!([1.0])),
            expected: ("GoldenLength", &["line 1 of golden.jsonl has 1 scores", "expected 8"]),
        },
        Case {
            name: "a score beyond f32",
            damage: |dir| edit_line(dir, "golden.jsonl", |g| g["scores"][0] = json!(1e39)),
            expected: ("GoldenValue", &["a score is inf", "finite"]),
        },
        Case {
            name: "too few rows",
            damage: |dir| edit_line(dir, "golden.jsonl", |g| g["inputs"]["features"] = json!([])),
            expected: ("GoldenLength", &["0 rows of input \"features\"", "expected 8"]),
        },
        Case {
            name: "a row of another width",
            damage: |dir| edit_line(dir, "golden.jsonl", |g| g["inputs"]["features"][2] = json!([1.0])),
            expected: ("GoldenLength", &["1 numbers in a row of input \"features\"", "expected 5"]),
        },
        Case {
            name: "an input that nothing binds",
            damage: |dir| edit_line(dir, "golden.jsonl", |g| g["inputs"]["more"] = json!([])),
            expected: ("GoldenValue", &["input \"more\"", "binds"]),
        },
        Case {
            name: "a feature that is not declared",
            damage: |dir| edit_line(dir, "golden.jsonl", |g| g["features"]["user.shoe_size"] = json!([43.0])),
            expected: ("GoldenValue", &["user.shoe_size", "declares"]),
        },
        Case {
            name: "a feature that is computed",
            damage: |dir| edit_line(dir, "golden.jsonl", |g| g["features"]["match.cosine"] = json!([1.0])),
            expected: ("GoldenValue", &["match.cosine", "computed"]),
        },
        Case {
            name: "a feature of another width",
            damage: |dir| edit_line(dir, "golden.jsonl", |g| g["features"]["user.affinity"] = json!([1.0, 2.0])),
            expected: ("GoldenLength", &["2 numbers in feature user.affinity", "expected 1"]),
        },
        Case {
            name: "a query vector of another length",
            damage: |dir| edit_line(dir, "golden.jsonl", |g| g["query_vector"] = json!([1.0])),
            expected: ("GoldenLength", &["1 numbers in query_vector", "expected 8"]),
        },
        Case {
            name: "labels that are none",
            damage: |dir| fs::write(dir.join("labels.jsonl"), r#"{"query":"x"}"#).unwrap(),
            expected: ("Line", &["line 1 of labels.jsonl", "query_id"]),
        },
        Case {
            name: "metrics that are none",
            damage: |dir| fs::write(dir.join("evaluation.json"), r#"{"metrics":{"ndcg@10":"high"}}"#).unwrap(),
            expected: ("Json", &["evaluation.json", "high"]),
        },
    ]);
}
