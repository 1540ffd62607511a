//! The coordination keys. One place builds and parses them.

use endcap_types::{ModelName, ShardIndex, Version};

/// Everything lives below this; configurable, so that fleets can share an etcd.
pub const DEFAULT_PREFIX: &str = "/endcap";

/// Builds keys below a prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keys {
    prefix: String,
}

impl Default for Keys {
    fn default() -> Self {
        Self::new(DEFAULT_PREFIX)
    }
}

/// A parsed key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Key {
    Version {
        model: ModelName,
        version: Version,
    },
    Rollout {
        model: ModelName,
    },
    History {
        model: ModelName,
        sequence: u64,
    },
    Evaluation {
        model: ModelName,
        version: Version,
    },
    Assignment(ShardKey),
    Ready {
        shard: ShardKey,
        worker: String,
    },
    Failed {
        shard: ShardKey,
        worker: String,
    },
    Worker {
        worker: String,
    },
    Gateway {
        gateway: String,
    },
    FeatureCache {
        node: String,
    },
    /// A registry that stands for controller.
    Candidate,
}

/// One shard of one version.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardKey {
    pub model: ModelName,
    pub version: Version,
    pub shard: ShardIndex,
}

impl Keys {
    pub fn new(prefix: impl Into<String>) -> Self {
        Self { prefix: prefix.into().trim_end_matches('/').to_owned() }
    }

    /// Prefix of every key of the fleet.
    pub fn all(&self) -> String {
        format!("{}/", self.prefix)
    }

    pub fn models(&self) -> String {
        format!("{}/models/", self.prefix)
    }

    pub fn versions(&self, model: &ModelName) -> String {
        format!("{}/models/{model}/versions/", self.prefix)
    }

    /// Numbers in keys are padded, so that the order of keys is the order of numbers.
    pub fn version(&self, model: &ModelName, version: Version) -> String {
        format!("{}/models/{model}/versions/{:010}", self.prefix, version.get())
    }

    pub fn rollout(&self, model: &ModelName) -> String {
        format!("{}/models/{model}/rollout", self.prefix)
    }

    /// Every model's history.
    pub fn histories_all(&self) -> String {
        format!("{}/history/", self.prefix)
    }

    /// History lives beside the models, not below them: whoever watches models need not carry their past.
    pub fn histories(&self, model: &ModelName) -> String {
        format!("{}/history/{model}/", self.prefix)
    }

    pub fn history(&self, model: &ModelName, sequence: u64) -> String {
        format!("{}/history/{model}/{sequence:010}", self.prefix)
    }

    /// What was measured of versions through the fleet: beside the models, whose watchers need not carry it.
    pub fn evaluations(&self) -> String {
        format!("{}/evaluations/", self.prefix)
    }

    pub fn evaluation(&self, model: &ModelName, version: Version) -> String {
        format!("{}/evaluations/{model}/{:010}", self.prefix, version.get())
    }

    pub fn assignments(&self) -> String {
        format!("{}/assignments/", self.prefix)
    }

    pub fn assignment(&self, shard: &ShardKey) -> String {
        format!("{}/assignments/{}", self.prefix, shard.path())
    }

    pub fn ready_all(&self) -> String {
        format!("{}/ready/", self.prefix)
    }

    pub fn ready(&self, shard: &ShardKey, worker: &str) -> String {
        format!("{}/ready/{}/{worker}", self.prefix, shard.path())
    }

    pub fn failed_all(&self) -> String {
        format!("{}/failed/", self.prefix)
    }

    pub fn failed(&self, shard: &ShardKey, worker: &str) -> String {
        format!("{}/failed/{}/{worker}", self.prefix, shard.path())
    }

    pub fn workers(&self) -> String {
        format!("{}/workers/", self.prefix)
    }

    pub fn worker(&self, worker: &str) -> String {
        format!("{}/workers/{worker}", self.prefix)
    }

    pub fn gateways(&self) -> String {
        format!("{}/gateways/", self.prefix)
    }

    pub fn feature_caches(&self) -> String {
        format!("{}/feature-caches/", self.prefix)
    }

    pub fn gateway(&self, gateway: &str) -> String {
        format!("{}/gateways/{gateway}", self.prefix)
    }

    pub fn feature_cache(&self, node: &str) -> String {
        format!("{}/feature-caches/{node}", self.prefix)
    }

    /// Exists as long as the coordinator's data are whole: the registry puts it once everything else is there.
    pub fn epoch(&self) -> String {
        format!("{}/epoch", self.prefix)
    }

    pub fn controller_election(&self) -> String {
        format!("{}/election/controller", self.prefix)
    }

    /// What a key names, or nothing for a key that this build does not know.
    pub fn parse(&self, key: &str) -> Option<Key> {
        let path = key.strip_prefix(&self.prefix)?.strip_prefix('/')?;
        let parts: Vec<&str> = path.split('/').collect();
        match parts.as_slice() {
            ["models", model, "versions", version] => {
                Some(Key::Version { model: model.parse().ok()?, version: parse_version(version)? })
            }
            ["models", model, "rollout"] => Some(Key::Rollout { model: model.parse().ok()? }),
            ["history", model, sequence] => {
                Some(Key::History { model: model.parse().ok()?, sequence: sequence.parse().ok()? })
            }
            ["evaluations", model, version] => {
                Some(Key::Evaluation { model: model.parse().ok()?, version: parse_version(version)? })
            }
            ["assignments", model, version, shard] => {
                ShardKey::parse(model, version, shard).map(Key::Assignment)
            }
            ["ready", model, version, shard, worker] => {
                Some(Key::Ready { shard: ShardKey::parse(model, version, shard)?, worker: (*worker).into() })
            }
            ["failed", model, version, shard, worker] => {
                Some(Key::Failed { shard: ShardKey::parse(model, version, shard)?, worker: (*worker).into() })
            }
            ["workers", worker] => Some(Key::Worker { worker: (*worker).into() }),
            ["gateways", gateway] => Some(Key::Gateway { gateway: (*gateway).into() }),
            ["election", "controller", _] => Some(Key::Candidate),
            ["feature-caches", node] => Some(Key::FeatureCache { node: (*node).into() }),
            _ => None,
        }
    }
}

impl ShardKey {
    fn path(&self) -> String {
        format!("{}/{:010}/{:05}", self.model, self.version.get(), self.shard)
    }

    fn parse(model: &str, version: &str, shard: &str) -> Option<Self> {
        Some(Self {
            model: model.parse().ok()?,
            version: parse_version(version)?,
            shard: shard.parse().ok()?,
        })
    }
}

fn parse_version(text: &str) -> Option<Version> {
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_parses_back() {
        let keys = Keys::new("/shop/endcap/");
        let model: ModelName = "m".parse().unwrap();
        let shard = ShardKey { model: model.clone(), version: Version::FIRST, shard: 3 };
        let cases = [
            (
                keys.version(&model, Version::FIRST),
                Key::Version { model: model.clone(), version: Version::FIRST },
            ),
            (keys.rollout(&model), Key::Rollout { model: model.clone() }),
            (
                keys.evaluation(&model, Version::FIRST),
                Key::Evaluation { model: model.clone(), version: Version::FIRST },
            ),
            (keys.history(&model, 7), Key::History { model, sequence: 7 }),
            (keys.assignment(&shard), Key::Assignment(shard.clone())),
            (keys.ready(&shard, "w1"), Key::Ready { shard: shard.clone(), worker: "w1".into() }),
            (keys.failed(&shard, "w1"), Key::Failed { shard, worker: "w1".into() }),
            (keys.worker("w1"), Key::Worker { worker: "w1".into() }),
            (keys.gateway("g"), Key::Gateway { gateway: "g".into() }),
            (keys.feature_cache("f"), Key::FeatureCache { node: "f".into() }),
        ];
        for (text, key) in cases {
            assert!(text.starts_with("/shop/endcap/"), "{text}");
            assert_eq!(keys.parse(&text), Some(key), "{text}");
        }
        assert_eq!(keys.parse("/other/models/m/rollout"), None);
    }
}
