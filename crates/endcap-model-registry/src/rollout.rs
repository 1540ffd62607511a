//! Promote and roll back: one compare-and-set each.

use endcap_fleet::{
    Action, Keys, ModelView, MoveError, ReadyReplicas, RolloutRecord, VersionState, check_revision,
};
use endcap_proto::pb;
use endcap_types::{Alias, ModelName};

use crate::{
    convert,
    error::{RegistryError, model_name, version_number},
    ledger::{Decision, Edit, Entry, Ledger},
    world::World,
};

/// The use cases, with what they need.
#[derive(Debug)]
pub(crate) struct Rollouts {
    pub(crate) ledger: Ledger,
    pub(crate) keys: Keys,
}

/// Who moves an alias, and on which revision they decided.
struct Editor {
    model: ModelName,
    expected_revision: u64,
    action: Action,
    actor: String,
    reason: String,
}

impl Rollouts {
    pub(crate) async fn promote(
        &self,
        request: pb::PromoteRequest,
    ) -> Result<pb::PromoteResponse, RegistryError> {
        let target = version_number(request.version)?;
        let editor = Editor {
            model: model_name(&request.model)?,
            expected_revision: request.expected_revision,
            action: Action::Promoted,
            actor: request.actor,
            reason: request.reason,
        };
        let decide = |view: &ModelView, ready: &ReadyReplicas| {
            endcap_fleet::promote(&editor.model, view, ready, target)
        };
        let rollout = Some(self.shift(&editor, decide).await?);
        Ok(pb::PromoteResponse { rollout })
    }

    pub(crate) async fn rollback(
        &self,
        request: pb::RollbackRequest,
    ) -> Result<pb::RollbackResponse, RegistryError> {
        let editor = Editor {
            model: model_name(&request.model)?,
            expected_revision: request.expected_revision,
            action: Action::RolledBack,
            actor: request.actor,
            reason: request.reason,
        };
        let decide =
            |view: &ModelView, ready: &ReadyReplicas| endcap_fleet::rollback(&editor.model, view, ready);
        let rollout = Some(self.shift(&editor, decide).await?);
        Ok(pb::RollbackResponse { rollout })
    }

    async fn shift(
        &self,
        editor: &Editor,
        decide: impl Fn(&ModelView, &ReadyReplicas) -> Result<RolloutRecord, MoveError>,
    ) -> Result<pb::Rollout, RegistryError> {
        let model = &editor.model;
        // Read, not mirrored: a replica that has just become ready counts.
        let prefixes = [self.keys.ready_all()];
        let ready = World::list(&*self.ledger.coordinator, &self.keys, &prefixes).await?.view.ready;
        self.ledger
            .edit(model, |view| {
                if view.versions.is_empty() {
                    return Err(RegistryError::UnknownModel { model: model.clone() });
                }
                check_revision(model, &view.rollout, editor.expected_revision)?;
                let next = decide(view, &ready)?;
                let answer = convert::rollout(model, &next);
                Ok(Decision::Commit(Box::new(edit(view, next, editor)), answer))
            })
            .await
    }
}

/// The move with its history entry; versions that no alias names any more are let go.
fn edit(view: &ModelView, next: RolloutRecord, editor: &Editor) -> Edit {
    let let_go = view.rollout.aliases.values().filter(|old| !next.aliases.values().any(|kept| kept == *old));
    let versions = let_go.filter_map(|version| {
        let mut record = view.versions.get(version)?.clone();
        record.state = VersionState::Registered;
        Some((*version, record))
    });
    let versions = versions.collect();
    let history = next.aliases.get(&Alias::Stable).and_then(|stable| {
        Some(Entry {
            action: editor.action,
            actor: editor.actor.clone(),
            to: *stable,
            digest: view.versions.get(stable)?.digest,
            reason: editor.reason.clone(),
        })
    });
    Edit { rollout: Some(next), versions, history }
}
