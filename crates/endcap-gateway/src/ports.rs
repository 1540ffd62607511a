//! What the gateway needs of other members, in its own words. Every call is idempotent, ends by its deadline, and may
//! be dropped at any time.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use endcap_service::{Deadline, RequestId, status::RemoteError};
use endcap_types::{FeatureName, FeatureValue, ItemId, Namespace, ShardIndex, Standing, VersionPin};

/// What every shard of one request is told alike.
#[derive(Debug, Clone)]
pub(crate) struct Question {
    pub(crate) pin: VersionPin,
    /// Normalised.
    pub(crate) query: String,
    /// The encoded query; empty when there is none.
    pub(crate) vector: Arc<[f32]>,
    /// Values of `user.*`, `session.*` and `context.*` features, as the version's schema declares them.
    pub(crate) features: BTreeMap<FeatureName, FeatureValue>,
    /// Catalogue columns wanted for each item.
    pub(crate) fields: Vec<String>,
}

/// One shard's part of a request.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Part {
    pub(crate) shard: ShardIndex,
    pub(crate) work: Work,
}

/// What one shard is to do.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Work {
    /// Retrieve the shard's best `depth` items but for these, then rank them.
    Retrieve { depth: u32, exclude: Vec<ItemId> },
    /// Rank these, which hash to the shard and stand there in the whole catalogue, if that is known.
    Rerank { item_ids: Vec<ItemId>, standing: Option<Standing> },
    /// List the shard's best `depth` items but for these, by vector and by words, unranked.
    List { depth: u32, exclude: Vec<ItemId> },
}

/// What one shard answered: columns of equal length, scores finite.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct ShardAnswer {
    pub(crate) item_ids: Vec<ItemId>,
    pub(crate) scores: Vec<f32>,
    /// As long as `scores`; zeros without a query vector.
    pub(crate) retrieval_scores: Vec<f32>,
    /// As long as `scores`; zeros unless the shard was to list.
    pub(crate) lexical_scores: Vec<f32>,
    /// One column for each of the question's fields, in that order.
    pub(crate) fields: Vec<Vec<String>>,
    pub(crate) items_considered: u64,
    pub(crate) unknown: Vec<ItemId>,
}

/// Which bytes answered, and what.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Pinned<T> {
    /// Nothing when the answer names no version at all.
    pub(crate) pin: Option<VersionPin>,
    pub(crate) answer: T,
}

/// Shard workers.
#[async_trait]
pub(crate) trait ShardClient: Send + Sync + std::fmt::Debug {
    /// Asks the worker at `endpoint` to work on one shard.
    async fn score(
        &self,
        endpoint: &str,
        question: &Question,
        part: &Part,
        call: Call,
    ) -> Result<Pinned<ShardAnswer>, RemoteError>;

    /// Asks the worker at `endpoint` for the vector of a normalised query. Its numbers are finite.
    async fn encode(
        &self,
        endpoint: &str,
        pin: &VersionPin,
        query: &str,
        call: Call,
    ) -> Result<Pinned<Vec<f32>>, RemoteError>;
}

/// The health of workers.
#[async_trait]
pub(crate) trait HealthClient: Send + Sync + std::fmt::Debug {
    /// Whether the worker at `endpoint` says by the deadline that it serves what it has published as ready; it may still be
    /// loading more.
    async fn is_serving(&self, endpoint: &str, deadline: Deadline) -> bool;
}

/// Whose features.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct FeatureKey {
    /// `User` or `Session`.
    pub(crate) namespace: Namespace,
    pub(crate) entity_id: String,
}

/// What the cache knows of one entity.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct FeatureGroup {
    pub(crate) values: BTreeMap<FeatureName, FeatureValue>,
    pub(crate) age: Duration,
}

/// A feature-cache.
#[async_trait]
pub(crate) trait FeatureSource: Send + Sync + std::fmt::Debug {
    /// One result per key, in that order; nothing for an entity that is not known.
    async fn fetch(
        &self,
        endpoint: &str,
        keys: &[FeatureKey],
        call: Call,
    ) -> Result<Vec<Option<FeatureGroup>>, RemoteError>;
}

/// On whose behalf a call is made, and until when its answer is of use.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) deadline: Deadline,
    pub(crate) id: RequestId,
}

impl Call {
    /// The same call, with less time.
    pub(crate) fn until(&self, deadline: Deadline) -> Self {
        Self { deadline: self.deadline.min(deadline), id: self.id.clone() }
    }
}
