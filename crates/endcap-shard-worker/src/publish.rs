//! What a worker tells the fleet, under its lease.

use std::sync::Arc;

use endcap_coordination::Session;
use endcap_fleet::{FailedRecord, Keys, ReadyRecord, Record, ShardKey, WorkerRecord};
use endcap_types::VersionPin;

/// Publishes readiness. Failures to publish are retried by the session; they never stop the worker.
#[derive(Debug, Clone)]
pub(crate) struct Publisher {
    pub(crate) session: Session,
    pub(crate) keys: Keys,
    pub(crate) id: Arc<str>,
    pub(crate) endpoint: Arc<str>,
    pub(crate) device: &'static str,
    pub(crate) memory_budget: u64,
    pub(crate) topology: Arc<str>,
}

impl Publisher {
    pub(crate) async fn worker(&self, memory_used: u64) {
        let record = WorkerRecord {
            endpoint: self.endpoint.to_string(),
            device: self.device.to_owned(),
            memory_budget_bytes: self.memory_budget,
            memory_used_bytes: memory_used,
            build: env!("CARGO_PKG_VERSION").to_owned(),
            topology: self.topology.to_string(),
        };
        self.put(self.keys.worker(&self.id), &record).await;
    }

    pub(crate) async fn ready(&self, shard: &ShardKey, pin: &VersionPin) {
        let record = ReadyRecord { digest: pin.digest, endpoint: self.endpoint.to_string() };
        self.put(self.keys.ready(shard, &self.id), &record).await;
        self.delete(&self.keys.failed(shard, &self.id)).await;
    }

    pub(crate) async fn failed(&self, shard: &ShardKey, pin: &VersionPin, attempt: u64, reason: String) {
        tracing::error!(shard = ?shard, reason, "replica is not ready");
        self.put(self.keys.failed(shard, &self.id), &FailedRecord { digest: pin.digest, attempt, reason })
            .await;
    }

    pub(crate) async fn not_ready(&self, shard: &ShardKey) {
        self.delete(&self.keys.ready(shard, &self.id)).await;
    }

    pub(crate) async fn forget_failure(&self, shard: &ShardKey) {
        self.delete(&self.keys.failed(shard, &self.id)).await;
    }

    async fn put(&self, key: String, record: &impl Record) {
        if let Err(error) = self.session.put(key, record.to_json()).await {
            tracing::warn!(%error, "not published yet");
        }
    }

    async fn delete(&self, key: &str) {
        if let Err(error) = self.session.delete(key).await {
            tracing::warn!(%error, "not published yet");
        }
    }
}
