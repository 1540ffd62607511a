//! Requests, checked whole before any of them is done.

use std::{collections::BTreeMap, time::Duration};

use endcap_proto::pb;
use endcap_types::{FeatureName, FeatureValue, Namespace, Violations};

use crate::store::{Group, Key, Stored};

const MOST_KEYS: usize = 1_000;
const MOST_FEATURES: usize = 1_000;
const WIDEST: usize = 65_536;
const LONGEST_ID: usize = 512;

/// A group to write.
#[derive(Debug)]
pub(crate) struct Put {
    pub(crate) key: Key,
    pub(crate) values: Group,
    pub(crate) ttl: Option<Duration>,
}

pub(crate) fn keys(wire: pb::GetFeaturesRequest) -> Result<Vec<Key>, Violations> {
    let mut violations = Violations::default();
    count("keys", wire.keys.len(), &mut violations);
    let keys = wire.keys.into_iter().enumerate();
    let keys = keys.filter_map(|(i, wire)| key(wire, &format!("keys[{i}]"), &mut violations)).collect();
    violations.or(keys)
}

pub(crate) fn groups(wire: pb::PutFeaturesRequest) -> Result<Vec<Put>, Violations> {
    let mut violations = Violations::default();
    count("groups", wire.groups.len(), &mut violations);
    let groups = wire.groups.into_iter().enumerate();
    let groups =
        groups.filter_map(|(i, wire)| group(wire, &format!("groups[{i}]"), &mut violations)).collect();
    violations.or(groups)
}

pub(crate) fn result(found: Option<Stored>, key: Key) -> pb::FeatureResult {
    let group = found.map(|stored| pb::FeatureGroup {
        key: Some(pb::FeatureKey { namespace: key.namespace.as_str().to_owned(), entity_id: key.entity_id }),
        values: stored.values.iter().map(|(name, value)| (name.to_string(), to_wire(value))).collect(),
        ttl_ms: millis(stored.ttl_left),
        age_ms: millis(stored.age),
    });
    pb::FeatureResult { group }
}

fn count(field: &str, found: usize, violations: &mut Violations) {
    if found == 0 || found > MOST_KEYS {
        violations.push(field, format!("has {found} entries; expected 1 to {MOST_KEYS}"));
    }
}

fn key(wire: pb::FeatureKey, field: &str, violations: &mut Violations) -> Option<Key> {
    let namespace = match wire.namespace.as_str() {
        "user" => Some(Namespace::User),
        "session" => Some(Namespace::Session),
        found => {
            let found: String = found.chars().take(80).collect();
            violations.push(
                format!("{field}.namespace"),
                format!("is {found:?}; expected \"user\" or \"session\""),
            );
            None
        }
    };
    let length = wire.entity_id.len();
    if length == 0 || length > LONGEST_ID {
        let description = format!("has {length} bytes; expected 1 to {LONGEST_ID}");
        violations.push(format!("{field}.entity_id"), description);
    }
    Some(Key { namespace: namespace?, entity_id: wire.entity_id })
}

fn group(wire: pb::FeatureGroup, field: &str, violations: &mut Violations) -> Option<Put> {
    let key = key(wire.key.unwrap_or_default(), &format!("{field}.key"), violations);
    if wire.values.is_empty() || wire.values.len() > MOST_FEATURES {
        let description = format!("has {} features; expected 1 to {MOST_FEATURES}", wire.values.len());
        violations.push(format!("{field}.values"), description);
    }
    // In a fixed order, so that the same request gets the same error.
    let sorted: BTreeMap<_, _> = wire.values.into_iter().collect();
    let mut values = Group::new();
    for (name, value) in sorted {
        let field = format!("{field}.values[{:?}]", name.chars().take(80).collect::<String>());
        match name.parse::<FeatureName>() {
            Err(error) => violations.push(field, error.to_string()),
            Ok(name) => {
                if let Some(key) = key.as_ref().filter(|key| key.namespace != name.namespace()) {
                    let expected = key.namespace.as_str();
                    violations.push(&field, format!("is not a {expected}.* feature, which its key asks for"));
                }
                if let Some(value) = from_wire(value, &field, violations) {
                    values.insert(name, value);
                }
            }
        }
    }
    let ttl = (wire.ttl_ms > 0).then(|| Duration::from_millis(wire.ttl_ms));
    Some(Put { key: key?, values, ttl })
}

fn from_wire(wire: pb::FeatureValue, field: &str, violations: &mut Violations) -> Option<FeatureValue> {
    let (floats, ints) = (wire.floats, wire.ints);
    if floats.len().max(ints.len()) > WIDEST {
        violations.push(field, format!("has {} numbers; the most is {WIDEST}", floats.len().max(ints.len())));
        return None;
    }
    if let Some(i) = floats.iter().position(|value| !value.is_finite()) {
        violations
            .push(format!("{field}.floats[{i}]"), format!("is {}; expected a finite number", floats[i]));
        return None;
    }
    match (floats.is_empty(), ints.is_empty()) {
        (false, true) => Some(FeatureValue::F32(floats)),
        (true, false) => Some(FeatureValue::I64(ints)),
        _ => {
            violations.push(field, "expected floats or ints, and not both");
            None
        }
    }
}

pub(crate) fn to_wire(value: &FeatureValue) -> pb::FeatureValue {
    match value {
        FeatureValue::F32(floats) => pb::FeatureValue { floats: floats.clone(), ints: Vec::new() },
        FeatureValue::I64(ints) => pb::FeatureValue { floats: Vec::new(), ints: ints.clone() },
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
