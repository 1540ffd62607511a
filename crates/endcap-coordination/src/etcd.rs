//! etcd behind the port: one member is spoken to at a time, and another one as soon as it does not answer.

mod connection;
mod convert;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use etcd_client::{Client, GetOptions, WatchOptions};
use futures::stream;

use self::connection::{Connection, Kind};
pub use self::connection::{EtcdOptions, EtcdTls};
use crate::{
    CoordinationError, Coordinator, KeyValue, LeaseId, Listing, Revision, Txn, TxnOutcome, WatchEvent,
    WatchStream,
};

/// Keys per page of a listing: a page of the fleet's records stays far below the largest message.
const PAGE: i64 = 2_000;

/// A coordinator that several processes share: an etcd cluster of version 3.4 or newer.
#[derive(Debug, Clone)]
pub struct EtcdCoordinator {
    connection: Arc<Connection>,
}

impl EtcdCoordinator {
    /// Reads the certificates that the options name; connects with the first call.
    pub fn new(options: EtcdOptions) -> Result<Self, CoordinationError> {
        Ok(Self { connection: Arc::new(Connection::new(options)?) })
    }

    /// One page of a listing, from `start` on, at `revision` (0: now).
    async fn page(
        &self,
        start: &str,
        prefix: &str,
        revision: i64,
    ) -> Result<(Vec<KeyValue>, i64, bool), CoordinationError> {
        let ask = |mut client: Client| {
            let options = GetOptions::new()
                .with_range(convert::prefix_end(prefix))
                .with_limit(PAGE)
                .with_revision(revision);
            async move { client.get(start, Some(options)).await }
        };
        let response = self.connection.call(Kind::Idempotent, ask).await?;
        let at = response.header().map_or(0, etcd_client::ResponseHeader::revision);
        let entries = response.kvs().iter().map(convert::key_value).collect::<Result<Vec<_>, _>>()?;
        Ok((entries, at, response.more()))
    }
}

#[async_trait]
impl Coordinator for EtcdCoordinator {
    async fn get(&self, key: &str) -> Result<Option<KeyValue>, CoordinationError> {
        let ask = |mut client: Client| async move { client.get(key, None).await };
        let response = self.connection.call(Kind::Idempotent, ask).await?;
        response.kvs().first().map(convert::key_value).transpose()
    }

    async fn list(&self, prefix: &str) -> Result<Listing, CoordinationError> {
        let (mut entries, revision, mut more) = self.page(prefix, prefix, 0).await?;
        while more {
            // The first key after the last one seen, in the order of bytes.
            let Some(next) = entries.last().map(|entry| format!("{}\0", entry.key)) else { break };
            let (page, _, rest) = self.page(&next, prefix, revision).await?;
            entries.extend(page);
            more = rest;
        }
        Ok(Listing { entries, revision: convert::revision(revision) })
    }

    async fn commit(&self, txn: Txn) -> Result<TxnOutcome, CoordinationError> {
        let txn = convert::txn(txn)?;
        let ask = |mut client: Client| {
            let txn = txn.clone();
            async move { client.txn(txn).await }
        };
        let response = self.connection.call(Kind::Once, ask).await?;
        if !response.succeeded() {
            return Ok(TxnOutcome::Conflict);
        }
        let revision = response.header().map_or(0, etcd_client::ResponseHeader::revision);
        Ok(TxnOutcome::Committed(convert::revision(revision)))
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<WatchStream, CoordinationError> {
        let ask = |mut client: Client| async move {
            let options = WatchOptions::new().with_prefix().with_start_revision(convert::signed(from));
            client.watch(prefix, Some(options)).await
        };
        let watch = self.connection.call(Kind::Idempotent, ask).await?;
        let connection = Arc::clone(&self.connection);
        let events = stream::unfold(Some((watch, connection)), |state| async move {
            let (mut watch, connection) = state?;
            let batch: Vec<Result<WatchEvent, CoordinationError>> = match watch.message().await {
                Ok(Some(response)) if response.compact_revision() > 0 => {
                    return Some((vec![Ok(WatchEvent::Compacted)], None));
                }
                Ok(Some(response)) if response.canceled() => {
                    let detail = format!("etcd ended the watch: {}", response.cancel_reason());
                    return Some((vec![Err(CoordinationError::Unavailable { detail })], None));
                }
                Ok(Some(response)) => response.events().iter().filter_map(convert::event).collect(),
                Ok(None) => return None,
                Err(error) => {
                    connection.leave_any();
                    return Some((vec![Err(convert::error(&error))], None));
                }
            };
            Some((batch, Some((watch, connection))))
        });
        Ok(Box::pin(futures::StreamExt::flat_map(events, stream::iter)))
    }

    async fn grant_lease(&self, ttl: Duration) -> Result<LeaseId, CoordinationError> {
        // A lease that was granted without our hearing of it runs out by itself.
        let seconds = i64::try_from(ttl.as_millis().div_ceil(1_000).max(1)).unwrap_or(i64::MAX);
        let ask = |mut client: Client| async move { client.lease_grant(seconds, None).await };
        let response = self.connection.call(Kind::Idempotent, ask).await?;
        Ok(LeaseId(response.id()))
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), CoordinationError> {
        // One exchange per beat: a stream kept open would need its own repair.
        let ask = |mut client: Client| async move { client.lease_keep_alive(lease.0).await.map(|_| ()) };
        self.connection.call(Kind::Idempotent, ask).await.map_err(|error| match error {
            CoordinationError::LeaseExpired { .. } => CoordinationError::LeaseExpired { lease: lease.0 },
            error => error,
        })
    }

    async fn revoke_lease(&self, lease: LeaseId) -> Result<(), CoordinationError> {
        let ask = |mut client: Client| async move { client.lease_revoke(lease.0).await.map(|_| ()) };
        match self.connection.call(Kind::Idempotent, ask).await {
            Err(CoordinationError::LeaseExpired { .. }) => Ok(()),
            other => other,
        }
    }
}

#[cfg(test)]
mod tests;
