//! Settings of the feature-cache.

use std::time::Duration;

use endcap_service::{GrpcConfig, Settings};

/// Everything below `feature_cache` in the settings.
#[derive(Debug, Clone)]
pub struct Config {
    pub(crate) grpc: GrpcConfig,
    /// Users and sessions kept.
    pub(crate) max_entries: u64,
    pub(crate) default_ttl: Duration,
    pub(crate) lease_ttl: Duration,
}

impl Config {
    pub fn read(settings: &mut Settings) -> Option<Self> {
        let grpc = GrpcConfig::read(settings, "feature_cache");
        let max_entries = settings.read("feature_cache.max_entries");
        let default_ttl = settings.read("feature_cache.default_ttl");
        let lease_ttl = settings.read("coordination.lease_ttl");
        Some(Self {
            grpc: grpc?,
            max_entries: max_entries?,
            default_ttl: default_ttl?,
            lease_ttl: lease_ttl?,
        })
    }
}
