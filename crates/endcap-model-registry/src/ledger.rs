//! Edits of a model. Every edit is one transaction over the rollout key, together with its history entry: edits are
//! serialised per model, none is lost, and history has no gaps. Each entry is also archived outside the coordinator
//! before its editor hears of it.

use std::{sync::Arc, time::Duration};

use endcap_coordination::{Compare, Coordinator, KeyValue, Txn, TxnOutcome};
use endcap_fleet::{
    Action, EpochRecord, HistoryRecord, Key, Keys, LedgerPage, ModelView, Record as _, RolloutRecord,
    VersionRecord,
};
use endcap_types::{Alias, Digest, ModelName, Version};
use tokio::time::Instant;

use crate::{archive::Archive, error::RegistryError};

/// Tries before an editor is told that others keep winning. Each lost try means that somebody else's edit was done.
const TRIES: usize = 64;
/// How long a caller waits for a coordinator that is being rebuilt, or has just been started.
const PATIENCE: Duration = Duration::from_secs(3);
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Reads and edits models.
#[derive(Debug, Clone)]
pub(crate) struct Ledger {
    pub(crate) coordinator: Arc<dyn Coordinator>,
    pub(crate) keys: Keys,
    pub(crate) archive: Archive,
}

/// What an edit changes.
#[derive(Debug, Default)]
pub(crate) struct Edit {
    /// The rollout after it, if an alias moves.
    pub(crate) rollout: Option<RolloutRecord>,
    pub(crate) versions: Vec<(Version, VersionRecord)>,
    pub(crate) history: Option<Entry>,
}

/// A history entry to be.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) action: Action,
    pub(crate) actor: String,
    pub(crate) to: Version,
    pub(crate) digest: Digest,
    pub(crate) reason: String,
}

/// Whether there is something to do.
pub(crate) enum Decision<T> {
    Commit(Box<Edit>, T),
    Nothing(T),
}

impl Ledger {
    /// A model as it is now; empty for one that does not exist.
    pub(crate) async fn read(&self, model: &ModelName) -> Result<ModelView, RegistryError> {
        self.epoch().await?;
        Ok(self.read_with_revision(model).await?.0)
    }

    /// Decides on the model as it is, commits, and starts over when somebody else was faster.
    pub(crate) async fn edit<T>(
        &self,
        model: &ModelName,
        decide: impl Fn(&ModelView) -> Result<Decision<T>, RegistryError>,
    ) -> Result<T, RegistryError> {
        for _ in 0..TRIES {
            let (epoch, held) = self.epoch().await?;
            let (view, seen) = self.read_with_revision(model).await?;
            let (edit, result) = match decide(&view)? {
                Decision::Commit(edit, result) => (edit, result),
                Decision::Nothing(result) => return Ok(result),
            };
            let (txn, page) = self.transaction(model, &view, seen, *edit);
            let txn = txn.when(held);
            if let TxnOutcome::Committed(_) = self.coordinator.commit(txn).await? {
                self.keep(&epoch, model, page).await;
                return Ok(result);
            }
        }
        Err(RegistryError::Contended { model: model.clone() })
    }

    /// Every entry after a sequence number, oldest first.
    pub(crate) async fn history(
        &self,
        model: &ModelName,
        after: u64,
    ) -> Result<Vec<HistoryRecord>, RegistryError> {
        self.epoch().await?;
        let listing = self.coordinator.list(&self.keys.histories(model)).await?;
        let records = listing.entries.iter().map(|entry| HistoryRecord::from_json(&entry.key, &entry.value));
        let records = records.collect::<Result<Vec<_>, _>>()?;
        Ok(records.into_iter().filter(|record| record.sequence > after).collect())
    }

    /// The epoch of the coordinator's data, and what fails an edit that was decided in another one.
    ///
    /// # Errors
    /// [`RegistryError::Rebuilding`] while there is none.
    pub(crate) async fn epoch(&self) -> Result<(EpochRecord, Compare), RegistryError> {
        let (key, deadline) = (self.keys.epoch(), Instant::now() + PATIENCE);
        loop {
            if let Some(KeyValue { value, create_revision: revision, .. }) =
                self.coordinator.get(&key).await?
            {
                let epoch = EpochRecord::from_json(&key, &value)?;
                return Ok((epoch, Compare::CreateRevision { key, revision }));
            }
            if Instant::now() >= deadline {
                return Err(RegistryError::Rebuilding);
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// The edit is done whatever becomes of its page: a store that is away must not hold up a rollback. The leader
    /// writes what is missing.
    async fn keep(&self, epoch: &EpochRecord, model: &ModelName, page: Option<LedgerPage>) {
        let Some(page) = page else { return };
        if let Err(error) = self.archive.append(epoch.number, model, &page).await {
            tracing::warn!(%model, sequence = page.entry.sequence, %error, "history is not archived yet");
        }
    }

    async fn read_with_revision(&self, model: &ModelName) -> Result<(ModelView, Option<u64>), RegistryError> {
        // The rollout first: an edit between the two reads then fails the comparison.
        let rollout_key = self.keys.rollout(model);
        let stored = self.coordinator.get(&rollout_key).await?;
        let rollout = match &stored {
            Some(stored) => RolloutRecord::from_json(&rollout_key, &stored.value)?,
            None => RolloutRecord::default(),
        };
        let mut view = ModelView { rollout, ..ModelView::default() };
        for entry in self.coordinator.list(&self.keys.versions(model)).await?.entries {
            if let Some(Key::Version { version, .. }) = self.keys.parse(&entry.key) {
                view.versions.insert(version, VersionRecord::from_json(&entry.key, &entry.value)?);
            }
        }
        Ok((view, stored.map(|stored| stored.mod_revision)))
    }

    /// The edit as one transaction, and as the page to archive if it makes history.
    fn transaction(
        &self,
        model: &ModelName,
        view: &ModelView,
        seen: Option<u64>,
        edit: Edit,
    ) -> (Txn, Option<LedgerPage>) {
        let rollout_key = self.keys.rollout(model);
        let mut txn = Txn::default().when(match seen {
            Some(revision) => Compare::ModRevision { key: rollout_key.clone(), revision },
            None => Compare::Absent { key: rollout_key.clone() },
        });
        let mut rollout = edit.rollout.unwrap_or_else(|| view.rollout.clone());
        rollout.history_length = view.rollout.history_length;
        let entry = edit.history.map(|entry| HistoryRecord {
            sequence: rollout.history_length + 1,
            at: now(),
            action: entry.action,
            actor: entry.actor,
            from: view.rollout.aliases.get(&Alias::Stable).copied(),
            to: entry.to,
            digest: entry.digest,
            reason: entry.reason,
        });
        if let Some(entry) = &entry {
            rollout.history_length = entry.sequence;
            let key = self.keys.history(model, entry.sequence);
            txn = txn.when(Compare::Absent { key: key.clone() }).put(key, entry.to_json());
        }
        for (version, record) in &edit.versions {
            txn = txn.put(self.keys.version(model, *version), record.to_json());
        }
        txn = txn.put(rollout_key, rollout.to_json());
        (txn, entry.map(|entry| LedgerPage { entry, rollout, versions: edit.versions }))
    }
}

/// RFC 3339, to the millisecond.
pub(crate) fn now() -> String {
    let now = jiff::Timestamp::now();
    now.round(jiff::Unit::Millisecond).unwrap_or(now).to_string()
}
