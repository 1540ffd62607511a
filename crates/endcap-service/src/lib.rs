//! The chassis that every service stands on: settings, telemetry, listeners, health, drain, the layer stack, clients
//! and the one mapping between domain errors and gRPC statuses.
//!
//! **The contract**: a request accepted before the drain is finished or fails by its own deadline; no new connection
//! is accepted after readiness drops plus the drain delay. It is *not* a place for domain logic. Read [`GrpcServer`]
//! and [`Settings`] first.

pub mod admin;
pub mod client;
pub mod config;
mod deadline;
pub mod exchange;
mod exemplars;
mod histograms;
mod layers;
mod limit;
mod logs;
pub mod metrics;
mod readiness;
mod request_id;
mod server;
pub mod status;
pub mod task;
pub mod telemetry;
pub mod traces;

pub use config::{ConfigProblems, Settings};
pub use deadline::Deadline;
pub use layers::InFlightLimit;
pub use readiness::{Latch, Readiness, ReadinessParts};
pub use request_id::RequestId;
pub use server::{GrpcConfig, GrpcServer, ServeError};
