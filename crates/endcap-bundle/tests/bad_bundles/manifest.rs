//! bundle.json.

use std::fs;

use serde_json::{Value, json};

use super::{Case, edit_json, run};

#[test]
fn what_the_manifest_says_must_make_sense() {
    run(MANIFESTS);
}

const MANIFESTS: &[Case] = &[
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
        damage: |dir| {
            edit_json(dir, "bundle.json", |m| m["files"]["../x"] = m["files"]["ranker.onnx"].clone())
        },
        expected: ("UnsafePath", &["../x", "expected"]),
    },
    Case {
        name: "absolute path",
        damage: |dir| {
            edit_json(dir, "bundle.json", |m| m["files"]["/etc/x"] = m["files"]["ranker.onnx"].clone())
        },
        expected: ("UnsafePath", &["/etc/x"]),
    },
    Case {
        name: "path with a backslash",
        damage: |dir| {
            edit_json(dir, "bundle.json", |m| m["files"]["a\\b"] = m["files"]["ranker.onnx"].clone())
        },
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
        damage: |dir| {
            edit_json(dir, "bundle.json", |m| m["spec"]["ranker"]["inputs"][0]["features"] = json!([]))
        },
        expected: ("Manifest", &["ranker.inputs[\"features\"].features", "empty", "at least one feature"]),
    },
    Case {
        name: "an encoder without tokens",
        damage: |dir| edit_json(dir, "bundle.json", |m| m["spec"]["encoder"]["max_tokens"] = json!(0)),
        expected: ("Manifest", &["encoder.max_tokens", "0", "1 to"]),
    },
];
