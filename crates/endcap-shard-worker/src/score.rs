//! Retrieving and ranking on one shard.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use endcap_inference::{Listed, QueryFeatures, ShardTable, VersionModel};
use endcap_proto::{
    columns,
    pb::{self, score_request::Mode},
};
use endcap_service::{
    Deadline,
    traces::{note, stage},
};
use endcap_types::{DType, FeatureName, FeatureValue, VersionPin, Violations};
use tokio::{sync::Semaphore, time::Instant};

use crate::{error::WorkError, holdings::Holdings};

const DEEPEST: usize = 10_000;

/// Scores on the shards that are held.
#[derive(Debug, Clone)]
pub(crate) struct Score {
    pub(crate) holdings: Holdings,
    /// Scans run on blocking threads; this many at once, so that they don't fight over the cores.
    pub(crate) scans: Arc<Semaphore>,
}

/// A request whose every field has been checked.
struct Work {
    /// As it came, for the answer.
    pin: pb::VersionPin,
    mode: Mode,
    query: QueryFeatures,
    vector: Option<Vec<f32>>,
    fields: Vec<String>,
}

/// Rows to rank, and what else the answer needs.
struct Found {
    item_ids: Vec<String>,
    rows: Vec<u32>,
    similarities: Vec<f32>,
    considered: u64,
    unknown: Vec<String>,
}

impl Score {
    #[expect(
        clippy::manual_async_fn,
        reason = "an async fn has room for its arguments twice, and each call is moved"
    )]
    pub(crate) fn run(
        &self,
        request: pb::ScoreRequest,
        deadline: Deadline,
    ) -> impl Future<Output = Result<pb::ScoreResponse, WorkError>> {
        async move {
            let pin = pin(request.pin.as_ref())?;
            note([("shard", request.shard.into()), ("version", pin.version.get().into())]);
            self.score(request, pin, deadline).await
        }
    }

    #[expect(clippy::manual_async_fn, reason = "as above")]
    fn score(
        &self,
        request: pb::ScoreRequest,
        asked: VersionPin,
        deadline: Deadline,
    ) -> impl Future<Output = Result<pb::ScoreResponse, WorkError>> {
        async move {
            let shard = request.shard;
            let (model, table) = self.holdings.shard(&asked, shard)?;
            drop(asked);
            let Work { pin, mode, query, vector, fields } = checked(request, &model, &table)?;
            let started = Instant::now();
            if deadline.instant() <= started {
                return Err(WorkError::Expired);
            }
            let found = match mode {
                Mode::Retrieve(retrieve) => {
                    let _retrieving = stage("retrieve", started);
                    self.retrieve(&table, vector.unwrap_or_default(), &retrieve, deadline).await?
                }
                Mode::Rerank(rerank) => look_up(&table, rerank.item_ids, vector.as_deref()),
                Mode::List(list) => {
                    let _listing = stage("list", started);
                    let listed = self.list(&table, query, &list, deadline).await?;
                    return Ok(pb::ScoreResponse { pin: Some(pin), shard, ..listed });
                }
            };
            let looked_up = Instant::now();
            let ranking = stage("rank", looked_up).of("rows", found.rows.len());
            let ranked = model.rank(&table, &found.rows, &query, deadline.instant()).await?;
            ranking.end(looked_up + ranked.assembled + ranked.queued + ranked.inferred);
            Ok(pb::ScoreResponse {
                pin: Some(pin),
                shard,
                item_ids: found.item_ids,
                scores: columns::encode_f32(&ranked.scores),
                retrieval_scores: columns::encode_f32(&found.similarities),
                fields: fields.iter().map(|field| text_column(&table, field, &found.rows)).collect(),
                items_considered: found.considered,
                unknown_item_ids: found.unknown,
                lexical_scores: columns::encode_f32(&[]),
                timing: Some(pb::ShardTiming {
                    queue_us: micros(ranked.queued),
                    retrieve_us: micros(looked_up - started),
                    assemble_us: micros(ranked.assembled),
                    infer_us: micros(ranked.inferred),
                }),
            })
        }
    }

    async fn retrieve(
        &self,
        table: &Arc<ShardTable>,
        vector: Vec<f32>,
        retrieve: &pb::Retrieve,
        deadline: Deadline,
    ) -> Result<Found, WorkError> {
        let (scanned, depth) = (Arc::clone(table), retrieve.depth as usize);
        let excluded = rows(table, &retrieve.exclude_item_ids);
        let best = self.scan(deadline, move || scanned.retrieve(&vector, depth, &excluded)).await?;
        let (rows, similarities): (Vec<_>, _) = best.into_iter().unzip();
        let item_ids = rows.iter().map(|row| table.item_id(*row).to_owned()).collect();
        Ok(Found { item_ids, rows, similarities, considered: table.len() as u64, unknown: Vec::new() })
    }

    /// The shard's lists, unranked: an answer but for what it answers for.
    async fn list(
        &self,
        table: &Arc<ShardTable>,
        query: QueryFeatures,
        list: &pb::List,
        deadline: Deadline,
    ) -> Result<pb::ScoreResponse, WorkError> {
        let started = Instant::now();
        let (scanned, depth) = (Arc::clone(table), list.depth as usize);
        let excluded = rows(table, &list.exclude_item_ids);
        let listed = self.scan(deadline, move || scanned.list(&query, depth, &excluded)).await?;
        let column =
            |score: fn(&Listed) -> f32| columns::encode_f32(&listed.iter().map(score).collect::<Vec<_>>());
        Ok(pb::ScoreResponse {
            item_ids: listed.iter().map(|item| table.item_id(item.row).to_owned()).collect(),
            retrieval_scores: column(|item| item.dense),
            lexical_scores: column(|item| item.lexical),
            items_considered: table.len() as u64,
            timing: Some(pb::ShardTiming {
                retrieve_us: micros(started.elapsed()),
                ..pb::ShardTiming::default()
            }),
            ..pb::ScoreResponse::default()
        })
    }

    /// Looks through the index on a thread that may block, once there is room.
    async fn scan<T: Send + 'static>(
        &self,
        deadline: Deadline,
        look: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, WorkError> {
        let ended = |detail: String| WorkError::ScanEnded { detail };
        let place = tokio::time::timeout_at(deadline.instant(), Arc::clone(&self.scans).acquire_owned());
        let place = place.await.map_err(|_elapsed| WorkError::Expired)?.map_err(|e| ended(e.to_string()))?;
        let scan = tokio::task::spawn_blocking(move || {
            let _place = place;
            // Nobody waits any more: the scan is not begun.
            (!deadline.is_expired()).then(look)
        });
        scan.await.map_err(|e| ended(e.to_string()))?.ok_or(WorkError::Expired)
    }
}

/// The rows of these items that the shard has.
fn rows(table: &ShardTable, item_ids: &[String]) -> HashSet<u32> {
    item_ids.iter().filter_map(|item_id| table.row_of(item_id)).collect()
}

/// The version that a request names.
pub(crate) fn pin(wire: Option<&pb::VersionPin>) -> Result<VersionPin, WorkError> {
    let mut violations = Violations::default();
    match VersionPin::try_from(wire.unwrap_or(&pb::VersionPin::default())) {
        Ok(pin) => Ok(pin),
        Err(error) => {
            violations.push("pin", error.to_string());
            Err(violations.into())
        }
    }
}

fn checked(request: pb::ScoreRequest, model: &VersionModel, table: &ShardTable) -> Result<Work, WorkError> {
    let mut violations = Violations::default();
    let vector = query_vector(&request.query_vector, model, &mut violations);
    let given = features(request.features, model, &mut violations);
    for (i, field) in request.fields.iter().enumerate() {
        if !table.has_column(field) {
            let known: Vec<_> = table.column_names().collect();
            let field: String = field.chars().take(80).collect();
            violations
                .push(format!("fields[{i}]"), format!("no column {field:?}; there are {}", known.join(", ")));
        }
    }
    let mode = checked_mode(request.mode, vector.is_some(), &mut violations);
    let mut mode = violations.or(mode)?.unwrap_or_else(|| Mode::Rerank(pb::Rerank::default()));
    let mut query = model.query_features(&request.query, vector.as_deref(), given)?;
    if let Mode::Rerank(pb::Rerank { item_ids, standing }) = &mut mode
        && let Some(standing) = standing.take()
    {
        query = query.placed(&standing.into(), table, item_ids);
    }
    let pin = request.pin.unwrap_or_default();
    Ok(Work { pin, mode, query, vector, fields: request.fields })
}

fn checked_mode(mode: Option<Mode>, has_vector: bool, violations: &mut Violations) -> Option<Mode> {
    let mut depth = |field: &str, depth: u32| {
        if depth == 0 || depth as usize > DEEPEST {
            violations.push(field, format!("is {depth}; expected 1 to {DEEPEST}"));
        }
    };
    match &mode {
        Some(Mode::Retrieve(retrieve)) => {
            depth("retrieve.depth", retrieve.depth);
            if !has_vector && violations.is_empty() {
                violations.push("query_vector", "is empty; retrieval needs one");
            }
        }
        Some(Mode::List(list)) => depth("list.depth", list.depth),
        Some(Mode::Rerank(rerank)) => {
            if let Some(standing) = &rerank.standing {
                check_standing(standing, rerank.item_ids.len(), violations);
            }
        }
        None => violations.push("mode", "is missing; expected retrieve, rerank or list"),
    }
    mode
}

fn check_standing(standing: &pb::Standing, items: usize, violations: &mut Violations) {
    let ranks = [("dense_ranks", &standing.dense_ranks), ("lexical_ranks", &standing.lexical_ranks)];
    for (name, ranks) in ranks.into_iter().filter(|(_, ranks)| ranks.len() != items) {
        let text = format!("has {} numbers; expected {items}, one per item", ranks.len());
        violations.push(format!("rerank.standing.{name}"), text);
    }
    let tops = [("dense_top", standing.dense_top), ("lexical_top", standing.lexical_top)];
    for (name, top) in tops.into_iter().filter(|(_, top)| !top.is_finite()) {
        violations.push(format!("rerank.standing.{name}"), format!("is {top}"));
    }
}

fn query_vector(bytes: &[u8], model: &VersionModel, violations: &mut Violations) -> Option<Vec<f32>> {
    if bytes.is_empty() {
        return None;
    }
    match columns::decode_f32(bytes) {
        Err(error) => violations.push("query_vector", error.to_string()),
        Ok(vector) if model.dim().is_some_and(|dim| dim != vector.len()) => {
            let expected = model.dim().unwrap_or_default();
            violations.push("query_vector", format!("has {} numbers; expected {expected}", vector.len()));
        }
        Ok(vector) => match vector.iter().position(|value| !value.is_finite()) {
            Some(i) => violations.push(format!("query_vector[{i}]"), format!("is {}", vector[i])),
            None => return Some(vector),
        },
    }
    None
}

/// Given features by name. Those that this ranker does not read are left out: a gateway may send what another reads.
fn features(
    wire: Vec<pb::FeatureColumn>,
    model: &VersionModel,
    violations: &mut Violations,
) -> BTreeMap<FeatureName, FeatureValue> {
    let mut given = BTreeMap::new();
    for column in wire {
        let field = format!("features[{:?}]", column.name.chars().take(80).collect::<String>());
        let name = match column.name.parse::<FeatureName>() {
            Ok(name) => name,
            Err(error) => {
                violations.push(field, error.to_string());
                continue;
            }
        };
        let Some((dtype, _)) = model.given_feature(&name) else {
            continue;
        };
        let value = match dtype {
            DType::F32 => columns::decode_f32(&column.values).map(FeatureValue::F32),
            DType::I64 => columns::decode_i64(&column.values).map(FeatureValue::I64),
        };
        match value {
            Ok(value) => {
                given.insert(name, value);
            }
            Err(error) => violations.push(field, error.to_string()),
        }
    }
    given
}

/// The ids of the request become those of the answer.
fn look_up(table: &ShardTable, mut item_ids: Vec<String>, vector: Option<&[f32]>) -> Found {
    let mut rows = Vec::with_capacity(item_ids.len());
    let is_unknown = |item_id: &mut String| match table.row_of(item_id) {
        Some(row) => {
            rows.push(row);
            false
        }
        None => true,
    };
    let unknown = item_ids.extract_if(.., is_unknown).collect();
    let mut found =
        Found { considered: rows.len() as u64, item_ids, rows, similarities: Vec::new(), unknown };
    if let Some(vector) = vector {
        found.similarities = found.rows.iter().map(|row| table.similarity(*row, vector)).collect();
    }
    found
}

fn text_column(table: &ShardTable, name: &str, rows: &[u32]) -> pb::TextColumn {
    let values = rows.iter().map(|row| table.text(name, *row).unwrap_or_default().into_owned()).collect();
    pb::TextColumn { name: name.to_owned(), values }
}

fn micros(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
