//! Making a replica ready: fetch, verify, load, warm, golden-check. Blocking work happens on a thread of its own.

use std::{sync::Arc, time::Instant};

use endcap_bundle::{Bundle, BundleError, BundleStore, Parts, in_background};
use endcap_inference::{LoadError, ModelOptions, Runtime, ShardTable, VersionModel};
use endcap_types::{Coded, ErrorCode, ShardIndex, VersionPin};
use thiserror::Error;

use crate::metrics::phase;

/// Why a replica could not be made ready. Its text is what `endcap model validate` shows.
#[derive(Debug, Error)]
pub(crate) enum ReplicaError {
    #[error("{0}")]
    Load(#[from] LoadError),
    #[error(
        "it needs {needed} bytes and {free} of {budget} are free; raise worker.memory_budget or add workers"
    )]
    Memory { needed: u64, free: u64, budget: u64 },
    #[error("loading ended early: {detail}")]
    Ended { detail: String },
}

impl ReplicaError {
    /// Whether trying the same again may succeed: the store may be back, memory may be free.
    pub(crate) fn is_passing(&self) -> bool {
        match self {
            Self::Load(error) => matches!(error.code(), ErrorCode::Unavailable | ErrorCode::Internal),
            Self::Memory { .. } | Self::Ended { .. } => true,
        }
    }
}

impl From<BundleError> for ReplicaError {
    fn from(error: BundleError) -> Self {
        Self::Load(LoadError::Bundle(error))
    }
}

/// Loads replicas.
#[derive(Debug, Clone)]
pub(crate) struct Loader {
    pub(crate) store: Arc<BundleStore>,
    pub(crate) runtime: Runtime,
    pub(crate) options: ModelOptions,
}

impl Loader {
    /// Loads one shard, and the version's model unless it is here already.
    pub(crate) async fn load(
        &self,
        pin: &VersionPin,
        shard: ShardIndex,
        model: Option<Arc<VersionModel>>,
        free: u64,
    ) -> Result<(Arc<VersionModel>, ShardTable), ReplicaError> {
        let started = Instant::now();
        let bundle = self.store.fetch(pin.digest, Parts::Shards(vec![shard])).await?;
        phase("fetch_and_verify", started);
        let (runtime, options) = (self.runtime.clone(), self.options);
        let loading = tokio::task::spawn_blocking(move || {
            let shared = model.is_some();
            let loaded = build(&bundle, shard, model, &runtime, &options)?;
            let needed = loaded.1.memory_bytes() + if shared { 0 } else { loaded.0.memory_bytes() };
            if needed > free {
                return Err(ReplicaError::Memory { needed, free, budget: 0 });
            }
            Ok(loaded)
        });
        loading.await.map_err(|error| ReplicaError::Ended { detail: error.to_string() })?
    }
}

fn build(
    bundle: &Bundle,
    shard: ShardIndex,
    model: Option<Arc<VersionModel>>,
    runtime: &Runtime,
    options: &ModelOptions,
) -> Result<(Arc<VersionModel>, ShardTable), ReplicaError> {
    let golden = bundle.golden()?;
    let started = Instant::now();
    let model = match model {
        Some(model) => model,
        None => {
            let model = VersionModel::load(runtime, bundle, options)?;
            let farthest = in_background(|| model.check_golden(&golden, None)).map_err(LoadError::from)?;
            tracing::info!(
                requests = golden.len(),
                farthest,
                device = runtime.device(),
                "golden requests agree"
            );
            Arc::new(model)
        }
    };
    phase("load_and_warm", started);
    let started = Instant::now();
    let table = in_background(|| -> Result<_, LoadError> {
        let items = bundle.items(shard)?;
        bundle.check_shard(&items, shard)?;
        let table = model.bind(items)?;
        model.check_golden(&golden, Some(&table))?;
        Ok(table)
    })?;
    phase("golden", started);
    Ok((model, table))
}
