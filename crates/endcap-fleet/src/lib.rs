//! What the fleet knows and decides, as pure functions: the coordination keys and records, which worker holds which
//! shard, the immutable routing snapshot of a gateway, and the moves of a rollout.
//!
//! It is *not* allowed I/O, a runtime or a clock: everything here is a function of its arguments, so that it can be
//! tested by the million. Read [`RoutingSnapshot`] and [`RolloutRecord`] first.

mod assign;
mod keys;
mod ledger;
mod moves;
mod records;
mod snapshot;

pub use assign::{Host, Lack, Placement, Shortfall, Wanted, assign};
pub use keys::{DEFAULT_PREFIX, Key, Keys, ShardKey};
pub use ledger::{EpochRecord, LedgerPage, Recovered, replay};
pub use moves::{MoveError, check_revision, promote, rollback};
pub use records::{
    Action, AssignmentRecord, EvaluationRecord, FORMAT, FailedRecord, HistoryRecord, MemberRecord, ModelView,
    Models, ReadyRecord, Record, RecordError, RolloutRecord, VersionRecord, VersionState, WorkerRecord,
    is_wanted,
};
pub use snapshot::{
    FleetView, ReadyReplicas, Replica, Route, RouteError, RoutingSnapshot, Target, missing_shards,
};
