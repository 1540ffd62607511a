//! The `endcap` binary as a library: the roles, a whole fleet in one process, and the operator's verbs.
//!
//! It is *not* a place for behaviour: services live in their own crates, this one composes them and talks to them
//! over their RPCs, as anybody would. Read [`fleet::Fleet`] and [`cli::Cli`] first.

pub mod bench;
mod bundle;
pub mod cli;
mod clients;
mod demo;
mod doctor;
pub mod evaluate;
pub mod features;
pub mod fleet;
pub mod metrics;
mod model;
mod output;
mod program;
mod ready;
mod recommend;
mod roles;
mod run;
mod settings;
mod status;
mod view;

pub use demo::{DEMO_BUNDLE, release};
pub use program::program;
pub use run::run;
