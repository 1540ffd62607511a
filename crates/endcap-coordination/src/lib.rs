//! The coordination port, and what is built on it: what the fleet agrees on, and who is alive.
//!
//! [`Coordinator`] is the port; [`EtcdCoordinator`] implements it for a fleet of many processes, and
//! [`EmbeddedCoordinator`] for a fleet in one. [`Session`], [`Mirror`] and [`campaign`] need the port alone, so they work the same over any implementation. This crate is *not*
//! the place for what the keys mean; that is `endcap-fleet`. Read [`Coordinator`] and [`Mirror`] first.

mod complaint;
#[cfg(any(test, feature = "test-util"))]
pub mod conformance;
mod election;
mod embedded;
mod etcd;
mod mirror;
mod port;
mod session;
#[cfg(any(test, feature = "test-util"))]
pub mod test_util;

pub use complaint::Complaint;
pub use election::{Leadership, campaign, leader};
pub use embedded::EmbeddedCoordinator;
pub use etcd::{EtcdCoordinator, EtcdOptions, EtcdTls};
pub use mirror::{Entries, Freshness, Mirror, MirrorOptions};
pub use port::{
    Compare, CoordinationError, Coordinator, KeyValue, LeaseId, Listing, Op, Revision, Txn, TxnOutcome,
    WatchEvent, WatchStream,
};
pub use session::Session;
