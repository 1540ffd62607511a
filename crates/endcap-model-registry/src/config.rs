//! Settings of the registry.

use std::{path::PathBuf, time::Duration};

use endcap_service::{GrpcConfig, Settings, config::ByteSize};

/// Everything below `registry` in the settings.
#[derive(Debug, Clone)]
pub struct Config {
    pub(crate) grpc: GrpcConfig,
    pub(crate) data_dir: PathBuf,
    /// Largest packed bundle, in bytes.
    pub(crate) max_bundle: u64,
    /// Workers that hold each shard.
    pub(crate) replicas: usize,
    pub(crate) lease_ttl: Duration,
}

impl Config {
    pub fn read(settings: &mut Settings) -> Option<Self> {
        let grpc = GrpcConfig::read(settings, "registry");
        let data_dir = settings.read("registry.data_dir");
        let max_bundle = settings.read::<ByteSize>("registry.max_bundle");
        let replicas = settings.read::<usize>("registry.replicas");
        if replicas == Some(0) {
            settings.reject("registry.replicas", "a number from 1");
        }
        let lease_ttl = settings.read("coordination.lease_ttl");
        Some(Self {
            grpc: grpc?,
            data_dir: data_dir?,
            max_bundle: max_bundle?.0,
            replicas: replicas?,
            lease_ttl: lease_ttl?,
        })
    }
}
