//! One call's stages, and what becomes of them.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use opentelemetry::{
    KeyValue, Value,
    propagation::Extractor,
    trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId},
};
use opentelemetry_sdk::trace::{IdGenerator as _, RandomIdGenerator, SpanData};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::{TRACER, Tracer, caller_of};
use crate::RequestId;

/// Stages that one call notes. Beyond, they are not noted: a thin trace is better than a full memory.
const MOST_STAGES: usize = 512;

tokio::task_local! {
    /// The innermost stage that runs now, or the call itself; nothing with traces off.
    static CURRENT: Option<At>;
}

/// A place in a trace. Cheap to clone.
#[derive(Debug, Clone)]
struct At {
    call: Arc<Call>,
    span: SpanId,
}

/// A call that is being traced. It is sent or forgotten when the last part of it ends, also if nobody waited for it.
#[derive(Debug)]
struct Call {
    tracer: Arc<Tracer>,
    /// Its own span.
    context: SpanContext,
    caller: SpanId,
    is_remote: bool,
    service: &'static str,
    method: &'static str,
    request: RequestId,
    began: Instant,
    began_at: SystemTime,
    noted: Mutex<Noted>,
}

#[derive(Debug, Default)]
struct Noted {
    stages: Vec<Ended>,
    /// How the call ended, and whether that was our fault.
    end: Option<(&'static str, bool)>,
}

#[derive(Debug)]
struct Ended {
    name: &'static str,
    id: SpanId,
    parent: SpanId,
    began: Instant,
    took: Duration,
    notes: Vec<(&'static str, Note)>,
}

/// What a stage tells about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Note {
    Number(u64),
    Text(&'static str),
}

impl From<u64> for Note {
    fn from(number: u64) -> Self {
        Self::Number(number)
    }
}

impl From<u32> for Note {
    fn from(number: u32) -> Self {
        Self::Number(number.into())
    }
}

impl From<usize> for Note {
    fn from(number: usize) -> Self {
        Self::Number(number as u64)
    }
}

impl From<&'static str> for Note {
    fn from(text: &'static str) -> Self {
        Self::Text(text)
    }
}

impl From<Note> for Value {
    fn from(note: Note) -> Self {
        match note {
            Note::Number(number) => i64::try_from(number).unwrap_or(i64::MAX).into(),
            Note::Text(text) => text.into(),
        }
    }
}

/// A call's place in its trace.
#[derive(Debug)]
pub(crate) struct Traced {
    trace: TraceId,
    at: Option<At>,
}

impl Traced {
    /// Makes the call a part of its caller's trace, or begins one.
    pub(crate) fn begin(
        service: &'static str,
        method: &'static str,
        request: &RequestId,
        caller: &dyn Extractor,
    ) -> Self {
        Self::begin_with(TRACER.get(), service, method, request, &caller_of(caller))
    }

    pub(super) fn begin_with(
        tracer: Option<&Arc<Tracer>>,
        service: &'static str,
        method: &'static str,
        request: &RequestId,
        caller: &SpanContext,
    ) -> Self {
        let Some(tracer) = tracer else { return Self { trace: caller.trace_id(), at: None } };
        let ids = RandomIdGenerator::default();
        let (trace, sampled) = if caller.is_valid() {
            (caller.trace_id(), caller.is_sampled())
        } else {
            let trace = ids.new_trace_id();
            (trace, tracer.samples(trace))
        };
        let span = ids.new_span_id();
        let flags = TraceFlags::default().with_sampled(sampled);
        let call = Call {
            tracer: Arc::clone(tracer),
            context: SpanContext::new(trace, span, flags, false, caller.trace_state().clone()),
            caller: caller.span_id(),
            is_remote: caller.is_valid(),
            service,
            method,
            request: request.clone(),
            began: Instant::now(),
            began_at: SystemTime::now(),
            noted: Mutex::default(),
        };
        Self { trace, at: Some(At { call: Arc::new(call), span }) }
    }

    /// The trace's id, which is the caller's even with traces off.
    pub(crate) fn trace(&self) -> Option<TraceId> {
        (self.trace != TraceId::INVALID).then_some(self.trace)
    }

    /// Runs the call's work.
    pub(crate) fn run<T>(self, work: impl Future<Output = T>) -> impl Future<Output = T> {
        CURRENT.scope(self.at, work)
    }
}

fn at() -> Option<At> {
    CURRENT.try_with(Clone::clone).ok().flatten()
}

/// Where whoever is called from here hangs.
pub(super) fn current() -> Option<SpanContext> {
    let At { call, span } = at()?;
    let own = &call.context;
    Some(SpanContext::new(own.trace_id(), span, own.trace_flags(), false, own.trace_state().clone()))
}

/// Notes how the call ended that runs now; a fault of ours makes its trace worth keeping.
pub(crate) fn finish(code: &'static str, our_fault: bool) {
    if let Some(At { call, .. }) = at() {
        call.noted.lock().end = Some((code, our_fault));
    }
}

/// A part of the work of the call that runs now, until it is dropped. Nothing with traces off, nor outside of a call.
#[derive(Debug)]
#[must_use = "a stage ends when it is dropped"]
pub struct Stage(Option<Open>);

#[derive(Debug)]
struct Open {
    at: At,
    name: &'static str,
    id: SpanId,
    began: Instant,
    notes: Vec<(&'static str, Note)>,
}

/// Begins a stage within the one that runs now.
pub fn stage(name: &'static str) -> Stage {
    Stage(at().map(|at| Open {
        at,
        name,
        id: RandomIdGenerator::default().new_span_id(),
        began: Instant::now(),
        notes: Vec::new(),
    }))
}

impl Stage {
    pub fn with(mut self, key: &'static str, value: impl Into<Note>) -> Self {
        self.note(key, value);
        self
    }

    pub fn note(&mut self, key: &'static str, value: impl Into<Note>) {
        if let Some(open) = &mut self.0 {
            open.notes.push((key, value.into()));
        }
    }

    /// Runs work whose stages, and whose calls of others, hang below this one.
    pub async fn run<T>(&self, work: impl Future<Output = T>) -> T {
        let inside = self.0.as_ref().map(|open| At { call: Arc::clone(&open.at.call), span: open.id });
        CURRENT.scope(inside, work).await
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let Some(Open { at, name, id, began, notes }) = self.0.take() else { return };
        let mut noted = at.call.noted.lock();
        if noted.stages.len() < MOST_STAGES {
            noted.stages.push(Ended { name, id, parent: at.span, began, took: began.elapsed(), notes });
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let took = self.began.elapsed();
        let Noted { stages, end } = std::mem::take(self.noted.get_mut());
        let our_fault = end.is_some_and(|(_, our_fault)| our_fault);
        if !self.context.is_sampled() && took < self.tracer.slow && !our_fault {
            return;
        }
        for stage in stages {
            let attributes = stage.notes.into_iter().map(|(key, note)| KeyValue::new(key, note)).collect();
            self.tracer.send.on_end(SpanData {
                attributes,
                ..self.span(stage.name, (stage.id, stage.parent), stage.began, stage.took)
            });
        }
        let mut attributes = vec![
            KeyValue::new("rpc.service", self.service),
            KeyValue::new("rpc.method", self.method),
            KeyValue::new("request.id", self.request.to_string()),
        ];
        attributes.extend(end.map(|(code, _)| KeyValue::new("rpc.code", code)));
        let status = match end {
            Some((code, true)) => Status::error(code),
            _ => Status::Unset,
        };
        self.tracer.send.on_end(SpanData {
            parent_span_is_remote: self.is_remote,
            span_kind: SpanKind::Server,
            attributes,
            status,
            ..self.span(self.method, (self.context.span_id(), self.caller), self.began, took)
        });
    }
}

impl Call {
    fn span(
        &self,
        name: &'static str,
        (id, parent): (SpanId, SpanId),
        began: Instant,
        took: Duration,
    ) -> SpanData {
        let start_time = self.began_at + began.saturating_duration_since(self.began);
        // The library sends only what says that it is sampled.
        let flags = self.context.trace_flags().with_sampled(true);
        let state = self.context.trace_state().clone();
        SpanData {
            span_context: SpanContext::new(self.context.trace_id(), id, flags, false, state),
            parent_span_id: parent,
            parent_span_is_remote: false,
            span_kind: SpanKind::Internal,
            name: name.into(),
            start_time,
            end_time: start_time + took,
            attributes: Vec::new(),
            dropped_attributes_count: 0,
            events: Default::default(),
            links: Default::default(),
            status: Status::Unset,
            instrumentation_scope: self.tracer.scope.clone(),
        }
    }
}
