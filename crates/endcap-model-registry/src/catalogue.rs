//! Looking things up.

use endcap_fleet::{Keys, MoveError};
use endcap_proto::pb;
use endcap_types::Alias;

use crate::{
    convert,
    error::{RegistryError, invalid, model_name, version_number},
    ledger::Ledger,
    world::World,
};

#[derive(Debug)]
pub(crate) struct Catalogue {
    pub(crate) ledger: Ledger,
    pub(crate) keys: Keys,
}

impl Catalogue {
    pub(crate) async fn version(
        &self,
        request: pb::GetVersionRequest,
    ) -> Result<pb::GetVersionResponse, RegistryError> {
        let model = model_name(&request.model)?;
        let view = self.ledger.read(&model).await?;
        let version = if request.alias.is_empty() {
            version_number(request.version)?
        } else {
            let alias: Alias = request.alias.parse().map_err(|error| invalid("alias", &error))?;
            let missing = RegistryError::NoAlias { model: model.clone(), alias: alias.as_str() };
            view.rollout.aliases.get(&alias).copied().ok_or(missing)?
        };
        let record = view.versions.get(&version);
        let record = record.ok_or_else(|| MoveError::UnknownVersion { model: model.clone(), version })?;
        let version = Some(convert::version(&model, version, record, &view.rollout));
        Ok(pb::GetVersionResponse { version })
    }

    pub(crate) async fn models(
        &self,
        request: pb::ListModelsRequest,
    ) -> Result<pb::ListModelsResponse, RegistryError> {
        let only = match request.model.as_str() {
            "" => None,
            name => Some(model_name(name)?),
        };
        self.ledger.epoch().await?;
        let prefixes = [self.keys.models()];
        let models = World::list(&*self.ledger.coordinator, &self.keys, &prefixes).await?.view.models;
        let chosen = models.iter().filter(|(name, _)| only.as_ref().is_none_or(|only| only == *name));
        let models: Vec<_> = chosen.map(|(name, view)| convert::model(name, view)).collect();
        match only {
            Some(model) if models.is_empty() => Err(RegistryError::UnknownModel { model }),
            _ => Ok(pb::ListModelsResponse { models }),
        }
    }

    pub(crate) async fn history(
        &self,
        request: pb::GetHistoryRequest,
    ) -> Result<pb::GetHistoryResponse, RegistryError> {
        let model = model_name(&request.model)?;
        let records = self.ledger.history(&model, request.after_sequence).await?;
        if records.is_empty() && self.ledger.read(&model).await?.versions.is_empty() {
            return Err(RegistryError::UnknownModel { model });
        }
        Ok(pb::GetHistoryResponse { entries: records.into_iter().map(convert::history).collect() })
    }
}
