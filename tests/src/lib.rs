//! A whole fleet for tests: every service in this process, on free ports, on a folder of its own, talked to over its
//! RPCs as anybody would.

pub mod cable;
pub mod linear;
pub mod load;
pub mod otlp;
pub mod processes;
pub mod prometheus;
pub mod registry;
pub mod shoppers;

use std::{collections::BTreeMap, path::Path, time::Duration};

use anyhow::Context as _;
use endcap::fleet::{Fleet, FleetOptions};
use endcap_bundle::{
    PackOptions,
    test_util::{TinyOptions, tiny_source},
};
use endcap_proto::pb::{
    self, model_registry_client::ModelRegistryClient, recommend_service_client::RecommendServiceClient,
};
use endcap_types::ShardCount;
use tempfile::TempDir;
use tonic::transport::{Channel, Endpoint};

/// The model of the tiny bundles.
pub const MODEL: &str = "tiny";

/// Longer than anything here takes on a busy machine; a wait that reaches it has failed.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A running fleet and clients for it.
#[derive(Debug)]
pub struct TestFleet {
    pub fleet: Fleet,
    pub registry: ModelRegistryClient<Channel>,
    pub gateway: RecommendServiceClient<Channel>,
}

impl TestFleet {
    /// Starts a fleet on `data_dir`, with settings over the defaults.
    pub async fn start(data_dir: &Path, workers: usize, set: &[(&str, &str)]) -> anyhow::Result<Self> {
        let mut all: Vec<(String, String)> = vec![
            ("gateway.grpc.listen".into(), "127.0.0.1:0".into()),
            ("registry.grpc.listen".into(), "127.0.0.1:0".into()),
            ("feature_cache.grpc.listen".into(), "127.0.0.1:0".into()),
            ("admin.listen".into(), "127.0.0.1:0".into()),
            ("gateway.default_model".into(), MODEL.into()),
            ("worker.drain.delay".into(), "50ms".into()),
        ];
        all.extend(set.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
        let options = FleetOptions {
            data_dir: data_dir.to_owned(),
            workers,
            config: None,
            env: BTreeMap::new(),
            set: all,
        };
        let fleet = Fleet::start(&options).await?;
        let registry = ModelRegistryClient::new(channel(&fleet.registry_url())?);
        let gateway = RecommendServiceClient::new(channel(&fleet.gateway_url())?);
        Ok(Self { fleet, registry, gateway })
    }

    /// Uploads a packed bundle.
    pub async fn register(&mut self, packed: &[u8]) -> Result<pb::ModelVersion, tonic::Status> {
        registry::register(&mut self.registry, packed).await
    }

    /// Loads a version on its workers and waits until it is ready.
    pub async fn validate(&mut self, version: u64) -> Result<Vec<u32>, tonic::Status> {
        registry::validate(&mut self.registry, version).await
    }

    pub async fn promote(&mut self, version: u64) -> Result<pb::Rollout, tonic::Status> {
        registry::promote(&mut self.registry, version).await
    }

    pub async fn rollback(&mut self) -> Result<pb::Rollout, tonic::Status> {
        registry::rollback(&mut self.registry).await
    }

    /// Registers, validates and promotes, then waits until the gateway routes to it.
    pub async fn release(&mut self, packed: &[u8]) -> anyhow::Result<u64> {
        let version = self.register(packed).await?.version;
        self.validate(version).await?;
        self.promote(version).await?;
        self.until_answering(version).await?;
        Ok(version)
    }

    /// Waits until an unpinned request is answered in full by `version`: a promotion reaches the gateway by a watch.
    pub async fn until_answering(&mut self, version: u64) -> anyhow::Result<()> {
        let mut gateway = self.gateway.clone();
        eventually("the gateway answers from the promoted version", async || {
            let answer = gateway.recommend(query("red kettle")).await;
            let quality = answer.ok().and_then(|answer| answer.into_inner().quality);
            quality.is_some_and(|q| q.version == version && q.rung() == pb::Rung::Full)
        })
        .await
    }
}

/// A retrieval request with a generous deadline.
pub fn query(text: &str) -> tonic::Request<pb::RecommendRequest> {
    timed(pb::RecommendRequest { query: text.into(), limit: 10, ..Default::default() })
}

/// A request with a generous deadline.
pub fn timed<T>(message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(PATIENCE);
    request
}

/// Polls a condition until it holds, or fails after [`PATIENCE`] saying what was waited for.
pub async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) -> anyhow::Result<()> {
    let mut pause = tokio::time::interval(Duration::from_millis(10));
    let polling = async {
        while !condition().await {
            pause.tick().await;
        }
    };
    tokio::time::timeout(PATIENCE, polling).await.with_context(|| format!("waited in vain until {what}"))
}

/// A lazy channel to an address.
pub fn channel(url: &str) -> anyhow::Result<Channel> {
    Ok(Endpoint::from_shared(url.to_owned())?.tcp_nodelay(true).connect_lazy())
}

/// A packed tiny bundle.
#[derive(Debug)]
pub struct Packed {
    pub bytes: Vec<u8>,
    /// The unpacked bundle's folder, kept as long as this.
    pub folder: TempDir,
}

/// Builds and packs a tiny bundle.
pub fn tiny(options: &TinyOptions, shards: u32) -> anyhow::Result<Packed> {
    let folder = tempfile::tempdir()?;
    let source = folder.path().join("source");
    std::fs::create_dir(&source)?;
    tiny_source(&source, options)?;
    pack_source(folder, shards)
}

/// Packs `folder/source`, however it was changed, without the checks of `endcap bundle pack`.
pub fn pack_source(folder: TempDir, shards: u32) -> anyhow::Result<Packed> {
    let options =
        PackOptions { shards: ShardCount::try_from(shards)?, created: "2026-01-01T00:00:00Z".into() };
    let bundle =
        endcap_bundle::assemble(&folder.path().join("source"), &folder.path().join("bundle"), &options, &())?;
    let file = folder.path().join("tiny.endcap");
    endcap_bundle::pack(&bundle, &file, &())?;
    Ok(Packed { bytes: std::fs::read(&file)?, folder })
}

/// Resident memory of this process, in bytes.
pub fn resident_bytes() -> anyhow::Result<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm")?;
    let pages: u64 = statm.split_whitespace().nth(1).context("statm has a second field")?.parse()?;
    Ok(pages * 4096)
}

/// The text of `/metrics` of the whole process.
pub async fn metrics(fleet: &TestFleet) -> anyhow::Result<String> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = tokio::net::TcpStream::connect(fleet.fleet.admin).await?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    Ok(text)
}
