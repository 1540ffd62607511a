//! The worker's end of the stream that carries many calls (`ShardService.Exchange`).
//!
//! Each frame runs through the same handler as a call of its own, and through the same cap, deadline, guard against
//! panics and metrics. All of a stream's calls are polled by one task, beside the one that writes its replies: a gateway
//! that does not read holds no places, and nothing is left behind when the stream is dropped. Scans, and runs longer
//! than `worker.inline_max`, have threads of their own.

use std::{pin::Pin, sync::Arc, time::Duration};

use endcap_proto::pb::{
    self, exchange_request::Call, exchange_response::Reply, shard_service_server::ShardService,
};
use endcap_types::{ErrorCode, Violations};
use futures::{
    FutureExt as _, Stream, StreamExt as _,
    future::{AbortHandle, Abortable, BoxFuture, Fuse},
    stream::FuturesUnordered,
};
use hashbrown::hash_map::{Entry, HashMap};
use prost::Message as _;
use tokio::{
    sync::mpsc::{self, Sender},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status, Streaming};

use crate::{
    RequestId,
    layers::{CallLayer, before_caller},
    status::{RemoteError, to_call_error, to_status},
    task::Tasks,
    traces,
};

/// Bytes of the largest answer that workers write and gateways read, by itself or in a frame; a request of 10,000 items
/// with fields is far below it, and a worker gone mad must not take the gateway with it.
pub const LARGEST_MESSAGE: usize = 64 << 20;

/// Replies that may wait for a gateway that does not read. Beyond it no more is read of what the gateway asks, so that all
/// that its stream can make this process hold is these and the answers to the calls that were let in before.
const UNREAD: usize = 256;

/// What the worker writes.
pub type Replies = Pin<Box<dyn Stream<Item = Result<pb::ExchangeResponse, Status>> + Send>>;

/// The layer stack that a stream came through, for the calls that it carries.
#[derive(Debug, Clone)]
pub(crate) struct Calls(pub(crate) CallLayer);

impl Default for Calls {
    /// Without any cap, for a server without the layer stack.
    fn default() -> Self {
        Self(CallLayer::new("none", usize::MAX))
    }
}

/// Serves one stream until the gateway ends it. Once `draining` is cancelled the gateway is told, so that it can.
pub fn serve<S: ShardService>(
    service: Arc<S>,
    request: Request<Streaming<pb::ExchangeRequest>>,
    draining: CancellationToken,
    tasks: &Tasks,
) -> Replies {
    let calls = request.extensions().get::<Calls>().cloned().unwrap_or_default();
    let (replies, mut unread) = mpsc::channel(UNREAD);
    let exchange = Exchange {
        service,
        calls: calls.0,
        frames: Some(request.into_inner()),
        replies,
        in_flight: FuturesUnordered::new(),
        handles: HashMap::new(),
        drained: draining.cancelled_owned().boxed().fuse(),
    };
    let token = tasks.token();
    tasks.spawn("exchange", async move { token.run_until_cancelled(exchange.run()).await });
    Box::pin(futures::stream::poll_fn(move |context| unread.poll_recv(context)))
}

type Said = Result<pb::ExchangeResponse, Status>;

struct Exchange<S> {
    service: Arc<S>,
    calls: CallLayer,
    /// Nothing once the gateway has ended its side.
    frames: Option<Streaming<pb::ExchangeRequest>>,
    replies: Sender<Said>,
    /// Each ends when its reply is handed over, and then names itself. Bounded by the cap: whatever is beyond it is ready
    /// at once, and replies go before new frames.
    in_flight: FuturesUnordered<Abortable<BoxFuture<'static, u64>>>,
    handles: HashMap<u64, AbortHandle>,
    /// Ready once, when it is time for a goodbye.
    drained: Fuse<BoxFuture<'static, ()>>,
}

impl<S: ShardService> Exchange<S> {
    /// Until all is said, or the stream is dropped.
    async fn run(mut self) {
        let replies = self.replies.clone();
        let ended = tokio::select! {
            ended = self.follow() => ended,
            () = replies.closed() => Ok(()),
        };
        // First its calls, which nobody answers any more.
        drop(self);
        if let Err(status) = ended {
            let _nobody = replies.send(Err(status)).await;
        }
    }

    /// Takes frames and answers them. Fails with what ends the stream.
    async fn follow(&mut self) -> Result<(), Status> {
        while self.frames.is_some() || !self.in_flight.is_empty() {
            tokio::select! {
                biased;
                Some(ended) = self.in_flight.next() => {
                    // One that was cancelled has no reply, and its number may be in use again.
                    if let Ok(sequence) = ended {
                        self.handles.remove(&sequence);
                    }
                }
                () = &mut self.drained => {
                    let reply = Some(Reply::Goodbye(pb::Goodbye {}));
                    let _nobody = self.replies.send(Ok(pb::ExchangeResponse { sequence: 0, reply })).await;
                }
                frame = next_frame(&mut self.frames, &self.replies) => match frame {
                    Some(frame) => self.take(frame?)?,
                    None => self.frames = None,
                },
            }
        }
        Ok(())
    }

    /// Begins what a frame asks for.
    fn take(&mut self, frame: pb::ExchangeRequest) -> Result<(), Status> {
        let sequence = frame.sequence;
        if let Some(Call::Cancel(_)) = frame.call {
            if let Some(handle) = self.handles.remove(&sequence) {
                handle.abort();
            }
            return Ok(());
        }
        let id = RequestId::from_header(Some(frame.request_id.as_bytes()));
        let Entry::Vacant(place) = self.handles.entry(sequence) else {
            let mut violations = Violations::default();
            violations.push("sequence", format!("{sequence} is still in flight; number calls distinctly"));
            return Err(to_status(&violations, &id));
        };
        let (handle, registration) = AbortHandle::new_pair();
        let _placed = place.insert(handle);
        let work = call(Arc::clone(&self.service), self.calls.clone(), frame, id, self.replies.clone());
        self.in_flight.push(Abortable::new(work.boxed(), registration));
        Ok(())
    }
}

/// One call, as the layer stack and the handler would treat it if it came alone. Its reply is handed over; then it names
/// itself.
#[expect(
    clippy::manual_async_fn,
    reason = "an async fn has room for its arguments twice, and each call is moved"
)]
fn call<S: ShardService>(
    service: Arc<S>,
    calls: CallLayer,
    frame: pb::ExchangeRequest,
    id: RequestId,
    replies: Sender<Said>,
) -> impl Future<Output = u64> {
    async move {
        let sequence = frame.sequence;
        let started = Instant::now();
        let rpc = match frame.call {
            Some(Call::Encode(_)) => "Encode",
            _ => "Score",
        };
        let begun = calls.begin(rpc, &id, &traces::Line(frame.traceparent), started);
        let deadline = before_caller(started, Duration::from_micros(frame.remaining_us));
        let work = async {
            match frame.call {
                Some(Call::Score(message)) => {
                    let answered = service.score(with(message, &id, deadline)).await;
                    answered.map(|answer| Reply::Score(answer.into_inner()))
                }
                Some(Call::Encode(message)) => {
                    let answered = service.encode(with(message, &id, deadline)).await;
                    answered.map(|answer: Response<_>| Reply::Encode(answer.into_inner()))
                }
                Some(Call::Cancel(_)) | None => Err(to_status(&unknown_call(), &id)),
            }
        };
        let guarded = async {
            let outcome = calls.guard_one(started, deadline, work).await;
            let outcome = outcome.unwrap_or_else(|error| Err(to_status(&error, &id)));
            calls.record(rpc, outcome.as_ref().map_or_else(Status::code, |_| Code::Ok), started);
            outcome
        };
        let outcome = begun.run(guarded).await;
        let reply = fitting(outcome.unwrap_or_else(|status| Reply::Error(to_call_error(&status))), &id);
        let _nobody = replies.send(Ok(pb::ExchangeResponse { sequence, reply: Some(reply) })).await;
        sequence
    }
}

/// A frame that is too large would end the stream, with everyone else's calls.
fn fitting(reply: Reply, id: &RequestId) -> Reply {
    let frame = pb::ExchangeResponse { sequence: u64::MAX, reply: Some(reply) };
    let bytes = frame.encoded_len();
    match frame.reply {
        Some(reply) if bytes <= LARGEST_MESSAGE => reply,
        _ => Reply::Error(to_call_error(&to_status(&too_large(bytes), id))),
    }
}

fn with<T>(message: T, id: &RequestId, deadline: crate::Deadline) -> Request<T> {
    let mut request = Request::new(message);
    request.extensions_mut().insert(id.clone());
    request.extensions_mut().insert(deadline);
    request
}

/// A gateway that is newer may ask for what this worker has never heard of.
fn unknown_call() -> RemoteError {
    RemoteError {
        code: ErrorCode::InvalidArgument,
        message: "call: is missing, or of a kind that this worker does not know".to_owned(),
        violations: Vec::new(),
        retry_after: None,
    }
}

fn too_large(bytes: usize) -> RemoteError {
    RemoteError {
        code: ErrorCode::InvalidArgument,
        message: format!(
            "the answer takes {bytes} bytes, more than the {LARGEST_MESSAGE} of a message; ask for fewer items or fields"
        ),
        violations: Vec::new(),
        retry_after: None,
    }
}

/// The next frame, once there is room for an answer.
async fn next_frame(
    frames: &mut Option<Streaming<pb::ExchangeRequest>>,
    replies: &Sender<Said>,
) -> Option<Result<pb::ExchangeRequest, Status>> {
    let Some(frames) = frames else { return std::future::pending().await };
    if replies.capacity() == 0 {
        drop(replies.reserve().await);
    }
    frames.next().await
}

#[cfg(test)]
mod tests;
