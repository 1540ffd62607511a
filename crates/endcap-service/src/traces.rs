//! Traces: one span per call and stage, sent by OTLP, with W3C context in and out.
//!
//! **Sampling.** A new trace is sampled by a ratio of its id, so that every member would choose the same; whoever is
//! called follows its caller's choice. All other spans are recorded, too, and wait until their call ends in this process:
//! if it failed by our fault or was slow they are sent after all, else they are forgotten. So the gateway's part of every
//! slow or failed request is there; a worker's part is there if the worker's own call was slow or failed.

use std::{
    collections::{HashMap, HashSet},
    sync::OnceLock,
    time::Duration,
};

use http::HeaderMap;
use opentelemetry::{
    Context, KeyValue,
    propagation::{Extractor, Injector, TextMapPropagator as _},
    trace::{
        Link, SpanContext, SpanId, SpanKind, Status, TraceContextExt as _, TraceId, TracerProvider as _,
    },
};
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    propagation::TraceContextPropagator,
    trace::{
        BatchSpanProcessor, Sampler, SamplingDecision, SamplingResult, SdkTracer, SdkTracerProvider,
        ShouldSample, Span, SpanData, SpanProcessor,
    },
};
use parking_lot::Mutex;
use tonic::metadata::{MetadataKey, MetadataMap};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use crate::{Settings, telemetry::TelemetryError};

/// Calls whose spans wait at once. Beyond, what waits is forgotten: a missing trace is better than a full memory.
const MOST_WAITING: usize = 4096;
/// Spans of one call that wait.
const MOST_SPANS: usize = 512;
/// Longest wait for the receiver at the end.
const FLUSH: Duration = Duration::from_secs(2);

/// Where traces go, and which.
#[derive(Debug, Clone, PartialEq)]
pub struct TracesConfig {
    /// `http://host:port` of an OTLP receiver.
    pub endpoint: String,
    pub sample_ratio: f64,
    /// Calls that take this long are always sent.
    pub slow: Duration,
}

impl TracesConfig {
    /// Reads `telemetry.traces.*`; nothing when traces are off.
    pub(crate) fn read(settings: &mut Settings) -> Option<Option<Self>> {
        let endpoint = settings.read::<String>("telemetry.traces.endpoint");
        let is_address = |text: &String| {
            text.is_empty()
                || tonic::transport::Endpoint::from_shared(text.clone())
                    .is_ok_and(|endpoint| endpoint.uri().scheme_str() == Some("http"))
        };
        if !endpoint.as_ref().is_none_or(is_address) {
            settings.reject(
                "telemetry.traces.endpoint",
                "an http://host:port of an OTLP receiver (gRPC), or nothing",
            );
        }
        let sample_ratio = settings.read::<f64>("telemetry.traces.sample_ratio");
        if sample_ratio.is_some_and(|ratio| !(0.0..=1.0).contains(&ratio)) {
            settings.reject("telemetry.traces.sample_ratio", "a share from 0 to 1");
        }
        let slow = settings.read("telemetry.traces.slow");
        let config = Self { endpoint: endpoint?, sample_ratio: sample_ratio?, slow: slow? };
        Some((!config.endpoint.is_empty()).then_some(config))
    }
}

static PROVIDER: OnceLock<SdkTracerProvider> = OnceLock::new();

/// Begins to send. A receiver that cannot be reached is no error: requests go on, and so do the tries.
pub(crate) fn start(config: &TracesConfig, service: &str) -> Result<SdkTracer, TelemetryError> {
    let exporter =
        SpanExporter::builder().with_tonic().with_endpoint(&config.endpoint).build().map_err(|error| {
            TelemetryError::Traces { endpoint: config.endpoint.clone(), detail: error.to_string() }
        })?;
    let resource = Resource::builder()
        .with_service_name(service.to_owned())
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .build();
    let keep = Keep {
        inner: BatchSpanProcessor::builder(exporter).build(),
        slow: config.slow,
        waiting: Mutex::default(),
    };
    let provider = SdkTracerProvider::builder()
        .with_sampler(RecordAll(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(
            config.sample_ratio,
        )))))
        .with_span_processor(keep)
        .with_resource(resource)
        .build();
    let tracer = provider.tracer("endcap");
    PROVIDER.set(provider).map_err(|_| TelemetryError::Twice)?;
    Ok(tracer)
}

/// Sends what has not been sent yet, at the end of the process.
pub async fn flush() {
    let Some(provider) = PROVIDER.get() else { return };
    let ended = tokio::task::spawn_blocking(|| provider.shutdown_with_timeout(FLUSH)).await;
    match ended {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%error, "the last traces were not sent"),
        Err(error) => tracing::warn!(%error, "the last traces were not sent"),
    }
}

/// Makes the call's span a part of the caller's trace. Gives the trace's id, which is the caller's even with traces off.
pub(crate) fn accept(span: &tracing::Span, caller: &dyn Extractor) -> Option<TraceId> {
    let caller = TraceContextPropagator::new().extract_with_context(&Context::new(), caller);
    let theirs = caller.span().span_context().trace_id();
    if PROVIDER.get().is_some() {
        if theirs != TraceId::INVALID {
            // Refused only for a span that has begun, and this one has not.
            let _set = span.set_parent(caller);
        }
        let context = span.context();
        let id = context.span().span_context().trace_id();
        return (id != TraceId::INVALID).then_some(id);
    }
    (theirs != TraceId::INVALID).then_some(theirs)
}

/// Tells the one who is called which trace it is part of.
pub(crate) fn inject(metadata: &mut MetadataMap) {
    if PROVIDER.get().is_some() {
        let context = tracing::Span::current().context();
        TraceContextPropagator::new().inject_context(&context, &mut Metadata(metadata));
    }
}

/// The same as one line, for frames that have no headers; empty with traces off.
pub fn traceparent() -> String {
    let mut line = Line::default();
    if PROVIDER.get().is_some() {
        TraceContextPropagator::new().inject_context(&tracing::Span::current().context(), &mut line);
    }
    line.0
}

/// Notes how the call ended; a fault of ours makes its trace worth keeping.
pub(crate) fn finish(span: &tracing::Span, code: &'static str, our_fault: bool) {
    if PROVIDER.get().is_some() {
        span.set_attribute("rpc.code", code);
        if our_fault {
            span.set_status(Status::error(code));
        }
    }
}

pub(crate) struct Headers<'a>(pub(crate) &'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(http::HeaderName::as_str).collect()
    }
}

/// A `traceparent` alone.
#[derive(Debug, Default)]
pub(crate) struct Line(pub(crate) String);

const TRACEPARENT: &str = "traceparent";

impl Extractor for Line {
    fn get(&self, key: &str) -> Option<&str> {
        (key == TRACEPARENT && !self.0.is_empty()).then_some(&self.0)
    }

    fn keys(&self) -> Vec<&str> {
        vec![TRACEPARENT]
    }
}

impl Injector for Line {
    fn set(&mut self, key: &str, value: String) {
        if key == TRACEPARENT {
            self.0 = value;
        }
    }
}

struct Metadata<'a>(&'a mut MetadataMap);

impl Injector for Metadata<'_> {
    fn set(&mut self, key: &str, value: String) {
        if let (Ok(key), Ok(value)) = (MetadataKey::from_bytes(key.as_bytes()), value.parse()) {
            self.0.insert(key, value);
        }
    }
}

/// Chooses as the sampler inside does, but records what it would drop.
#[derive(Debug, Clone)]
struct RecordAll(Sampler);

impl ShouldSample for RecordAll {
    fn should_sample(
        &self,
        parent: Option<&Context>,
        trace_id: TraceId,
        name: &str,
        kind: &SpanKind,
        attributes: &[KeyValue],
        links: &[Link],
    ) -> SamplingResult {
        let mut result = self.0.should_sample(parent, trace_id, name, kind, attributes, links);
        if result.decision == SamplingDecision::Drop {
            result.decision = SamplingDecision::RecordOnly;
        }
        result
    }
}

/// Sends sampled spans, and the others of a call that turned out to be slow or to fail.
#[derive(Debug)]
struct Keep<P> {
    inner: P,
    slow: Duration,
    waiting: Mutex<HashMap<TraceId, Vec<SpanData>>>,
}

impl<P: SpanProcessor> Keep<P> {
    fn is_worth_it(&self, call: &SpanData) -> bool {
        let took = call.end_time.duration_since(call.start_time).unwrap_or_default();
        took >= self.slow || matches!(call.status, Status::Error { .. })
    }

    fn wait(&self, span: SpanData) {
        let mut waiting = self.waiting.lock();
        let trace = span.span_context.trace_id();
        if waiting.len() >= MOST_WAITING && !waiting.contains_key(&trace) {
            waiting.clear();
        }
        let spans = waiting.entry(trace).or_default();
        if spans.len() < MOST_SPANS {
            spans.push(span);
        }
    }

    /// The spans below a call. Others of its trace belong to another call of it, which is still running.
    fn below(&self, call: &SpanData) -> Vec<SpanData> {
        let trace = call.span_context.trace_id();
        let mut waiting = self.waiting.lock();
        let Some(spans) = waiting.remove(&trace) else { return Vec::new() };
        let mut ids = HashSet::from([call.span_context.span_id()]);
        // A parent ends after its children.
        for span in spans.iter().rev() {
            if ids.contains(&span.parent_span_id) {
                ids.insert(span.span_context.span_id());
            }
        }
        let (mine, others): (Vec<_>, Vec<_>) =
            spans.into_iter().partition(|span| ids.contains(&span.span_context.span_id()));
        if !others.is_empty() {
            waiting.insert(trace, others);
        }
        mine
    }
}

impl<P: SpanProcessor> SpanProcessor for Keep<P> {
    fn on_start(&self, span: &mut Span, context: &Context) {
        self.inner.on_start(span, context);
    }

    fn on_end(&self, mut span: SpanData) {
        let is_call = span.parent_span_is_remote || span.parent_span_id == SpanId::INVALID;
        if is_call {
            label_call(&mut span);
        }
        if span.span_context.is_sampled() {
            self.inner.on_end(span);
        } else if is_call {
            let below = self.below(&span);
            if self.is_worth_it(&span) {
                below.into_iter().chain([span]).map(sampled).for_each(|span| self.inner.on_end(span));
            }
        } else {
            self.wait(span);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

/// The library cannot know that this span is a server's, nor that its name is the method's.
fn label_call(span: &mut SpanData) {
    span.span_kind = SpanKind::Server;
    let method = span.attributes.iter().find(|attribute| attribute.key.as_str() == "rpc.method");
    if let Some(method) = method.map(|attribute| attribute.value.to_string()) {
        span.name = method.into();
    }
}

/// The library sends only what says that it is sampled.
fn sampled(mut span: SpanData) -> SpanData {
    let context = &span.span_context;
    span.span_context = SpanContext::new(
        context.trace_id(),
        context.span_id(),
        context.trace_flags().with_sampled(true),
        context.is_remote(),
        context.trace_state().clone(),
    );
    span
}

#[cfg(test)]
mod tests;
