//! Histograms that count a sample into its bucket as it comes.
//!
//! The exporter's own keep every sample, with the time when it came, until they are folded into buckets. At a request in
//! 30 us, with half a dozen samples each, that was twice the time of a sample here, and megabytes between two folds.
//! Counters and gauges stay the exporter's, and so does the way that lines are written.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Write as _,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use metrics::{Counter, Gauge, Histogram, HistogramFn, Key, KeyName, Label, Metadata, SharedString, Unit};
use metrics_exporter_prometheus::{
    PrometheusBuilder, PrometheusHandle, PrometheusRecorder,
    formatting::{sanitize_label_value, write_help_line, write_type_line},
};
use parking_lot::Mutex;

/// One bucket set for every time, in seconds, so that any two can be compared: closest around the deadlines of searches,
/// far enough for loads of large models and for the age of features.
pub(crate) const SECONDS: [f64; 21] = [
    0.0005, 0.001, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0,
    2.5, 10.0, 60.0, 600.0, 3600.0,
];
const RATIOS: [f64; 9] = [0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999, 1.0];
const ROWS: [f64; 11] = [1.0, 4.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 4096.0, 16384.0];

/// By the unit, which is the last word of a metric's name.
fn bounds_of(name: &str) -> &'static [f64] {
    match name.rsplit('_').next() {
        Some("ratio") => &RATIOS,
        Some("rows") => &ROWS,
        _ => &SECONDS,
    }
}

/// The bucket of a sample, the last of which is above all bounds. A bound belongs to its own: `le` is "less or equal".
pub(crate) fn bucket_of(bounds: &[f64], sample: f64) -> usize {
    bounds.partition_point(|bound| *bound < sample)
}

/// One histogram.
#[derive(Debug)]
struct Buckets {
    bounds: &'static [f64],
    /// One more than there are bounds.
    counts: Box<[AtomicU64]>,
    /// The bits of a float.
    sum: AtomicU64,
}

impl Buckets {
    fn new(bounds: &'static [f64]) -> Self {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self { bounds, counts, sum: AtomicU64::new(0.0_f64.to_bits()) }
    }
}

impl HistogramFn for Buckets {
    fn record(&self, sample: f64) {
        // Not a number is no sample: it would spoil the sum for ever.
        if sample.is_nan() {
            return;
        }
        if let Some(count) = self.counts.get(bucket_of(self.bounds, sample)) {
            count.fetch_add(1, Relaxed);
        }
        let more = |sum| Some((f64::from_bits(sum) + sample).to_bits());
        let _always = self.sum.fetch_update(Relaxed, Relaxed, more);
    }
}

/// All histograms of a process.
#[derive(Debug, Default)]
struct Histograms {
    help: Mutex<HashMap<String, SharedString>>,
    /// By name and labels.
    buckets: Mutex<BTreeMap<Key, Arc<Buckets>>>,
}

impl Histograms {
    fn of(&self, key: &Key) -> Arc<Buckets> {
        let mut buckets = self.buckets.lock();
        Arc::clone(
            buckets.entry(key.clone()).or_insert_with(|| Arc::new(Buckets::new(bounds_of(key.name())))),
        )
    }

    /// In Prometheus's text format.
    fn render(&self, out: &mut String) {
        let (help, buckets) = (self.help.lock(), self.buckets.lock());
        let mut last = "";
        for (key, buckets) in buckets.iter() {
            let name = key.name();
            if name != last {
                if let Some(help) = help.get(name) {
                    write_help_line(out, name, None, None, help);
                }
                write_type_line(out, name, None, None, "histogram");
                last = name;
            }
            // Writing to a string cannot fail.
            let _written = buckets.write(out, name, &labels(key));
        }
    }
}

impl Buckets {
    fn write(&self, out: &mut String, name: &str, labels: &str) -> std::fmt::Result {
        let mut count = 0;
        for (i, own) in self.counts.iter().enumerate() {
            count += own.load(Relaxed);
            match self.bounds.get(i) {
                Some(bound) => writeln!(out, "{name}_bucket{{{labels}le=\"{bound}\"}} {count}")?,
                None => writeln!(out, "{name}_bucket{{{labels}le=\"+Inf\"}} {count}")?,
            }
        }
        let labels = labels.trim_end_matches(',');
        let labels = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
        writeln!(out, "{name}_sum{labels} {}", f64::from_bits(self.sum.load(Relaxed)))?;
        writeln!(out, "{name}_count{labels} {count}")
    }
}

/// `a="b",c="d",`
fn labels(key: &Key) -> String {
    key.labels()
        .map(|label: &Label| format!("{}=\"{}\",", label.key(), sanitize_label_value(label.value())))
        .collect()
}

/// What metrics are counted by.
#[derive(Debug)]
pub(crate) struct Recorder {
    exporter: PrometheusRecorder,
    histograms: Arc<Histograms>,
}

/// What reads them.
#[derive(Debug, Clone)]
pub struct MetricsHandle {
    exporter: PrometheusHandle,
    histograms: Arc<Histograms>,
}

impl Recorder {
    pub(crate) fn new() -> Self {
        Self { exporter: PrometheusBuilder::new().build_recorder(), histograms: Arc::default() }
    }

    pub(crate) fn handle(&self) -> MetricsHandle {
        MetricsHandle { exporter: self.exporter.handle(), histograms: Arc::clone(&self.histograms) }
    }
}

impl MetricsHandle {
    /// All that is counted now, in Prometheus's text format.
    pub fn render(&self) -> String {
        let mut text = self.exporter.render();
        self.histograms.render(&mut text);
        text
    }
}

impl metrics::Recorder for Recorder {
    fn describe_counter(&self, name: KeyName, unit: Option<Unit>, help: SharedString) {
        self.exporter.describe_counter(name, unit, help);
    }

    fn describe_gauge(&self, name: KeyName, unit: Option<Unit>, help: SharedString) {
        self.exporter.describe_gauge(name, unit, help);
    }

    fn describe_histogram(&self, name: KeyName, _unit: Option<Unit>, help: SharedString) {
        let _before = self.histograms.help.lock().insert(name.as_str().to_owned(), help);
    }

    fn register_counter(&self, key: &Key, metadata: &Metadata<'_>) -> Counter {
        self.exporter.register_counter(key, metadata)
    }

    fn register_gauge(&self, key: &Key, metadata: &Metadata<'_>) -> Gauge {
        self.exporter.register_gauge(key, metadata)
    }

    fn register_histogram(&self, key: &Key, _metadata: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(self.histograms.of(key))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use metrics::{Recorder as _, counter, describe_histogram, histogram};
    use metrics_exporter_prometheus::Matcher;
    use proptest::prelude::*;

    use super::*;

    /// Counts the samples of two series by a recorder.
    fn count(recorder: &dyn metrics::Recorder, name: &'static str, samples: &[f64]) {
        metrics::with_local_recorder(recorder, || {
            describe_histogram!(name, "Says \"what\".\nTwice.");
            counter!("others_total").increment(1);
            let (bare, labelled) =
                (histogram!(name), histogram!(name, "file" => "a\"b\\n.onnx", "rpc" => "Score"));
            for sample in samples {
                bare.record(*sample);
                labelled.record(sample * 2.0);
            }
        });
    }

    proptest! {
        /// What the exporter's own histograms say of the same samples, line by line.
        #[test]
        fn it_is_what_the_exporter_would_write(
            unit in 0..3_usize,
            samples in prop::collection::vec(
                prop_oneof![0.0..0.01, 0.0..5000.0, prop::sample::select(&SECONDS[..]), prop::sample::select(&ROWS[..])],
                0..200,
            ),
        ) {
            let (name, bounds) = [
                ("took_seconds", &SECONDS[..]), ("coverage_ratio", &RATIOS[..]), ("batch_rows", &ROWS[..]),
            ][unit];
            let theirs = PrometheusBuilder::new();
            let theirs = theirs.set_buckets_for_metric(Matcher::Suffix("_".into()), &[1.0]).unwrap();
            let theirs = theirs.set_buckets_for_metric(Matcher::Full(name.into()), bounds).unwrap().build_recorder();
            let ours = Recorder::new();
            count(&theirs, name, &samples);
            count(&ours, name, &samples);
            let (theirs, ours) = (theirs.handle().render(), ours.handle().render());
            let is_sum = |line: &&str| line.contains("_sum");
            let lines = |text: &str| -> BTreeSet<String> {
                text.lines().filter(|line| !is_sum(line)).map(str::to_owned).collect()
            };
            prop_assert_eq!(lines(&ours), lines(&theirs));
            // Added in another order.
            let sums = |text: &str| -> BTreeMap<String, f64> {
                let parts = text.lines().filter(is_sum).filter_map(|line| line.rsplit_once(' '));
                parts.map(|(series, sum)| (series.to_owned(), sum.parse().unwrap())).collect()
            };
            let (theirs, sums) = (sums(&theirs), sums(&ours));
            prop_assert!(sums.keys().eq(theirs.keys()) && sums.len() == 2, "{sums:?}");
            for (series, sum) in sums {
                prop_assert!((sum - theirs[&series]).abs() <= 1e-9 * sum, "{series}: {sum}");
            }
            prop_assert!(ours.contains(&format!("{name}_count {}\n", samples.len())), "{ours}");
        }
    }

    #[test]
    fn nothing_is_lost_where_many_count_at_once_and_what_is_no_number_is_not_counted() {
        let recorder = Recorder::new();
        let key = Key::from_name("batch_rows");
        let metadata = Metadata::new("", metrics::Level::INFO, None);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                let histogram = recorder.register_histogram(&key, &metadata);
                scope.spawn(move || (0..10_000).for_each(|_| histogram.record(4.0)));
            }
        });
        recorder.register_histogram(&key, &metadata).record(f64::NAN);
        let text = recorder.handle().render();
        for line in
            ["batch_rows_bucket{le=\"1\"} 0", "batch_rows_bucket{le=\"4\"} 40000", "batch_rows_sum 160000"]
        {
            assert!(text.lines().any(|found| found == line), "{line} is not in {text}");
        }
    }
}
