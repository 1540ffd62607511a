//! What was measured, as data: the same in the table, in the JSON file and in the plot.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::{Arrivals, Objective};

/// The format of the JSON file.
const FORMAT: u32 = 1;

/// Everything one run measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    pub format: u32,
    pub setup: Setup,
    /// In the order measured.
    pub steps: Vec<Step>,
    /// The result of a search.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub found: Option<Found>,
}

/// How it was measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Setup {
    /// `Recommend` or `ModelInfer`.
    pub rpc: String,
    pub url: String,
    /// What one request is, for people, e.g. "1115 queries, 10 items".
    pub request: String,
    /// `open` (requests follow a schedule) or `closed` (they follow answers).
    #[serde(rename = "loop")]
    pub loop_: String,
    pub arrivals: Arrivals,
    pub deadline_us: u64,
    pub connections: usize,
    pub max_outstanding: usize,
    pub seed: u64,
}

/// One rate for one duration. Times are microseconds from the intended send.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// Requests a second that the schedule asked for.
    pub rate_offered: f64,
    /// Good answers a second.
    pub rate_answered: f64,
    /// Good answers inside the deadline, a second.
    pub rate_in_deadline: f64,
    /// From the first due request to the last answer.
    pub seconds: f64,
    /// Requests that were due: `sent` and `not_sent`.
    pub offered: u64,
    pub sent: u64,
    /// Requests that the bound on outstanding ones kept back: they count as not answered.
    pub not_sent: u64,
    pub answered: u64,
    pub in_deadline: u64,
    /// Of all that were due.
    pub in_deadline_share: f64,
    /// Good answers within the objective's time, when there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub within_objective: Option<u64>,
    /// Good answers by rung.
    pub rungs: BTreeMap<String, u64>,
    /// Other answers by gRPC code.
    pub errors: BTreeMap<String, u64>,
    /// Of good answers.
    pub latency_us: Latency,
    /// Of the others, but for those that ran out of time: how fast a refusal is.
    pub error_latency_us: Latency,
    /// How late this process was to send: what a slow load generator adds to the latencies.
    pub send_lag_us: Latency,
    /// When the first request was due, in milliseconds since 1970; 0 in a closed loop.
    pub started_unix_ms: u64,
    /// What became of the requests that were due in each window of time, one after another, when windows were wanted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub windows: Vec<Window>,
}

/// A short time within a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    pub offered: u64,
    pub in_deadline: u64,
    /// Latencies of good answers and how often each was seen, to two digits: windows can be added up exactly.
    pub latency_us: Vec<(u64, u64)>,
}

impl Step {
    /// Whether the objective was met by what was due, not only by what was answered.
    pub fn meets(&self, objective: &Objective) -> bool {
        objective.is_met(self.within_objective.unwrap_or(0), self.offered)
    }
}

/// Percentiles in microseconds; all 0 when `count` is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Latency {
    pub count: u64,
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
    #[serde(rename = "p99.9")]
    pub p999: u64,
    pub max: u64,
}

impl Latency {
    pub(crate) fn of(histogram: &Histogram<u64>) -> Self {
        let at = |quantile| histogram.value_at_quantile(quantile);
        let (p50, p90, p99, p999) = (at(0.5), at(0.9), at(0.99), at(0.999));
        Self { count: histogram.len(), p50, p90, p99, p999, max: histogram.max() }
    }
}

/// The highest rate that met an objective.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Found {
    pub objective: Objective,
    /// Absent when even the lowest rate tried did not meet it.
    pub rate: Option<f64>,
    /// The lowest rate that was seen to miss it.
    pub missed_at: Option<f64>,
}

impl Report {
    pub fn new(setup: Setup) -> Self {
        Self { format: FORMAT, setup, steps: Vec::new(), found: None }
    }

    /// The most good answers in their deadline that any step gave, a second: the peak.
    pub fn peak(&self) -> f64 {
        self.steps.iter().map(|step| step.rate_in_deadline).fold(0.0, f64::max)
    }

    /// The table's columns; all but the last two are numbers.
    pub const HEADER: [&str; 12] = [
        "offered/s",
        "answered/s",
        "in deadline",
        "not sent",
        "p50",
        "p90",
        "p99",
        "p99.9",
        "max",
        "send lag p99",
        "rungs",
        "errors",
    ];

    /// The table's rows, a step each.
    pub fn rows(&self) -> Vec<Vec<String>> {
        self.steps.iter().map(row).collect()
    }
}

fn row(step: &Step) -> Vec<String> {
    let latency = &step.latency_us;
    let mut row = vec![
        format!("{:.1}", step.rate_offered),
        format!("{:.1}", step.rate_answered),
        format!("{:.2} %", step.in_deadline_share * 100.0),
        step.not_sent.to_string(),
    ];
    let times = [latency.p50, latency.p90, latency.p99, latency.p999, latency.max];
    row.extend(times.map(|time| if latency.count == 0 { "-".to_owned() } else { time_text(time) }));
    row.extend([time_text(step.send_lag_us.p99), counts(&step.rungs), counts(&step.errors)]);
    row
}

fn counts(counts: &BTreeMap<String, u64>) -> String {
    let parts: Vec<_> = counts.iter().map(|(name, count)| format!("{name} {count}")).collect();
    if parts.is_empty() { "-".to_owned() } else { parts.join(", ") }
}

/// Three digits are what the histogram has.
pub(crate) fn time_text(micros: u64) -> String {
    match micros {
        0..1000 => format!("{micros} us"),
        1000..10_000 => format!("{:.2} ms", micros as f64 / 1e3),
        10_000..100_000 => format!("{:.1} ms", micros as f64 / 1e3),
        100_000..1_000_000 => format!("{:.0} ms", micros as f64 / 1e3),
        _ => format!("{:.2} s", micros as f64 / 1e6),
    }
}
