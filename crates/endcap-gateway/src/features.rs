//! User and session features, within a budget. An answer never waits longer for them: it gets the bundle's defaults and
//! says why.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use endcap_types::{
    DegradationReason, ErrorCode, FeatureName, FeatureSpec, FeatureValue, Namespace, ShardCount, shard_of,
};

use crate::{
    ports::{Call, FeatureGroup, FeatureKey, FeatureSource},
    request::Asked,
    routing::Parts,
};

/// Values as the schema declares them, and why there are fewer than there could be.
pub(crate) type Fetched = (BTreeMap<FeatureName, FeatureValue>, Option<DegradationReason>);

/// Caches that a request asks, where the first one fails at once.
const TRIED: usize = 2;

/// Fetches features.
#[derive(Debug, Clone)]
pub(crate) struct Features {
    pub(crate) source: Arc<dyn FeatureSource>,
    pub(crate) budget: Duration,
}

impl Features {
    /// What the version's ranker reads of these: [`keys`].
    pub(crate) async fn fetch(
        &self,
        parts: &Parts,
        caches: &[String],
        keys: &[FeatureKey],
        call: &Call,
    ) -> Fetched {
        let Some(key) = keys.first() else {
            return Fetched::default();
        };
        let call = call.until(call.deadline.within(self.budget));
        let mut failed = false;
        for cache in caches_of(caches, &key.entity_id).take(TRIED) {
            let answer = self.source.fetch(cache, keys, call.clone());
            match tokio::time::timeout_at(call.deadline.instant(), answer).await {
                // Another cache knows them if the two share a Redis. That it does not says nothing.
                Ok(Ok(groups)) if failed && groups.iter().all(Option::is_none) => break,
                Ok(Ok(groups)) => return chosen(parts, keys, &groups),
                Ok(Err(error)) if error.code != ErrorCode::DeadlineExceeded => {
                    tracing::debug!(%cache, %error, "feature-cache gave no answer");
                    failed = true;
                }
                Ok(Err(_)) | Err(_) => return (BTreeMap::new(), Some(DegradationReason::FeaturesTimedOut)),
            }
        }
        (BTreeMap::new(), Some(DegradationReason::FeaturesUnavailable))
    }
}

/// The user and the session, as far as the request names them and the version reads features of them. Where that is
/// neither, nothing is fetched, and nothing is given up.
pub(crate) fn keys(parts: &Parts, asked: &Asked) -> Vec<FeatureKey> {
    [(Namespace::User, &asked.user_id), (Namespace::Session, &asked.session_id)]
        .into_iter()
        .filter(|(namespace, id)| !id.is_empty() && parts.of(*namespace).next().is_some())
        .map(|(namespace, id)| FeatureKey { namespace, entity_id: id.clone() })
        .collect()
}

/// The cache of which an entity is always asked as long as the caches are the same, then the others.
fn caches_of<'a>(caches: &'a [String], entity_id: &str) -> impl Iterator<Item = &'a str> {
    let count = u32::try_from(caches.len()).ok().and_then(|count| ShardCount::try_from(count).ok());
    let first = count.map_or(0, |count| shard_of(entity_id, count) as usize);
    caches.iter().cycle().skip(first).take(caches.len()).map(String::as_str)
}

fn chosen(parts: &Parts, keys: &[FeatureKey], groups: &[Option<FeatureGroup>]) -> Fetched {
    let mut values = BTreeMap::new();
    let mut complete = true;
    for (key, group) in keys.iter().zip(groups) {
        for spec in parts.of(key.namespace) {
            match group.as_ref().and_then(|group| usable(spec, group)) {
                Some(value) => {
                    values.insert(spec.name.clone(), value);
                }
                None => complete = false,
            }
        }
    }
    (values, (!complete).then_some(DegradationReason::FeaturesMissing))
}

/// The group's value of a feature, if it is fresh and what the schema declares. A writer's mistake must not reach a
/// worker, which would refuse the whole request for it.
fn usable(spec: &FeatureSpec, group: &FeatureGroup) -> Option<FeatureValue> {
    if spec.ttl().is_some_and(|ttl| group.age > ttl) {
        return None;
    }
    fitting(spec, group.values.get(&spec.name)?.clone())
}

/// The value in the schema's type, if it has the schema's width and only finite numbers.
pub(crate) fn fitting(spec: &FeatureSpec, value: FeatureValue) -> Option<FeatureValue> {
    let value = value.into_dtype(spec.dtype).filter(|value| value.len() == spec.width)?;
    let finite = match &value {
        FeatureValue::F32(values) => values.iter().all(|value| value.is_finite()),
        FeatureValue::I64(_) => true,
    };
    finite.then_some(value)
}

#[cfg(test)]
mod tests;
