//! Counts and histograms of one step.

use std::{collections::BTreeMap, time::Duration};

use hdrhistogram::Histogram;

use crate::{Answer, BenchError, Latency, Limits, Step, Window, target::code_name};

/// A microsecond to an hour, to three digits. With fewer bounds a stall beyond them would be cut off silently.
const HIGHEST_US: u64 = 3_600_000_000;
const DIGITS: u8 = 3;
/// There may be many windows; each keeps two digits.
const WINDOW_DIGITS: u8 = 2;

/// Collects what became of each request.
#[derive(Debug)]
pub struct Recorder {
    limits: Limits,
    latency: Histogram<u64>,
    rejected: Histogram<u64>,
    lag: Histogram<u64>,
    sent: u64,
    not_sent: u64,
    in_deadline: u64,
    within_objective: u64,
    rungs: BTreeMap<String, u64>,
    errors: BTreeMap<String, u64>,
    windows: Vec<WindowRecord>,
}

#[derive(Debug)]
struct WindowRecord {
    offered: u64,
    in_deadline: u64,
    latency: Histogram<u64>,
}

/// One request's times.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    /// When it was due, from the start of the step.
    pub due: Duration,
    /// From then until it was sent: how late this process was.
    pub lag: Duration,
    /// From when it was due until its answer was there.
    pub latency: Duration,
}

impl Recorder {
    pub fn new(limits: &Limits) -> Result<Self, BenchError> {
        let histogram = || Histogram::new_with_bounds(1, HIGHEST_US, DIGITS);
        Ok(Self {
            limits: *limits,
            latency: histogram()?,
            rejected: histogram()?,
            lag: histogram()?,
            sent: 0,
            not_sent: 0,
            in_deadline: 0,
            within_objective: 0,
            rungs: BTreeMap::new(),
            errors: BTreeMap::new(),
            windows: Vec::new(),
        })
    }

    /// A request that the bound on outstanding ones kept from being sent.
    pub fn not_sent(&mut self, due: Duration) -> Result<(), BenchError> {
        self.not_sent += 1;
        if let Some(window) = self.window(due)? {
            window.offered += 1;
        }
        Ok(())
    }

    pub fn answered(&mut self, times: Times, answer: &Answer) -> Result<(), BenchError> {
        self.sent += 1;
        let in_deadline = matches!(answer, Answer::Good { .. }) && times.latency <= self.limits.deadline;
        if let Some(window) = self.window(times.due)? {
            window.offered += 1;
            window.in_deadline += u64::from(in_deadline);
            if matches!(answer, Answer::Good { .. }) {
                window.latency.saturating_record(micros(times.latency));
            }
        }
        self.lag.saturating_record(micros(times.lag));
        match answer {
            Answer::Good { rung } => {
                self.latency.saturating_record(micros(times.latency));
                self.in_deadline += u64::from(in_deadline);
                let objective = self.limits.objective.is_some_and(|o| times.latency <= o.within());
                self.within_objective += u64::from(objective);
                if let Some(rung) = rung {
                    *self.rungs.entry((*rung).to_owned()).or_default() += 1;
                }
            }
            Answer::Failed { code } => {
                // One that ran out of time took what it had.
                if *code != tonic::Code::DeadlineExceeded {
                    self.rejected.saturating_record(micros(times.latency));
                }
                *self.errors.entry(code_name(*code)).or_default() += 1;
            }
        }
        Ok(())
    }

    /// The window that a request was due in.
    fn window(&mut self, due: Duration) -> Result<Option<&mut WindowRecord>, BenchError> {
        let Some(length) = self.limits.window.filter(|length| !length.is_zero()) else { return Ok(None) };
        let index = (due.as_nanos() / length.as_nanos()) as usize;
        while self.windows.len() <= index {
            let latency = Histogram::new_with_bounds(1, HIGHEST_US, WINDOW_DIGITS)?;
            self.windows.push(WindowRecord { offered: 0, in_deadline: 0, latency });
        }
        Ok(self.windows.get_mut(index))
    }

    /// Requests answered so far, well or not.
    pub fn done(&self) -> u64 {
        self.sent
    }

    /// Sums up. `elapsed` is from the first due time to the last answer, at least the schedule's own length.
    pub fn finish(self, rate_offered: f64, elapsed: Duration) -> Step {
        let offered = self.sent + self.not_sent;
        let seconds = elapsed.as_secs_f64().max(1e-9);
        Step {
            rate_offered,
            rate_answered: self.latency.len() as f64 / seconds,
            rate_in_deadline: self.in_deadline as f64 / seconds,
            seconds,
            offered,
            sent: self.sent,
            not_sent: self.not_sent,
            answered: self.latency.len(),
            in_deadline: self.in_deadline,
            in_deadline_share: self.in_deadline as f64 / offered.max(1) as f64,
            within_objective: self.limits.objective.map(|_| self.within_objective),
            rungs: self.rungs,
            errors: self.errors,
            latency_us: Latency::of(&self.latency),
            error_latency_us: Latency::of(&self.rejected),
            send_lag_us: Latency::of(&self.lag),
            started_unix_ms: 0,
            windows: self.windows.iter().map(WindowRecord::finish).collect(),
        }
    }
}

impl WindowRecord {
    fn finish(&self) -> Window {
        let counts = self.latency.iter_recorded().map(|v| (v.value_iterated_to(), v.count_at_value()));
        Window { offered: self.offered, in_deadline: self.in_deadline, latency_us: counts.collect() }
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX).max(1)
}
