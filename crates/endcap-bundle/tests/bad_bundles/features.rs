//! features.json, and the columns that it needs.

use serde_json::{Value, json};

use super::{Case, edit_feature, edit_json, run};

#[test]
fn features_must_be_declared_as_they_are_used() {
    run(FEATURES);
}

const FEATURES: &[Case] = &[
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
    Case {
        name: "a place in a list that the model does not have",
        damage: |dir| {
            edit_feature(dir, "match.cosine", |f| {
                f["compute"] = json!({"kind": "reciprocal_rank", "list": "lexical", "depth": 10});
            });
        },
        expected: (
            "ComputeWrong",
            &["match.cosine", "ReciprocalRank", "expected `retrieval.lexical_columns`"],
        ),
    },
    Case {
        name: "a list without depth",
        damage: |dir| {
            edit_feature(dir, "match.cosine", |f| {
                f["compute"] = json!({"kind": "reciprocal_rank", "list": "dense", "depth": 0});
            });
        },
        expected: ("ComputeWrong", &["match.cosine", "expected a depth of 1 to 10000"]),
    },
    Case {
        name: "words of no column",
        damage: |dir| {
            edit_feature(dir, "match.cosine", |f| f["compute"] = json!({"kind": "bm25", "columns": []}));
        },
        expected: ("ComputeWrong", &["match.cosine", "expected at least one text column"]),
    },
    Case {
        name: "words that were not counted when the bundle was packed",
        damage: |dir| {
            edit_feature(dir, "match.cosine", |f| {
                f["compute"] = json!({"kind": "bm25", "columns": ["name"]});
            });
        },
        expected: ("LexicalMissing", &["lexical.json", "name", "pack again"]),
    },
];
