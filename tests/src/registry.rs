//! The registry's RPCs, as a client with patience calls them.

use endcap_proto::pb::{self, model_registry_client::ModelRegistryClient, register_version_request::Part};
use tonic::{Status, transport::Channel};

use crate::{MODEL, timed};

type Client = ModelRegistryClient<Channel>;

/// Uploads a packed bundle.
pub async fn register(client: &mut Client, packed: &[u8]) -> Result<pb::ModelVersion, Status> {
    let header = pb::RegisterHeader { actor: "test".into(), ..Default::default() };
    let mut parts = vec![pb::RegisterVersionRequest { part: Some(Part::Header(header)) }];
    for chunk in packed.chunks(64 << 10) {
        let chunk = chunk.to_vec().into();
        parts.push(pb::RegisterVersionRequest { part: Some(Part::Chunk(chunk)) });
    }
    let answer = client.register_version(tokio_stream::iter(parts)).await?.into_inner();
    Ok(answer.version.unwrap_or_default())
}

/// Loads a version on its workers and waits until it is ready.
pub async fn validate(client: &mut Client, version: u64) -> Result<Vec<u32>, Status> {
    let message = pb::ValidateVersionRequest { model: MODEL.into(), version, actor: "test".into() };
    Ok(client.validate_version(timed(message)).await?.into_inner().ready_replicas)
}

pub async fn promote(client: &mut Client, version: u64) -> Result<pb::Rollout, Status> {
    let message =
        pb::PromoteRequest { model: MODEL.into(), version, actor: "test".into(), ..Default::default() };
    Ok(client.promote(message).await?.into_inner().rollout.unwrap_or_default())
}

pub async fn rollback(client: &mut Client) -> Result<pb::Rollout, Status> {
    let message = pb::RollbackRequest { model: MODEL.into(), actor: "test".into(), ..Default::default() };
    Ok(client.rollback(message).await?.into_inner().rollout.unwrap_or_default())
}

/// Every entry of the history, oldest first.
pub async fn history(client: &mut Client) -> Result<Vec<pb::HistoryEntry>, Status> {
    let message = pb::GetHistoryRequest { model: MODEL.into(), after_sequence: 0 };
    Ok(client.get_history(message).await?.into_inner().entries)
}
