//! The ports over gRPC. Answers are checked here, so that nothing malformed gets any further.

mod exchange;
#[cfg(test)]
mod tests;

use std::{collections::HashMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use endcap_proto::{
    columns,
    pb::{
        self, exchange_request, exchange_response::Reply, feature_service_client::FeatureServiceClient,
        score_request::Mode, shard_service_client::ShardServiceClient, shard_service_server::SERVICE_NAME,
    },
};
use endcap_service::{
    Deadline,
    client::{self, Channels, request},
    exchange::LARGEST_MESSAGE,
    status::{RemoteError, from_status},
};
use endcap_types::{ErrorCode, FeatureName, FeatureValue, VersionPin};
use tonic::{Response, transport::Channel};

pub(crate) use self::exchange::Exchanges;
use crate::ports::{
    Call, FeatureGroup, FeatureKey, FeatureSource, HealthClient, Part, Pinned, Question, ShardAnswer,
    ShardClient, Work,
};

/// Workers and feature-caches over shared channels.
#[derive(Debug, Clone)]
pub(crate) struct Remote {
    pub(crate) channels: Arc<Channels>,
    /// The streams to workers; without them every call goes singly.
    pub(crate) exchanges: Option<Arc<Exchanges>>,
}

fn channel(channels: &Channels, endpoint: &str) -> Result<Channel, RemoteError> {
    channels.get(endpoint).map_err(|error| unreachable(error.to_string()))
}

fn shard_client(channels: &Channels, endpoint: &str) -> Result<ShardServiceClient<Channel>, RemoteError> {
    Ok(ShardServiceClient::new(channel(channels, endpoint)?).max_decoding_message_size(LARGEST_MESSAGE))
}

impl Remote {
    /// Lets go of members that are gone.
    pub(crate) fn retain(&self, known: impl Fn(&str) -> bool) {
        self.channels.retain(&known);
        if let Some(exchanges) = &self.exchanges {
            exchanges.retain(&known);
        }
    }

    async fn ask_score(
        &self,
        endpoint: &str,
        message: pb::ScoreRequest,
        call: &Call,
    ) -> Result<pb::ScoreResponse, RemoteError> {
        if let Some(exchange) = self.exchanges.as_ref().and_then(|exchanges| exchanges.get(endpoint)) {
            return match exchange.call(exchange_request::Call::Score(message), call).await? {
                Reply::Score(answer) => Ok(answer),
                _ => Err(malformed(endpoint, "answered a score with something else")),
            };
        }
        let mut client = shard_client(&self.channels, endpoint)?;
        // Boxed, since it is three times as large as the other way, which nearly all calls take.
        let answered = Box::pin(client.score(request(message, call.deadline, &call.id))).await;
        answered.map(Response::into_inner).map_err(|status| from_status(&status))
    }

    async fn ask_encode(
        &self,
        endpoint: &str,
        message: pb::EncodeRequest,
        call: &Call,
    ) -> Result<pb::EncodeResponse, RemoteError> {
        if let Some(exchange) = self.exchanges.as_ref().and_then(|exchanges| exchanges.get(endpoint)) {
            return match exchange.call(exchange_request::Call::Encode(message), call).await? {
                Reply::Encode(answer) => Ok(answer),
                _ => Err(malformed(endpoint, "answered an encode with something else")),
            };
        }
        let mut client = shard_client(&self.channels, endpoint)?;
        let answered = Box::pin(client.encode(request(message, call.deadline, &call.id))).await;
        answered.map(Response::into_inner).map_err(|status| from_status(&status))
    }
}

#[async_trait]
impl ShardClient for Remote {
    async fn score(
        &self,
        endpoint: &str,
        question: &Question,
        part: &Part,
        call: Call,
    ) -> Result<Pinned<ShardAnswer>, RemoteError> {
        let answer = self.ask_score(endpoint, score_request(question, part), &call).await?;
        if answer.shard != part.shard {
            return Err(malformed(
                endpoint,
                &format!("answered for shard {}, not {}", answer.shard, part.shard),
            ));
        }
        let pin = answer.pin.as_ref().and_then(|pin| VersionPin::try_from(pin).ok());
        let answer =
            shard_answer(answer, question.fields.len()).map_err(|detail| malformed(endpoint, &detail))?;
        Ok(Pinned { pin, answer })
    }

    async fn encode(
        &self,
        endpoint: &str,
        pin: &VersionPin,
        query: &str,
        call: Call,
    ) -> Result<Pinned<Vec<f32>>, RemoteError> {
        let message = pb::EncodeRequest { pin: Some(pin.into()), query: query.to_owned() };
        let answer = self.ask_encode(endpoint, message, &call).await?;
        let vector = finite(&answer.vector).map_err(|detail| malformed(endpoint, &detail))?;
        Ok(Pinned { pin: answer.pin.as_ref().and_then(|pin| VersionPin::try_from(pin).ok()), answer: vector })
    }
}

#[async_trait]
impl HealthClient for Remote {
    async fn is_serving(&self, endpoint: &str, deadline: Deadline) -> bool {
        match self.channels.get(endpoint) {
            Ok(channel) => client::is_serving(channel, SERVICE_NAME, deadline).await,
            Err(_) => false,
        }
    }
}

#[async_trait]
impl FeatureSource for Remote {
    async fn fetch(
        &self,
        endpoint: &str,
        keys: &[FeatureKey],
        call: Call,
    ) -> Result<Vec<Option<FeatureGroup>>, RemoteError> {
        let wire = |key: &FeatureKey| pb::FeatureKey {
            namespace: key.namespace.as_str().to_owned(),
            entity_id: key.entity_id.clone(),
        };
        let message = pb::GetFeaturesRequest { keys: keys.iter().map(wire).collect() };
        let mut client = FeatureServiceClient::new(channel(&self.channels, endpoint)?);
        let answered = client.get_features(request(message, call.deadline, &call.id)).await;
        let results = answered.map_err(|status| from_status(&status))?.into_inner().results;
        if results.len() != keys.len() {
            return Err(malformed(endpoint, &format!("{} results for {} keys", results.len(), keys.len())));
        }
        Ok(results.into_iter().map(|result| result.group.map(feature_group)).collect())
    }
}

fn score_request(question: &Question, part: &Part) -> pb::ScoreRequest {
    let mode = match &part.work {
        Work::Retrieve { depth, exclude } => {
            Mode::Retrieve(pb::Retrieve { depth: *depth, exclude_item_ids: exclude.clone() })
        }
        Work::Rerank { item_ids, standing } => Mode::Rerank(pb::Rerank {
            item_ids: item_ids.clone(),
            standing: standing.clone().map(pb::Standing::from),
        }),
        Work::List { depth, exclude } => {
            Mode::List(pb::List { depth: *depth, exclude_item_ids: exclude.clone() })
        }
    };
    let column = |(name, value): (&FeatureName, &FeatureValue)| pb::FeatureColumn {
        name: name.to_string(),
        values: match value {
            FeatureValue::F32(values) => columns::encode_f32(values),
            FeatureValue::I64(values) => columns::encode_i64(values),
        },
    };
    pb::ScoreRequest {
        pin: Some((&question.pin).into()),
        shard: part.shard,
        mode: Some(mode),
        query: question.query.clone(),
        query_vector: columns::encode_f32(&question.vector),
        features: question.features.iter().map(column).collect(),
        fields: question.fields.clone(),
    }
}

fn shard_answer(wire: pb::ScoreResponse, n_fields: usize) -> Result<ShardAnswer, String> {
    let n = wire.item_ids.len();
    // A list is not ranked, and a ranking has no lists.
    let or_zeros = |values: Vec<f32>| if values.is_empty() { vec![0.0; n] } else { values };
    let lexical_scores = finite(&wire.lexical_scores)?;
    let is_list = !lexical_scores.is_empty();
    let scores = finite(&wire.scores)?;
    let scores = if is_list { or_zeros(scores) } else { scores };
    let retrieval_scores = or_zeros(finite(&wire.retrieval_scores)?);
    let lexical_scores = or_zeros(lexical_scores);
    let fields: Vec<_> = wire.fields.into_iter().map(|column| column.values).collect();
    let scored = [scores.len(), retrieval_scores.len(), lexical_scores.len()];
    let lengths = scored.into_iter().chain(fields.iter().map(Vec::len));
    if let Some(other) = lengths.into_iter().find(|length| *length != n) {
        return Err(format!("{n} items beside a column of {other}"));
    }
    if fields.len() != n_fields && n > 0 {
        return Err(format!("{} columns for {n_fields} fields", fields.len()));
    }
    Ok(ShardAnswer {
        item_ids: wire.item_ids,
        scores,
        retrieval_scores,
        lexical_scores,
        fields,
        items_considered: wire.items_considered,
        unknown: wire.unknown_item_ids,
    })
}

fn finite(bytes: &[u8]) -> Result<Vec<f32>, String> {
    let values = columns::decode_f32(bytes).map_err(|error| error.to_string())?;
    match values.iter().find(|value| !value.is_finite()) {
        Some(value) => Err(format!("a column holds {value}")),
        None => Ok(values),
    }
}

/// Values that are no feature's are left out, so that they count as missing.
fn feature_group(wire: pb::FeatureGroup) -> FeatureGroup {
    let values: HashMap<String, pb::FeatureValue> = wire.values;
    let value = |value: pb::FeatureValue| match (value.floats.is_empty(), value.ints.is_empty()) {
        (false, true) => Some(FeatureValue::F32(value.floats)),
        (true, false) => Some(FeatureValue::I64(value.ints)),
        _ => None,
    };
    let pair =
        |(name, wire): (String, pb::FeatureValue)| Some((name.parse::<FeatureName>().ok()?, value(wire)?));
    FeatureGroup {
        values: values.into_iter().filter_map(pair).collect(),
        age: Duration::from_millis(wire.age_ms),
    }
}

fn unreachable(message: String) -> RemoteError {
    RemoteError { code: ErrorCode::Unavailable, message, violations: Vec::new(), retry_after: None }
}

fn malformed(endpoint: &str, detail: &str) -> RemoteError {
    RemoteError {
        code: ErrorCode::Internal,
        message: format!("{endpoint} broke the contract: {detail}"),
        violations: Vec::new(),
        retry_after: None,
    }
}
