//! Wire messages as JSON and as text. One place, so that every verb names the same thing the same way.

use std::fmt::Write as _;

use endcap_proto::pb;
use serde_json::{Value, json};

/// Aliases as `stable=2 last_good=1`, in the order of their importance.
pub(crate) fn aliases(rollout: &pb::Rollout) -> String {
    let mut text = String::new();
    for alias in endcap_types::Alias::ALL {
        if let Some(version) = rollout.aliases.get(alias.as_str()) {
            let gap = if text.is_empty() { "" } else { " " };
            let _infallible = write!(text, "{gap}{alias}={version}");
        }
    }
    if text.is_empty() { "no alias yet".to_owned() } else { text }
}

/// The state as its wire name's last word, lower case: `validated`.
pub(crate) fn state(version: &pb::ModelVersion) -> String {
    wire_word(version.state().as_str_name(), "VERSION_STATE_")
}

pub(crate) fn replica_state(state: pb::ReplicaState) -> String {
    wire_word(state.as_str_name(), "REPLICA_STATE_")
}

pub(crate) fn lack(lack: pb::Lack) -> String {
    wire_word(lack.as_str_name(), "LACK_")
}

fn wire_word(name: &str, prefix: &str) -> String {
    name.trim_start_matches(prefix).to_lowercase()
}

pub(crate) fn version_row(version: &pb::ModelVersion) -> [String; 10] {
    let ndcg =
        version.evaluation.get("ndcg@10").map_or_else(|| "-".to_owned(), |value| format!("{value:.4}"));
    [
        version.model.clone(),
        version.version.to_string(),
        version.aliases.join(" "),
        if version.failure.is_empty() {
            state(version)
        } else {
            format!("{}: {}", state(version), version.failure)
        },
        version.items_total.to_string(),
        version.shard_count.to_string(),
        crate::output::bytes(version.size_bytes),
        ndcg,
        version.digest.chars().take(12).collect(),
        version.registered_at.clone(),
    ]
}

/// What a version is, beside its figures and its lineage.
pub(crate) fn version_facts(version: &pb::ModelVersion) -> [(&'static str, String); 7] {
    let standing = if version.failure.is_empty() {
        state(version)
    } else {
        format!("{}: {}", state(version), version.failure)
    };
    [
        ("model", format!("{} version {}", version.model, version.version)),
        ("aliases", version.aliases.join(" ")),
        ("state", standing),
        ("items", format!("{} in {} shards", version.items_total, version.shard_count)),
        ("size", crate::output::bytes(version.size_bytes)),
        ("digest", version.digest.clone()),
        ("registered", version.registered_at.clone()),
    ]
}

pub(crate) fn version_json(version: &pb::ModelVersion) -> Value {
    json!({
        "model": version.model, "version": version.version, "digest": version.digest,
        "shard_count": version.shard_count, "items_total": version.items_total, "state": state(version),
        "failure": version.failure, "registered_at": version.registered_at, "evaluation": version.evaluation,
        "lineage": version.lineage, "aliases": version.aliases, "size_bytes": version.size_bytes,
    })
}

pub(crate) fn rollout_json(rollout: &pb::Rollout) -> Value {
    json!({ "model": rollout.model, "aliases": rollout.aliases, "revision": rollout.revision })
}

pub(crate) fn model_json(model: &pb::Model) -> Value {
    json!({
        "name": model.name,
        "rollout": model.rollout.as_ref().map(rollout_json),
        "versions": model.versions.iter().map(version_json).collect::<Vec<_>>(),
    })
}

pub(crate) fn history_json(entry: &pb::HistoryEntry) -> Value {
    json!({
        "sequence": entry.sequence, "at": entry.at, "action": entry.action, "actor": entry.actor,
        "from_version": entry.from_version, "to_version": entry.to_version, "digest": entry.digest,
        "reason": entry.reason,
    })
}

pub(crate) fn event_json(event: &pb::WatchResponse) -> Value {
    let what = match &event.event {
        Some(pb::watch_response::Event::History(entry)) => json!({ "history": history_json(entry) }),
        Some(pb::watch_response::Event::Replica(replica)) => json!({ "replica": {
            "version": replica.version, "shard": replica.shard, "worker": replica.worker,
            "state": replica_state(replica.state()), "detail": replica.detail,
        }}),
        None => Value::Null,
    };
    json!({ "at": event.at, "model": event.model, "event": what })
}

pub(crate) fn event_line(event: &pb::WatchResponse) -> String {
    match &event.event {
        Some(pb::watch_response::Event::History(entry)) => {
            let reason = if entry.reason.is_empty() { String::new() } else { format!(": {}", entry.reason) };
            let version = entry.to_version;
            format!(
                "{}  {} {} version {version} by {}{reason}",
                event.at, event.model, entry.action, entry.actor
            )
        }
        Some(pb::watch_response::Event::Replica(replica)) => {
            let detail =
                if replica.detail.is_empty() { String::new() } else { format!(": {}", replica.detail) };
            format!(
                "{}  {} version {} shard {} on {} {}{detail}",
                event.at,
                event.model,
                replica.version,
                replica.shard,
                replica.worker,
                replica_state(replica.state())
            )
        }
        None => format!("{}  {}", event.at, event.model),
    }
}

/// An answer's quality in one line: rung, version, arm, coverage, time and what was given up.
pub(crate) fn quality_line(quality: &pb::Quality) -> String {
    let coverage = quality.coverage.clone().unwrap_or_default();
    let timing = quality.timing.unwrap_or_default();
    #[expect(clippy::cast_precision_loss, reason = "a time for people")]
    let ms = timing.total_us as f64 / 1000.0;
    let mut text = format!(
        "{} · {} version {} ({}) · {} of {} items, {} of {} shards · {ms:.1} ms",
        wire_word(quality.rung().as_str_name(), "RUNG_").to_uppercase(),
        quality.model,
        quality.version,
        quality.arm,
        coverage.items_scored,
        coverage.items_total,
        coverage.shards_ok,
        coverage.shards_total,
    );
    if !quality.degradation_reasons.is_empty() {
        text.push_str(" · ");
        text.push_str(&reasons(quality).join(", "));
    }
    text
}

fn reasons(quality: &pb::Quality) -> Vec<String> {
    quality
        .degradation_reasons()
        .map(|reason| wire_word(reason.as_str_name(), "DEGRADATION_REASON_").replace('_', " "))
        .collect()
}

pub(crate) fn quality_json(quality: &pb::Quality) -> Value {
    let coverage = quality.coverage.clone().unwrap_or_default();
    let timing = quality.timing.unwrap_or_default();
    json!({
        "rung": wire_word(quality.rung().as_str_name(), "RUNG_").to_uppercase(),
        "model": quality.model, "version": quality.version, "digest": quality.digest, "arm": quality.arm,
        "coverage": {
            "items_scored": coverage.items_scored, "items_total": coverage.items_total,
            "shards_total": coverage.shards_total, "shards_ok": coverage.shards_ok,
            "shards_timed_out": coverage.shards_timed_out, "shards_failed": coverage.shards_failed,
            "shards_shed": coverage.shards_shed, "missing_shards": coverage.missing_shards,
        },
        "degradation_reasons": quality
            .degradation_reasons()
            .map(|reason| reason.as_str_name().trim_start_matches("DEGRADATION_REASON_").to_owned())
            .collect::<Vec<_>>(),
        "timing_us": {
            "plan": timing.plan_us, "features": timing.features_us, "encode": timing.encode_us,
            "scatter": timing.scatter_us, "merge": timing.merge_us, "total": timing.total_us,
        },
    })
}
