//! Settings of the feature-cache.

use std::time::Duration;

use endcap_service::{GrpcConfig, Settings, config::Secret};
use redis::{ConnectionInfo, IntoConnectionInfo as _};

/// Everything below `feature_cache` in the settings.
#[derive(Debug, Clone)]
pub struct Config {
    pub(crate) grpc: GrpcConfig,
    /// Users and sessions kept in memory.
    pub(crate) max_entries: u64,
    pub(crate) default_ttl: Duration,
    /// Where they are kept instead.
    pub(crate) redis: Option<RedisConfig>,
    pub(crate) lease_ttl: Duration,
}

/// A Redis that feature-caches share.
#[derive(Debug, Clone)]
pub(crate) struct RedisConfig {
    pub(crate) server: ConnectionInfo,
    pub(crate) prefix: String,
    /// Longest wait for an answer.
    pub(crate) timeout: Duration,
}

impl Config {
    pub fn read(settings: &mut Settings) -> Option<Self> {
        let grpc = GrpcConfig::read(settings, "feature_cache");
        let max_entries = settings.read("feature_cache.max_entries");
        let default_ttl = settings.read("feature_cache.default_ttl");
        let redis = RedisConfig::read(settings);
        let lease_ttl = settings.read("coordination.lease_ttl");
        Some(Self {
            grpc: grpc?,
            max_entries: max_entries?,
            default_ttl: default_ttl?,
            redis: redis?,
            lease_ttl: lease_ttl?,
        })
    }
}

impl RedisConfig {
    /// Nothing where no address is set, and nothing at all where a setting is wrong.
    fn read(settings: &mut Settings) -> Option<Option<Self>> {
        let url = settings.read::<String>("feature_cache.redis.url");
        let user = settings.read::<String>("feature_cache.redis.user");
        let password = settings.read::<Secret>("feature_cache.redis.password");
        let prefix = settings.read("feature_cache.redis.prefix");
        let timeout = settings.read("feature_cache.redis.timeout");
        let (url, user, password) = (url?, user?, password?);
        if url.is_empty() {
            return Some(None);
        }
        let plain = url.strip_prefix("redis://").filter(|rest| !rest.contains('@'));
        let Some(server) = plain.and_then(|_| url.as_str().into_connection_info().ok()) else {
            let expected = "redis://host:port/database, with user and password in settings of their own";
            settings.reject("feature_cache.redis.url", expected);
            return None;
        };
        let mut login = server.redis_settings().clone();
        if !user.is_empty() {
            login = login.set_username(user);
        }
        if !password.expose().is_empty() {
            login = login.set_password(password.expose());
        }
        Some(Some(Self { server: server.set_redis_settings(login), prefix: prefix?, timeout: timeout? }))
    }
}
