//! The coordination port and its embedded implementation.

mod port;

pub use port::{
    Compare, CoordinationError, Coordinator, KeyValue, LeaseId, Listing, Op, Revision, Txn, TxnOutcome,
    WatchEvent, WatchStream,
};
