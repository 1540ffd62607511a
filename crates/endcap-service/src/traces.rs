//! Traces: one span per call and stage, sent by OTLP, with W3C context in and out.
//!
//! **Sampling.** A new trace is sampled by a ratio of its id, so that every member would choose the same; whoever is
//! called follows its caller's choice. Every call notes its stages, sampled or not. When it ends in this process they are
//! sent if it is sampled, or if it was slow or failed by our fault, and else forgotten. So the gateway's part of every
//! slow or failed request is there; a worker's part is there if the worker's own call was slow or failed.
//!
//! **Cost.** Nearly every call is forgotten. So a stage is a line in its call's list ([`Stage`]), and spans of the library
//! are made of it only when they are sent.

mod call;

use std::{
    ops::Range,
    sync::{Arc, OnceLock},
    time::Duration,
};

use http::HeaderMap;
use opentelemetry::{
    Context, InstrumentationScope, KeyValue,
    propagation::{Extractor, TextMapPropagator as _},
    trace::{SpanContext, SpanId, SpanKind, TraceContextExt as _, TraceFlags, TraceId, TraceState},
};
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::{
    Resource,
    propagation::TraceContextPropagator,
    trace::{BatchSpanProcessor, Sampler, SamplingDecision, ShouldSample as _, SpanProcessor},
};
use tonic::metadata::{MetadataMap, MetadataValue};

pub(crate) use call::{Answered, Begun, Call, finish, with_call};
pub use call::{Note, Stage, note, stage};

use crate::{Settings, telemetry::TelemetryError};

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

/// Chooses what is sent, and sends it.
#[derive(Debug)]
struct Tracer {
    sampler: Sampler,
    slow: Duration,
    scope: InstrumentationScope,
    send: Box<dyn SpanProcessor>,
}

static TRACER: OnceLock<Arc<Tracer>> = OnceLock::new();

impl Tracer {
    fn new(config: &TracesConfig, send: Box<dyn SpanProcessor>) -> Self {
        Self {
            sampler: Sampler::TraceIdRatioBased(config.sample_ratio),
            slow: config.slow,
            scope: InstrumentationScope::builder("endcap").build(),
            send,
        }
    }

    /// For a trace that begins here.
    fn samples(&self, trace: TraceId) -> bool {
        let chosen = self.sampler.should_sample(None, trace, "", &SpanKind::Server, &[], &[]);
        chosen.decision == SamplingDecision::RecordAndSample
    }
}

/// Begins to send. A receiver that cannot be reached is no error: requests go on, and so do the tries.
pub(crate) fn start(config: &TracesConfig, service: &str) -> Result<(), TelemetryError> {
    let exporter =
        SpanExporter::builder().with_tonic().with_endpoint(&config.endpoint).build().map_err(|error| {
            TelemetryError::Traces { endpoint: config.endpoint.clone(), detail: error.to_string() }
        })?;
    let resource = Resource::builder()
        .with_service_name(service.to_owned())
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .build();
    let mut send = BatchSpanProcessor::builder(exporter).build();
    send.set_resource(&resource);
    let tracer = Tracer::new(config, Box::new(send));
    TRACER.set(Arc::new(tracer)).map_err(|_| TelemetryError::Twice)
}

/// Sends what has not been sent yet, at the end of the process.
pub async fn flush() {
    let Some(tracer) = TRACER.get() else { return };
    let ended = tokio::task::spawn_blocking(|| tracer.send.shutdown_with_timeout(FLUSH)).await;
    match ended {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%error, "the last traces were not sent"),
        Err(error) => tracing::warn!(%error, "the last traces were not sent"),
    }
}

const TRACEPARENT: &str = "traceparent";
const TRACESTATE: &str = "tracestate";

/// Where a call comes from; an invalid context if it does not say.
fn caller_of(caller: &dyn Extractor) -> SpanContext {
    let Some(parent) = caller.get(TRACEPARENT) else { return SpanContext::NONE };
    if caller.get(TRACESTATE).is_none()
        && let Some(context) = read(parent)
    {
        return context;
    }
    let context = TraceContextPropagator::new().extract_with_context(&Context::new(), caller);
    context.span().span_context().clone()
}

/// Reads what [`line`] writes, in a tenth of the time that the library takes for all that there may be.
fn read(parent: &str) -> Option<SpanContext> {
    let bytes = parent.as_bytes();
    if bytes.len() != TEMPLATE.len() || bytes.iter().any(u8::is_ascii_uppercase) {
        return None;
    }
    let (mut trace, mut span, mut flags) = ([0; 16], [0; 8], [0; 1]);
    hex::decode_to_slice(&bytes[TRACE], &mut trace).ok()?;
    hex::decode_to_slice(&bytes[SPAN], &mut span).ok()?;
    hex::decode_to_slice(&bytes[FLAGS], &mut flags).ok()?;
    let dashes = [2, TRACE.end, SPAN.end].map(|dash| bytes[dash]);
    let is_known = bytes.starts_with(b"00") && dashes == [b'-'; 3];
    let (trace, span) = (TraceId::from_bytes(trace), SpanId::from_bytes(span));
    // Other flags mean nothing to us.
    let flags = TraceFlags::new(flags[0]) & TraceFlags::SAMPLED;
    let context = SpanContext::new(trace, span, flags, true, TraceState::NONE);
    (is_known && context.is_valid()).then_some(context)
}

/// Tells the one who is called which trace it is part of.
pub(crate) fn inject(metadata: &mut MetadataMap) {
    let Some(context) = call::current() else { return };
    if let Ok(value) = MetadataValue::try_from(line(&context)) {
        metadata.insert(TRACEPARENT, value);
    }
    let state = context.trace_state().header();
    if !state.is_empty()
        && let Ok(value) = MetadataValue::try_from(state)
    {
        metadata.insert(TRACESTATE, value);
    }
}

/// The same as one line, for frames that have no headers; empty with traces off.
pub fn traceparent() -> String {
    call::current().as_ref().map(line).unwrap_or_default()
}

/// W3C Trace Context, version 00.
fn line(context: &SpanContext) -> String {
    let mut text = *TEMPLATE;
    let fields: [(_, &[u8]); 3] = [
        (TRACE, &context.trace_id().to_bytes()),
        (SPAN, &context.span_id().to_bytes()),
        (FLAGS, &[context.trace_flags().to_u8()]),
    ];
    for (place, bytes) in fields {
        // As long as its place is.
        let _fits = hex::encode_to_slice(bytes, &mut text[place]);
    }
    // Digits and dashes.
    String::from_utf8(text.to_vec()).unwrap_or_default()
}

const TEMPLATE: &[u8; 55] = b"00-00000000000000000000000000000000-0000000000000000-00";
const TRACE: Range<usize> = 3..35;
const SPAN: Range<usize> = 36..52;
const FLAGS: Range<usize> = 53..55;

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

impl Extractor for Line {
    fn get(&self, key: &str) -> Option<&str> {
        (key == TRACEPARENT && !self.0.is_empty()).then_some(&self.0)
    }

    fn keys(&self) -> Vec<&str> {
        vec![TRACEPARENT]
    }
}

#[cfg(test)]
mod tests;
