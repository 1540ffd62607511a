//! An open load: requests leave on time whatever became of those before, as a shop's do.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use endcap_proto::pb::{self, recommend_service_client::RecommendServiceClient};
use endcap_service::status::connection_broke;
use tokio::{
    task::JoinSet,
    time::{Instant, MissedTickBehavior},
};
use tokio_util::sync::CancellationToken;
use tonic::{Code, transport::Channel};

/// What a shop's search service would give a request here; debug builds on two busy cores are slow.
pub const DEADLINE: Duration = Duration::from_secs(1);

/// One request's fate.
#[derive(Debug, Clone)]
pub struct Sample {
    /// When it left, since the load began.
    pub at: Duration,
    pub took: Duration,
    pub outcome: Result<Seen, String>,
}

/// What an answer said of itself.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seen {
    pub version: u64,
    pub digest: String,
    pub rung: i32,
    pub shards_ok: u32,
    pub shards_total: u32,
    /// Bits of the scores, in order.
    pub scores: Vec<u32>,
}

/// A running load.
#[derive(Debug)]
pub struct Load {
    stop: CancellationToken,
    running: tokio::task::JoinHandle<Report>,
    started: Instant,
}

/// Everything that happened.
#[derive(Debug, Default)]
pub struct Report {
    pub samples: Vec<Sample>,
}

impl Load {
    /// `rate` requests per second, spread over the gateways. A caller that one gateway does not take in, or whose
    /// connection breaks, asks another one, as gRPC client libraries do where they are told to; a ranking can be asked
    /// for twice. That a gateway which drains answers all it let in is a test of the server's own.
    #[expect(clippy::disallowed_methods, reason = "clients of a test are nobody's background tasks")]
    pub fn start(gateways: Vec<RecommendServiceClient<Channel>>, rate: u32) -> Self {
        let (stop, started) = (CancellationToken::new(), Instant::now());
        let stopped = stop.clone();
        let running = tokio::spawn(async move {
            let mut ticks = tokio::time::interval(Duration::from_secs(1) / rate);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
            let mut calls = JoinSet::new();
            let mut number = 0_usize;
            while stopped.run_until_cancelled(ticks.tick()).await.is_some() {
                let mut gateways = gateways.clone();
                let first = number % gateways.len();
                gateways.rotate_left(first);
                calls.spawn(call(gateways, number, started));
                number += 1;
            }
            Report { samples: calls.join_all().await }
        });
        Self { stop, running, started }
    }

    /// Time since the load began, as samples count it.
    pub fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// Ends it and waits for the requests under way.
    pub async fn stop(self) -> anyhow::Result<Report> {
        self.stop.cancel();
        Ok(self.running.await?)
    }
}

async fn call(gateways: Vec<RecommendServiceClient<Channel>>, number: usize, started: Instant) -> Sample {
    let at = started.elapsed();
    let begun = Instant::now();
    let mut outcome = Err("no gateway was asked".to_owned());
    for mut gateway in gateways {
        // Few enough that a version's answers can be listed, different enough that they differ.
        let message = pb::RecommendRequest {
            query: format!("red kettle {}", number % 4),
            limit: 10,
            ..Default::default()
        };
        let mut request = tonic::Request::new(message);
        request.set_timeout(DEADLINE.saturating_sub(begun.elapsed()));
        match gateway.recommend(request).await {
            Ok(answer) => {
                outcome = Ok(seen(&answer.into_inner()));
                break;
            }
            Err(status) => {
                outcome = Err(format!("{:?}: {}", status.code(), status.message()));
                if status.code() != Code::Unavailable && !connection_broke(&status) {
                    break;
                }
            }
        }
    }
    Sample { at, took: begun.elapsed(), outcome }
}

fn seen(answer: &pb::RecommendResponse) -> Seen {
    let quality = answer.quality.clone().unwrap_or_default();
    let coverage = quality.coverage.clone().unwrap_or_default();
    Seen {
        version: quality.version,
        digest: quality.digest,
        rung: quality.rung,
        shards_ok: coverage.shards_ok,
        shards_total: coverage.shards_total,
        scores: answer.items.iter().map(|item| item.score.to_bits()).collect(),
    }
}

impl Report {
    pub fn failed(&self) -> Vec<String> {
        let failed = self.samples.iter().filter_map(|sample| {
            let error = sample.outcome.as_ref().err()?;
            Some(format!("at {:?} after {:?}: {error}", sample.at, sample.took))
        });
        failed.collect()
    }

    /// Answers that came after their deadline, with room for this process's own scheduling.
    pub fn late(&self) -> usize {
        self.samples.iter().filter(|sample| sample.took > DEADLINE + Duration::from_millis(100)).count()
    }

    /// Answers that were not in full, or not from every shard.
    pub fn degraded(&self) -> Vec<&Sample> {
        let degraded = |seen: &Seen| seen.rung != pb::Rung::Full as i32 || seen.shards_ok < seen.shards_total;
        self.samples.iter().filter(|sample| sample.outcome.as_ref().is_ok_and(degraded)).collect()
    }

    pub fn availability(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a share of requests")]
        {
            1.0 - self.failed().len() as f64 / self.samples.len().max(1) as f64
        }
    }

    /// Digests and score lists by version.
    pub fn by_version(&self) -> BTreeMap<u64, BTreeSet<(String, Vec<u32>)>> {
        let mut versions = BTreeMap::<u64, BTreeSet<_>>::new();
        for seen in self.samples.iter().filter_map(|sample| sample.outcome.as_ref().ok()) {
            versions.entry(seen.version).or_default().insert((seen.digest.clone(), seen.scores.clone()));
        }
        versions
    }

    /// A line for people.
    pub fn summary(&self) -> String {
        let mut took: Vec<Duration> = self.samples.iter().map(|sample| sample.took).collect();
        took.sort_unstable();
        let at = |share: usize| took.get(took.len() * share / 100).copied().unwrap_or_default();
        format!(
            "{} requests, {} failed, {} late, {} degraded; p50 {:?}, p99 {:?}, longest {:?}",
            took.len(),
            self.failed().len(),
            self.late(),
            self.degraded().len(),
            at(50),
            at(99),
            took.last().copied().unwrap_or_default()
        )
    }
}
