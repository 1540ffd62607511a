use std::{collections::BTreeMap, time::Duration};

use super::*;
use crate::{Answer, Arrivals, Limits, Recorder, Setup, record::Times};

/// A fixed report, as steps of a fleet that gets slower and then sheds would make it.
fn report() -> Report {
    let mut report = Report::new(Setup {
        rpc: "Recommend".to_owned(),
        url: "http://127.0.0.1:9400".to_owned(),
        request: "3 queries, 10 items".to_owned(),
        loop_: "open".to_owned(),
        arrivals: Arrivals::Poisson,
        deadline_us: 100_000,
        connections: 4,
        max_outstanding: 1000,
        seed: 7,
    });
    for number in 1..=3_u64 {
        let limits = Limits {
            deadline: Duration::from_millis(100),
            max_outstanding: 1000,
            objective: Some("p99=50ms".parse().unwrap()),
            window: Some(Duration::from_millis(500)),
        };
        let mut recorder = Recorder::new(&limits).unwrap();
        for request in 0..100 {
            let latency = Duration::from_micros((500 + 10 * request) * number * number * number);
            let due = Duration::from_millis(10 * request);
            let times = Times { due, lag: Duration::from_micros(30), latency };
            recorder.answered(times, &Answer::Good { rung: Some("FULL") }).unwrap();
        }
        if number == 3 {
            let lag = Duration::from_micros(40);
            let times = Times { due: Duration::ZERO, lag, latency: Duration::from_micros(900) };
            // With the good hundred and the one that is not sent, 125: four fifths is a number that JSON keeps exactly.
            for _ in 0..24 {
                recorder.answered(times, &Answer::Failed { code: tonic::Code::ResourceExhausted }).unwrap();
            }
            recorder.not_sent(Duration::ZERO).unwrap();
        }
        report.steps.push(recorder.finish(100.0 * number as f64, Duration::from_secs(1)));
    }
    report
}

#[test]
fn the_picture_is_xml_and_has_every_point() {
    let text = svg(&report()).unwrap();
    let document = roxmltree::Document::parse(&text).unwrap();
    let circles = || document.descendants().filter(|node| node.has_tag_name("circle"));
    // Three steps with five percentiles above and two rates below.
    assert_eq!(circles().count(), 3 * (5 + 2));
    let heights: Vec<i32> =
        circles().take(3).map(|circle| circle.attribute("cy").unwrap().parse().unwrap()).collect();
    assert!(heights[0] > heights[1] && heights[1] > heights[2], "the median grows upwards: {heights:?}");
    let texts: String = document.descendants().filter_map(|node| node.text()).collect();
    for expected in ["p99.9", "latency from the intended send", "in the deadline", "Recommend"] {
        assert!(texts.contains(expected), "{expected}");
    }
}

#[test]
fn a_report_without_any_answer_is_still_drawn() {
    let mut report = report();
    report.steps.truncate(1);
    report.steps[0].latency_us = Latency::default();
    report.steps[0].rate_answered = 0.0;
    assert!(roxmltree::Document::parse(&svg(&report).unwrap()).is_ok());
    report.steps.clear();
    assert!(roxmltree::Document::parse(&svg(&report).unwrap()).is_ok());
}

#[test]
fn json_reads_back_and_does_not_change() {
    let mut report = report();
    report.steps.drain(..2);
    report.steps[0].windows.truncate(1);
    report.steps[0].windows[0].latency_us.truncate(2);
    let text = serde_json::to_string_pretty(&report).unwrap();
    assert_eq!(serde_json::from_str::<Report>(&text).unwrap(), report);
    insta::assert_snapshot!(text);
}

#[test]
fn the_table_says_what_was_not_sent_and_what_was_refused() {
    let rows = report().rows();
    assert!(rows.iter().all(|row| row.len() == Report::HEADER.len()));
    let last: BTreeMap<_, _> =
        Report::HEADER.iter().copied().zip(rows[2].iter().map(String::as_str)).collect();
    assert_eq!(last["not sent"], "1");
    assert_eq!(last["errors"], "RESOURCE_EXHAUSTED 24");
    assert_eq!(last["rungs"], "FULL 100");
    assert_eq!(last["in deadline"], "80.00 %");
}
