//! What was measured of a version through the fleet: kept for metrics, decided upon by nobody yet.

use endcap_coordination::Txn;
use endcap_fleet::{EvaluationRecord, Keys, MoveError, Record as _};
use endcap_proto::pb;
use endcap_types::Violations;

use crate::{
    error::{RegistryError, model_name, version_number},
    ledger::{Ledger, now},
};

/// More than any report has; every registry carries them in memory.
const MOST_METRICS: usize = 64;
const LONGEST_NAME: usize = 64;

/// The use case, with what it needs.
#[derive(Debug)]
pub(crate) struct Evaluations {
    pub(crate) ledger: Ledger,
    pub(crate) keys: Keys,
}

impl Evaluations {
    pub(crate) async fn record(
        &self,
        request: pb::RecordEvaluationRequest,
    ) -> Result<pb::RecordEvaluationResponse, RegistryError> {
        let (model, version) = (model_name(&request.model)?, version_number(request.version)?);
        check(&request)?;
        let view = self.ledger.read(&model).await?;
        if !view.versions.contains_key(&version) {
            return Err(MoveError::UnknownVersion { model, version }.into());
        }
        let metrics = request.metrics.into_iter().collect();
        let record = EvaluationRecord { at: now(), actor: request.actor, metrics };
        let txn = Txn::default().put(self.keys.evaluation(&model, version), record.to_json());
        self.ledger.coordinator.commit(txn).await?;
        Ok(pb::RecordEvaluationResponse {})
    }
}

fn check(request: &pb::RecordEvaluationRequest) -> Result<(), RegistryError> {
    let mut violations = Violations::default();
    let count = request.metrics.len();
    if !(1..=MOST_METRICS).contains(&count) {
        violations.push("metrics", format!("are {count}; expected 1 to {MOST_METRICS}"));
    }
    for (name, value) in &request.metrics {
        if name.len() > LONGEST_NAME {
            let name: String = name.chars().take(LONGEST_NAME).collect();
            violations.push("metrics", format!("the name {name:?}... is longer than {LONGEST_NAME} bytes"));
        } else if !value.is_finite() {
            violations.push(format!("metrics[{name:?}]"), format!("is {value}; expected a finite number"));
        }
    }
    if violations.0.is_empty() { Ok(()) } else { Err(violations.into()) }
}
