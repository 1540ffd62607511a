//! Rebuilding a coordinator that lost its data, or was restored from a backup that is older than the archive: models and
//! their history from the archive, who holds what from the workers. Until the epoch key is back, gateways and workers go
//! on with what they know, and nobody edits.

use std::{collections::BTreeMap, time::Duration};

use endcap_coordination::{Compare, Leadership, Txn, TxnOutcome};
use endcap_fleet::{EpochRecord, Keys, ModelView, Record as _, Recovered, RolloutRecord};
use endcap_types::ModelName;
use tokio::time::{Instant, timeout};

use crate::{
    controller::{Controller, MOST_OPS},
    error::RegistryError,
    ledger::now,
    world::{self, World},
};

/// How long a leader waits for the archive before it goes on without: assignments must not wait for the store.
pub(crate) const ARCHIVE_PATIENCE: Duration = Duration::from_secs(5);
/// Between two looks at who is back.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// What a new leader finds, or leaves behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Whole {
    /// The data are whole, as far as the archive knows.
    Compared,
    /// The archive could not be read: the coordinator is believed until it can.
    Believed,
    /// The leadership was lost meanwhile.
    Deposed,
}

impl Controller {
    /// Makes sure that the coordinator's data are whole: rebuilds them when the epoch key is gone, or when they are older
    /// than what is in the archive.
    pub(crate) async fn make_whole(&self, leadership: &Leadership) -> Result<Whole, RegistryError> {
        let coordinator = &*self.ledger.coordinator;
        let epoch_key = self.ledger.keys.epoch();
        let stored = coordinator.get(&epoch_key).await?;
        let found = stored.map(|stored| EpochRecord::from_json(&epoch_key, &stored.value)).transpose()?;
        if let Some(epoch) = &found {
            match self.is_behind(epoch).await? {
                Some(false) => {
                    // What this process knows may be of a store that was emptied.
                    self.ledger.archive.forget();
                    return Ok(Whole::Compared);
                }
                Some(true) => {}
                None => {
                    tracing::warn!("the ledger cannot be read: believing the coordinator until it can");
                    return Ok(Whole::Believed);
                }
            }
            tracing::error!(
                epoch = epoch.number,
                "the coordinator's data are older than the ledger, as after restoring a backup: rebuilding them"
            );
        }
        let restored = self.ledger.archive.restore().await?;
        if found.is_some() {
            // From here on edits wait.
            let end = Txn::default().when(leadership.fence()).delete(epoch_key.clone());
            if coordinator.commit(end).await? == TxnOutcome::Conflict {
                return Ok(Whole::Deposed);
            }
        } else if !restored.models.is_empty() {
            tracing::warn!(
                models = restored.models.len(),
                "the coordinator has no epoch: rebuilding its data"
            );
        }
        for (model, recovered) in &restored.models {
            if !recovered.missing.is_empty() {
                tracing::error!(%model, sequences = ?recovered.missing, "history entries are lost");
            }
            if !self.put_back(model, recovered, leadership).await? {
                return Ok(Whole::Deposed);
            }
        }
        let world = self.returned().await?;
        let last = found.map_or(0, |epoch| epoch.number).max(restored.epoch);
        let epoch = EpochRecord { number: last + 1, since: now() };
        let begin = Txn::default().when(leadership.fence()).when(Compare::Absent { key: epoch_key.clone() });
        let last = begin.put(epoch_key, epoch.to_json());
        // Workers believe the assignments from the epoch on: they must be there before it.
        for txn in self.transactions(&world, leadership).into_iter().chain([last]) {
            if coordinator.commit(txn).await? == TxnOutcome::Conflict {
                return Ok(Whole::Deposed);
            }
        }
        tracing::info!(
            epoch = epoch.number,
            models = restored.models.len(),
            "the coordinator's data are whole"
        );
        Ok(Whole::Compared)
    }

    /// Whether the archive has what the coordinator, whose epoch this is, has not: an entry is archived after it was
    /// committed, so that has been lost. Nothing when the archive cannot be read now.
    pub(crate) async fn is_behind(&self, epoch: &EpochRecord) -> Result<Option<bool>, RegistryError> {
        // The archive first: what is committed between the two looks is no loss.
        let reach = match timeout(ARCHIVE_PATIENCE, self.ledger.archive.reach()).await {
            Ok(Ok(reach)) => reach,
            Ok(Err(RegistryError::Bundle(_))) | Err(_) => return Ok(None),
            Ok(Err(error)) => return Err(error),
        };
        Ok(Some(reach.epoch > epoch.number || self.lacks(&reach.lengths).await?))
    }

    /// Whether the coordinator's history of any model is shorter than this.
    pub(crate) async fn lacks(&self, lengths: &BTreeMap<ModelName, u64>) -> Result<bool, RegistryError> {
        for (model, length) in lengths {
            let key = self.ledger.keys.rollout(model);
            let rollout = match self.ledger.coordinator.get(&key).await? {
                Some(stored) => RolloutRecord::from_json(&key, &stored.value)?,
                None => RolloutRecord::default(),
            };
            if rollout.history_length < *length {
                tracing::warn!(%model, archived = length, found = rollout.history_length, "history is lost");
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Puts a model's keys where the coordinator has less of it than the archive.
    async fn put_back(
        &self,
        model: &ModelName,
        recovered: &Recovered,
        leadership: &Leadership,
    ) -> Result<bool, RegistryError> {
        let coordinator = &*self.ledger.coordinator;
        let rollout_key = self.ledger.keys.rollout(model);
        if let Some(stored) = coordinator.get(&rollout_key).await? {
            let stored = RolloutRecord::from_json(&rollout_key, &stored.value)?;
            if stored.history_length >= recovered.view.rollout.history_length {
                return Ok(true);
            }
        }
        for puts in keys_of(&self.ledger.keys, model, recovered).chunks(MOST_OPS) {
            let txn = Txn::default().when(leadership.fence());
            let txn = puts.iter().fold(txn, |txn, (key, value)| txn.put(key, value.clone()));
            if coordinator.commit(txn).await? == TxnOutcome::Conflict {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The world once every version that an alias names is ready on as many workers as it should be, or after the time
    /// that a worker needs to come back.
    async fn returned(&self) -> Result<World, RegistryError> {
        let (keys, deadline) = (&self.ledger.keys, Instant::now() + self.grace);
        loop {
            let world = World::list(&*self.ledger.coordinator, keys, &world::prefixes(keys)).await?;
            let all = world.view.models.iter().all(|(model, view)| self.is_back(&world, model, view));
            if all || Instant::now() >= deadline {
                return Ok(world);
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    fn is_back(&self, world: &World, model: &ModelName, view: &ModelView) -> bool {
        view.rollout.aliases.values().all(|version| {
            let Some(record) = view.versions.get(version) else { return true };
            record.shard_count.indices().all(|shard| {
                let shard = endcap_fleet::ShardKey { model: model.clone(), version: *version, shard };
                let holders = world.view.ready.get(&shard).into_iter().flat_map(|holders| holders.values());
                holders.filter(|ready| ready.digest == record.digest).count() >= self.replicas
            })
        })
    }
}

/// The rollout last: whoever finds it finds the rest.
fn keys_of(keys: &Keys, model: &ModelName, recovered: &Recovered) -> Vec<(String, Vec<u8>)> {
    let history = recovered.history.values();
    let history = history.map(|entry| (keys.history(model, entry.sequence), entry.to_json()));
    let versions = recovered.view.versions.iter();
    let versions = versions.map(|(version, record)| (keys.version(model, *version), record.to_json()));
    let rollout = (keys.rollout(model), recovered.view.rollout.to_json());
    history.chain(versions).chain([rollout]).collect()
}
