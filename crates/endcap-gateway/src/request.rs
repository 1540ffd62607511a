//! A request whose every field has been checked. All faults are told at once, each with its field's path.

mod text;

use std::collections::{BTreeMap, HashMap, HashSet};

use endcap_fleet::Target;
use endcap_proto::pb::{self, recommend_request::Target as WireTarget};
use endcap_types::{Alias, FeatureName, FeatureValue, ItemId, ModelName, Namespace, Version, Violations};

use crate::config::Limits;
use text::{check_id, check_query, normalised, shortened};

/// An error must stay readable: the faults beyond this many are counted.
const MOST_VIOLATIONS: usize = 16;
/// Columns of one item that a page could show.
const MOST_FIELDS: usize = 100;

/// What a caller wants.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Asked {
    /// Nothing: the default model.
    pub(crate) model: Option<ModelName>,
    /// Nothing: the rollout decides.
    pub(crate) pinned: Option<Target>,
    /// Normalised; empty in a rerank without a query.
    pub(crate) query: String,
    /// Distinct. Empty: retrieve from the whole catalogue.
    pub(crate) candidates: Vec<ItemId>,
    pub(crate) limit: usize,
    pub(crate) user_id: String,
    pub(crate) session_id: String,
    /// `context.*` only, finite.
    pub(crate) context: BTreeMap<FeatureName, FeatureValue>,
    pub(crate) fields: Vec<String>,
    /// 0 to 1.
    pub(crate) minimum_coverage: f64,
    pub(crate) exclude: HashSet<ItemId>,
}

impl Asked {
    /// Checks a request from outside.
    pub(crate) fn from_wire(wire: pb::RecommendRequest, limits: &Limits) -> Result<Self, Violations> {
        let mut found = Violations::default();
        let model = model(&wire.model, &mut found);
        let pinned = wire.target.and_then(|target| pinned(&target, &mut found));
        let query = check_query(&wire.query, limits.query_bytes, &mut found).then(|| normalised(&wire.query));
        if query.as_deref() == Some("") && wire.candidates.is_empty() {
            found.push("query", "is empty and so is candidates; one of them must be set");
        }
        item_ids("candidates", &wire.candidates, limits.candidates, &mut found);
        distinct("candidates", &wire.candidates, limits.candidates, &mut found);
        item_ids("exclude", &wire.exclude, limits.candidates, &mut found);
        if wire.limit == 0 || wire.limit > limits.limit {
            found.push("limit", format!("is {}; expected 1 to {}", wire.limit, limits.limit));
        }
        check_id(|| "user_id".to_owned(), &wire.user_id, &mut found);
        check_id(|| "session_id".to_owned(), &wire.session_id, &mut found);
        let context = context(wire.context, &mut found);
        fields(&wire.fields, &mut found);
        // Also refuses NaN, which is in no range.
        if !(0.0..=1.0).contains(&wire.minimum_coverage) {
            found.push("minimum_coverage", format!("is {}; expected 0 to 1", wire.minimum_coverage));
        }
        let asked = Self {
            model,
            pinned,
            query: query.unwrap_or_default(),
            candidates: wire.candidates,
            limit: wire.limit as usize,
            user_id: wire.user_id,
            session_id: wire.session_id,
            context,
            fields: wire.fields,
            minimum_coverage: wire.minimum_coverage,
            exclude: wire.exclude.into_iter().collect(),
        };
        told(found).or(asked)
    }

    pub(crate) fn is_rerank(&self) -> bool {
        !self.candidates.is_empty()
    }

    /// Who must stay on one arm: the user, else the session, else nobody.
    pub(crate) fn shopper(&self) -> &str {
        if self.user_id.is_empty() { &self.session_id } else { &self.user_id }
    }

    /// Where the request is to go, given the share of shoppers on the candidate.
    pub(crate) fn target(&self, model: &ModelName, candidate_permille: u16) -> Target {
        let rollout = || Target::Rollout(endcap_ranking::arm(model, self.shopper(), candidate_permille));
        self.pinned.unwrap_or_else(rollout)
    }
}

fn model(name: &str, found: &mut Violations) -> Option<ModelName> {
    if name.is_empty() {
        return None;
    }
    name.parse().map_err(|error| found.push("model", format!("{error}"))).ok()
}

fn pinned(target: &WireTarget, found: &mut Violations) -> Option<Target> {
    match target {
        WireTarget::Version(number) => match Version::try_from(*number) {
            Ok(version) => Some(Target::Version(version)),
            Err(error) => {
                found.push("version", error.to_string());
                None
            }
        },
        WireTarget::Alias(name) => match name.parse::<Alias>() {
            Ok(alias) => Some(Target::Alias(alias)),
            Err(error) => {
                found.push("alias", error.to_string());
                None
            }
        },
    }
}

/// Too many are not looked at one by one.
fn item_ids(field: &str, ids: &[ItemId], most: usize, found: &mut Violations) {
    if ids.len() > most {
        found.push(field, format!("has {} item ids; expected at most {most}", ids.len()));
        return;
    }
    for (i, id) in ids.iter().enumerate() {
        let field = || format!("{field}[{i}]");
        if id.is_empty() {
            found.push(field(), "is empty; expected an item id");
        } else {
            check_id(field, id, found);
        }
    }
}

fn distinct(field: &str, ids: &[ItemId], most: usize, found: &mut Violations) {
    if ids.len() > most {
        return;
    }
    let mut first: HashMap<&str, usize> = HashMap::with_capacity(ids.len());
    for (i, id) in ids.iter().enumerate().filter(|(_, id)| !id.is_empty()) {
        match first.get(id.as_str()) {
            Some(earlier) => {
                found.push(
                    format!("{field}[{i}]"),
                    format!("repeats {field}[{earlier}], {:?}", shortened(id)),
                );
            }
            None => {
                first.insert(id, i);
            }
        }
    }
}

fn context(
    wire: HashMap<String, pb::FeatureValue>,
    found: &mut Violations,
) -> BTreeMap<FeatureName, FeatureValue> {
    // By name, so that the same request gets the same error.
    let wire: BTreeMap<_, _> = wire.into_iter().collect();
    let mut context = BTreeMap::new();
    for (name, value) in wire {
        let field = format!("context[{:?}]", shortened(&name));
        let name = match name.parse::<FeatureName>() {
            Ok(name) if name.namespace() == Namespace::Context => name,
            Ok(name) => {
                found.push(
                    field,
                    format!("{name} is not a context.* feature; the others don't come from callers"),
                );
                continue;
            }
            Err(error) => {
                found.push(field, error.to_string());
                continue;
            }
        };
        if let Some(value) = feature_value(&field, value, found) {
            context.insert(name, value);
        }
    }
    context
}

fn feature_value(field: &str, wire: pb::FeatureValue, found: &mut Violations) -> Option<FeatureValue> {
    match (wire.floats.is_empty(), wire.ints.is_empty()) {
        (true, true) => found.push(field, "has no values; leave the feature out to get its default"),
        (false, false) => found.push(field, "has both floats and ints; expected one of them"),
        (true, false) => return Some(FeatureValue::I64(wire.ints)),
        (false, true) => match wire.floats.iter().position(|value| !value.is_finite()) {
            Some(i) => found.push(
                format!("{field}.floats[{i}]"),
                format!("is {}; expected a finite number", wire.floats[i]),
            ),
            None => return Some(FeatureValue::F32(wire.floats)),
        },
    }
    None
}

fn fields(names: &[String], found: &mut Violations) {
    if names.len() > MOST_FIELDS {
        found.push("fields", format!("has {} columns; expected at most {MOST_FIELDS}", names.len()));
        return;
    }
    for (i, name) in names.iter().enumerate() {
        if name.is_empty() {
            found.push(format!("fields[{i}]"), "is empty; expected a catalogue column");
        } else if let Some(earlier) = names[..i].iter().position(|other| other == name) {
            found.push(format!("fields[{i}]"), format!("repeats fields[{earlier}]"));
        } else {
            check_id(|| format!("fields[{i}]"), name, found);
        }
    }
}

fn told(mut found: Violations) -> Violations {
    let more = found.0.len().saturating_sub(MOST_VIOLATIONS);
    if more > 0 {
        found.0.truncate(MOST_VIOLATIONS);
        found.push("", format!("and {more} more"));
    }
    found
}

#[cfg(test)]
mod tests;
