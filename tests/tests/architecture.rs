//! The arrows between crates point down only, and each outside library has one home.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::collections::{BTreeMap, BTreeSet};

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand};

/// Layers, bottom first. A crate may use only crates of lower layers.
const LAYERS: [&[&str]; 7] = [
    &["endcap-types"],
    &["endcap-proto", "endcap-ranking", "endcap-fleet"],
    &["endcap-bundle", "endcap-coordination", "endcap-shop"],
    &["endcap-service", "endcap-inference", "endcap-bench"],
    &["endcap-gateway", "endcap-shard-worker", "endcap-model-registry", "endcap-feature-cache"],
    &["endcap"],
    &["endcap-tests"],
];

fn metadata() -> Metadata {
    MetadataCommand::new()
        .no_deps()
        .other_options(["--offline".to_owned()])
        .exec()
        .expect("cargo metadata runs")
}

/// Production dependencies by crate; development ones may point anywhere.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let is_production = |kind: DependencyKind| kind != DependencyKind::Development;
    metadata()
        .packages
        .iter()
        .map(|package| {
            let used = package.dependencies.iter().filter(|dependency| is_production(dependency.kind));
            (package.name.to_string(), used.map(|dependency| dependency.name.clone()).collect())
        })
        .collect()
}

fn layer(name: &str) -> usize {
    LAYERS
        .iter()
        .position(|layer| layer.contains(&name))
        .unwrap_or_else(|| panic!("{name} has no layer: add it to LAYERS and to ARCHITECTURE.md"))
}

fn users_of(library: &str) -> Vec<String> {
    dependencies().into_iter().filter(|(_, used)| used.contains(library)).map(|(name, _)| name).collect()
}

#[test]
fn arrows_between_crates_point_down_only() {
    for (name, used) in dependencies() {
        for dependency in used.iter().filter(|used| used.starts_with("endcap")) {
            assert!(layer(dependency) < layer(&name), "{name} must not use {dependency}");
        }
    }
}

#[test]
fn only_inference_names_ort() {
    assert_eq!(users_of("ort"), ["endcap-inference"]);
}

#[test]
fn only_coordination_names_etcd_client() {
    assert!(users_of("etcd-client").iter().all(|name| name == "endcap-coordination"));
}

#[test]
fn only_service_names_opentelemetry() {
    assert_eq!(users_of("opentelemetry"), ["endcap-service"]);
}

#[test]
fn only_bundle_names_object_store() {
    assert_eq!(users_of("object_store"), ["endcap-bundle"]);
}

#[test]
fn only_bench_draws() {
    assert_eq!(users_of("plotters"), ["endcap-bench"]);
}

#[test]
fn the_pure_crates_name_neither_a_runtime_nor_a_transport() {
    let dependencies = dependencies();
    for name in ["endcap-types", "endcap-ranking", "endcap-fleet"] {
        for banned in ["tokio", "tonic", "hyper", "futures", "jiff", "chrono", "time"] {
            assert!(!dependencies[name].contains(banned), "{name} must not use {banned}");
        }
    }
}

#[test]
fn the_pure_crates_read_no_clock() {
    for package in metadata().packages {
        if !["endcap-types", "endcap-ranking", "endcap-fleet"].contains(&package.name.as_str()) {
            continue;
        }
        let source = package.manifest_path.parent().expect("a manifest has a folder").join("src");
        for file in rust_files(source.as_std_path()) {
            let text = std::fs::read_to_string(&file).unwrap();
            for banned in ["Instant", "SystemTime", "std::fs", "std::net", "std::env"] {
                assert!(!text.contains(banned), "{} names {banned}", file.display());
            }
        }
    }
}

#[test]
fn the_simulated_shop_is_not_part_of_the_product() {
    for name in users_of("endcap-shop") {
        assert_eq!(name, "endcap-tests", "the shop is a development crate");
    }
}

fn rust_files(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}
