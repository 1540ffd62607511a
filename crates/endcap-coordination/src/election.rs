//! Leader election over the port alone, by etcd's recipe: the oldest leased key below a prefix leads.

use futures::StreamExt as _;

use crate::{Compare, CoordinationError, Coordinator, KeyValue, LeaseId, Revision, Txn, WatchEvent};

/// A won election. Fence every write with [`Leadership::fence`]: a leader that has lost its lease without noticing
/// must not be able to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leadership {
    pub key: String,
    pub create_revision: Revision,
}

impl Leadership {
    /// Holds as long as this leadership does.
    pub fn fence(&self) -> Compare {
        Compare::CreateRevision { key: self.key.clone(), revision: self.create_revision }
    }
}

/// Stands for election and returns when it is won. Cancelling leaves the candidacy standing until its lease ends.
pub async fn campaign(
    coordinator: &dyn Coordinator,
    election: &str,
    candidate: &str,
    lease: LeaseId,
) -> Result<Leadership, CoordinationError> {
    let prefix = format!("{election}/");
    let key = format!("{prefix}{:016x}", lease.0);
    let stand = Txn::default().when(Compare::Absent { key: key.clone() }).put_leased(
        &key,
        candidate.as_bytes(),
        lease,
    );
    coordinator.commit(stand).await?;
    loop {
        let listing = coordinator.list(&prefix).await?;
        let mine = listing.entries.iter().find(|entry| entry.key == key);
        let Some(create_revision) = mine.map(|entry| entry.create_revision) else {
            return Err(CoordinationError::LeaseExpired { lease: lease.0 });
        };
        // Each candidate waits for the one before it alone, so that a leader's end wakes one, not all.
        let before = listing
            .entries
            .iter()
            .filter(|entry| entry.create_revision < create_revision)
            .max_by_key(|entry| entry.create_revision);
        let Some(before) = before else {
            return Ok(Leadership { key, create_revision });
        };
        wait_for_delete(coordinator, before, listing.revision).await?;
    }
}

/// Who leads, if anyone does.
pub async fn leader(
    coordinator: &dyn Coordinator,
    election: &str,
) -> Result<Option<String>, CoordinationError> {
    let listing = coordinator.list(&format!("{election}/")).await?;
    let oldest = listing.entries.into_iter().min_by_key(|entry| entry.create_revision);
    Ok(oldest.map(|entry| String::from_utf8_lossy(&entry.value).into_owned()))
}

async fn wait_for_delete(
    coordinator: &dyn Coordinator,
    entry: &KeyValue,
    listed: Revision,
) -> Result<(), CoordinationError> {
    let mut changes = coordinator.watch(&entry.key, listed + 1).await?;
    while let Some(change) = changes.next().await {
        match change? {
            WatchEvent::Delete { key, .. } if key == entry.key => return Ok(()),
            WatchEvent::Compacted => return Ok(()),
            WatchEvent::Delete { .. } | WatchEvent::Put(_) => {}
        }
    }
    Ok(())
}
