//! `endcap.v1.RecommendService/Recommend` as a target.

use std::{collections::BTreeSet, time::Duration};

use async_trait::async_trait;
use endcap_proto::pb::{self, recommend_service_client::RecommendServiceClient};
use tonic::transport::{Channel, Endpoint};

use crate::{Answer, BenchError, Queries, Target, target::until_deadline};

/// A page of 1,000 items with fields.
const MAX_MESSAGE: usize = 64 << 20;
/// Most items that one answer has.
const PAGE: u32 = 1000;
/// Queries asked for items before giving up.
const MOST_PAGES: u64 = 200;

/// What to ask of a gateway.
#[derive(Debug, Clone)]
pub struct RecommendConfig {
    pub url: String,
    pub connections: usize,
    /// Empty: the gateway's default model.
    pub model: String,
    pub queries: Queries,
    pub limit: u32,
    /// Items to rank instead of retrieving: each request has `candidates` of them, or none.
    pub items: Vec<String>,
    pub candidates: usize,
}

/// Asks a gateway.
#[derive(Debug)]
pub struct RecommendTarget {
    config: RecommendConfig,
    clients: Vec<RecommendServiceClient<Channel>>,
}

impl RecommendTarget {
    /// Connects when first asked.
    pub fn new(config: RecommendConfig) -> Result<Self, BenchError> {
        let clients = channels(&config.url, config.connections)?
            .into_iter()
            .map(|channel| RecommendServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE))
            .collect();
        if config.items.len() < config.candidates {
            return Err(BenchError::TooFewItems { found: config.items.len(), wanted: config.candidates });
        }
        Ok(Self { config, clients })
    }

    fn request(&self, index: u64) -> pb::RecommendRequest {
        let config = &self.config;
        let count = config.items.len().max(1) as u64;
        // A different window of the items for each request, so that no cache answers for the ranker.
        let first = (index.wrapping_mul(config.candidates as u64) % count) as usize;
        pb::RecommendRequest {
            model: config.model.clone(),
            query: config.queries.get(index).to_owned(),
            candidates: config.items.iter().cycle().skip(first).take(config.candidates).cloned().collect(),
            limit: config.limit,
            ..Default::default()
        }
    }
}

#[async_trait]
impl Target for RecommendTarget {
    async fn ask(&self, index: u64, deadline: Duration) -> Answer {
        let mut request = tonic::Request::new(self.request(index));
        request.set_timeout(deadline);
        let mut client = self.clients[index as usize % self.clients.len()].clone();
        match until_deadline(deadline, client.recommend(request)).await {
            Ok(answer) => Answer::Good { rung: Some(answer.quality.map_or("NONE", |q| rung_name(q.rung()))) },
            Err(failed) => failed,
        }
    }
}

fn rung_name(rung: pb::Rung) -> &'static str {
    rung.as_str_name().trim_start_matches("RUNG_")
}

/// Distinct items to rank: at least `wanted`, as the gateway retrieves them for the queries.
pub async fn collect_items(config: &RecommendConfig, wanted: usize) -> Result<Vec<String>, BenchError> {
    let channel = channels(&config.url, 1)?.remove(0);
    let mut client = RecommendServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE);
    let mut items = BTreeSet::new();
    for index in 0..MOST_PAGES {
        let message = pb::RecommendRequest {
            model: config.model.clone(),
            query: config.queries.get(index).to_owned(),
            limit: PAGE,
            ..Default::default()
        };
        let mut request = tonic::Request::new(message);
        request.set_timeout(Duration::from_secs(5));
        let answer = client.recommend(request).await.map_err(|status| BenchError::Remote {
            what: "ask for items to rank",
            status: Box::new(status),
        })?;
        items.extend(answer.into_inner().items.into_iter().map(|item| item.item_id));
        if items.len() >= wanted {
            break;
        }
    }
    if items.len() < wanted {
        return Err(BenchError::TooFewItems { found: items.len(), wanted });
    }
    Ok(items.into_iter().collect())
}

/// Connections of their own: requests are dealt out to them in turn.
pub(crate) fn channels(url: &str, connections: usize) -> Result<Vec<Channel>, BenchError> {
    let refused = || BenchError::Address { url: url.to_owned() };
    let endpoint = Endpoint::from_shared(url.to_owned()).map_err(|_| refused())?;
    if endpoint.uri().authority().is_none() {
        return Err(refused());
    }
    let endpoint = endpoint.connect_timeout(Duration::from_secs(3)).tcp_nodelay(true);
    Ok((0..connections.max(1)).map(|_| endpoint.connect_lazy()).collect())
}
