//! Settings of a worker.

use std::time::Duration;

use endcap_inference::ModelOptions;
use endcap_service::{GrpcConfig, Settings, config::ByteSize};

/// Everything below `worker` in the settings, but the runtime, which is shared by the process.
#[derive(Debug, Clone)]
pub struct Config {
    pub(crate) grpc: GrpcConfig,
    pub(crate) models: ModelOptions,
    pub(crate) scan_threads: usize,
    pub(crate) memory_budget: u64,
    pub(crate) topology: String,
    pub(crate) lease_ttl: Duration,
}

impl Config {
    pub fn read(settings: &mut Settings) -> Option<Self> {
        let grpc = GrpcConfig::read(settings, "worker");
        let threads = positive(settings, "worker.threads");
        let max_batch_rows = positive(settings, "worker.max_batch_rows");
        let max_batch_rows_cuda = positive(settings, "worker.max_batch_rows_cuda");
        let queue_rows = positive(settings, "worker.queue_rows");
        let inline_max = settings.read("worker.inline_max");
        let pin_threads = settings.read("worker.pin_threads");
        let graph_min_items = positive(settings, "worker.graph_min_items");
        let scan_threads = positive(settings, "worker.scan_threads");
        let memory_budget = settings.read::<ByteSize>("worker.memory_budget");
        if memory_budget == Some(ByteSize(0)) {
            settings.reject("worker.memory_budget", "a size from 1 byte");
        }
        let topology = settings.read("worker.topology");
        let lease_ttl = settings.read("coordination.lease_ttl");
        Some(Self {
            grpc: grpc?,
            models: ModelOptions {
                threads: threads?,
                max_batch_rows: max_batch_rows?,
                max_batch_rows_cuda: max_batch_rows_cuda?,
                queue_rows: queue_rows?,
                inline_max: inline_max?,
                pin_threads: pin_threads?,
                graph_min_items: graph_min_items?,
            },
            scan_threads: scan_threads?,
            memory_budget: memory_budget?.0,
            topology: topology?,
            lease_ttl: lease_ttl?,
        })
    }
}

fn positive(settings: &mut Settings, key: &str) -> Option<usize> {
    let value = settings.read::<usize>(key)?;
    if value == 0 {
        settings.reject(key, "a number from 1");
        return None;
    }
    Some(value)
}
