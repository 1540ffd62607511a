//! Shoppers of whom something is known: features written as whoever has them does, and lists ranked by them.

use std::collections::BTreeMap;

use anyhow::Context as _;
use endcap_proto::pb::{
    self, DegradationReason, feature_service_client::FeatureServiceClient,
    recommend_service_client::RecommendServiceClient,
};
use tonic::transport::Channel;

use crate::{channel, query, timed};

/// What a shopper got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ranked {
    /// The bits of each item's score.
    pub scores: BTreeMap<String, u32>,
    /// What was done without.
    pub reasons: Vec<DegradationReason>,
}

/// Writes the user feature of the tiny bundles for these users.
pub async fn put_features(cache: &str, users: &[&str]) -> anyhow::Result<()> {
    let value = pb::FeatureValue { floats: vec![5.0], ints: Vec::new() };
    let group = |user: &&str| pb::FeatureGroup {
        key: Some(pb::FeatureKey { namespace: "user".into(), entity_id: (*user).to_owned() }),
        values: [("user.affinity".to_owned(), value.clone())].into(),
        ..Default::default()
    };
    let request = pb::PutFeaturesRequest { groups: users.iter().map(group).collect() };
    FeatureServiceClient::new(channel(cache)?).put_features(timed(request)).await?;
    Ok(())
}

/// Asks for a user, and fails unless everything else than features was there.
pub async fn ranked_for(gateway: &mut RecommendServiceClient<Channel>, user: &str) -> anyhow::Result<Ranked> {
    let mut ask = query("red kettle");
    ask.get_mut().user_id = user.to_owned();
    let answer = gateway.recommend(ask).await?.into_inner();
    let quality = answer.quality.context("an answer has its quality")?;
    anyhow::ensure!(quality.rung() == pb::Rung::Full, "{quality:?}");
    let scores = answer.items.into_iter().map(|item| (item.item_id, item.score.to_bits())).collect();
    Ok(Ranked { scores, reasons: quality.degradation_reasons().collect() })
}
