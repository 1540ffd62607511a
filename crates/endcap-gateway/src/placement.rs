//! Which version answers a request, and whether it can do what is asked.

use std::{collections::BTreeMap, sync::Arc};

use endcap_fleet::{Route, RouteError, Target};
use endcap_types::{
    Arm, Compute, DegradationReason, FeatureName, FeatureValue, ModelName, Retriever, VersionPin, Violations,
};

use crate::{
    error::RecommendError,
    features::fitting,
    request::Asked,
    routing::{Parts, Routes},
};

/// Where a request goes.
#[derive(Debug, Clone)]
pub(crate) struct Placed {
    pub(crate) pin: VersionPin,
    pub(crate) arm: Arm,
    pub(crate) parts: Arc<Parts>,
    /// Nothing when no shard of the version has a ready replica.
    pub(crate) route: Option<Arc<Route>>,
    /// Set when not every shard has one.
    pub(crate) reason: Option<DegradationReason>,
}

/// Places a request. One that names a version gets it or an error; one that leaves it to the rollout gets whatever there
/// is of stable.
pub(crate) fn place(routes: &Routes, model: &ModelName, asked: &Asked) -> Result<Placed, RecommendError> {
    let target = asked.target(model, routes.snapshot.candidate_permille(model));
    let (pin, arm, route, reason) = match routes.snapshot.route(model, target) {
        Ok((route, arm)) => (route.pin.clone(), arm, Some(route), None),
        Err(error) => match (target, error) {
            (Target::Rollout(_), RouteError::NotRoutable { pin, .. }) => {
                let partial = routes.snapshot.partial(&pin);
                (pin, Arm::Stable, partial, Some(DegradationReason::NotRoutable))
            }
            (
                Target::Rollout(_),
                error @ (RouteError::NoAlias { .. } | RouteError::UnknownVersion { .. }),
            ) => {
                return Err(nothing_loaded(model, error.to_string()));
            }
            (_, error) => return Err(RecommendError::Route(error)),
        },
    };
    let parts = routes.parts(pin.digest).cloned();
    let parts = parts.ok_or_else(|| nothing_loaded(model, format!("the bundle of {pin} is not here yet")))?;
    Ok(Placed { pin, arm, parts, route, reason })
}

fn nothing_loaded(model: &ModelName, detail: String) -> RecommendError {
    RecommendError::NothingLoaded { model: model.clone(), detail }
}

impl Placed {
    /// Checks what can only be checked against the version, and returns the context features that it reads. Others are
    /// left out: a caller goes on sending them while versions that do and don't read them take turns.
    pub(crate) fn check(&self, asked: &Asked) -> Result<BTreeMap<FeatureName, FeatureValue>, Violations> {
        let mut found = Violations::default();
        if !asked.is_rerank() && self.depth().is_none() {
            let text =
                format!("is empty, but {} only reranks: it has no query encoder; send candidates", self.pin);
            found.push("candidates", text);
        }
        let mut context = BTreeMap::new();
        for (name, value) in &asked.context {
            let Some(spec) = self.parts.features.get(name) else {
                continue;
            };
            match fitting(spec, value.clone()) {
                Some(value) => {
                    context.insert(name.clone(), value);
                }
                None => found.push(
                    format!("context[{:?}]", name.as_str()),
                    format!(
                        "has {} numbers of type {:?}; {} expects {} of type {:?}",
                        value.len(),
                        value.dtype(),
                        self.pin,
                        spec.width,
                        spec.dtype
                    ),
                ),
            }
        }
        found.or(context)
    }

    /// Items to retrieve, if the version can retrieve.
    pub(crate) fn depth(&self) -> Option<u32> {
        let retrieval = self.parts.spec.retrieval.as_ref()?;
        let can = self.parts.spec.encoder.is_some() || !retrieval.mode.reads(Retriever::Dense);
        can.then_some(retrieval.depth)
    }

    /// Whether the request can do without its query's vector, if need be.
    pub(crate) fn does_without_vector(&self, asked: &Asked) -> bool {
        asked.is_rerank() || self.retrieves(Retriever::Lexical)
    }

    /// Length of the query's vector, if the request needs one: to retrieve, or for a feature of the ranker.
    pub(crate) fn dim(&self, asked: &Asked) -> Option<usize> {
        let encoder = self.parts.spec.encoder.as_ref()?;
        let reads = |compute: &Compute| compute.reads(Retriever::Dense);
        let read = || self.parts.features.values().filter_map(|spec| spec.compute.as_ref()).any(reads);
        let retrieved = !asked.is_rerank() && self.retrieves(Retriever::Dense);
        (!asked.query.is_empty() && (retrieved || read())).then_some(encoder.dim)
    }

    fn retrieves(&self, retriever: Retriever) -> bool {
        self.parts.spec.retrieval.as_ref().is_some_and(|retrieval| retrieval.mode.reads(retriever))
    }
}
