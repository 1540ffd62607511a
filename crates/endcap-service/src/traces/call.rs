//! One call's stages, and what becomes of them.

use std::{
    cell::{Cell, RefCell},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use opentelemetry::{
    KeyValue, Value,
    propagation::Extractor,
    trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId},
};
use opentelemetry_sdk::trace::{IdGenerator as _, RandomIdGenerator, SpanData};
use pin_project_lite::pin_project;
use smallvec::SmallVec;
use tokio::time::Instant;

use super::{TRACER, Tracer, caller_of};
use crate::{RequestId, metrics::CallMeters};

/// Stages that one call notes. Beyond, they are not noted: a thin trace is better than a full memory.
const MOST_STAGES: usize = 512;

tokio::task_local! {
    /// The call that runs now. One task runs all of it, so that its list needs no lock.
    static CURRENT: Box<Call>;
}

/// A call. Its trace is sent or forgotten when it ends, also if nobody waited for that.
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
    /// The innermost stage that runs now, or the call itself.
    at: Cell<SpanId>,
    noted: RefCell<Noted>,
}

#[derive(Debug, Default)]
struct Noted {
    /// And when they ended.
    stages: Vec<(Open, Instant)>,
    notes: SmallVec<[(&'static str, Note); 3]>,
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

/// What a stage or a call tells about itself.
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
pub(crate) struct Begun(Box<Call>);

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
        let call = Call {
            tracer: tracer.cloned(),
            context,
            caller: caller.span_id(),
            is_remote: caller.is_valid(),
            service,
            method,
            request: request.clone(),
            began,
            at: Cell::new(span),
            noted: RefCell::default(),
        };
        Self(Box::new(call))
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
fn within<T>(tell: impl FnOnce(&Call) -> T) -> Option<T> {
    CURRENT.try_with(|call| call.tracer.is_some().then(|| tell(call))).ok().flatten()
}

/// Notes something of the call that runs now.
fn noted(tell: impl FnOnce(&mut Noted)) {
    // Nobody else holds it: what is told calls nothing.
    let _untraced = within(|call| call.noted.try_borrow_mut().map(|mut noted| tell(&mut noted)));
}

/// Tells of the call that runs now, if one does.
pub(crate) fn with_call<T>(tell: impl FnOnce(&Call) -> T) -> Option<T> {
    CURRENT.try_with(|call| tell(call)).ok()
}

/// Where whoever is called from here hangs.
pub(super) fn current() -> Option<SpanContext> {
    within(|call| {
        let own = &call.context;
        SpanContext::new(own.trace_id(), call.at.get(), own.trace_flags(), false, own.trace_state().clone())
    })
}

/// Notes how the call ended that runs now.
pub(crate) fn finish(answered: Answered) {
    noted(|noted| noted.end = Some(answered));
}

/// Tells about the call that runs now.
pub fn note<const N: usize>(notes: [(&'static str, Note); N]) {
    noted(|noted| noted.notes.extend(notes));
}

/// A part of the work of the call that runs now, until it ends or is dropped. Nothing with traces off, nor outside of a
/// call.
#[derive(Debug)]
#[must_use = "a stage that is dropped ends"]
pub struct Stage(Option<Open>);

#[derive(Debug, Clone, Copy)]
struct Open {
    name: &'static str,
    id: SpanId,
    parent: SpanId,
    began: Instant,
    note: Option<(&'static str, Note)>,
}

/// A stage within the one that runs now. When it began is the caller's to say, who mostly knows: reading the clock is
/// the most that a stage costs.
pub fn stage(name: &'static str, began: Instant) -> Stage {
    Stage(within(|call| {
        let id = RandomIdGenerator::default().new_span_id();
        Open { name, id, parent: call.at.get(), began, note: None }
    }))
}

impl Stage {
    /// The one thing that it tells about itself; what holds for the whole call is the call's ([`note`]).
    pub fn of(mut self, key: &'static str, value: impl Into<Note>) -> Self {
        if let Some(open) = &mut self.0 {
            open.note = Some((key, value.into()));
        }
        self
    }

    /// Runs work whose stages, and whose calls of others, hang below this one.
    pub fn run<F: Future>(&self, work: F) -> Below<F> {
        Below { span: self.0.map(|open| open.id), work }
    }

    /// Ends it at a time that the caller has read already.
    pub fn end(mut self, ended: Instant) {
        self.close(|| ended);
    }

    fn close(&mut self, ended: impl FnOnce() -> Instant) {
        let Some(open) = self.0.take() else { return };
        let ended = ended();
        noted(|noted| {
            if noted.stages.len() < MOST_STAGES {
                noted.stages.push((open, ended));
            }
        });
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.close(Instant::now);
    }
}

pin_project! {
    /// Work below a stage.
    #[derive(Debug)]
    pub struct Below<F> {
        span: Option<SpanId>,
        #[pin]
        work: F,
    }
}

impl<F: Future> Future for Below<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let _back = this.span.and_then(|span| within(|call| Back(call.at.replace(span))));
        this.work.poll(context)
    }
}

/// Where the call is again when work below a stage pauses, ends or panics.
struct Back(SpanId);

impl Drop for Back {
    fn drop(&mut self) {
        let _untraced = within(|call| call.at.set(self.0));
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let Some(tracer) = self.tracer.take() else { return };
        let Noted { stages, notes, end } = self.noted.take();
        let took = end.map_or_else(|| self.began.elapsed(), |end| end.took);
        let our_fault = end.is_some_and(|end| end.our_fault);
        if !self.context.is_sampled() && took < tracer.slow && !our_fault {
            return;
        }
        // By the clock of the wall, which calls that are forgotten need not read.
        let began_at = SystemTime::now().checked_sub(self.began.elapsed()).unwrap_or(SystemTime::UNIX_EPOCH);
        let at = |began: Instant| began_at + began.saturating_duration_since(self.began);
        for (Open { name, id, parent, began, note }, ended) in stages {
            let took = ended.saturating_duration_since(began);
            tracer.send.on_end(SpanData {
                attributes: note.into_iter().map(|(key, note)| KeyValue::new(key, note)).collect(),
                ..self.span(&tracer, name, (id, parent), (at(began), took))
            });
        }
        let mut attributes = vec![
            KeyValue::new("rpc.service", self.service),
            KeyValue::new("rpc.method", self.method),
            KeyValue::new("request.id", self.request.to_string()),
        ];
        attributes.extend(end.map(|end| KeyValue::new("rpc.code", end.code)));
        attributes.extend(notes.into_iter().map(|(key, note)| KeyValue::new(key, note)));
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
