//! The routing snapshot: everything a gateway needs to place a request, immutable and of one moment.

use std::{collections::BTreeMap, sync::Arc};

use endcap_types::{
    Alias, Arm, Coded, Digest, ErrorCode, ModelName, ShardCount, ShardIndex, Version, VersionPin,
};
use thiserror::Error;

use crate::{Models, ReadyRecord, ShardKey};

/// Ready replicas as published: by shard, then worker.
pub type ReadyReplicas = BTreeMap<ShardKey, BTreeMap<String, ReadyRecord>>;

/// What the coordinator says, as records.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct FleetView {
    pub models: Models,
    pub ready: ReadyReplicas,
}

/// A worker that holds a shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replica {
    pub worker: String,
    pub endpoint: String,
}

/// Where to send the parts of one request. Every replica holds exactly `pin`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    pub pin: VersionPin,
    pub shard_count: ShardCount,
    pub items_total: u64,
    /// By shard index; none is empty, unless the route is a [`RoutingSnapshot::partial`] one.
    pub shards: Vec<Vec<Replica>>,
}

/// Which version a request wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// Stable, or for shoppers on that arm the candidate.
    Rollout(Arm),
    Version(Version),
    Alias(Alias),
}

/// Why a request cannot be placed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RouteError {
    #[error("there is no model {model}; known are: {}", list(known))]
    UnknownModel { model: ModelName, known: Vec<ModelName> },
    #[error("model {model} has no version {version}")]
    UnknownVersion { model: ModelName, version: Version },
    #[error("model {model} has no alias {alias} yet; `endcap model promote` sets stable")]
    NoAlias { model: ModelName, alias: Alias },
    #[error(
        "version {} of {} is not routable: no ready replica of shard {}; `endcap model validate` loads it",
        pin.version, pin.model, shards(missing)
    )]
    NotRoutable { pin: VersionPin, missing: Vec<ShardIndex> },
}

impl Coded for RouteError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::UnknownModel { .. } | Self::UnknownVersion { .. } | Self::NoAlias { .. } => {
                ErrorCode::NotFound
            }
            Self::NotRoutable { .. } => ErrorCode::FailedPrecondition,
        }
    }
}

/// Routes of every model at one moment. Build a new one for every change; a request uses one throughout.
#[derive(Debug, Clone, Default)]
pub struct RoutingSnapshot {
    models: BTreeMap<ModelName, ModelRoutes>,
}

#[derive(Debug, Clone, Default)]
struct ModelRoutes {
    aliases: BTreeMap<Alias, Version>,
    candidate_permille: u16,
    versions: BTreeMap<Version, Placement>,
}

/// What there is of a version: it is routable when nothing is missing.
#[derive(Debug, Clone)]
struct Placement {
    route: Arc<Route>,
    missing: Vec<ShardIndex>,
}

impl RoutingSnapshot {
    pub fn build(view: &FleetView) -> Self {
        let models = view.models.iter().map(|(model, known)| {
            let versions = known.versions.iter().map(|(version, record)| {
                let pin = VersionPin { model: model.clone(), version: *version, digest: record.digest };
                let shards = ready_shards(view, &pin, record.shard_count);
                let missing: Vec<_> =
                    (0..).zip(&shards).filter(|(_, s)| s.is_empty()).map(|(i, _)| i).collect();
                let (shard_count, items_total) = (record.shard_count, record.items_total);
                let route = Arc::new(Route { pin, shard_count, items_total, shards });
                (*version, Placement { route, missing })
            });
            let routes = ModelRoutes {
                aliases: known.rollout.aliases.clone(),
                candidate_permille: known.rollout.candidate_permille,
                versions: versions.collect(),
            };
            (model.clone(), routes)
        });
        Self { models: models.collect() }
    }

    /// Share of shoppers on the candidate.
    pub fn candidate_permille(&self, model: &ModelName) -> u16 {
        self.models.get(model).map_or(0, |routes| routes.candidate_permille)
    }

    /// Where a request goes, and on which arm it really is: a candidate that is not routable is answered by stable.
    pub fn route(&self, model: &ModelName, target: Target) -> Result<(Arc<Route>, Arm), RouteError> {
        let routes = self.models.get(model).ok_or_else(|| RouteError::UnknownModel {
            model: model.clone(),
            known: self.models.keys().cloned().collect(),
        })?;
        match target {
            Target::Version(version) => routes.version(model, version).map(|route| (route, Arm::Pinned)),
            Target::Alias(alias) => routes.alias(model, alias).map(|route| (route, Arm::Pinned)),
            Target::Rollout(Arm::Candidate) => match routes.alias(model, Alias::Candidate) {
                Ok(route) => Ok((route, Arm::Candidate)),
                Err(_) => routes.alias(model, Alias::Stable).map(|route| (route, Arm::Stable)),
            },
            Target::Rollout(_) => routes.alias(model, Alias::Stable).map(|route| (route, Arm::Stable)),
        }
    }

    /// What is left of a version that is not routable, if any shard has a ready replica. For answers that must be given
    /// all the same: nothing else may use a route with empty shards.
    pub fn partial(&self, pin: &VersionPin) -> Option<Arc<Route>> {
        let placement = self.models.get(&pin.model)?.versions.get(&pin.version)?;
        let usable =
            placement.route.pin == *pin && placement.route.shards.iter().any(|shard| !shard.is_empty());
        usable.then(|| Arc::clone(&placement.route))
    }

    /// The version that an alias names, routable or not.
    pub fn aliased(&self, model: &ModelName, alias: Alias) -> Option<Version> {
        self.models.get(model)?.aliases.get(&alias).copied()
    }

    /// Every version that can be answered from, by model and version.
    pub fn routable(&self) -> impl Iterator<Item = &Route> {
        let placements = self.models.values().flat_map(|routes| routes.versions.values());
        placements.filter(|placement| placement.missing.is_empty()).map(|placement| &*placement.route)
    }

    /// Every ready replica of every version, routable or not.
    pub fn replicas(&self) -> impl Iterator<Item = &Replica> {
        let placements = self.models.values().flat_map(|routes| routes.versions.values());
        placements.flat_map(|placement| placement.route.shards.iter().flatten())
    }
}

impl ModelRoutes {
    fn alias(&self, model: &ModelName, alias: Alias) -> Result<Arc<Route>, RouteError> {
        let version = self.aliases.get(&alias);
        let version = version.ok_or_else(|| RouteError::NoAlias { model: model.clone(), alias })?;
        self.version(model, *version)
    }

    fn version(&self, model: &ModelName, version: Version) -> Result<Arc<Route>, RouteError> {
        let Some(Placement { route, missing }) = self.versions.get(&version) else {
            return Err(RouteError::UnknownVersion { model: model.clone(), version });
        };
        if missing.is_empty() {
            Ok(Arc::clone(route))
        } else {
            Err(RouteError::NotRoutable { pin: route.pin.clone(), missing: missing.clone() })
        }
    }
}

/// Replicas by shard, only those of the pin's own bytes.
fn ready_shards(view: &FleetView, pin: &VersionPin, count: ShardCount) -> Vec<Vec<Replica>> {
    count
        .indices()
        .map(|shard| {
            let key = ShardKey { model: pin.model.clone(), version: pin.version, shard };
            let replicas = view.ready.get(&key).into_iter().flatten();
            replicas
                .filter(|(_, record)| record.digest == pin.digest)
                .map(|(worker, record)| Replica { worker: worker.clone(), endpoint: record.endpoint.clone() })
                .collect()
        })
        .collect()
}

/// Shards of a version without a ready replica of this digest.
pub fn missing_shards(
    ready: &ReadyReplicas,
    model: &ModelName,
    version: Version,
    digest: Digest,
    count: ShardCount,
) -> Vec<ShardIndex> {
    let has_one = |shard: &ShardIndex| {
        let key = ShardKey { model: model.clone(), version, shard: *shard };
        ready.get(&key).is_some_and(|replicas| replicas.values().any(|record| record.digest == digest))
    };
    count.indices().filter(|shard| !has_one(shard)).collect()
}

fn list(names: &[ModelName]) -> String {
    if names.is_empty() {
        return "none".to_owned();
    }
    names.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

pub(crate) fn shards(missing: &[ShardIndex]) -> String {
    const SHOWN: usize = 16;
    let mut text = missing.iter().take(SHOWN).map(ToString::to_string).collect::<Vec<_>>().join(", ");
    if missing.len() > SHOWN {
        text.push_str(&format!(" and {} more", missing.len() - SHOWN));
    }
    text
}

#[cfg(test)]
mod tests;
