//! Every metric of the gateway. Labels are closed sets, or the fleet's own models and versions.

use std::time::Duration;

use endcap_service::metrics::Handles;
use endcap_types::{Arm, Metric, ModelName, Quality, Rung, Version};
use metrics::{Counter, Histogram, counter, gauge, histogram};

/// Declared here, listed in `deploy/prometheus/METRICS.md`.
pub const METRICS: &[Metric] = &[
    Metric::counter(
        "endcap_answers_total",
        &["arm", "model", "rung", "version"],
        "Answers, by the rung they stand on and the version that gave them.",
    ),
    Metric::counter(
        "endcap_degradations_total",
        &["model", "reason"],
        "Reasons for which an answer was less than it could be; an answer may have several.",
    ),
    Metric::histogram(
        "endcap_coverage_ratio",
        &["model"],
        "Share of the items to score that were scored, of each answer.",
    ),
    Metric::histogram(
        "endcap_stage_duration_seconds",
        &["stage"],
        "Time of one stage of a request: plan, features, encode, scatter, merge. Skipped stages are no samples.",
    ),
    Metric::counter(
        "endcap_mixed_version_total",
        &[],
        "Replies of a worker dropped because they came from another version than was asked. Stays 0.",
    ),
    Metric::counter(
        "endcap_work_after_deadline_total",
        &[],
        "Answers finished when nobody could use them any more.",
    ),
    Metric::counter(
        "endcap_shard_retries_total",
        &[],
        "Questions put to a second replica after the first failed.",
    ),
    Metric::counter(
        "endcap_replica_ejections_total",
        &[],
        "Workers left alone for a while after failing in a row.",
    ),
    Metric::counter(
        "endcap_hedges_total",
        &["outcome"],
        "Second calls beside one that was late: won, lost, or denied for want of budget.",
    ),
    Metric::counter(
        "endcap_stragglers_left_total",
        &[],
        "Shards that an answer did not wait for, though there was time.",
    ),
    Metric::gauge("endcap_shard_streams", &[], "Streams to workers that are open."),
    Metric::gauge(
        "endcap_routing_snapshot_age_seconds",
        &[],
        "Time since the coordinator last confirmed the routing snapshot; 0 while it is followed.",
    ),
];

/// The parts of a request that are timed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Stage {
    Plan,
    Features,
    Encode,
    Scatter,
    Merge,
}

impl Stage {
    fn as_str(self) -> &'static str {
        match self {
            Self::Plan => "plan",
            Self::Features => "features",
            Self::Encode => "encode",
            Self::Scatter => "scatter",
            Self::Merge => "merge",
        }
    }
}

/// What became of a second call beside one that was late.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HedgeOutcome {
    /// It was the first to bring an answer.
    Won,
    Lost,
    /// The budget had nothing left for it.
    Denied,
}

impl HedgeOutcome {
    const ALL: [Self; 3] = [Self::Won, Self::Lost, Self::Denied];

    fn as_str(self) -> &'static str {
        match self {
            Self::Won => "won",
            Self::Lost => "lost",
            Self::Denied => "denied",
        }
    }
}

/// Registers the counters that should stay 0, so that an alert on them can tell 0 from absent.
pub(crate) fn register() {
    counter!("endcap_mixed_version_total").absolute(0);
    counter!("endcap_work_after_deadline_total").absolute(0);
    counter!("endcap_shard_retries_total").absolute(0);
    counter!("endcap_replica_ejections_total").absolute(0);
    counter!("endcap_stragglers_left_total").absolute(0);
    gauge!("endcap_shard_streams").increment(0.0);
    counter!("endcap_rejected_total", "service" => "gateway", "reason" => "client_share").absolute(0);
    for outcome in HedgeOutcome::ALL {
        counter!("endcap_hedges_total", "outcome" => outcome.as_str()).absolute(0);
    }
}

pub(crate) fn hedged(outcome: HedgeOutcome) {
    counter!("endcap_hedges_total", "outcome" => outcome.as_str()).increment(1);
}

/// Shards that an answer did not wait for, though there was time.
pub(crate) fn stragglers_left(count: usize) {
    counter!("endcap_stragglers_left_total").increment(count as u64);
}

/// Time since the routing snapshot was last confirmed by the coordinator; 0 while it is followed.
pub(crate) fn snapshot_age(age: Duration) {
    gauge!("endcap_routing_snapshot_age_seconds").set(age.as_secs_f64());
}

/// What is counted of every answer.
#[derive(Debug, Default)]
pub(crate) struct Meters {
    /// And their coverage.
    answers: Handles<(ModelName, Version, Arm, Rung), (Counter, Histogram)>,
    stages: Handles<Stage, Histogram>,
}

impl Meters {
    pub(crate) fn answered(&self, quality: &Quality) {
        let pin = &quality.pin;
        let look_up = |(model, version, arm, rung): &(ModelName, Version, Arm, Rung)| {
            (
                counter!(
                    "endcap_answers_total",
                    "model" => model.to_string(),
                    "version" => version.to_string(),
                    "arm" => arm.as_str(),
                    "rung" => rung.as_str(),
                ),
                histogram!("endcap_coverage_ratio", "model" => model.to_string()),
            )
        };
        let key = (pin.model.clone(), pin.version, quality.arm, quality.rung);
        self.answers.with(key, look_up, |(answers, coverage)| {
            answers.increment(1);
            coverage.record(quality.coverage.ratio());
        });
        for reason in &quality.reasons {
            let model = pin.model.to_string();
            counter!("endcap_degradations_total", "model" => model, "reason" => reason.as_str()).increment(1);
        }
    }

    /// A stage that was skipped is no sample of how long it takes.
    pub(crate) fn stage(&self, stage: Stage, took: Duration) {
        if took.is_zero() {
            return;
        }
        let look_up = |stage: &Stage| histogram!("endcap_stage_duration_seconds", "stage" => stage.as_str());
        self.stages.with(stage, look_up, |durations| durations.record(took.as_secs_f64()));
    }
}

/// A worker is left alone for a while.
pub(crate) fn ejected() {
    counter!("endcap_replica_ejections_total").increment(1);
}

/// A worker answered from another version than it was asked for.
pub(crate) fn mixed_version() {
    counter!("endcap_mixed_version_total").increment(1);
}

/// An answer was finished when nobody could use it any more.
pub(crate) fn late() {
    counter!("endcap_work_after_deadline_total").increment(1);
}

pub(crate) fn shard_retried() {
    counter!("endcap_shard_retries_total").increment(1);
}

/// A stream to a worker was opened (1) or has ended (-1).
pub(crate) fn streams(change: f64) {
    gauge!("endcap_shard_streams").increment(change);
}

/// A client had more than its fair share in flight while the gateway was nearly full.
pub(crate) fn shed_client() {
    counter!("endcap_rejected_total", "service" => "gateway", "reason" => "client_share").increment(1);
}
