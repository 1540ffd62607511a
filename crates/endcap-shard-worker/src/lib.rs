//! endcap-shard-worker
