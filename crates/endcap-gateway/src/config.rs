//! Settings of the gateway.

use std::time::Duration;

use endcap_service::{GrpcConfig, Settings};
use endcap_types::ModelName;

/// Everything below `gateway` in the settings.
#[derive(Debug, Clone)]
pub struct Config {
    pub(crate) grpc: GrpcConfig,
    pub(crate) recommend: RecommendConfig,
    pub(crate) lease_ttl: Duration,
}

/// What the use case needs to know.
#[derive(Debug, Clone)]
pub(crate) struct RecommendConfig {
    /// The model of requests that name none.
    pub(crate) default_model: ModelName,
    pub(crate) default_deadline: Duration,
    /// Kept back from every deadline to merge and send the answer.
    pub(crate) answer_reserve: Duration,
    /// Longest wait for user and session features.
    pub(crate) feature_budget: Duration,
    pub(crate) query_cache_entries: u64,
    /// Whether workers are asked over one stream each, instead of a call each time.
    pub(crate) shard_stream: bool,
    /// The share of the remaining time that is waited for the last shards, 0 to 1.
    pub(crate) straggler_wait: f64,
    pub(crate) limits: Limits,
}

/// The largest request that is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) limit: u32,
    /// Also the most excluded items.
    pub(crate) candidates: usize,
    pub(crate) query_bytes: usize,
}

impl Config {
    pub fn read(settings: &mut Settings) -> Option<Self> {
        let grpc = GrpcConfig::read(settings, "gateway");
        let recommend = RecommendConfig::read(settings);
        let lease_ttl = settings.read("coordination.lease_ttl");
        Some(Self { grpc: grpc?, recommend: recommend?, lease_ttl: lease_ttl? })
    }
}

impl RecommendConfig {
    fn read(settings: &mut Settings) -> Option<Self> {
        let default_model = settings.read::<String>("gateway.default_model");
        let default_model = default_model.and_then(|name| name.parse::<ModelName>().ok());
        if default_model.is_none() {
            settings.reject("gateway.default_model", "a model name such as \"search-ranker\"");
        }
        let default_deadline = settings.read::<Duration>("gateway.default_deadline");
        let answer_reserve = settings.read::<Duration>("gateway.answer_reserve");
        if let (Some(deadline), Some(reserve)) = (default_deadline, answer_reserve)
            && reserve >= deadline
        {
            settings.reject("gateway.answer_reserve", "less than gateway.default_deadline");
        }
        let feature_budget = settings.read("gateway.feature_budget");
        let query_cache_entries = settings.read("gateway.query_cache_entries");
        let shard_stream = settings.read("gateway.shard_stream");
        let straggler_wait = settings.read::<f64>("gateway.straggler_wait");
        if straggler_wait.is_some_and(|share| !(0.0..=1.0).contains(&share)) {
            settings.reject("gateway.straggler_wait", "a share from 0 to 1");
        }
        let limits = Limits::read(settings);
        Some(Self {
            default_model: default_model?,
            default_deadline: default_deadline?,
            answer_reserve: answer_reserve?,
            feature_budget: feature_budget?,
            query_cache_entries: query_cache_entries?,
            shard_stream: shard_stream?,
            straggler_wait: straggler_wait?,
            limits: limits?,
        })
    }
}

impl Limits {
    fn read(settings: &mut Settings) -> Option<Self> {
        let limit = settings.read("gateway.max_limit");
        if limit == Some(0) {
            settings.reject("gateway.max_limit", "at least 1");
        }
        let candidates = settings.read("gateway.max_candidates");
        let query_bytes = settings.read("gateway.max_query_bytes");
        Some(Self { limit: limit?, candidates: candidates?, query_bytes: query_bytes? })
    }
}
