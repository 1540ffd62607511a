//! The wire contract as Rust: generated code, and the conversions to and from domain types.
//!
//! Wire types are only ever named `pb::X`, those of the Open Inference Protocol `inference::X`. Validation happens on
//! the receiver, in `TryFrom<pb::X>`, because a sender builds messages from values that are already valid. Read [`pb`]
//! and [`convert`] first.

pub mod columns;
pub mod convert;

pub mod pb {
    //! Generated from `proto/endcap/v1`.
    #![allow(
        missing_debug_implementations,
        unreachable_pub,
        clippy::all,
        clippy::too_many_lines,
        clippy::allow_attributes_without_reason,
        reason = "generated code"
    )]
    tonic::include_proto!("endcap.v1");

    /// The encoded descriptor set, for gRPC server reflection.
    pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
}

pub mod inference {
    //! Generated from `proto/inference`: the Open Inference Protocol.
    #![allow(
        missing_debug_implementations,
        unreachable_pub,
        clippy::all,
        clippy::too_many_lines,
        clippy::allow_attributes_without_reason,
        reason = "generated code"
    )]
    tonic::include_proto!("inference");
}
