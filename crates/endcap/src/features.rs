//! `endcap features …`: what a feature-cache knows of users and sessions, as the gateways read it.

use std::{collections::HashMap, fmt, str::FromStr, time::Duration};

use endcap_proto::pb;
use endcap_types::{FeatureName, Namespace};
use serde_json::json;

use crate::{
    cli::{FeaturesCommand, Global, Output},
    clients::{self, with_deadline},
    output,
};

/// Longer than a cache lets a caller wait for its Redis.
const DEADLINE: Duration = Duration::from_secs(5);

/// Whose features: `user/ada`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entity {
    namespace: Namespace,
    id: String,
}

impl FromStr for Entity {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let namespace =
            |word| [Namespace::User, Namespace::Session].into_iter().find(|it| it.as_str() == word);
        match text.split_once('/') {
            Some((word, id)) if !id.is_empty() => {
                namespace(word).map(|namespace| Self { namespace, id: id.to_owned() })
            }
            _ => None,
        }
        .ok_or_else(|| "expected user/ID or session/ID".to_owned())
    }
}

impl fmt::Display for Entity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace.as_str(), self.id)
    }
}

impl From<&Entity> for pb::FeatureKey {
    fn from(entity: &Entity) -> Self {
        Self { namespace: entity.namespace.as_str().to_owned(), entity_id: entity.id.clone() }
    }
}

/// One feature and its numbers: `user.affinity=0.5`.
#[derive(Debug, Clone, PartialEq)]
pub struct Assignment {
    name: FeatureName,
    value: pb::FeatureValue,
}

impl FromStr for Assignment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, numbers) = text.split_once('=').ok_or("expected NAME=NUMBERS, e.g. user.affinity=0.5")?;
        let name = name.parse::<FeatureName>().map_err(|e| e.to_string())?;
        // Integers fit features of both kinds; floats only those of floats.
        let ints: Result<Vec<i64>, _> = numbers.split(',').map(str::parse).collect();
        let value = match ints {
            Ok(ints) => pb::FeatureValue { ints, floats: Vec::new() },
            Err(_) => pb::FeatureValue { floats: floats(numbers)?, ints: Vec::new() },
        };
        Ok(Self { name, value })
    }
}

fn floats(numbers: &str) -> Result<Vec<f32>, String> {
    let float = |word: &str| {
        let found: Option<f32> = word.parse().ok();
        found
            .filter(|value| value.is_finite())
            .ok_or_else(|| format!("{word:?} is no finite number; expected e.g. 0.5 or 1,2,3"))
    };
    numbers.split(',').map(float).collect()
}

/// Runs one verb.
pub(crate) async fn run(global: &Global, command: FeaturesCommand) -> anyhow::Result<()> {
    match command {
        FeaturesCommand::Get { entities, cache } => get(global, &entities, &cache.feature_cache).await,
        FeaturesCommand::Put { entity, features, ttl, cache } => {
            put(global, &entity, features, ttl.unwrap_or_default(), &cache.feature_cache).await
        }
    }
}

async fn get(global: &Global, entities: &[Entity], url: &str) -> anyhow::Result<()> {
    let request = pb::GetFeaturesRequest { keys: entities.iter().map(Into::into).collect() };
    let answer = clients::feature_cache(url)?.get_features(with_deadline(request, DEADLINE)).await;
    let results = answer.map_err(|e| output::remote("features get", url, &e))?.into_inner().results;
    let found = entities.iter().zip(results.into_iter().map(|result| result.group));
    match global.output {
        Output::Json => {
            output::json(&found.map(|(entity, group)| as_json(entity, group)).collect::<Vec<_>>())
        }
        Output::Table => {
            print(found);
            Ok(())
        }
    }
}

fn print(found: impl Iterator<Item = (impl fmt::Display, Option<pb::FeatureGroup>)>) {
    let mut table = output::table(&["entity", "feature", "value", "written", "expires in"], &[]);
    let mut unknown = Vec::new();
    for (entity, group) in found {
        let Some(group) = group else {
            unknown.push(entity.to_string());
            continue;
        };
        let written = format!("{} ago", output::age(Duration::from_millis(group.age_ms)));
        let expires = output::age(Duration::from_millis(group.ttl_ms));
        for (name, value) in sorted(group.values) {
            table.add_row([entity.to_string(), name, text(&value), written.clone(), expires.clone()]);
        }
    }
    if !table.is_empty() {
        output::line(table);
    }
    if !unknown.is_empty() {
        output::line(format!("not known, or expired: {}", unknown.join(", ")));
    }
}

fn as_json(entity: &Entity, group: Option<pb::FeatureGroup>) -> serde_json::Value {
    let Some(group) = group else { return json!({"entity": entity.to_string(), "features": null}) };
    let numbers = |value: pb::FeatureValue| match value.ints.is_empty() {
        true => value.floats.into_iter().map(output::number).collect(),
        false => json!(value.ints),
    };
    let features: serde_json::Map<_, _> =
        sorted(group.values).into_iter().map(|(name, value)| (name, numbers(value))).collect();
    json!({"entity": entity.to_string(), "features": features, "age_ms": group.age_ms, "ttl_ms": group.ttl_ms})
}

fn sorted(values: HashMap<String, pb::FeatureValue>) -> Vec<(String, pb::FeatureValue)> {
    let mut values: Vec<_> = values.into_iter().collect();
    values.sort_by(|(one, _), (other, _)| one.cmp(other));
    values
}

/// The numbers; of a long vector its first ones and how many there are.
fn text(value: &pb::FeatureValue) -> String {
    const SHOWN: usize = 8;
    let numbers: Vec<String> = match value.ints.is_empty() {
        true => value.floats.iter().map(ToString::to_string).collect(),
        false => value.ints.iter().map(ToString::to_string).collect(),
    };
    match numbers.get(..SHOWN) {
        Some(first) if numbers.len() > SHOWN => format!("{}, … ({})", first.join(", "), numbers.len()),
        _ => numbers.join(", "),
    }
}

async fn put(
    global: &Global,
    entity: &Entity,
    features: Vec<Assignment>,
    ttl: Duration,
    url: &str,
) -> anyhow::Result<()> {
    let count = features.len();
    let values: HashMap<_, _> =
        features.into_iter().map(|feature| (feature.name.to_string(), feature.value)).collect();
    anyhow::ensure!(values.len() == count, "features put: a feature is named twice");
    let ttl_ms = u64::try_from(ttl.as_millis())?;
    let group = pb::FeatureGroup { key: Some(entity.into()), values, ttl_ms, age_ms: 0 };
    let request = pb::PutFeaturesRequest { groups: vec![group] };
    let answer = clients::feature_cache(url)?.put_features(with_deadline(request, DEADLINE)).await;
    let pb::PutFeaturesResponse {} =
        answer.map_err(|e| output::remote("features put", url, &e))?.into_inner();
    match global.output {
        Output::Json => output::json(&json!({"entity": entity.to_string(), "written": count})),
        Output::Table => {
            output::line(format!("{entity}: {count} written"));
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entities_are_of_a_namespace_that_is_kept() {
        let entity: Entity = "user/a/b".parse().unwrap();
        assert_eq!(
            (entity.namespace, entity.id.as_str(), entity.to_string()),
            (Namespace::User, "a/b", "user/a/b".into())
        );
        for wrong in ["", "user", "user/", "item/7", "ada"] {
            assert_eq!(wrong.parse::<Entity>().unwrap_err(), "expected user/ID or session/ID", "{wrong}");
        }
    }

    #[test]
    fn whole_numbers_are_integers_and_others_floats() {
        let value = |text: &str| text.parse::<Assignment>().map(|assignment| assignment.value);
        assert_eq!(value("user.a=3,-4").unwrap().ints, [3, -4]);
        assert_eq!(value("user.a=3,0.5").unwrap().floats, [3.0, 0.5]);
        for (wrong, expected) in [
            ("user.a", "NAME=NUMBERS"),
            ("user.a=", "\"\" is no finite number"),
            ("user.a=1,NaN", "\"NaN\" is no finite number"),
            ("user.a=1e40", "\"1e40\" is no finite number"),
            ("affinity=1", "affinity"),
        ] {
            let error = value(wrong).unwrap_err();
            assert!(error.contains(expected), "{wrong}: {error}");
        }
    }

    #[test]
    fn numbers_are_as_short_in_json_as_they_were_given() {
        let entity: Entity = "user/ada".parse().unwrap();
        let floats = "user.a=0.1,-2.5e-8,16777216.5,3".parse::<Assignment>().unwrap();
        let ints = "user.b=9007199254740993".parse::<Assignment>().unwrap();
        let values = [floats, ints].map(|given| (given.name.to_string(), given.value)).into();
        let group = pb::FeatureGroup { values, ..Default::default() };
        let shown = as_json(&entity, Some(group))["features"].to_string();
        assert_eq!(shown, r#"{"user.a":[0.1,-2.5e-8,16777216.0,3.0],"user.b":[9007199254740993]}"#);
    }

    #[test]
    fn a_long_vector_is_cut() {
        let floats = |count: u8| {
            text(&pb::FeatureValue { floats: (0..count).map(f32::from).collect(), ints: Vec::new() })
        };
        assert_eq!(floats(2), "0, 1");
        assert_eq!(floats(8), "0, 1, 2, 3, 4, 5, 6, 7");
        assert_eq!(floats(9), "0, 1, 2, 3, 4, 5, 6, 7, … (9)");
    }
}
