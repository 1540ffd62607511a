//! What this worker holds, what is on its way, and what the models have done.

use std::collections::{BTreeMap, btree_map::Entry};

use endcap_inference::{Part, Statistics, Sum};
use endcap_proto::inference::{
    InferStatistics, ModelStatistics, ModelStatisticsRequest, ModelStatisticsResponse,
    RepositoryIndexRequest, RepositoryIndexResponse, StatisticDuration,
    repository_index_response::ModelIndex,
};
use endcap_types::Version;

use crate::{error::WorkError, progress::Absence};

use super::{ENCODER, OpenInference, named, number, shown};

const READY: &str = "READY";
const LOADING: &str = "LOADING";
const UNAVAILABLE: &str = "UNAVAILABLE";

impl OpenInference {
    pub(super) fn index(
        &self,
        request: &RepositoryIndexRequest,
    ) -> Result<RepositoryIndexResponse, WorkError> {
        if !request.repository_name.is_empty() {
            return Err(WorkError::UnknownRepository { asked: shown(&request.repository_name) });
        }
        let mut states: BTreeMap<(String, Version), (&str, String)> = BTreeMap::new();
        for (name, version, _) in self.held() {
            states.insert((name, version), (READY, String::new()));
        }
        for (shard, absence) in self.progress.absent().iter() {
            let state = match absence {
                Absence::Loading => (LOADING, String::new()),
                Absence::Failed { reason } => {
                    (UNAVAILABLE, format!("shard {} is not ready: {reason}", shard.shard))
                }
            };
            // Which models the version has is known once it is loaded; its ranker it has in any case. One shard is
            // enough to call a version's models, so what is held is ready whatever its other shards do.
            match states.entry((shard.model.to_string(), shard.version)) {
                Entry::Vacant(entry) => {
                    entry.insert(state);
                }
                Entry::Occupied(mut entry) if entry.get().0 == UNAVAILABLE && state.0 == LOADING => {
                    entry.insert(state);
                }
                Entry::Occupied(_) => {}
            }
        }
        let listed = states.into_iter().filter(|(_, (state, _))| !request.ready || *state == READY);
        let models = listed.map(|((name, version), (state, reason))| ModelIndex {
            name,
            version: version.to_string(),
            state: state.to_owned(),
            reason,
        });
        Ok(RepositoryIndexResponse { models: models.collect() })
    }

    pub(super) fn statistics(
        &self,
        request: &ModelStatisticsRequest,
    ) -> Result<ModelStatisticsResponse, WorkError> {
        let asked = number(&request.version, "version")?;
        let mut held = self.held();
        if !request.name.is_empty() {
            self.find(&request.name, &request.version, "version")?;
            held.retain(|(name, ..)| *name == request.name);
        }
        held.retain(|(_, version, _)| asked.is_none_or(|asked| asked == *version));
        held.sort_by(|left, right| (&left.0, left.1).cmp(&(&right.0, right.1)));
        let model_stats = held.into_iter().map(|(name, version, done)| ModelStatistics {
            name,
            version: version.to_string(),
            last_inference: done.last_millis,
            inference_count: done.rows,
            execution_count: done.executions,
            inference_stats: Some(InferStatistics {
                success: Some(duration(done.success)),
                fail: Some(duration(done.fail)),
                queue: Some(duration(done.queue)),
                compute_infer: Some(duration(done.infer)),
            }),
        });
        Ok(ModelStatisticsResponse { model_stats: model_stats.collect() })
    }

    /// Versions of a model that are held, ascending.
    pub(super) fn versions(&self, name: &str) -> Vec<Version> {
        let (model, part) = named(name);
        let held = self.holdings.models().into_iter();
        held.filter(|(pin, held)| pin.model.as_str() == model && held.signature(part).is_some())
            .map(|(pin, _)| pin.version)
            .collect()
    }

    /// Why nothing was found.
    pub(super) fn unknown(&self, name: &str, asked: Option<Version>) -> WorkError {
        let versions = self.versions(name);
        match asked {
            Some(asked) if !versions.is_empty() => {
                let held: Vec<_> = versions.iter().map(ToString::to_string).collect();
                WorkError::UnknownVersion { model: shown(name), asked: asked.get(), held: held.join(", ") }
            }
            _ => {
                let mut held: Vec<_> = self.held().into_iter().map(|(name, ..)| name).collect();
                held.sort();
                held.dedup();
                let held = if held.is_empty() { "none".to_owned() } else { held.join(", ") };
                WorkError::UnknownModel { asked: shown(name), held }
            }
        }
    }

    /// Every model that can be called, by its name here.
    fn held(&self) -> Vec<(String, Version, Statistics)> {
        let mut held = Vec::new();
        for (pin, model) in self.holdings.models() {
            for (part, suffix) in [(Part::Ranker, ""), (Part::Encoder, ENCODER)] {
                if let Some(done) = model.statistics(part) {
                    held.push((format!("{}{suffix}", pin.model), pin.version, done));
                }
            }
        }
        held
    }
}

fn duration(sum: Sum) -> StatisticDuration {
    StatisticDuration { count: sum.count, ns: sum.nanos }
}
