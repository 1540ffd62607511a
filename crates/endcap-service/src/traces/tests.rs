use opentelemetry::trace::{SpanId, Status, TraceFlags};
use opentelemetry_sdk::{
    error::OTelSdkResult,
    trace::{Span, SpanData},
};
use parking_lot::Mutex;
use proptest::prelude::*;
use tokio::time::Instant;

use super::*;
use crate::RequestId;

/// Keeps what it is given.
#[derive(Debug, Clone, Default)]
struct Sent(Arc<Mutex<Vec<SpanData>>>);

impl SpanProcessor for Sent {
    fn on_start(&self, _span: &mut Span, _context: &Context) {}

    fn on_end(&self, span: SpanData) {
        self.0.lock().push(span);
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _timeout: Duration) -> OTelSdkResult {
        Ok(())
    }
}

impl Sent {
    fn names(&self) -> Vec<String> {
        self.0.lock().iter().map(|span| span.name.to_string()).collect()
    }
}

const SLOW: Duration = Duration::from_millis(100);
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

fn tracer(sample_ratio: f64) -> (Arc<Tracer>, Sent) {
    let sent = Sent::default();
    let config = TracesConfig { endpoint: String::new(), sample_ratio, slow: SLOW };
    (Arc::new(Tracer::new(&config, Box::new(sent.clone()))), sent)
}

/// Another call of the trace.
fn caller(sampled: bool) -> SpanContext {
    let (trace, flags) = (TraceId::from_hex(TRACE).unwrap(), TraceFlags::default().with_sampled(sampled));
    SpanContext::new(trace, SpanId::from(7), flags, true, Default::default())
}

fn begin(tracer: &Arc<Tracer>, caller: &SpanContext) -> Begun {
    Begun::with(Some(tracer), ("worker", "Score"), &RequestId::new(), caller, Instant::now())
}

/// A call of two stages, one within the other.
async fn work(takes: Duration) {
    let outer = stage("scatter", Instant::now()).of("shards", 3_u32);
    let inner = async {
        let inner = stage("shard", Instant::now());
        inner.run(tokio::time::sleep(takes)).await;
    };
    outer.run(inner).await;
    outer.end(Instant::now());
    note([("version", 7_u64.into()), ("rung", "FULL".into())]);
}

#[tokio::test(start_paused = true)]
async fn a_fast_call_that_nobody_samples_is_forgotten() {
    let (tracer, sent) = tracer(0.0);
    begin(&tracer, &caller(false)).run(work(SLOW / 2)).await;
    begin(&tracer, &SpanContext::NONE).run(work(SLOW / 2)).await;
    assert_eq!(sent.names(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_slow_call_is_sent_with_its_stages_below_it() {
    let (tracer, sent) = tracer(0.0);
    begin(&tracer, &caller(false)).run(work(SLOW)).await;
    assert_eq!(sent.names(), ["shard", "scatter", "Score"]);
    let spans = sent.0.lock();
    let id = |i: usize| spans[i].span_context.span_id();
    let parents = [0, 1, 2].map(|i: usize| spans[i].parent_span_id);
    assert_eq!(parents, [id(1), id(2), SpanId::from(7)]);
    assert!(spans.iter().all(|span| span.span_context.trace_id().to_string() == TRACE));
    assert!(spans.iter().all(|span| span.span_context.is_sampled()), "the library would drop them");
    assert_eq!(spans[1].attributes, [KeyValue::new("shards", 3_i64)]);
    let call = &spans[2];
    assert!(call.attributes.ends_with(&[KeyValue::new("version", 7_i64), KeyValue::new("rung", "FULL")]));
    assert_eq!((&call.span_kind, call.parent_span_is_remote), (&SpanKind::Server, true));
    assert_eq!(call.end_time.duration_since(call.start_time).unwrap(), SLOW);
}

#[tokio::test(start_paused = true)]
async fn a_failed_call_is_sent_and_its_stages_are_bounded() {
    let (tracer, sent) = tracer(0.0);
    begin(&tracer, &SpanContext::NONE)
        .run(async {
            for _ in 0..1000 {
                drop(stage("part", Instant::now()));
            }
            finish(Answered { code: "INTERNAL", our_fault: true, took: SLOW / 2 });
        })
        .await;
    let refused = Answered { code: "INVALID_ARGUMENT", our_fault: false, took: SLOW / 2 };
    begin(&tracer, &SpanContext::NONE).run(async { finish(refused) }).await;
    let spans = sent.0.lock();
    assert_eq!(spans.len(), 512 + 1);
    assert_eq!(spans[512].status, Status::error("INTERNAL"));
    assert_eq!(spans[512].parent_span_id, SpanId::INVALID);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_dropped_is_sent_if_it_is_sampled() {
    let (tracer, sent) = tracer(1.0);
    let mut call = Box::pin(begin(&tracer, &SpanContext::NONE).run(work(SLOW)));
    assert!(futures::poll!(&mut call).is_pending());
    drop(call);
    assert_eq!(sent.names(), ["shard", "scatter", "Score"]);
    // Whoever is called follows the caller, whatever the ratio.
    begin(&tracer, &caller(false)).run(work(Duration::ZERO)).await;
    assert_eq!(sent.names().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn whoever_is_called_hangs_below_the_stage_that_calls() {
    let (tracer, sent) = tracer(0.0);
    let said = begin(&tracer, &caller(true)).run(async {
        let stage = stage("shard", Instant::now());
        stage.run(async { (traceparent(), Line(traceparent())) }).await
    });
    let (text, line) = said.await;
    let spans = sent.0.lock();
    assert_eq!(text, format!("00-{TRACE}-{}-01", spans[0].span_context.span_id()));
    let read = caller_of(&line);
    assert_eq!((read.span_id(), read.is_sampled()), (spans[0].span_context.span_id(), true));
    assert_eq!(traceparent(), "");
}

#[tokio::test(start_paused = true)]
async fn stages_that_run_at_once_are_kept_apart() {
    let (tracer, sent) = tracer(0.0);
    let at = || caller_of(&Line(traceparent())).span_id();
    let below = async |name| {
        let stage = stage(name, Instant::now());
        let work = async {
            let before = at();
            tokio::task::yield_now().await;
            [before, at()]
        };
        stage.run(work).await
    };
    let call = begin(&tracer, &caller(true)).run(async {
        let before = at();
        let (features, encode) = tokio::join!(below("features"), below("encode"));
        (features, encode, [before, at()])
    });
    let (features, encode, call) = call.await;
    let spans = sent.0.lock();
    let told = |name: &str| spans.iter().find(|span| span.name == name).unwrap();
    for (name, seen) in [("features", features), ("encode", encode), ("Score", call)] {
        assert_eq!(seen, [told(name).span_context.span_id(); 2], "{name}");
    }
    assert_eq!([told("features").parent_span_id, told("encode").parent_span_id], call);
}

proptest! {
    /// What the library says of the same header.
    #[test]
    fn a_caller_is_read_as_the_library_reads_it(
        line in prop_oneof![
            "[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}",
            "00-[0-9a-f]{32}-[0-9a-f]{16}-0[0-3]",
            "00-0{32}-[0-9a-f]{16}-01",
            "00-[0-9a-f]{32}-0{16}-01",
            "00-[0-9a-fA-Fg]{32}-[0-9a-f]{16}-01",
            "00-[0-9a-f]{31,33}-[0-9a-f]{15,17}-[0-9a-f]{1,3}",
            "00[0-9a-f-]{53}",
        ],
    ) {
        let caller = Line(line);
        let context = TraceContextPropagator::new().extract_with_context(&Context::new(), &caller);
        let expected = context.span().span_context().clone();
        prop_assert_eq!(&caller_of(&caller), &expected);
        if let Some(context) = read(&caller.0) {
            prop_assert_eq!(caller_of(&Line(super::line(&context))), context);
        }
    }
}
