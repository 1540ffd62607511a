//! Feature groups, each with its own time to live: in memory, or in a Redis.

mod memory;
mod redis_store;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use endcap_types::{Coded, ErrorCode, FeatureName, FeatureValue, Namespace};
use thiserror::Error;

use self::{memory::Memory, redis_store::Redis};
use crate::{Config, metrics::Meters, request::Put};

/// Values by feature.
pub(crate) type Group = BTreeMap<FeatureName, FeatureValue>;

/// Whose features.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) namespace: Namespace,
    pub(crate) entity_id: String,
}

/// A group as it is now.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) values: Arc<Group>,
    pub(crate) age: Duration,
    pub(crate) ttl_left: Duration,
}

/// Why groups were not read or written. The gateway goes on with defaults.
#[derive(Debug, Error)]
pub(crate) enum StoreError {
    #[error("Redis did not answer within {timeout:?}")]
    Late { timeout: Duration },
    #[error("Redis refused, or could not be reached: {0}")]
    Redis(#[from] redis::RedisError),
    #[error("Redis answered what was not asked: {detail}")]
    Answer { detail: String },
}

impl Coded for StoreError {
    fn code(&self) -> ErrorCode {
        ErrorCode::Unavailable
    }
}

/// What feature-caches keep.
#[derive(Debug)]
pub(crate) struct Store {
    kept: Kept,
    default_ttl: Duration,
    meters: Meters,
}

#[derive(Debug)]
enum Kept {
    Memory(Memory),
    Redis(Redis),
}

impl Store {
    pub(crate) fn new(config: &Config) -> Result<Self, StoreError> {
        let kept = match config.redis.clone() {
            Some(redis) => Kept::Redis(Redis::new(redis)?),
            None => Kept::Memory(Memory::new(config.max_entries)),
        };
        Ok(Self { kept, default_ttl: config.default_ttl, meters: Meters::default() })
    }

    /// Whether what it keeps can be asked for.
    pub(crate) async fn check(&self) -> Result<(), StoreError> {
        match &self.kept {
            Kept::Memory(_) => Ok(()),
            Kept::Redis(redis) => redis.ping().await,
        }
    }

    /// In the order of the keys; nothing where a group is not known or has expired.
    pub(crate) async fn get(&self, keys: &[Key]) -> Result<Vec<Option<Stored>>, StoreError> {
        let found = match &self.kept {
            Kept::Memory(memory) => keys.iter().map(|key| memory.get(key)).collect(),
            Kept::Redis(redis) => redis.get(keys).await?,
        };
        for (key, found) in keys.iter().zip(&found) {
            match found {
                Some(stored) => self.meters.hit(key.namespace, stored.age),
                None => self.meters.miss(key.namespace),
            }
        }
        Ok(found)
    }

    /// Merges groups into what is there: two writers of one user lose nothing, and the next reader sees both.
    pub(crate) async fn put(&self, groups: Vec<Put>) -> Result<(), StoreError> {
        let groups = groups.into_iter().map(|put| (put.key, put.values, put.ttl.unwrap_or(self.default_ttl)));
        match &self.kept {
            Kept::Memory(memory) => groups.for_each(|(key, values, ttl)| memory.put(key, values, ttl)),
            Kept::Redis(redis) => redis.put(groups.collect()).await?,
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
