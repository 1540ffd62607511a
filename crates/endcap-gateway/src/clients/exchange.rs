//! The gateway's ends of the streams that carry many calls (`ShardService.Exchange`), one to each worker.
//!
//! A stream is opened in the background when a worker is first asked; until it is there, and wherever there is none,
//! calls go singly. So an old worker, or one that is leaving, costs no request anything.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use endcap_proto::pb::{self, exchange_request as request, exchange_response::Reply};
use endcap_service::{
    client::Channels,
    status::{RemoteError, from_call_error},
    task::Tasks,
    traces,
};
use endcap_types::ErrorCode;
use hashbrown::HashMap;
use parking_lot::Mutex;
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};
use tonic::{Code, Streaming};

use super::{shard_client, unreachable};
use crate::{metrics, ports::Call};

/// Frames that may wait for room on a connection. A call whose frame finds none waits until its deadline.
const QUEUE: usize = 256;
/// A worker that does not take a stream in this time is asked singly.
const PATIENCE: Duration = Duration::from_secs(1);
/// First pause after a stream that broke or was refused; doubled each time.
const PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// After which a worker that had no such method is asked for it again: by then it may be a newer one.
const UNKNOWN_PAUSE: Duration = Duration::from_secs(60);

/// The streams to all workers.
#[derive(Debug)]
pub(crate) struct Exchanges {
    channels: Arc<Channels>,
    lines: Mutex<Lines>,
    tasks: Tasks,
    /// Itself, for the tasks that keep its streams.
    me: Weak<Self>,
}

/// The lines by endpoint. A worker that left and came back has another line than before, whose end its own must outlive.
#[derive(Debug, Default)]
struct Lines {
    by_endpoint: HashMap<String, (Generation, Line)>,
    last: Generation,
}

/// Which of the lines that an endpoint has had.
type Generation = u64;

/// The stream to one worker.
#[derive(Debug)]
enum Line {
    Opening {
        pause: Duration,
    },
    Open(Exchange),
    /// Not to be opened before this.
    Closed {
        until: Instant,
        pause: Duration,
    },
}

/// Whose stream a task keeps.
struct At {
    endpoint: String,
    generation: Generation,
}

/// How a stream ended.
enum End {
    /// The worker has no such method.
    Unknown,
    /// The worker said goodbye.
    Left,
    Broken(String),
}

impl End {
    fn detail(&self) -> &str {
        match self {
            Self::Unknown | Self::Left => "ended",
            Self::Broken(detail) => detail,
        }
    }
}

impl Exchanges {
    pub(crate) fn new(channels: Arc<Channels>, tasks: Tasks) -> Arc<Self> {
        Arc::new_cyclic(|me| Self { channels, lines: Mutex::default(), tasks, me: me.clone() })
    }

    /// The stream to a worker if one is open; otherwise it is on its way, unless it failed lately.
    pub(crate) fn get(&self, endpoint: &str) -> Option<Exchange> {
        let mut lines = self.lines.lock();
        let pause = match lines.by_endpoint.get(endpoint) {
            Some((_, Line::Open(exchange))) => return Some(exchange.clone()),
            Some((_, Line::Opening { .. })) => return None,
            Some((_, Line::Closed { until, .. })) if *until > Instant::now() => return None,
            Some((_, Line::Closed { pause, .. })) => *pause,
            None => PAUSE,
        };
        let this = self.me.upgrade()?;
        lines.last += 1;
        let generation = lines.last;
        lines.by_endpoint.insert(endpoint.to_owned(), (generation, Line::Opening { pause }));
        let (token, at) = (self.tasks.token(), At { endpoint: endpoint.to_owned(), generation });
        let keeping = async move { token.run_until_cancelled(this.keep(&at)).await };
        self.tasks.spawn("exchange", keeping);
        None
    }

    /// Ends the streams to workers that are gone, each once its calls have ended.
    pub(crate) fn retain(&self, known: impl Fn(&str) -> bool) {
        self.lines.lock().by_endpoint.retain(|endpoint, _| known(endpoint));
    }

    /// Opens a stream and takes its replies until it ends.
    async fn keep(&self, at: &At) {
        match self.open(&at.endpoint).await {
            Ok((exchange, replies)) => {
                self.set(at, |_| Line::Open(exchange.clone()));
                metrics::streams(1.0);
                let waiting = Arc::clone(&exchange.waiting);
                // From here on only the calls and the line hold the sending half.
                drop(exchange);
                let end = self.take_replies(at, replies, &waiting).await;
                metrics::streams(-1.0);
                // First the line, so that whoever fails and tries again goes singly.
                self.end(at, &end);
                waiting.close(&broken(&at.endpoint, end.detail()));
            }
            Err(end) => self.end(at, &end),
        }
    }

    fn end(&self, at: &At, end: &End) {
        let endpoint = &at.endpoint;
        match end {
            // The line was closed when goodbye came.
            End::Left => return,
            End::Unknown => tracing::debug!(endpoint, "a worker that takes no streams is asked singly"),
            End::Broken(detail) => {
                tracing::debug!(endpoint, detail, "no stream to a worker; it is asked singly meanwhile");
            }
        }
        self.set(at, |line| closed(line, end));
    }

    async fn open(&self, endpoint: &str) -> Result<(Exchange, Streaming<pb::ExchangeResponse>), End> {
        let (frames, mut queue) = mpsc::channel(QUEUE);
        let frames_out = futures::stream::poll_fn(move |context| queue.poll_recv(context));
        let mut client =
            shard_client(&self.channels, endpoint).map_err(|error| End::Broken(error.message))?;
        match tokio::time::timeout(PATIENCE, client.exchange(frames_out)).await {
            Ok(Ok(replies)) => {
                let waiting = Arc::new(Waiting { endpoint: endpoint.to_owned(), calls: Mutex::default() });
                Ok((Exchange { frames, waiting }, replies.into_inner()))
            }
            Ok(Err(status)) if status.code() == Code::Unimplemented => Err(End::Unknown),
            Ok(Err(status)) => Err(End::Broken(status.to_string())),
            Err(_elapsed) => Err(End::Broken(format!("no stream within {PATIENCE:?}"))),
        }
    }

    /// Hands each reply to the call that waits for it.
    async fn take_replies(
        &self,
        at: &At,
        mut replies: Streaming<pb::ExchangeResponse>,
        waiting: &Waiting,
    ) -> End {
        let mut left = false;
        loop {
            match replies.message().await {
                Ok(Some(pb::ExchangeResponse { reply: Some(Reply::Goodbye(_)), .. })) => {
                    // The line lets go of the sending half; once the calls in flight have, too, the stream ends.
                    self.set(at, |line| closed(line, &End::Left));
                    left = true;
                }
                Ok(Some(pb::ExchangeResponse { sequence, reply })) => waiting.answer(sequence, reply),
                Ok(None) | Err(_) if left => return End::Left,
                Ok(None) => return End::Broken("ended".to_owned()),
                Err(status) => return End::Broken(format!("broke: {}", status.message())),
            }
        }
    }

    /// Changes a line, unless the worker is gone, or has another line since.
    fn set(&self, at: &At, next: impl FnOnce(&Line) -> Line) {
        if let Some((generation, line)) = self.lines.lock().by_endpoint.get_mut(&at.endpoint)
            && *generation == at.generation
        {
            *line = next(line);
        }
    }
}

fn closed(line: &Line, end: &End) -> Line {
    let before = match line {
        Line::Opening { pause } | Line::Closed { pause, .. } => *pause,
        // It worked.
        Line::Open(_) => PAUSE,
    };
    let (wait, pause) = match end {
        End::Unknown => (UNKNOWN_PAUSE, PAUSE),
        End::Left | End::Broken(_) => (before, (before * 2).min(LONGEST_PAUSE)),
    };
    Line::Closed { until: Instant::now() + wait, pause }
}

/// One stream. Cheap to clone; it is open as long as somebody has it.
#[derive(Debug, Clone)]
pub(crate) struct Exchange {
    frames: mpsc::Sender<pb::ExchangeRequest>,
    waiting: Arc<Waiting>,
}

impl Exchange {
    /// Makes one call. Dropping it tells the worker to let the work be.
    pub(crate) async fn call(&self, what: request::Call, call: &Call) -> Result<Reply, RemoteError> {
        let mut mine = self.waiting.enter(self)?;
        let work = async {
            // Flow control: a connection that takes nothing more holds the call up, not the gateway's memory.
            let gone = |_| broken(&self.waiting.endpoint, "ended");
            let room = self.frames.reserve().await.map_err(gone)?;
            let remaining = call.deadline.remaining();
            room.send(pb::ExchangeRequest {
                sequence: mine.sequence,
                remaining_us: u64::try_from(remaining.as_micros()).unwrap_or(u64::MAX),
                request_id: call.id.to_string(),
                call: Some(what),
                traceparent: traces::traceparent(),
            });
            mine.sent = true;
            (&mut mine.reply).await.unwrap_or_else(|_| Err(broken(&self.waiting.endpoint, "ended")))
        };
        match tokio::time::timeout_at(call.deadline.instant(), work).await {
            Ok(reply) => reply,
            Err(_elapsed) => Err(late(&self.waiting.endpoint)),
        }
    }
}

type Answer = oneshot::Sender<Result<Reply, RemoteError>>;

/// The calls that wait for replies.
#[derive(Debug)]
struct Waiting {
    endpoint: String,
    calls: Mutex<Calls>,
}

#[derive(Debug, Default)]
struct Calls {
    by_sequence: HashMap<u64, Answer>,
    last: u64,
    /// Why there will be no more replies.
    closed: Option<RemoteError>,
}

impl Waiting {
    fn enter<'a>(&self, exchange: &'a Exchange) -> Result<Mine<'a>, RemoteError> {
        let mut calls = self.calls.lock();
        if let Some(error) = &calls.closed {
            return Err(error.clone());
        }
        let (answer, reply) = oneshot::channel();
        calls.last += 1;
        let sequence = calls.last;
        calls.by_sequence.insert(sequence, answer);
        Ok(Mine { exchange, sequence, reply, sent: false })
    }

    fn answer(&self, sequence: u64, reply: Option<Reply>) {
        // One that nobody waits for was cancelled while its reply was on the way.
        let Some(answer) = self.calls.lock().by_sequence.remove(&sequence) else { return };
        let reply = match reply {
            Some(Reply::Error(error)) => Err(from_call_error(error)),
            Some(reply) => Ok(reply),
            None => Err(broken(&self.endpoint, "brought a reply of an unknown kind")),
        };
        let _dropped = answer.send(reply);
    }

    /// Fails every call that waits, and all that come.
    fn close(&self, why: &RemoteError) {
        let mut calls = self.calls.lock();
        calls.closed.get_or_insert_with(|| why.clone());
        for (_, answer) in calls.by_sequence.drain() {
            let _dropped = answer.send(Err(why.clone()));
        }
    }
}

/// One call's place among those that wait.
struct Mine<'a> {
    exchange: &'a Exchange,
    sequence: u64,
    reply: oneshot::Receiver<Result<Reply, RemoteError>>,
    sent: bool,
}

impl Drop for Mine<'_> {
    fn drop(&mut self) {
        let unanswered = self.exchange.waiting.calls.lock().by_sequence.remove(&self.sequence).is_some();
        if unanswered && self.sent {
            let call = Some(request::Call::Cancel(pb::CancelCall {}));
            let frame = pb::ExchangeRequest { sequence: self.sequence, call, ..Default::default() };
            // Without room for it, the frame's own deadline ends the work.
            let _full = self.exchange.frames.try_send(frame);
        }
    }
}

/// As for a connection that breaks under a call of its own.
fn broken(endpoint: &str, detail: &str) -> RemoteError {
    unreachable(format!("the stream to {endpoint} {detail}"))
}

fn late(endpoint: &str) -> RemoteError {
    RemoteError {
        code: ErrorCode::DeadlineExceeded,
        message: format!("{endpoint} did not answer before the deadline"),
        violations: Vec::new(),
        retry_after: None,
    }
}

#[cfg(test)]
mod tests;
