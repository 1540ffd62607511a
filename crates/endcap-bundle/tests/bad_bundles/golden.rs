//! golden.jsonl, labels.jsonl and evaluation.json.

use std::fs;

use serde_json::json;

use super::{Case, edit_line, run};

#[test]
fn golden_requests_are_complete() {
    run(RECORDS);
}

const RECORDS: &[Case] = &[
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
];
