//! Compiles the protos with protox, a compiler in Rust, so that no `protoc` has to be installed.

use std::{error::Error, path::PathBuf};

use prost::Message as _;

const FILES: [&str; 7] = [
    "endcap/v1/quality.proto",
    "endcap/v1/recommend_service.proto",
    "endcap/v1/feature_service.proto",
    "endcap/v1/shard_service.proto",
    "endcap/v1/gateway_service.proto",
    "endcap/v1/model_registry.proto",
    "inference/grpc_service.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    let root = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR")?).join("../../proto");
    println!("cargo:rerun-if-changed={}", root.display());
    let descriptors = protox::compile(FILES, [&root])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .bytes(".endcap.v1")
        .bytes(".inference")
        // An empty one, which nearly all of them are, costs nothing.
        .btree_map(".inference")
        .compile_fds(descriptors)?;
    Ok(())
}
