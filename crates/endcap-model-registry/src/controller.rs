//! The controller: one leader keeps assignments equal to what the pure functions of `endcap-fleet` say.

use std::{sync::Arc, time::Duration};

use endcap_coordination::{Complaint, Entries, Leadership, Session, Txn, TxnOutcome, campaign};
use endcap_fleet::{AssignmentRecord, LedgerPage, Record as _};
use endcap_types::ModelName;
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};

use crate::{
    error::RegistryError,
    ledger::Ledger,
    placement::{self, placement},
    rebuild::{ARCHIVE_PATIENCE, Whole},
    validate::Validate,
    world::World,
};

/// After a failure of the coordinator.
const RETRY: Duration = Duration::from_millis(500);
/// How often a leader makes sure that it still leads, and that nothing is missing from the archive.
const INSPECT: Duration = Duration::from_secs(3);
/// Every so many inspections the coordinator is held against the archive's own list: what another registry archived just
/// before a backup was restored is in no memory of this one.
const COMPARE_EVERY: u32 = 5;
/// Changes in one transaction: etcd's default limit is 128 operations.
pub(crate) const MOST_OPS: usize = 100;

#[derive(Debug)]
pub(crate) struct Controller {
    pub(crate) ledger: Ledger,
    pub(crate) validate: Validate,
    pub(crate) id: String,
    pub(crate) session: Session,
    pub(crate) replicas: usize,
    /// How long workers may take to come back to an emptied coordinator.
    pub(crate) grace: Duration,
}

impl Controller {
    /// Stands for election, leads, and stands again when leadership is lost. Never returns.
    pub(crate) async fn run(self, mut entries: watch::Receiver<Arc<Entries>>) {
        let mut complaint = Complaint::default();
        loop {
            let led = self.lead(&mut entries).await;
            // Whoever does not lead does not know.
            placement::report(&[]);
            match led {
                Ok(()) => complaint.settle(),
                Err(error) => {
                    if let Some(lasts) = complaint.due() {
                        tracing::warn!(%error, ?lasts, "controller stands for election again");
                    }
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    async fn lead(&self, entries: &mut watch::Receiver<Arc<Entries>>) -> Result<(), RegistryError> {
        let coordinator = &*self.ledger.coordinator;
        let lease = self.session.lease().await?;
        let election = self.ledger.keys.controller_election();
        let leadership = campaign(coordinator, &election, &self.id, lease).await?;
        tracing::info!(controller = self.id, "leads");
        let mut whole = self.make_whole(&leadership).await?;
        if whole == Whole::Deposed {
            return Ok(());
        }
        let mut inspect = tokio::time::interval_at(Instant::now() + INSPECT, INSPECT);
        let mut inspections = 0_u32;
        loop {
            let world = World::read(&self.ledger.keys, &entries.borrow_and_update());
            for txn in self.transactions(&world, &leadership) {
                if coordinator.commit(txn).await? == TxnOutcome::Conflict {
                    tracing::warn!(controller = self.id, "was deposed");
                    return Ok(());
                }
            }
            tokio::select! {
                changed = entries.changed() => if changed.is_err() {
                    // The mirror ended with the service.
                    return std::future::pending().await;
                },
                _ = inspect.tick() => {
                    inspections = inspections.wrapping_add(1);
                    if inspections.is_multiple_of(COMPARE_EVERY) {
                        whole = Whole::Believed;
                    }
                    if !self.inspect(&world, &leadership, &mut whole).await? {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Archives what its editor could not, and concludes what it left open. `false` when the leadership or some of the
    /// coordinator's data are gone: a leader that has nothing to write would not notice.
    async fn inspect(
        &self,
        world: &World,
        leadership: &Leadership,
        whole: &mut Whole,
    ) -> Result<bool, RegistryError> {
        let Ledger { coordinator, keys, .. } = &self.ledger;
        let candidacy = coordinator.get(&leadership.key).await?;
        let leads = candidacy.is_some_and(|mine| mine.create_revision == leadership.create_revision);
        if !leads || coordinator.get(&keys.epoch()).await?.is_none() {
            tracing::warn!(controller = self.id, leads, "stands for election again");
            return Ok(false);
        }
        if self.was_set_back(world, whole).await? {
            return Ok(false);
        }
        match timeout(ARCHIVE_PATIENCE, self.archive(world)).await {
            Ok(Ok(())) => {}
            Ok(Err(RegistryError::Bundle(error))) => tracing::warn!(%error, "history is not archived yet"),
            Ok(Err(error)) => return Err(error),
            Err(_) => tracing::warn!("history is not archived yet: the store is slow"),
        }
        self.validate.conclude(world, &self.id).await?;
        Ok(true)
    }

    /// Archives the history that has no page yet.
    async fn archive(&self, world: &World) -> Result<(), RegistryError> {
        let archive = &self.ledger.archive;
        for (model, mirrored) in &world.view.models {
            if !archive.lags(model, mirrored.rollout.history_length) {
                continue;
            }
            let (epoch, _) = self.ledger.epoch().await?;
            let view = self.ledger.read(model).await?;
            let missing = archive.missing(model, view.rollout.history_length).await?;
            let Some(first) = missing.first() else { continue };
            tracing::info!(%model, pages = missing.len(), "archives history");
            for entry in self.ledger.history(model, first - 1).await? {
                let versions = view.versions.clone().into_iter().collect();
                let page = LedgerPage { entry, rollout: view.rollout.clone(), versions };
                archive.append(epoch.number, model, &page).await?;
            }
        }
        Ok(())
    }

    /// Whether the coordinator has less than it had, or than the archive has, now that it can be read: then whoever leads
    /// begins by rebuilding.
    async fn was_set_back(&self, world: &World, whole: &mut Whole) -> Result<bool, RegistryError> {
        if *whole == Whole::Believed {
            let (epoch, _) = self.ledger.epoch().await?;
            match self.is_behind(&epoch).await? {
                Some(false) => *whole = Whole::Compared,
                Some(true) => return Ok(true),
                None => {}
            }
        }
        let length =
            |model: &ModelName| world.view.models.get(model).map_or(0, |view| view.rollout.history_length);
        let mut known = self.ledger.archive.known();
        // What is mirrored may only be late; the coordinator itself is asked then.
        known.retain(|model, known| length(model) < *known);
        self.lacks(&known).await
    }

    /// What must change, in fenced transactions: a deposed leader changes nothing.
    pub(crate) fn transactions(&self, world: &World, leadership: &Leadership) -> Vec<Txn> {
        let placement = placement(world, self.replicas);
        placement::report(&placement.short);
        let target = placement.workers;
        let mut ops = Vec::new();
        for (shard, workers) in &target {
            let Some(record) =
                world.view.models.get(&shard.model).and_then(|view| view.versions.get(&shard.version))
            else {
                continue;
            };
            let (digest, attempt) = (record.digest, record.attempt);
            let leaving = world.leaving(shard, digest, workers);
            let assignment = AssignmentRecord { digest, attempt, workers: workers.clone(), leaving };
            if world.assignments.get(shard) != Some(&assignment) {
                ops.push((self.ledger.keys.assignment(shard), Some(assignment.to_json())));
            }
        }
        let surplus = world.assignments.keys().filter(|shard| !target.contains_key(shard));
        ops.extend(surplus.map(|shard| (self.ledger.keys.assignment(shard), None)));
        ops.chunks(MOST_OPS)
            .map(|chunk| {
                chunk.iter().fold(Txn::default().when(leadership.fence()), |txn, (key, value)| match value {
                    Some(value) => txn.put(key, value.clone()),
                    None => txn.delete(key),
                })
            })
            .collect()
    }
}
