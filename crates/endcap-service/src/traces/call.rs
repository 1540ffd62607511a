//! One call's stages, and what becomes of them.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures::future::Either;
use opentelemetry::{
    KeyValue, Value,
    propagation::Extractor,
    trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId},
};
use opentelemetry_sdk::trace::{IdGenerator as _, RandomIdGenerator, SpanData};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::{TRACER, Tracer, caller_of};
use crate::{RequestId, metrics::CallMeters};

/// Stages that one call notes. Beyond, they are not noted: a thin trace is better than a full memory.
const MOST_STAGES: usize = 512;

/// As many as a call has that asks a few shards: its list need not grow.
const USUAL_STAGES: usize = 16;

tokio::task_local! {
    /// The innermost stage that runs now, or the call itself.
    static CURRENT: At;
}

/// A place in a call. Cheap to clone.
#[derive(Debug, Clone)]
struct At {
    call: Arc<Call>,
    span: SpanId,
}

/// A call. Its trace is sent or forgotten when the last part of it ends, also if nobody waited for it.
#[derive(Debug)]
pub(crate) struct Call {
    /// Nothing with traces off.
    tracer: Option<Arc<Tracer>>,
    /// Its own span; with traces off its caller's.
    context: SpanContext,
    caller: SpanId,
    is_remote: bool,
    service: &'static str,
    method: &'static str,
    request: RequestId,
    began: Instant,
    noted: Mutex<Noted>,
}

#[derive(Debug, Default)]
struct Noted {
    stages: Vec<Ended>,
    end: Option<Answered>,
}

/// How a call ended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Answered {
    pub(crate) code: &'static str,
    /// Makes its trace worth keeping.
    pub(crate) our_fault: bool,
    /// As it was counted.
    pub(crate) took: Duration,
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

/// A call that begins.
#[derive(Debug)]
pub(crate) struct Begun(At);

impl Begun {
    /// Makes the call a part of its caller's trace, or begins one.
    pub(crate) fn new(
        service: &'static str,
        method: &'static str,
        request: &RequestId,
        caller: &dyn Extractor,
        began: Instant,
    ) -> Self {
        Self::with(TRACER.get(), (service, method), request, &caller_of(caller), began)
    }

    pub(super) fn with(
        tracer: Option<&Arc<Tracer>>,
        (service, method): (&'static str, &'static str),
        request: &RequestId,
        caller: &SpanContext,
        began: Instant,
    ) -> Self {
        let context = tracer.map_or_else(|| caller.clone(), |tracer| tracer.context(caller));
        let span = context.span_id();
        let room = if tracer.is_some() { USUAL_STAGES } else { 0 };
        let call = Call {
            tracer: tracer.cloned(),
            context,
            caller: caller.span_id(),
            is_remote: caller.is_valid(),
            service,
            method,
            request: request.clone(),
            began,
            noted: Mutex::new(Noted { stages: Vec::with_capacity(room), end: None }),
        };
        Self(At { call: Arc::new(call), span })
    }

    /// Runs the call's work.
    pub(crate) fn run<T>(self, work: impl Future<Output = T>) -> impl Future<Output = T> {
        CURRENT.scope(self.0, work)
    }
}

impl Tracer {
    /// The place in its trace of a call that begins.
    fn context(&self, caller: &SpanContext) -> SpanContext {
        let ids = RandomIdGenerator::default();
        let (trace, sampled) = if caller.is_valid() {
            (caller.trace_id(), caller.is_sampled())
        } else {
            let trace = ids.new_trace_id();
            (trace, self.samples(trace))
        };
        let flags = TraceFlags::default().with_sampled(sampled);
        SpanContext::new(trace, ids.new_span_id(), flags, false, caller.trace_state().clone())
    }
}

/// Nothing with traces off, nor outside of a call.
fn at() -> Option<At> {
    CURRENT.try_with(|at| at.call.tracer.is_some().then(|| at.clone())).ok().flatten()
}

/// Tells of the call that runs now, if one does.
pub(crate) fn with_call<T>(tell: impl FnOnce(&Call) -> T) -> Option<T> {
    CURRENT.try_with(|at| tell(&at.call)).ok()
}

/// Where whoever is called from here hangs.
pub(super) fn current() -> Option<SpanContext> {
    let At { call, span } = at()?;
    let own = &call.context;
    Some(SpanContext::new(own.trace_id(), span, own.trace_flags(), false, own.trace_state().clone()))
}

/// Notes how the call ended that runs now.
pub(crate) fn finish(answered: Answered) {
    if let Some(At { call, .. }) = at() {
        call.noted.lock().end = Some(answered);
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

    /// Runs work whose stages, and whose calls of others, hang below this one. Not an `async fn`: that would hold the
    /// work twice, and twice again for each stage within another.
    pub fn run<F: Future>(&self, work: F) -> impl Future<Output = F::Output> + use<F> {
        match &self.0 {
            Some(open) => {
                let at = At { call: Arc::clone(&open.at.call), span: open.id };
                Either::Left(CURRENT.scope(at, work))
            }
            None => Either::Right(work),
        }
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
        let Some(tracer) = self.tracer.take() else { return };
        let took = self.began.elapsed();
        let Noted { stages, end } = std::mem::take(self.noted.get_mut());
        let our_fault = end.is_some_and(|end| end.our_fault);
        if !self.context.is_sampled() && took < tracer.slow && !our_fault {
            return;
        }
        // By the clock of the wall, which calls that are forgotten need not read.
        let began_at = SystemTime::now().checked_sub(took).unwrap_or(SystemTime::UNIX_EPOCH);
        let at = |began: Instant| began_at + began.saturating_duration_since(self.began);
        for stage in stages {
            let attributes = stage.notes.into_iter().map(|(key, note)| KeyValue::new(key, note)).collect();
            tracer.send.on_end(SpanData {
                attributes,
                ..self.span(&tracer, stage.name, (stage.id, stage.parent), (at(stage.began), stage.took))
            });
        }
        let mut attributes = vec![
            KeyValue::new("rpc.service", self.service),
            KeyValue::new("rpc.method", self.method),
            KeyValue::new("request.id", self.request.to_string()),
        ];
        attributes.extend(end.map(|end| KeyValue::new("rpc.code", end.code)));
        let status = match end {
            Some(Answered { code, our_fault: true, .. }) => Status::error(code),
            _ => Status::Unset,
        };
        if let Some(end) = end {
            CallMeters::traced(self.service, self.method, end.took, self.context.trace_id());
        }
        tracer.send.on_end(SpanData {
            parent_span_is_remote: self.is_remote,
            span_kind: SpanKind::Server,
            attributes,
            status,
            ..self.span(&tracer, self.method, (self.context.span_id(), self.caller), (at(self.began), took))
        });
    }
}

impl Call {
    /// Whose it is, in the words of log lines.
    pub(crate) fn service(&self) -> &'static str {
        self.service
    }

    pub(crate) fn method(&self) -> &'static str {
        self.method
    }

    pub(crate) fn request(&self) -> &RequestId {
        &self.request
    }

    /// The trace's id, which is the caller's even with traces off.
    pub(crate) fn trace(&self) -> Option<TraceId> {
        Some(self.context.trace_id()).filter(|trace| *trace != TraceId::INVALID)
    }

    fn span(
        &self,
        tracer: &Tracer,
        name: &'static str,
        (id, parent): (SpanId, SpanId),
        (start_time, took): (SystemTime, Duration),
    ) -> SpanData {
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
            instrumentation_scope: tracer.scope.clone(),
        }
    }
}
