//! A request's way through the fleet, as a real OTLP receiver sees it, and as its log lines tell it.

use std::{path::Path, time::Duration};

use anyhow::{Context as _, ensure};
use endcap_bundle::test_util::TinyOptions;
use endcap_proto::pb;
use endcap_tests::{
    eventually,
    otlp::{Receiver, Span},
    processes::{ProcessFleet, Size},
    query, tiny,
};
use tonic::Request;

const SIZE: Size = Size { etcd: 1, registries: 1, gateways: 1, workers: 1 };
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const QUIET: &str = "1bf7651916cd43dd8448eb211c80319c";
const SLOW: &str = "2cf7651916cd43dd8448eb211c80319c";

/// A request of a caller who has chosen whether its trace is sampled.
fn asked(trace: &str, sampled: bool) -> Request<pb::RecommendRequest> {
    let mut request = query("red kettle");
    let flags = if sampled { "01" } else { "00" };
    let context = format!("00-{trace}-b7ad6b7169203331-{flags}");
    if let Ok(value) = context.parse() {
        request.metadata_mut().insert("traceparent", value);
    }
    request
}

/// The same of a shopper who is known.
fn of_a_shopper(trace: &str, sampled: bool) -> Request<pb::RecommendRequest> {
    let mut request = asked(trace, sampled);
    request.get_mut().user_id = "u-1".into();
    request
}

fn named<'a>(spans: &'a [Span], service: &str, name: &str) -> Option<&'a Span> {
    spans.iter().find(|span| span.service == service && span.name == name)
}

fn attribute<'a>(span: &'a Span, key: &str) -> &'a str {
    span.attributes.iter().find(|(name, _)| name == key).map_or("", |(_, value)| value)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_one_trace_from_its_caller_to_the_workers_and_its_log_lines_name_it()
-> anyhow::Result<()> {
    let (receiver, address) = Receiver::start().await?;
    let program = Path::new(env!("CARGO_BIN_EXE_endcap-node"));
    let endpoint = format!("http://{address}");
    let set = [
        ("telemetry.traces.endpoint", endpoint.as_str()),
        ("telemetry.traces.sample_ratio", "0"),
        ("telemetry.traces.slow", "60s"),
        ("telemetry.format", "json"),
        ("telemetry.log", "warn"),
    ];
    let fleet = ProcessFleet::start(program, SIZE, &set).await?;
    let version = fleet.release(&tiny(&TinyOptions::default(), 2)?.bytes).await?;
    let mut gateway = fleet.gateways()?.remove(0);
    gateway.recommend(asked(QUIET, false)).await?;
    gateway.recommend(of_a_shopper(TRACE, true)).await?;

    eventually("the whole trace has arrived", async || {
        let spans = receiver.of(TRACE).await;
        let stages = ["Recommend", "plan", "features", "encode", "scatter", "shard", "merge"];
        stages.iter().all(|stage| named(&spans, "endcap-gateway", stage).is_some())
            && spans.iter().filter(|span| span.service == "endcap-worker" && span.name == "Score").count()
                == 2
    })
    .await
    .with_context(|| "the receiver has not seen it")?;
    let spans = receiver.of(TRACE).await;
    let recommended = named(&spans, "endcap-gateway", "Recommend").context("it is there")?;
    ensure!(attribute(recommended, "version") == version.to_string(), "{recommended:?}");
    ensure!(attribute(recommended, "rung") == "FULL", "{recommended:?}");
    let mut shards: Vec<_> =
        spans.iter().filter(|span| span.name == "Score").map(|span| attribute(span, "shard")).collect();
    shards.sort_unstable();
    ensure!(shards == ["0", "1"], "{shards:?}");
    // Every span hangs below another of the trace, and the first one below the caller's.
    for span in &spans {
        let below = spans.iter().any(|other| other.id == span.parent);
        let callers =
            span.name == "Recommend" && span.parent == [0xb7, 0xad, 0x6b, 0x71, 0x69, 0x20, 0x33, 0x31];
        ensure!(below || callers, "{span:?} hangs nowhere");
    }
    ensure!(receiver.of(QUIET).await.is_empty(), "a trace that nobody sampled was sent");
    logs_name_the_trace(&fleet, &mut gateway).await
}

/// The log level is changed while the fleet runs, and a line within a request carries its ids.
async fn logs_name_the_trace(
    fleet: &ProcessFleet,
    gateway: &mut endcap_proto::pb::recommend_service_client::RecommendServiceClient<
        tonic::transport::Channel,
    >,
) -> anyhow::Result<()> {
    ensure!(!fleet.log("gateway-1")?.contains(TRACE), "nothing was to be logged yet");
    let refused = fleet.post("gateway-1", "/log-level", "endcap_service=loud").await?;
    ensure!(refused.contains(" 400 "), "{refused}");
    let accepted = fleet.post("gateway-1", "/log-level", "endcap_service=debug").await?;
    ensure!(accepted.contains(" 200 "), "{accepted}");
    let mut request = asked(TRACE, true);
    request.metadata_mut().insert("x-request-id", "call-9".parse()?);
    gateway.recommend(request).await?;
    let log = fleet.log("gateway-1")?;
    let line = log.lines().find(|line| line.contains("call-9")).context("the call left no line")?;
    let line: serde_json::Value = serde_json::from_str(line)?;
    ensure!(line["span"]["request.id"] == "call-9" && line["span"]["trace.id"] == TRACE, "{line}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_slow_is_sent_though_nobody_sampled_it_and_a_dead_receiver_disturbs_no_request()
-> anyhow::Result<()> {
    let (receiver, address) = Receiver::start().await?;
    let program = Path::new(env!("CARGO_BIN_EXE_endcap-node"));
    let (endpoint, dead) = (
        format!("http://{address}"),
        format!("http://127.0.0.1:{}", endcap_coordination::test_util::free_port()),
    );
    let set = [
        ("telemetry.traces.endpoint", endpoint.as_str()),
        ("telemetry.traces.sample_ratio", "0"),
        ("telemetry.traces.slow", "0ms"),
    ];
    let mut fleet = ProcessFleet::start(program, SIZE, &set).await?;
    // A second gateway, whose receiver is dead.
    fleet
        .add(
            program,
            "gateway",
            &[("telemetry.traces.endpoint", dead.as_str()), ("telemetry.traces.sample_ratio", "1")],
        )
        .await?;
    fleet.release(&tiny(&TinyOptions::default(), 2)?.bytes).await?;
    let mut gateways = fleet.gateways()?;
    gateways[0].recommend(asked(SLOW, false)).await?;
    eventually("the slow request's trace has arrived", async || {
        let spans = receiver.of(SLOW).await;
        named(&spans, "endcap-gateway", "scatter").is_some()
            && named(&spans, "endcap-worker", "rank").is_some()
    })
    .await?;
    let of_nobody = named(&receiver.of(SLOW).await, "endcap-gateway", "features").is_some();
    ensure!(!of_nobody, "there was nobody to fetch features of");
    for _ in 0..100 {
        let mut request = query("red kettle");
        request.set_timeout(Duration::from_secs(5));
        gateways[1].recommend(request).await.context("a dead receiver is no reason to fail")?;
    }
    fleet.terminate("gateway-2").await
}
