use std::{sync::Arc, time::SystemTime};

use opentelemetry::{InstrumentationScope, trace::TraceFlags};

use super::*;

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

/// A span of one trace; a call when its parent is far away.
fn span(id: u64, parent: u64, is_call: bool, took: Duration) -> SpanData {
    let start_time = SystemTime::UNIX_EPOCH;
    let (trace, flags) = (TraceId::from(7), TraceFlags::default());
    SpanData {
        span_context: SpanContext::new(trace, SpanId::from(id), flags, false, Default::default()),
        parent_span_id: SpanId::from(parent),
        parent_span_is_remote: is_call,
        span_kind: SpanKind::Internal,
        name: "stage".into(),
        start_time,
        end_time: start_time + took,
        attributes: vec![KeyValue::new("rpc.method", "Score")],
        dropped_attributes_count: 0,
        events: Default::default(),
        links: Default::default(),
        status: Status::Unset,
        instrumentation_scope: InstrumentationScope::default(),
    }
}

fn keep() -> (Keep<Sent>, Sent) {
    let sent = Sent::default();
    (Keep { inner: sent.clone(), slow: Duration::from_millis(100), waiting: Mutex::default() }, sent)
}

const FAST: Duration = Duration::from_millis(1);
const SLOW: Duration = Duration::from_millis(200);

#[test]
fn a_fast_call_is_forgotten_without_the_spans_of_another_call_of_its_trace() {
    let (keep, sent) = keep();
    // Two calls, 1 and 2, of one trace; each has a stage, and the slow one's has a part.
    keep.on_end(span(11, 1, false, FAST));
    keep.on_end(span(22, 21, false, FAST));
    keep.on_end(span(1, 99, true, FAST));
    assert!(sent.0.lock().is_empty(), "a fast call was sent");
    keep.on_end(span(21, 2, false, SLOW));
    keep.on_end(span(2, 99, true, SLOW));
    let spans = sent.0.lock();
    let ids: Vec<_> = spans.iter().map(|span| span.span_context.span_id()).collect();
    assert_eq!(ids, [22, 21, 2].map(SpanId::from));
    assert!(spans.iter().all(|span| span.span_context.is_sampled()), "the library would drop them");
    assert_eq!((spans[2].name.as_ref(), &spans[2].span_kind), ("Score", &SpanKind::Server));
    assert!(keep.waiting.lock().is_empty());
}

#[test]
fn a_failed_call_is_sent_and_what_waits_is_bounded() {
    let (keep, sent) = keep();
    for id in 0..MOST_SPANS as u64 + 100 {
        keep.on_end(span(1000 + id, 1, false, FAST));
    }
    keep.on_end(SpanData { status: Status::error("INTERNAL"), ..span(1, 99, true, FAST) });
    assert_eq!(sent.0.lock().len(), MOST_SPANS + 1);
}
