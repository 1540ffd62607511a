//! What is asked.

use std::time::Duration;

use async_trait::async_trait;
use tokio::time::{Instant, timeout};
use tonic::{Code, Response, Status};

/// Something that answers requests. Implementations must not make a request wait for another one.
#[async_trait]
pub trait Target: Send + Sync + 'static {
    /// Sends request number `index` and waits for its answer, at most `deadline`.
    async fn ask(&self, index: u64, deadline: Duration) -> Answer;
}

/// How many different requests of so many rows are drawn, to be sent in turn. Between them they look up nearly all rows of
/// a model's tables, as live traffic does: those of sixteen requests of 200 rows stay in a processor's own cache, and
/// flatter whoever keeps it to itself. Large ones need not be many, and would fill the memory.
pub(crate) fn distinct(rows: usize) -> usize {
    (25_600 / rows.max(1)).clamp(16, 128)
}

/// What came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// An answer, and where it has one its rung, e.g. `FULL`.
    Good { rung: Option<&'static str> },
    /// A gRPC code other than `OK`.
    Failed { code: Code },
}

/// Waits for a call at most until its deadline. What is cut off here is `DEADLINE_EXCEEDED`, also where tonic's own timer was
/// a little earlier, which calls it `CANCELLED`.
pub(crate) async fn until_deadline<T>(
    deadline: Duration,
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, Answer> {
    let sent = Instant::now();
    let code = match timeout(deadline, call).await {
        Ok(Ok(response)) => return Ok(response.into_inner()),
        Ok(Err(status)) if status.code() == Code::Cancelled && sent.elapsed() >= deadline => {
            Code::DeadlineExceeded
        }
        Ok(Err(status)) => status.code(),
        Err(_elapsed) => Code::DeadlineExceeded,
    };
    Err(Answer::Failed { code })
}

/// The name of a code on the wire, e.g. `RESOURCE_EXHAUSTED`.
pub(crate) fn code_name(code: Code) -> String {
    let mut name = String::new();
    for letter in format!("{code:?}").chars() {
        if letter.is_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(letter.to_ascii_uppercase());
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_their_wire_names() {
        assert_eq!(code_name(Code::ResourceExhausted), "RESOURCE_EXHAUSTED");
        assert_eq!(code_name(Code::Ok), "OK");
    }
}
