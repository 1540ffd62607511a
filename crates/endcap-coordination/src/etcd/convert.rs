//! Between etcd's types and the port's.

use std::{collections::BTreeSet, error::Error as _};

use etcd_client::{CompareOp, Error, EventType, PutOptions, TxnOp};

use crate::{Compare, CoordinationError, KeyValue, LeaseId, Op, Revision, Txn, WatchEvent};

pub(super) fn revision(revision: i64) -> Revision {
    Revision::try_from(revision).unwrap_or_default()
}

pub(super) fn signed(revision: Revision) -> i64 {
    i64::try_from(revision).unwrap_or(i64::MAX)
}

pub(super) fn key_value(entry: &etcd_client::KeyValue) -> Result<KeyValue, CoordinationError> {
    let key = entry.key_str().map_err(|error| self::error(&error))?.to_owned();
    Ok(KeyValue {
        key,
        value: entry.value().to_vec(),
        create_revision: revision(entry.create_revision()),
        mod_revision: revision(entry.mod_revision()),
        lease: (entry.lease() != 0).then(|| LeaseId(entry.lease())),
    })
}

pub(super) fn event(event: &etcd_client::Event) -> Option<Result<WatchEvent, CoordinationError>> {
    let entry = match key_value(event.kv()?) {
        Ok(entry) => entry,
        Err(error) => return Some(Err(error)),
    };
    Some(Ok(match event.event_type() {
        EventType::Put => WatchEvent::Put(entry),
        EventType::Delete => WatchEvent::Delete { key: entry.key, revision: entry.mod_revision },
    }))
}

pub(super) fn txn(txn: Txn) -> Result<etcd_client::Txn, CoordinationError> {
    let mut named = BTreeSet::new();
    for op in &txn.ops {
        let (Op::Put { key, .. } | Op::Delete { key }) = op;
        if !named.insert(key.as_str()) {
            return Err(CoordinationError::DuplicateKey { key: key.clone() });
        }
    }
    let compares: Vec<_> = txn
        .compares
        .into_iter()
        .map(|compare| match compare {
            Compare::Absent { key } => etcd_client::Compare::create_revision(key, CompareOp::Equal, 0),
            Compare::ModRevision { key, revision } => {
                etcd_client::Compare::mod_revision(key, CompareOp::Equal, signed(revision))
            }
            Compare::CreateRevision { key, revision } => {
                etcd_client::Compare::create_revision(key, CompareOp::Equal, signed(revision))
            }
        })
        .collect();
    let ops: Vec<_> = txn
        .ops
        .into_iter()
        .map(|op| match op {
            Op::Put { key, value, lease } => {
                let options = lease.map(|lease| PutOptions::new().with_lease(lease.0));
                TxnOp::put(key, value, options)
            }
            Op::Delete { key } => TxnOp::delete(key, None),
        })
        .collect();
    Ok(etcd_client::Txn::new().when(compares).and_then(ops))
}

/// The first key after all that begin with `prefix`: etcd's own way of asking for a prefix.
pub(super) fn prefix_end(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return end;
        }
    }
    // Everything.
    vec![0]
}

pub(super) fn error(error: &Error) -> CoordinationError {
    let detail = error.to_string();
    match error {
        // What etcd-client says of a keep-alive that was answered with a time to live of 0.
        Error::LeaseKeepAliveError(_) => CoordinationError::LeaseExpired { lease: 0 },
        Error::GRpcStatus(status) => {
            let message = status.message();
            if message.contains("requested lease not found") {
                return CoordinationError::LeaseExpired { lease: 0 };
            }
            // Told by name, because a dependency on tonic for its codes alone would be a second client library.
            let refused = ["InvalidArgument", "PermissionDenied", "Unauthenticated", "FailedPrecondition"];
            if refused.contains(&format!("{:?}", status.code()).as_str()) {
                return CoordinationError::Refused { detail: message.to_owned() };
            }
            CoordinationError::Unavailable { detail: cause(status) }
        }
        Error::InvalidArgs(_) | Error::InvalidUri(_) | Error::InvalidMetadataValue(_) => {
            CoordinationError::Refused { detail }
        }
        _ => CoordinationError::Unavailable { detail },
    }
}

/// No connection was made, so nothing was sent.
pub(super) fn never_sent(error: &Error) -> bool {
    let Error::GRpcStatus(status) = error else { return false };
    let mut source = status.source();
    while let Some(error) = source {
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            return io.kind() == std::io::ErrorKind::ConnectionRefused;
        }
        source = error.source();
    }
    false
}

/// The innermost reason: "transport error" alone helps nobody.
fn cause(status: &(impl std::error::Error + 'static)) -> String {
    let mut innermost: &(dyn std::error::Error + 'static) = status;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}
