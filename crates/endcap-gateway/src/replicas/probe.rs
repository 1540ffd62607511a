//! Asking ejected workers for their health, beside all requests: the way back for one that answers again.

use std::{sync::Arc, time::Duration};

use endcap_service::Deadline;
use futures::future::join_all;
use tokio::time::Instant;

use super::Load;
use crate::ports::HealthClient;

/// How often those that are due are looked for.
const TICK: Duration = Duration::from_millis(200);
/// What a worker has to answer.
const PATIENCE: Duration = Duration::from_millis(500);

/// Probes until it is dropped.
pub(crate) async fn probe(load: Arc<Load>, client: Arc<dyn HealthClient>) {
    let mut ticks = tokio::time::interval(TICK);
    loop {
        ticks.tick().await;
        let due = load.due(Instant::now());
        join_all(due.iter().map(async |(endpoint, peer)| {
            let serving = client.is_serving(endpoint, Deadline::after(PATIENCE)).await;
            peer.probed(serving, Instant::now());
        }))
        .await;
    }
}
