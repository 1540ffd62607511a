//! The query's vector, from any worker of the version, remembered by (digest, normalised query).

use std::{collections::BTreeMap, sync::Arc};

use endcap_fleet::{Replica, Route};
use endcap_types::Digest;
use moka::{policy::EvictionPolicy, sync::Cache};

use crate::{
    ports::{Call, ShardClient},
    replicas::{Fault, Kind, Load, Wanted},
};

/// Workers tried before giving up: an encoder that fails on two is broken, and time is short.
const MOST_WORKERS: usize = 3;

/// Encodes queries.
#[derive(Debug, Clone)]
pub(crate) struct Encoder {
    client: Arc<dyn ShardClient>,
    load: Arc<Load>,
    vectors: Cache<(Digest, String), Arc<[f32]>>,
}

impl Encoder {
    pub(crate) fn new(client: Arc<dyn ShardClient>, load: Arc<Load>, entries: u64) -> Self {
        // Least recently used first: with a policy that favours the frequent, the vectors of a version that was replaced
        // would keep those of the new one out.
        let vectors = Cache::builder().max_capacity(entries).eviction_policy(EvictionPolicy::lru()).build();
        Self { client, load, vectors }
    }

    /// The vector of a normalised query, `dim` numbers, no later than the call's deadline.
    pub(crate) async fn vector(
        &self,
        route: &Route,
        dim: usize,
        query: &str,
        call: &Call,
    ) -> Result<Arc<[f32]>, Fault> {
        let key = (route.pin.digest, query.to_owned());
        if let Some(vector) = self.vectors.get(&key) {
            return Ok(vector);
        }
        let workers: BTreeMap<&str, &Replica> =
            route.shards.iter().flatten().map(|replica| (replica.endpoint.as_str(), replica)).collect();
        let workers: Vec<&Replica> = self.load.some(workers.into_values().collect(), MOST_WORKERS);
        let (vector, _) = self
            .load
            .ask(&workers, Wanted { pin: &route.pin, kind: Kind::Encode }, call, |replica, call| {
                self.client.encode(&replica.endpoint, &route.pin, query, call)
            })
            .await?;
        if vector.len() != dim {
            tracing::warn!(pin = %route.pin, found = vector.len(), expected = dim, "dropped a vector of another length");
            return Err(Fault::Failed);
        }
        let vector: Arc<[f32]> = vector.into();
        self.vectors.insert(key, Arc::clone(&vector));
        Ok(vector)
    }
}
