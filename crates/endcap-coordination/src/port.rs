//! The coordination port: what the fleet needs of a strongly consistent store, shaped so that etcd and the embedded
//! store can both be it.

use std::time::Duration;

use async_trait::async_trait;
use endcap_types::{Coded, ErrorCode};
use futures::stream::BoxStream;
use thiserror::Error;

/// A point in the store's history. Every commit that changes something gets the next one.
pub type Revision = u64;

/// A key's value and where it stands in history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyValue {
    pub key: String,
    pub value: Vec<u8>,
    /// When the key came into being (again, after a delete).
    pub create_revision: Revision,
    /// When it was last put: what a compare-and-set compares.
    pub mod_revision: Revision,
    pub lease: Option<LeaseId>,
}

/// All keys of a prefix at one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// Ascending by key.
    pub entries: Vec<KeyValue>,
    /// Watching from `revision + 1` misses nothing.
    pub revision: Revision,
}

/// A lease: keys put under it vanish when it expires or is revoked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub i64);

/// What must hold for a transaction to be applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Compare {
    /// The key does not exist.
    Absent { key: String },
    /// The key exists and was last put at this revision.
    ModRevision { key: String, revision: Revision },
    /// The key exists and came into being at this revision: a leader's fence.
    CreateRevision { key: String, revision: Revision },
}

/// One change of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    Put {
        key: String,
        value: Vec<u8>,
        lease: Option<LeaseId>,
    },
    /// Deleting an absent key is no error.
    Delete {
        key: String,
    },
}

/// All changes are applied at one revision if every comparison holds, else none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Txn {
    pub compares: Vec<Compare>,
    pub ops: Vec<Op>,
}

impl Txn {
    #[must_use]
    pub fn when(mut self, compare: Compare) -> Self {
        self.compares.push(compare);
        self
    }

    #[must_use]
    pub fn put(mut self, key: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        self.ops.push(Op::Put { key: key.into(), value: value.into(), lease: None });
        self
    }

    #[must_use]
    pub fn put_leased(mut self, key: impl Into<String>, value: impl Into<Vec<u8>>, lease: LeaseId) -> Self {
        self.ops.push(Op::Put { key: key.into(), value: value.into(), lease: Some(lease) });
        self
    }

    #[must_use]
    pub fn delete(mut self, key: impl Into<String>) -> Self {
        self.ops.push(Op::Delete { key: key.into() });
        self
    }
}

/// What became of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TxnOutcome {
    /// Applied at this revision.
    Committed(Revision),
    /// A comparison did not hold; nothing was changed.
    Conflict,
}

/// One change, as a watcher sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchEvent {
    Put(KeyValue),
    Delete {
        key: String,
        revision: Revision,
    },
    /// The history asked for is no longer kept. The stream ends after it: list again and watch from there.
    Compacted,
}

/// Changes of a prefix in commit order, none twice, none missing.
pub type WatchStream = BoxStream<'static, Result<WatchEvent, CoordinationError>>;

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CoordinationError {
    #[error("the coordinator cannot be reached: {detail}")]
    Unavailable { detail: String },
    /// A wrong password, a certificate that cannot be read: trying again changes nothing.
    #[error("the coordinator refuses: {detail}")]
    Refused { detail: String },
    #[error("lease {lease} has expired")]
    LeaseExpired { lease: i64 },
    #[error("the coordinator's store at {path} cannot be used: {detail}")]
    Store { path: String, detail: String },
    #[error("a transaction names {key} twice")]
    DuplicateKey { key: String },
}

impl Coded for CoordinationError {
    fn code(&self) -> ErrorCode {
        match self {
            Self::Unavailable { .. } | Self::LeaseExpired { .. } => ErrorCode::Unavailable,
            Self::Store { .. } | Self::DuplicateKey { .. } | Self::Refused { .. } => ErrorCode::Internal,
        }
    }
}

/// A strongly consistent key-value store with leases and watches. Cancelling a call may leave it done or not done,
/// never half done.
#[async_trait]
pub trait Coordinator: Send + Sync + std::fmt::Debug {
    /// The value now, linearizable.
    async fn get(&self, key: &str) -> Result<Option<KeyValue>, CoordinationError>;

    /// All keys that begin with `prefix`, at one revision.
    async fn list(&self, prefix: &str) -> Result<Listing, CoordinationError>;

    /// Applies a transaction, or nothing. Not idempotent: a caller that lost the answer must read.
    async fn commit(&self, txn: Txn) -> Result<TxnOutcome, CoordinationError>;

    /// Changes of keys that begin with `prefix`, from `from` on.
    async fn watch(&self, prefix: &str, from: Revision) -> Result<WatchStream, CoordinationError>;

    /// A new lease that expires unless kept alive within `ttl`.
    async fn grant_lease(&self, ttl: Duration) -> Result<LeaseId, CoordinationError>;

    /// Extends a lease by its ttl; `LeaseExpired` when it is too late.
    async fn keep_alive(&self, lease: LeaseId) -> Result<(), CoordinationError>;

    /// Ends a lease and deletes its keys. Idempotent.
    async fn revoke_lease(&self, lease: LeaseId) -> Result<(), CoordinationError>;
}
