//! A request's deadline.

use std::time::Duration;

use tokio::time::Instant;

/// When an answer stops being of use. Set by the layer stack from `grpc-timeout`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(Instant);

impl Deadline {
    pub fn after(remaining: Duration) -> Self {
        Self(Instant::now() + remaining)
    }

    pub(crate) fn at(instant: Instant) -> Self {
        Self(instant)
    }

    /// The caller's deadline, or `default` from now for a caller who brought none.
    pub fn of<T>(request: &tonic::Request<T>, default: Duration) -> Self {
        request.extensions().get::<Self>().copied().unwrap_or_else(|| Self::after(default))
    }

    pub fn instant(self) -> Instant {
        self.0
    }

    pub fn remaining(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }

    pub fn is_expired(self) -> bool {
        self.remaining().is_zero()
    }

    /// The earlier of this and `limit` from now.
    #[must_use]
    pub fn within(self, limit: Duration) -> Self {
        self.min(Self::after(limit))
    }

    /// This much earlier, which may have passed.
    #[must_use]
    pub fn less(self, reserve: Duration) -> Self {
        Self(self.0.checked_sub(reserve).unwrap_or(self.0))
    }
}

/// Reads `grpc-timeout`: at most 8 digits and a unit of `H M S m u n`.
pub(crate) fn parse_grpc_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(number * 3600)),
        "M" => Some(Duration::from_secs(number * 60)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_timeouts_are_read() {
        let cases = [
            ("1H", Some(Duration::from_secs(3600))),
            ("250m", Some(Duration::from_millis(250))),
            ("0n", Some(Duration::ZERO)),
            ("99999999u", Some(Duration::from_micros(99_999_999))),
            ("", None),
            ("m", None),
            ("123456789m", None),
            ("-1m", None),
            ("5x", None),
            ("5é", None),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_grpc_timeout(text), expected, "{text}");
        }
    }
}
