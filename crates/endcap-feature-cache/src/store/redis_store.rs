//! Feature groups in a Redis that feature-caches share.
//!
//! A group is a hash under `{prefix}:features:{namespace}:{entity}`: by feature the bytes of a `FeatureValue`, and under
//! the empty name, which no feature has, the milliseconds it was given to live. Its age is what is gone of them, so that
//! no two clocks are compared. `HSET` is the merge: nothing is read for it. 7.0 is tested; any since 4.0 has the commands,
//! of which a user needs PING, HSET, HGETALL, PEXPIRE, PTTL, MULTI and EXEC on `{prefix}:*`.

use std::{collections::HashMap, sync::Arc, time::Duration};

use endcap_proto::pb;
use endcap_types::FeatureValue;
use prost::Message as _;
use redis::{
    Client, FromRedisValue as _, Pipeline, RedisError, Value,
    aio::{ConnectionManager, ConnectionManagerConfig},
    io::tcp::TcpSettings,
};

use super::{Group, Key, StoreError, Stored};
use crate::{config::RedisConfig, request::to_wire};

/// The field beside the features that holds the time to live.
const TTL: &[u8] = b"";
/// A connection on which nothing was acknowledged for so long is lost. Else the kernel would go on trying it for a
/// quarter of an hour, in which nobody connects to whatever took the server's place.
const LOST: Duration = Duration::from_secs(2);
/// By field of the hash.
type Fields = HashMap<Vec<u8>, Vec<u8>>;

pub(super) struct Redis {
    connection: ConnectionManager,
    prefix: String,
    timeout: Duration,
}

impl std::fmt::Debug for Redis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Redis").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

impl Redis {
    /// Connects when it is first asked, and again whenever the connection was lost.
    pub(super) fn new(config: RedisConfig) -> Result<Self, StoreError> {
        let tcp = TcpSettings::default().set_nodelay(true).set_user_timeout(LOST);
        let client = Client::open(config.server.set_tcp_settings(tcp))?;
        // No waiting between attempts: whoever asks next makes one, and is told why it failed.
        let manager = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(config.timeout))
            .set_response_timeout(Some(config.timeout))
            .set_number_of_retries(0);
        let connection = ConnectionManager::new_lazy_with_config(client, manager)?;
        Ok(Self { connection, prefix: config.prefix, timeout: config.timeout })
    }

    pub(super) async fn ping(&self) -> Result<(), StoreError> {
        let mut pipeline = redis::pipe();
        pipeline.cmd("PING");
        self.ask(&pipeline).await.map(drop)
    }

    /// In one round trip; in the order of the keys.
    pub(super) async fn get(&self, keys: &[Key]) -> Result<Vec<Option<Stored>>, StoreError> {
        let mut pipeline = redis::pipe();
        for key in keys {
            let key = self.name(key);
            pipeline.cmd("HGETALL").arg(&key).cmd("PTTL").arg(&key);
        }
        let answers = self.ask(&pipeline).await?;
        let (pairs, rest) = answers.as_chunks::<2>();
        if pairs.len() != keys.len() || !rest.is_empty() {
            return Err(StoreError::Answer {
                detail: format!("{} answers for {} keys", answers.len(), keys.len()),
            });
        }
        pairs.iter().map(|[fields, left]| stored(fields, left)).collect()
    }

    /// All of them, or none.
    pub(super) async fn put(&self, groups: Vec<(Key, Group, Duration)>) -> Result<(), StoreError> {
        let mut pipeline = redis::pipe();
        pipeline.atomic();
        for (key, values, ttl) in groups {
            let key = self.name(&key);
            // It takes no group that expires at once.
            let ttl = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX).clamp(1, i64::MAX as u64 / 2);
            pipeline.cmd("HSET").arg(&key).arg(TTL).arg(ttl);
            for (name, value) in &values {
                pipeline.arg(name.as_str()).arg(to_wire(value).encode_to_vec());
            }
            pipeline.cmd("PEXPIRE").arg(&key).arg(ttl);
        }
        self.ask(&pipeline).await.map(drop)
    }

    async fn ask(&self, pipeline: &Pipeline) -> Result<Vec<Value>, StoreError> {
        // One connection carries all requests: a clone of it is a handle.
        let mut connection = self.connection.clone();
        let asked = async {
            match pipeline.query_async(&mut connection).await {
                // It was closed since it was last used, which shows only now. Another one is being made, and to be asked
                // twice changes nothing.
                Err(error) if error.is_connection_dropped() && !error.is_connection_refusal() => {
                    pipeline.query_async(&mut connection).await
                }
                answered => answered,
            }
        };
        let answered = tokio::time::timeout(self.timeout, asked).await;
        Ok(answered.map_err(|_elapsed| StoreError::Late { timeout: self.timeout })??)
    }

    fn name(&self, key: &Key) -> String {
        format!("{}:features:{}:{}", self.prefix, key.namespace.as_str(), key.entity_id)
    }
}

/// Nothing where the hash is not there, or went between the two questions.
fn stored(fields: &Value, left: &Value) -> Result<Option<Stored>, StoreError> {
    let mut fields = Fields::from_redis_value_ref(fields).map_err(RedisError::from)?;
    let left = i64::from_redis_value_ref(left).map_err(RedisError::from)?;
    let ttl = fields.remove(TTL).and_then(|text| std::str::from_utf8(&text).ok()?.parse::<u64>().ok());
    let (Some(ttl), Ok(left)) = (ttl, u64::try_from(left)) else { return Ok(None) };
    let values: Group = fields.iter().filter_map(|(name, bytes)| feature(name, bytes)).collect();
    let (age, ttl_left) = (Duration::from_millis(ttl.saturating_sub(left)), Duration::from_millis(left));
    Ok(Some(Stored { values: Arc::new(values), age, ttl_left }))
}

/// What somebody else has written there is no feature; the others of its group are.
fn feature(name: &[u8], bytes: &[u8]) -> Option<(endcap_types::FeatureName, FeatureValue)> {
    let parsed = std::str::from_utf8(name).ok().and_then(|name| name.parse().ok());
    let value = pb::FeatureValue::decode(bytes).ok().map(|value| (value.floats, value.ints));
    match (parsed, value) {
        (Some(name), Some((floats, ints))) if ints.is_empty() && !floats.is_empty() => {
            Some((name, FeatureValue::F32(floats)))
        }
        (Some(name), Some((floats, ints))) if floats.is_empty() && !ints.is_empty() => {
            Some((name, FeatureValue::I64(ints)))
        }
        _ => {
            let name = String::from_utf8_lossy(name);
            tracing::warn!(%name, "a field in Redis is no feature; it was not written by a feature-cache");
            None
        }
    }
}
