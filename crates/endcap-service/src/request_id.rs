//! The id that ties a call's log lines, its error and its answer together.

use std::{fmt, sync::Arc};

/// Metadata key of the request id, in both directions.
pub(crate) const HEADER: &str = "x-request-id";

/// Ids longer than this are replaced: they end up in every log line.
const LONGEST: usize = 128;

/// The caller's `x-request-id`, or one made for the call. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestId(Arc<str>);

impl RequestId {
    /// A new id.
    pub fn new() -> Self {
        Self(uuid::Uuid::new_v4().simple().to_string().into())
    }

    /// The caller's id if it is printable and short, else a new one.
    pub fn from_header(value: Option<&[u8]>) -> Self {
        let usable =
            |text: &&str| (1..=LONGEST).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
        let given = value.and_then(|bytes| std::str::from_utf8(bytes).ok()).filter(usable);
        given.map_or_else(Self::new, |text| Self(text.into()))
    }

    /// The id that the layer stack gave the call.
    pub fn of<T>(request: &tonic::Request<T>) -> Self {
        request.extensions().get::<Self>().cloned().unwrap_or_default()
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for RequestId {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
