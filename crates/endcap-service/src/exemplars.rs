//! Exemplars: beside a bucket of a histogram, the trace of a call that fell into it. So whoever sees a slow percentile on
//! a graph opens the trace of a request that was slow.
//!
//! Prometheus's text format has no place for them, [`OpenMetrics`] does, and Prometheus asks for that first. The exporter
//! writes only the text, which differs in little; so what it wrote is rewritten, for each scrape, and nothing is counted
//! twice. Only calls whose trace was sent leave an exemplar: a link that leads nowhere is worse than none.
//!
//! [`OpenMetrics`]: https://github.com/prometheus/OpenMetrics/blob/main/specification/OpenMetrics.md

use std::{
    collections::HashMap,
    fmt::Write as _,
    sync::LazyLock,
    time::{SystemTime, UNIX_EPOCH},
};

use opentelemetry::trace::TraceId;
use parking_lot::Mutex;

use crate::histograms::{SECONDS, bucket_of};

/// What a scrape asks for in `Accept`, and is told in `Content-Type`.
pub(crate) const MEDIA_TYPE: &str = "application/openmetrics-text";
pub(crate) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// One that was counted.
#[derive(Debug, Clone, Copy)]
struct Exemplar {
    seconds: f64,
    trace: TraceId,
    at: SystemTime,
}

/// The last one of each bucket, and of what is above them all.
type Buckets = [Option<Exemplar>; SECONDS.len() + 1];

/// The last exemplars of histograms of times.
#[derive(Debug, Default)]
pub(crate) struct Exemplars(Mutex<HashMap<String, Buckets>>);

/// Those of the process, as its histograms are.
pub(crate) static EXEMPLARS: LazyLock<Exemplars> = LazyLock::new(Exemplars::default);

impl Exemplars {
    /// For a time that the histogram `name` has counted too, under the same labels in the same order. Their values are
    /// of closed sets, without anything to escape.
    pub(crate) fn keep(&self, name: &str, labels: &[(&str, &str)], seconds: f64, trace: TraceId) {
        let mut series = format!("{name}_bucket{{");
        for (label, value) in labels {
            // Writing to a string cannot fail.
            let _written = write!(series, "{label}=\"{value}\",");
        }
        let exemplar = Exemplar { seconds, trace, at: SystemTime::now() };
        let mut kept = self.0.lock();
        if let Some(last) = kept.entry(series).or_default().get_mut(bucket_of(&SECONDS, seconds)) {
            *last = Some(exemplar);
        }
    }

    fn of(&self, series: &str, bound: f64) -> Option<Exemplar> {
        *self.0.lock().get(series)?.get(bucket_of(&SECONDS, bound))?
    }

    /// Rewrites what the exporter wrote in Prometheus's text format as OpenMetrics, and adds the exemplars.
    pub(crate) fn open_metrics(&self, text: &str) -> String {
        let mut out = String::with_capacity(text.len() + 4096);
        for line in text.lines().filter(|line| !line.is_empty()) {
            // Writing to a string cannot fail.
            let _written = if let Some(rest) = line.strip_prefix("# ") {
                writeln!(out, "{}", described(rest))
            } else if let Some((series, bound, count)) = bucket(line) {
                self.write_bucket(&mut out, series, bound, count)
            } else {
                writeln!(out, "{line}")
            };
        }
        out.push_str("# EOF\n");
        out
    }

    fn write_bucket(&self, out: &mut String, series: &str, bound: &str, count: &str) -> std::fmt::Result {
        let seconds = bound.parse().unwrap_or(f64::INFINITY);
        write!(out, "{series}le=\"{}\"}} {count}", number(bound))?;
        if let Some(Exemplar { seconds, trace, at }) = self.of(series, seconds) {
            let at = at.duration_since(UNIX_EPOCH).unwrap_or_default();
            write!(out, " # {{trace_id=\"{trace}\"}} {seconds} {}.{:03}", at.as_secs(), at.subsec_millis())?;
        }
        writeln!(out)
    }
}

/// A line about a family of metrics: a counter's is called without `_total`, and help may hold no bare quote.
fn described(line: &str) -> String {
    let mut words = line.splitn(3, ' ');
    let (word, name, rest) =
        (words.next(), words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let word = word.unwrap_or_default();
    let name = name.strip_suffix("_total").unwrap_or(name);
    let rest = if word == "HELP" { rest.replace('"', "\\\"") } else { rest.to_owned() };
    format!("# {word} {name} {rest}")
}

/// `name_bucket{a="b",`, the bound and the count of a histogram's line.
fn bucket(line: &str) -> Option<(&str, &str, &str)> {
    let at = line.rfind("le=\"").filter(|_| line.contains("_bucket{"))?;
    let (series, rest) = line.split_at(at);
    let (bound, count) = rest.strip_prefix("le=\"")?.split_once("\"} ")?;
    Some((series, bound, count))
}

/// A bound is a real number, and to be written as one.
fn number(bound: &str) -> String {
    if bound.bytes().all(|byte| byte.is_ascii_digit()) { format!("{bound}.0") } else { bound.to_owned() }
}

#[cfg(test)]
mod tests {
    use metrics::{counter, describe_counter, histogram};

    use super::*;
    use crate::histograms::Recorder;

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

    fn scraped(exemplars: &Exemplars) -> String {
        let recorder = Recorder::new();
        metrics::with_local_recorder(&recorder, || {
            describe_counter!("calls_total", "Calls that were \"answered\".");
            counter!("calls_total", "code" => "OK").increment(3);
            let took = histogram!("took_seconds", "service" => "gateway", "rpc" => "Recommend");
            for seconds in [0.004, 0.7, 5000.0] {
                took.record(seconds);
            }
        });
        exemplars.open_metrics(&recorder.handle().render())
    }

    fn line<'a>(text: &'a str, begins: &str) -> &'a str {
        text.lines().find(|line| line.starts_with(begins)).unwrap_or_default()
    }

    #[test]
    fn counters_bounds_and_the_end_are_written_as_the_format_says() {
        let text = scraped(&Exemplars::default());
        assert_eq!(line(&text, "# TYPE calls"), "# TYPE calls counter");
        assert_eq!(line(&text, "# HELP calls"), r#"# HELP calls Calls that were \"answered\"."#);
        assert_eq!(line(&text, "calls"), r#"calls_total{code="OK"} 3"#);
        let bucket = r#"took_seconds_bucket{service="gateway",rpc="Recommend",le="#;
        assert_eq!(line(&text, &format!("{bucket}\"0.005\"")), format!("{bucket}\"0.005\"}} 1"));
        assert_eq!(line(&text, &format!("{bucket}\"1.0\"")), format!("{bucket}\"1.0\"}} 2"));
        assert_eq!(line(&text, &format!("{bucket}\"+Inf\"")), format!("{bucket}\"+Inf\"}} 3"));
        assert!(text.ends_with("# EOF\n") && !text.contains("\n\n"), "{text}");
    }

    #[test]
    fn an_exemplar_stands_in_its_own_bucket_alone_and_the_last_one_stays() {
        let exemplars = Exemplars::default();
        let labels = [("service", "gateway"), ("rpc", "Recommend")];
        let trace = TraceId::from_hex(TRACE).unwrap();
        exemplars.keep("took_seconds", &labels, 0.6, TraceId::from_hex("1").unwrap());
        exemplars.keep("took_seconds", &labels, 0.7, trace);
        exemplars.keep("took_seconds", &labels, 5000.0, trace);
        exemplars.keep("took_seconds", &[("service", "worker"), ("rpc", "Score")], 0.004, trace);
        let text = scraped(&exemplars);
        let found: Vec<_> = text.lines().filter(|line| line.contains(" # ")).collect();
        assert_eq!(found.len(), 2, "{found:?}");
        for (line, (bound, rest)) in found
            .iter()
            .zip([("1.0", "} 2 # {trace_id=\"T\"} 0.7 "), ("+Inf", "} 3 # {trace_id=\"T\"} 5000 ")])
        {
            let rest = format!("le=\"{bound}\"{}", rest.replace('T', TRACE));
            let (_, at) = line.split_once(&rest).unwrap_or_else(|| panic!("{line} has not {rest}"));
            assert!(at.parse::<f64>().is_ok_and(|at| at > 1.7e9), "{line}");
        }
    }
}
