//! Validating a version: it is loaded on every replica, each of which answers the golden requests.

use std::sync::Arc;

use endcap_coordination::Entries;
use endcap_fleet::{Action, Keys, ModelView, MoveError, ShardKey, VersionRecord, VersionState};
use endcap_proto::pb;
use endcap_service::Deadline;
use endcap_types::{ModelName, Version};
use tokio::sync::watch;

use crate::{
    convert,
    error::{RegistryError, model_name, version_number},
    ledger::{Decision, Edit, Entry, Ledger},
    world::World,
};

/// Kept back to say what is missing before the caller stops listening.
const RESERVE: std::time::Duration = std::time::Duration::from_millis(100);

/// The use case, with what it needs.
#[derive(Debug, Clone)]
pub(crate) struct Validate {
    pub(crate) ledger: Ledger,
    pub(crate) keys: Keys,
    pub(crate) entries: watch::Receiver<Arc<Entries>>,
}

/// How far a validation is.
enum Progress {
    Ready(Vec<u32>),
    Failed(String),
    Waiting(String),
}

impl Validate {
    pub(crate) async fn run(
        &self,
        request: pb::ValidateVersionRequest,
        deadline: Deadline,
    ) -> Result<pb::ValidateVersionResponse, RegistryError> {
        let (model, version) = (model_name(&request.model)?, version_number(request.version)?);
        let record = self.begin(&model, version).await?;
        match self.wait(&model, version, &record, deadline.less(RESERVE)).await {
            Progress::Ready(ready_replicas) => {
                let version = self.succeed(&model, version, &request.actor).await?;
                Ok(pb::ValidateVersionResponse { version: Some(version), ready_replicas })
            }
            Progress::Failed(reasons) => {
                self.fail(&model, version, &request.actor, &reasons).await?;
                Err(RegistryError::ValidationFailed { model, version, reasons })
            }
            Progress::Waiting(waiting_for) => {
                Err(RegistryError::StillLoading { model, version, waiting_for })
            }
        }
    }

    /// Concludes the validations that nobody waits for any more, because the registry that began them has ended.
    pub(crate) async fn conclude(&self, world: &World, actor: &str) -> Result<(), RegistryError> {
        for (model, view) in &world.view.models {
            let validating = view.versions.iter().filter(|(_, r)| r.state == VersionState::Validating);
            for (version, record) in validating {
                match progress(world, model, *version, record) {
                    Progress::Ready(_) => {
                        self.succeed(model, *version, actor).await?;
                        tracing::info!(%model, %version, "concluded a validation that nobody waited for");
                    }
                    Progress::Failed(reasons) => self.fail(model, *version, actor, &reasons).await?,
                    Progress::Waiting(_) => {}
                }
            }
        }
        Ok(())
    }

    /// Makes the version wanted. One that was validated stays so: it is loaded, or about to be again.
    async fn begin(&self, model: &ModelName, version: Version) -> Result<VersionRecord, RegistryError> {
        self.edit(model, version, |record, _| {
            if matches!(record.state, VersionState::Validated | VersionState::Validating) {
                return None;
            }
            let (attempt, failure) = (record.attempt + 1, String::new());
            Some((
                VersionRecord { state: VersionState::Validating, attempt, failure, ..record.clone() },
                None,
            ))
        })
        .await
        .map(|(record, _)| record)
    }

    async fn succeed(
        &self,
        model: &ModelName,
        version: Version,
        actor: &str,
    ) -> Result<pb::ModelVersion, RegistryError> {
        let (record, view) = self
            .edit(model, version, |record, _| {
                if record.state == VersionState::Validated {
                    return None;
                }
                let entry = entry(Action::Validated, actor, version, record, String::new());
                let failure = String::new();
                Some((
                    VersionRecord { state: VersionState::Validated, failure, ..record.clone() },
                    Some(entry),
                ))
            })
            .await?;
        Ok(convert::version(model, version, &record, &view.rollout))
    }

    async fn fail(
        &self,
        model: &ModelName,
        version: Version,
        actor: &str,
        reasons: &str,
    ) -> Result<(), RegistryError> {
        self.edit(model, version, |record, _| {
            if record.state == VersionState::Failed {
                return None;
            }
            let entry = entry(Action::ValidationFailed, actor, version, record, reasons.to_owned());
            let failure = reasons.to_owned();
            Some((VersionRecord { state: VersionState::Failed, failure, ..record.clone() }, Some(entry)))
        })
        .await
        .map(|_| ())
    }

    /// Edits one version's record; nothing to change is fine.
    async fn edit(
        &self,
        model: &ModelName,
        version: Version,
        change: impl Fn(&VersionRecord, &ModelView) -> Option<(VersionRecord, Option<Entry>)>,
    ) -> Result<(VersionRecord, ModelView), RegistryError> {
        let decide = |view: &ModelView| {
            let unknown = || MoveError::UnknownVersion { model: model.clone(), version };
            let record = view.versions.get(&version).ok_or_else(unknown)?;
            Ok(match change(record, view) {
                None => Decision::Nothing((record.clone(), view.clone())),
                Some((changed, history)) => {
                    let edit = Edit { rollout: None, versions: vec![(version, changed.clone())], history };
                    Decision::Commit(Box::new(edit), (changed, view.clone()))
                }
            })
        };
        self.ledger.edit(model, decide).await
    }

    async fn wait(
        &self,
        model: &ModelName,
        version: Version,
        record: &VersionRecord,
        deadline: Deadline,
    ) -> Progress {
        let mut entries = self.entries.clone();
        loop {
            let world = World::read(&self.keys, &entries.borrow_and_update());
            let waiting_for = match progress(&world, model, version, record) {
                Progress::Waiting(waiting_for) => waiting_for,
                done => return done,
            };
            match tokio::time::timeout_at(deadline.instant(), entries.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return Progress::Waiting(waiting_for),
            }
        }
    }
}

fn progress(world: &World, model: &ModelName, version: Version, record: &VersionRecord) -> Progress {
    let (mut ready_replicas, mut waiting, mut failed) = (Vec::new(), Vec::new(), Vec::new());
    for shard in record.shard_count.indices() {
        let key = ShardKey { model: model.clone(), version, shard };
        let assigned = world.assignments.get(&key).filter(|a| a.digest == record.digest);
        let workers = assigned.map_or(&[][..], |assigned| &assigned.workers);
        let is_ready = |worker: &&String| {
            let replicas = world.view.ready.get(&key);
            replicas.and_then(|r| r.get(*worker)).is_some_and(|ready| ready.digest == record.digest)
        };
        let ready = workers.iter().filter(is_ready).count();
        ready_replicas.push(u32::try_from(ready).unwrap_or(u32::MAX));
        if workers.is_empty() {
            waiting.push(format!("shard {shard} has no worker"));
        } else if ready < workers.len() {
            waiting.push(format!("shard {shard}: {ready} of {} replicas", workers.len()));
        }
        for worker in workers.iter().filter(|worker| !is_ready(worker)) {
            let failure = world.failed.get(&(key.clone(), worker.clone()));
            if let Some(failure) =
                failure.filter(|f| f.digest == record.digest && f.attempt == record.attempt)
            {
                failed.push(format!("shard {shard} on {worker}: {}", failure.reason));
            }
        }
    }
    if !failed.is_empty() {
        return Progress::Failed(failed.join("; "));
    }
    if waiting.is_empty() { Progress::Ready(ready_replicas) } else { Progress::Waiting(waiting.join(", ")) }
}

fn entry(action: Action, actor: &str, to: Version, record: &VersionRecord, reason: String) -> Entry {
    Entry { action, actor: actor.to_owned(), to, digest: record.digest, reason }
}
