//! Waits for the due times of a schedule.

use std::{thread, time::Duration};

use tokio::{sync::mpsc, time::Instant};
use tokio_stream::wrappers::UnboundedReceiverStream;

use crate::{BenchError, Schedule};

/// Time to get everything going before the first request is due.
const LEAD: Duration = Duration::from_millis(20);

/// A request that is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Due {
    /// Counts from 0 within the schedule.
    pub(crate) index: u64,
    pub(crate) intended: Instant,
}

/// Says when each request is due, from a thread of its own: tokio's timers tick in milliseconds, which is most of a fast
/// answer. The thread sleeps, and sends late ones at once. It ends with the schedule or when nobody listens any more.
pub(crate) fn by_thread(schedule: &Schedule) -> Result<UnboundedReceiverStream<Due>, BenchError> {
    let (send, receive) = mpsc::unbounded_channel();
    let offsets = schedule.offsets();
    let pace = move || {
        let start = Instant::now() + LEAD;
        for (index, offset) in (0..).zip(offsets) {
            let intended = start + offset;
            let wait = intended.saturating_duration_since(Instant::now());
            if !wait.is_zero() {
                #[expect(
                    clippy::disallowed_methods,
                    reason = "a thread of its own, whose whole work is to sleep"
                )]
                thread::sleep(wait);
            }
            if send.send(Due { index, intended }).is_err() {
                return;
            }
        }
    };
    thread::Builder::new().name("bench-pacer".to_owned()).spawn(pace).map_err(BenchError::Pacer)?;
    Ok(UnboundedReceiverStream::new(receive))
}
