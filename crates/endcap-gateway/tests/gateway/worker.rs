//! A shard worker and a feature-cache that do as they are told.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::{Arc, Mutex},
    time::Duration,
};

use endcap_proto::{
    columns,
    pb::{
        self,
        feature_service_server::{FeatureService, FeatureServiceServer},
        score_request::Mode,
        shard_service_server::{ShardService, ShardServiceServer},
    },
};
use endcap_service::{
    exchange::{self, Replies},
    task::Tasks,
};
use endcap_types::{ItemId, VersionPin};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status, Streaming, transport::Server, transport::server::TcpIncoming};
use tonic_types::{ErrorDetails, StatusExt as _};

/// What a fake does when it is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Does {
    Answer,
    AnswerAfter(Duration),
    /// Answers and says that another version did.
    Lie,
    Fail(Code),
    Hang,
    /// Lists, and hangs when it is to rank.
    HangAfterList,
}

impl Does {
    async fn act(self) -> Result<(), Status> {
        match self {
            Self::Answer | Self::Lie | Self::HangAfterList => Ok(()),
            Self::AnswerAfter(delay) => {
                tokio::time::sleep(delay).await;
                Ok(())
            }
            Self::Fail(code) => Err(Status::new(code, "as told")),
            Self::Hang => std::future::pending().await,
        }
    }
}

/// What a worker does and what it has been asked. Shared with the test.
#[derive(Debug)]
pub(crate) struct Script {
    pub(crate) score: Does,
    pub(crate) encode: Does,
    pub(crate) scored: Vec<pb::ScoreRequest>,
    pub(crate) encoded: usize,
}

pub(crate) type Shared = Arc<Mutex<Script>>;

/// The shards of any number of versions, and nothing but fixed numbers for their scores.
#[derive(Debug, Clone)]
pub(crate) struct Worker {
    pub(crate) script: Shared,
    pub(crate) shards: BTreeMap<(VersionPin, u32), Vec<ItemId>>,
    pub(crate) dim: usize,
}

/// The similarity that every worker gives an item. Few distinct ones, so that ties are frequent.
pub(crate) fn similarity(id: &str) -> f32 {
    number(id, "similarity")
}

/// The BM25 that every worker gives an item; 0 for those without a word of the query.
pub(crate) fn words(id: &str) -> f32 {
    (number(id, "words") - 8.0).max(0.0)
}

/// The score that every worker gives an item.
pub(crate) fn score(id: &str) -> f32 {
    number(id, "score")
}

fn number(id: &str, salt: &str) -> f32 {
    let mut hasher = DefaultHasher::new();
    (id, salt).hash(&mut hasher);
    f32::from(u8::try_from(hasher.finish() % 32).unwrap())
}

impl Worker {
    /// Serves on a free port until the runtime ends; returns the endpoint.
    pub(crate) async fn serve(self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = listener.local_addr().unwrap().to_string();
        let server = Server::builder().add_service(ShardServiceServer::new(self));
        tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
        endpoint
    }

    fn answer(&self, request: &pb::ScoreRequest, lies: bool) -> Result<pb::ScoreResponse, Status> {
        let pin = VersionPin::try_from(&request.pin.clone().unwrap()).unwrap();
        let Some(items) = self.shards.get(&(pin.clone(), request.shard)) else {
            return Err(Status::new(Code::FailedPrecondition, format!("does not hold {pin}")));
        };
        if let Some(field) = request.fields.iter().find(|field| *field != "version") {
            let mut details = ErrorDetails::new();
            details.add_bad_request_violation("fields[0]", format!("no column {field:?}"));
            return Err(Status::with_error_details(Code::InvalidArgument, "no column", details));
        }
        let (ids, unknown) = match request.mode.clone().unwrap() {
            Mode::Retrieve(retrieve) => {
                assert_eq!(request.query_vector.len(), self.dim * 4);
                let mut ids = items.clone();
                ids.retain(|id| !retrieve.exclude_item_ids.contains(id));
                ids.sort_by(|a, b| similarity(b).total_cmp(&similarity(a)).then(a.cmp(b)));
                ids.truncate(retrieve.depth as usize);
                (ids, Vec::new())
            }
            Mode::List(list) => return Ok(listed(&pin, request, items, &list)),
            Mode::Rerank(rerank) => rerank.item_ids.into_iter().partition(|id| items.contains(id)),
        };
        let considered = if unknown.is_empty() && matches!(request.mode, Some(Mode::Retrieve(_))) {
            items.len()
        } else {
            ids.len()
        };
        let mut told = pin.clone();
        if lies {
            told.version = told.version.next();
        }
        let version = |_: &ItemId| pin.version.to_string();
        let column =
            |name: &String| pb::TextColumn { name: name.clone(), values: ids.iter().map(version).collect() };
        Ok(pb::ScoreResponse {
            pin: Some((&told).into()),
            shard: request.shard,
            scores: columns::encode_f32(&ids.iter().map(|id| score(id)).collect::<Vec<_>>()),
            retrieval_scores: columns::encode_f32(&ids.iter().map(|id| similarity(id)).collect::<Vec<_>>()),
            fields: request.fields.iter().map(column).collect(),
            item_ids: ids,
            items_considered: considered as u64,
            unknown_item_ids: unknown,
            lexical_scores: Vec::new().into(),
            timing: None,
        })
    }
}

/// A shard's lists: its best by similarity, if the query has a vector, and by words.
fn listed(
    pin: &VersionPin,
    request: &pb::ScoreRequest,
    items: &[ItemId],
    list: &pb::List,
) -> pb::ScoreResponse {
    let allowed = || items.iter().filter(|id| !list.exclude_item_ids.contains(*id));
    let best = |score: fn(&str) -> f32| {
        let mut ids: Vec<&ItemId> = allowed().filter(|id| score(id) > 0.0).collect();
        ids.sort_by(|a, b| score(b).total_cmp(&score(a)).then(a.cmp(b)));
        ids.truncate(list.depth as usize);
        ids
    };
    let has_vector = !request.query_vector.is_empty();
    let mut ids = if has_vector { best(|id| similarity(id) + 1.0) } else { Vec::new() };
    for id in best(words) {
        if !ids.contains(&id) {
            ids.push(id);
        }
    }
    let column = |score: &dyn Fn(&str) -> f32| {
        columns::encode_f32(&ids.iter().map(|id| score(id)).collect::<Vec<_>>())
    };
    pb::ScoreResponse {
        pin: Some(pin.into()),
        shard: request.shard,
        retrieval_scores: column(&|id| if has_vector { similarity(id) } else { 0.0 }),
        lexical_scores: column(&words),
        item_ids: ids.into_iter().cloned().collect(),
        items_considered: items.len() as u64,
        ..Default::default()
    }
}

#[tonic::async_trait]
impl ShardService for Worker {
    type ExchangeStream = Replies;

    async fn exchange(
        &self,
        request: Request<Streaming<pb::ExchangeRequest>>,
    ) -> Result<Response<Replies>, Status> {
        let draining = CancellationToken::new();
        Ok(Response::new(exchange::serve(Arc::new(self.clone()), request, draining, &Tasks::new())))
    }

    async fn encode(
        &self,
        request: Request<pb::EncodeRequest>,
    ) -> Result<Response<pb::EncodeResponse>, Status> {
        let does = {
            let mut script = self.script.lock().unwrap();
            script.encoded += 1;
            script.encode
        };
        does.act().await?;
        let mut pin = request.into_inner().pin.unwrap();
        if does == Does::Lie {
            pin.version += 1;
        }
        let vector = columns::encode_f32(&vec![1.0; self.dim]);
        Ok(Response::new(pb::EncodeResponse { pin: Some(pin), vector }))
    }

    async fn score(&self, request: Request<pb::ScoreRequest>) -> Result<Response<pb::ScoreResponse>, Status> {
        let request = request.into_inner();
        let does = {
            let mut script = self.script.lock().unwrap();
            script.scored.push(request.clone());
            script.score
        };
        does.act().await?;
        if does == Does::HangAfterList && !matches!(request.mode, Some(Mode::List(_))) {
            std::future::pending::<()>().await;
        }
        self.answer(&request, does == Does::Lie).map(Response::new)
    }
}

/// A feature-cache that knows one affinity for everybody.
#[derive(Debug)]
pub(crate) struct Cache {
    pub(crate) does: Does,
    pub(crate) affinity: f32,
}

impl Cache {
    pub(crate) async fn serve(self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = listener.local_addr().unwrap().to_string();
        let server = Server::builder().add_service(FeatureServiceServer::new(self));
        tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
        endpoint
    }
}

#[tonic::async_trait]
impl FeatureService for Cache {
    async fn get_features(
        &self,
        request: Request<pb::GetFeaturesRequest>,
    ) -> Result<Response<pb::GetFeaturesResponse>, Status> {
        self.does.act().await?;
        let value = pb::FeatureValue { floats: vec![self.affinity], ints: Vec::new() };
        let group = |key| pb::FeatureGroup {
            key: Some(key),
            values: [("user.affinity".to_owned(), value.clone())].into(),
            ..Default::default()
        };
        let results =
            request.into_inner().keys.into_iter().map(|key| pb::FeatureResult { group: Some(group(key)) });
        Ok(Response::new(pb::GetFeaturesResponse { results: results.collect() }))
    }

    async fn put_features(
        &self,
        _: Request<pb::PutFeaturesRequest>,
    ) -> Result<Response<pb::PutFeaturesResponse>, Status> {
        Ok(Response::new(pb::PutFeaturesResponse {}))
    }
}
