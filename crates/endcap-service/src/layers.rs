//! The layer stack of every gRPC server: what happens to each call before and after its handler.

use std::{
    any::Any,
    convert::Infallible,
    panic::AssertUnwindSafe,
    pin::pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use endcap_types::{Coded, ErrorCode};
use futures::{FutureExt as _, TryFutureExt as _, future::BoxFuture};
use http::HeaderValue;
use opentelemetry::propagation::Extractor;
use thiserror::Error;
use tokio::time::Instant;
use tonic::{Code, Status, body::Body};
use tower::{Layer, Service};

use crate::{
    Deadline, RequestId,
    deadline::parse_grpc_timeout,
    exchange::Calls,
    limit::Limit,
    metrics::{self, CallMeters},
    request_id::HEADER,
    status::to_status,
    traces::{self, Answered, Begun},
};

/// tonic's client and server apply `grpc-timeout` too, outside this stack, and say CANCELLED. Ending a tenth earlier,
/// but never more than this, lets our answer, which says why, arrive first.
const BEFORE_TRANSPORT: Duration = Duration::from_millis(5);
/// A full server is worth asking again soon: calls last milliseconds.
const SHED_RETRY: Duration = Duration::from_millis(50);

#[derive(Debug, Error)]
pub(crate) enum CallError {
    #[error("{in_flight} calls are in flight, which is the limit")]
    Full { in_flight: usize },
    #[error("the deadline had passed when the call arrived")]
    ExpiredOnArrival,
    #[error("the deadline passed before there was an answer")]
    Expired,
    #[error("the handler panicked: {message}")]
    Panicked { message: String },
}

impl Coded for CallError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Full { .. } => ErrorCode::Overloaded,
            Self::ExpiredOnArrival | Self::Expired => ErrorCode::DeadlineExceeded,
            Self::Panicked { .. } => ErrorCode::Internal,
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        matches!(self, Self::Full { .. }).then_some(SHED_RETRY)
    }
}

/// How many calls the server takes at once now: an extension of each request.
#[derive(Debug, Clone, Copy)]
pub struct InFlightLimit(pub usize);

/// Wraps the routes of a server.
#[derive(Debug, Clone)]
pub(crate) struct CallLayer {
    role: &'static str,
    limit: Arc<Limit>,
    meters: Arc<CallMeters>,
}

impl CallLayer {
    pub(crate) fn new(role: &'static str, max_in_flight: usize) -> Self {
        Self { role, limit: Arc::new(Limit::new(max_in_flight)), meters: Arc::new(CallMeters::new(role)) }
    }
}

impl<S> Layer<S> for CallLayer {
    type Service = CallService<S>;

    fn layer(&self, inner: S) -> CallService<S> {
        CallService { layer: self.clone(), inner }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct CallService<S> {
    layer: CallLayer,
    inner: S,
}

impl<S> Service<http::Request<Body>> for CallService<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        // The service that is ready is the one to call; the clone takes its place.
        let clone = self.inner.clone();
        let inner = std::mem::replace(&mut self.inner, clone);
        let layer = self.layer.clone();
        let started = Instant::now();

        // First, so that every error below can name it.
        let id = RequestId::from_header(request.headers().get(HEADER).map(|value| value.as_bytes()));
        request.extensions_mut().insert(id.clone());
        // For handlers that take further calls from a stream.
        request.extensions_mut().insert(Calls(layer.clone()));
        request.extensions_mut().insert(InFlightLimit(layer.limit.now()));
        let rpc = rpc_name(request.uri().path());
        let begun = Begun::new(layer.role, rpc, &id, &traces::Headers(request.headers()), started);

        Box::pin(begun.run(async move {
            let outcome = layer.handle(inner, request, started).await;
            let mut response = match outcome {
                Ok(response) => response,
                Err(error) => to_status(&error, &id).into_http(),
            };
            if let Ok(mut value) = HeaderValue::from_str(id.as_str()) {
                // Never the same twice: it would only push out of the connection's table what is.
                value.set_sensitive(true);
                response.headers_mut().insert(HEADER, value);
            }
            // Last, so that it counts what the caller saw, whoever decided it.
            layer.record(rpc, code_of(&response), started);
            Ok(response)
        }))
    }
}

impl CallLayer {
    async fn handle<S>(
        &self,
        mut inner: S,
        mut request: http::Request<Body>,
        started: Instant,
    ) -> Result<http::Response<Body>, CallError>
    where
        S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
    {
        let deadline = deadline(&request, started);
        // Whoever asks whether a full server is well must hear that it is.
        let place = if is_probe(request.uri().path()) { None } else { Some(&*self.limit) };
        let called = async move {
            let Ok(response) = inner.call(request_with(&mut request, deadline)).await;
            response
        };
        self.guard(place, (started, deadline), code_of, called).await
    }

    /// Runs the work of a call that a stream brought.
    pub(crate) fn guard_one<T>(
        &self,
        started: Instant,
        deadline: Deadline,
        work: impl Future<Output = Result<T, Status>>,
    ) -> impl Future<Output = Result<Result<T, Status>, CallError>> {
        let code = |outcome: &Result<T, Status>| outcome.as_ref().map_or_else(Status::code, |_| Code::Ok);
        self.guard(Some(&*self.limit), (started, Some(deadline)), code, work)
    }

    /// Runs one call's work within its deadline, the limit if it needs a place, and a guard against panics.
    async fn guard<T>(
        &self,
        limit: Option<&Limit>,
        (started, deadline): (Instant, Option<Deadline>),
        code: impl FnOnce(&T) -> Code,
        work: impl Future<Output = T>,
    ) -> Result<T, CallError> {
        // Before the limit: a call that nobody waits for must not take a place.
        if deadline.is_some_and(|deadline| deadline.instant() <= started) {
            metrics::expired("arrival");
            return Err(CallError::ExpiredOnArrival);
        }
        // Before any work: beyond this many, everyone would only be slower.
        let place = limit.map(Limit::enter).transpose();
        let _place = place.map_err(|in_flight| {
            metrics::rejected(self.role, "in_flight");
            CallError::Full { in_flight }
        })?;
        let _counted = self.meters.enter();
        // Innermost: a fault of one call must not take the connection, with everyone else's calls, down.
        let guarded = pin!(
            AssertUnwindSafe(work)
                .catch_unwind()
                .map_err(|panic| CallError::Panicked { message: panic_message(panic.as_ref()) })
        );
        let Some(deadline) = deadline else { return guarded.await };
        let raced = tokio::time::timeout_at(deadline.instant(), guarded).await;
        let outcome = raced.unwrap_or_else(|_elapsed| {
            metrics::expired("handler");
            Err(CallError::Expired)
        });
        // Refusals come at once, and say nothing of how long answers take.
        let is_refusal = |code| matches!(code, Code::ResourceExhausted | Code::InvalidArgument);
        if let Some(limit) = limit
            && !outcome.as_ref().is_ok_and(|answer| is_refusal(code(answer)))
        {
            let now = Instant::now();
            limit.answered(now, now - started, deadline.instant() - started);
        }
        outcome
    }

    /// A call that a stream brought.
    pub(crate) fn begin(
        &self,
        rpc: &'static str,
        id: &RequestId,
        caller: &dyn Extractor,
        started: Instant,
    ) -> Begun {
        Begun::new(self.role, rpc, id, caller, started)
    }

    /// Counts a call under what its caller sees. Within the call.
    pub(crate) fn record(&self, rpc: &'static str, code: Code, started: Instant) {
        let took = started.elapsed();
        self.meters.answered(rpc, code_name(code), took);
        tracing::debug!(code = code_name(code), "answered");
        traces::finish(Answered { code: code_name(code), our_fault: is_our_fault(code), took });
    }
}

/// Takes the request out with its deadline noted for handlers.
fn request_with(request: &mut http::Request<Body>, deadline: Option<Deadline>) -> http::Request<Body> {
    let mut taken = std::mem::take(request);
    if let Some(deadline) = deadline {
        taken.extensions_mut().insert(deadline);
    }
    taken
}

fn deadline(request: &http::Request<Body>, started: Instant) -> Option<Deadline> {
    let text = request.headers().get("grpc-timeout")?.to_str().ok()?;
    parse_grpc_timeout(text).map(|timeout| before_caller(started, timeout))
}

/// When a call must be done whose caller waits this long from its start.
pub(crate) fn before_caller(started: Instant, timeout: Duration) -> Deadline {
    Deadline::at(started + timeout.saturating_sub(BEFORE_TRANSPORT.min(timeout / 10)))
}

fn is_probe(path: &str) -> bool {
    path.starts_with("/grpc.health.v1.Health/")
        || path.ends_with("/ServerLive")
        || path.ends_with("/ServerReady")
}

/// The method's name, or one word for all unknown paths, so that callers can't invent label values.
fn rpc_name(path: &str) -> &'static str {
    RPCS.iter().copied().find(|rpc| path.rsplit('/').next() == Some(*rpc)).unwrap_or("other")
}

const RPCS: &[&str] = &[
    "Recommend",
    "GetFeatures",
    "PutFeatures",
    "Encode",
    "Score",
    "Exchange",
    "RegisterVersion",
    "ValidateVersion",
    "Promote",
    "Rollback",
    "GetVersion",
    "ListModels",
    "GetHistory",
    "Watch",
    "GetFleet",
    "GetRouting",
    "RecordEvaluation",
    "ServerLive",
    "ServerReady",
    "ServerMetadata",
    "ModelReady",
    "ModelMetadata",
    "ModelInfer",
    "ModelStatistics",
    "RepositoryIndex",
    "Check",
    "List",
    "ServerReflectionInfo",
    "other",
];

fn code_of(response: &http::Response<Body>) -> Code {
    // A success carries its status in the trailers, an error of a unary call in the headers.
    let status = response.headers().get("grpc-status").and_then(|value| value.to_str().ok());
    status.map_or(Code::Ok, |text| Code::from_bytes(text.as_bytes()))
}

/// Not the caller's mistake, nor a refusal that costs nothing and comes in masses.
fn is_our_fault(code: Code) -> bool {
    matches!(
        code,
        Code::Internal | Code::Unknown | Code::DataLoss | Code::Unavailable | Code::DeadlineExceeded
    )
}

fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
}
