//! What can go wrong before or beside a measurement; a failed request is no error but a result.

use std::path::PathBuf;

/// Why nothing could be measured.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    #[error("read queries from {}", path.display())]
    ReadQueries {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("read queries from {}: {reason}; expected a text file with a query a line, or Parquet with a column \"query\"", path.display())]
    QueryColumn { path: PathBuf, reason: String },
    #[error("{} holds no query", path.display())]
    NoQueries { path: PathBuf },
    #[error("the rate is {rate} requests a second; expected more than 0 and at most 10,000,000")]
    Rate { rate: f64 },
    #[error("the duration is {seconds} s, which is {requests} requests; expected at least 1")]
    NothingToSend { seconds: f64, requests: u64 },
    #[error("{url:?} is not an address; expected e.g. http://127.0.0.1:9400")]
    Address { url: String },
    #[error(
        "found {found} distinct items to rank, {wanted} were asked for; give more queries or fewer candidates"
    )]
    TooFewItems { found: usize, wanted: usize },
    #[error("make a latency histogram")]
    Histogram(#[from] hdrhistogram::CreationError),
    #[error("{what}: {} {}", status.code(), status.message())]
    Remote { what: &'static str, status: Box<tonic::Status> },
    #[error("the worker holds no version of {model:?} that can be asked for; it names [{found}]")]
    NotHeld { model: String, found: String },
    #[error("start the thread that paces requests")]
    Pacer(#[source] std::io::Error),
    #[error("a request panicked")]
    Panicked(#[source] tokio::task::JoinError),
    #[error(
        "input {input:?} of the model cannot be filled with random rows: {found}; expected FP32 or INT64 of [-1, ...]"
    )]
    Input { input: String, found: String },
    #[error("draw the plot: {reason}")]
    Plot { reason: String },
}
