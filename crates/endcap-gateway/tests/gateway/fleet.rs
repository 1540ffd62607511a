//! A real gateway on a free port, around an embedded coordinator and a local store, with fakes for everyone it asks.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use endcap_bundle::{
    Bundle, BundleStore, PackOptions,
    test_util::{TinyOptions, tiny_source},
};
use endcap_coordination::{Coordinator, EmbeddedCoordinator, Txn, TxnOutcome};
use endcap_fleet::{
    Keys, MemberRecord, ReadyRecord, Record, RolloutRecord, ShardKey, VersionRecord, VersionState,
};
use endcap_gateway::{App, Config, Deps};
use endcap_proto::pb::{self, recommend_service_client::RecommendServiceClient};
use endcap_service::Settings;
use endcap_types::{Alias, ItemId, ModelName, ShardCount, Version, VersionPin};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};

use crate::worker::{Cache, Does, Script, Shared, Worker};

/// Longer than anything here takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
pub(crate) const ITEMS: usize = 120;

pub(crate) struct Fleet {
    pub(crate) keys: Keys,
    coordinator: Arc<dyn Coordinator>,
    store: Arc<BundleStore>,
    bundles: BTreeMap<u64, Bundle>,
    folder: TempDir,
    shutdown: CancellationToken,
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

impl Fleet {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = BundleStore::folder(folder.path().join("store").to_str().unwrap()).unwrap();
        Self {
            keys: Keys::default(),
            coordinator: Arc::new(EmbeddedCoordinator::in_memory()),
            store: Arc::new(store),
            bundles: BTreeMap::new(),
            folder,
            shutdown: CancellationToken::new(),
        }
    }

    /// A fleet whose version 1 is stable, has two shards, and is held by `workers` workers each.
    pub(crate) async fn stable(workers: usize) -> (Self, Vec<Shared>) {
        let mut fleet = Self::new();
        fleet.register(1, 2, |_| {}).await;
        let mut scripts = Vec::new();
        for number in 0..workers {
            scripts.push(fleet.worker(&format!("w{number}"), &[(1, 0), (1, 1)]).await);
        }
        fleet.promote(1).await;
        (fleet, scripts)
    }

    /// Makes a version of the tiny model; `mend` may change its source's `model.json`.
    pub(crate) async fn register(
        &mut self,
        version: u64,
        shards: u32,
        mend: impl Fn(&mut serde_json::Value),
    ) {
        let source = self.folder.path().join(format!("source-{version}"));
        std::fs::create_dir(&source).unwrap();
        let options = TinyOptions { items: ITEMS, variant: format!("v{version}"), ..TinyOptions::default() };
        tiny_source(&source, &options).unwrap();
        let spec = source.join("model.json");
        let mut value = serde_json::from_slice(&std::fs::read(&spec).unwrap()).unwrap();
        mend(&mut value);
        std::fs::write(&spec, serde_json::to_vec(&value).unwrap()).unwrap();
        let pack = PackOptions {
            shards: ShardCount::try_from(shards).unwrap(),
            created: "2026-01-01T00:00:00Z".into(),
        };
        let folder = self.folder.path().join(format!("bundle-{version}"));
        let bundle = endcap_bundle::assemble(&source, &folder, &pack, &()).unwrap();
        self.store.put(&bundle).await.unwrap();
        let record = VersionRecord {
            digest: bundle.digest(),
            attempt: 1,
            shard_count: bundle.manifest().shard_count,
            items_total: bundle.manifest().items_total,
            size_bytes: bundle.size_bytes(),
            registered_at: String::new(),
            state: VersionState::Validated,
            failure: String::new(),
            evaluation: BTreeMap::new(),
            lineage: BTreeMap::new(),
        };
        self.bundles.insert(version, bundle);
        let pin = self.pin(version);
        self.put(&self.keys.version(&pin.model, pin.version), &record).await;
    }

    /// Starts a worker that holds these shards and says so.
    pub(crate) async fn worker(&self, id: &str, held: &[(u64, u32)]) -> Shared {
        let script = Script { score: Does::Answer, encode: Does::Answer, scored: Vec::new(), encoded: 0 };
        let script = Arc::new(Mutex::new(script));
        let items = |version: u64, shard: u32| self.bundles[&version].items(shard).unwrap().ids;
        let shards = held.iter().map(|(v, shard)| ((self.pin(*v), *shard), items(*v, *shard))).collect();
        let endpoint = Worker { script: Arc::clone(&script), shards, dim: 8 }.serve().await;
        for (version, shard) in held {
            let record = ReadyRecord { digest: self.pin(*version).digest, endpoint: endpoint.clone() };
            self.put(&self.ready_key(*version, *shard, id), &record).await;
        }
        script
    }

    pub(crate) fn ready_key(&self, version: u64, shard: u32, worker: &str) -> String {
        let VersionPin { model, version, .. } = self.pin(version);
        self.keys.ready(&ShardKey { model, version, shard }, worker)
    }

    pub(crate) async fn cache(&self, cache: Cache) {
        let endpoint = cache.serve().await;
        let record = MemberRecord { endpoint, build: String::new() };
        self.put(&self.keys.feature_cache("f"), &record).await;
    }

    pub(crate) async fn promote(&self, version: u64) {
        self.aliases(&[(Alias::Stable, version)], 0).await;
    }

    pub(crate) async fn aliases(&self, aliases: &[(Alias, u64)], candidate_permille: u16) {
        let aliases = aliases.iter().map(|(alias, version)| (*alias, number(*version))).collect();
        let record = RolloutRecord { revision: 1, aliases, candidate_permille, history_length: 0 };
        self.put(&self.keys.rollout(&model()), &record).await;
    }

    pub(crate) async fn put(&self, key: &str, record: &impl Record) {
        let outcome = self.coordinator.commit(Txn::default().put(key, record.to_json())).await.unwrap();
        assert!(matches!(outcome, TxnOutcome::Committed(_)));
    }

    pub(crate) async fn delete(&self, key: &str) {
        self.coordinator.commit(Txn::default().delete(key)).await.unwrap();
    }

    pub(crate) fn pin(&self, version: u64) -> VersionPin {
        VersionPin { model: model(), version: number(version), digest: self.bundles[&version].digest() }
    }

    pub(crate) fn bundle(&self, version: u64) -> &Bundle {
        &self.bundles[&version]
    }

    /// Every item of a version.
    pub(crate) fn items(&self, version: u64) -> Vec<ItemId> {
        let bundle = &self.bundles[&version];
        let shards = bundle.manifest().shard_count.indices();
        shards.flat_map(|shard| bundle.items(shard).unwrap().ids).collect()
    }

    /// Starts the gateway and returns a client once it is ready.
    pub(crate) async fn gateway(&self, set: &[(&str, &str)]) -> RecommendServiceClient<Channel> {
        let all = [
            ("gateway.grpc.listen", "127.0.0.1:0"),
            ("gateway.drain.delay", "0ms"),
            ("gateway.default_model", "tiny"),
            ("gateway.shard_stream", crate::SHARD_STREAM),
        ];
        let all: Vec<_> =
            all.iter().chain(set).map(|(key, value)| ((*key).into(), (*value).into())).collect();
        let mut settings = Settings::load(None, &BTreeMap::new(), &all).unwrap();
        let config = Config::read(&mut settings);
        let deps = Deps {
            coordinator: Arc::clone(&self.coordinator),
            keys: self.keys.clone(),
            store: Arc::clone(&self.store),
            id: "g".into(),
            saved: None,
        };
        let app = App::build(settings.finish(config).unwrap(), deps).await.unwrap();
        let (address, readiness) = (app.local_addr(), app.readiness());
        tokio::spawn(app.serve(self.shutdown.clone()));
        tokio::time::timeout(PATIENCE, readiness.changed_from(false))
            .await
            .expect("the gateway becomes ready");
        let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
        RecommendServiceClient::new(endpoint.connect_lazy()).max_encoding_message_size(64 << 20)
    }
}

pub(crate) fn model() -> ModelName {
    "tiny".parse().unwrap()
}

fn number(version: u64) -> Version {
    Version::try_from(version).unwrap()
}

/// A retrieval request.
pub(crate) fn query() -> pb::RecommendRequest {
    pb::RecommendRequest { query: "red kettle".into(), limit: 10, ..Default::default() }
}

pub(crate) fn rerank(candidates: &[&str]) -> pb::RecommendRequest {
    let candidates = candidates.iter().map(|id| (*id).to_owned()).collect();
    pb::RecommendRequest { candidates, limit: 10, ..Default::default() }
}

pub(crate) fn within(
    timeout: Duration,
    message: pb::RecommendRequest,
) -> tonic::Request<pb::RecommendRequest> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(timeout);
    request
}

/// Asks with a generous deadline.
pub(crate) async fn ask(
    gateway: &RecommendServiceClient<Channel>,
    message: pb::RecommendRequest,
) -> Result<pb::RecommendResponse, tonic::Status> {
    gateway.clone().recommend(within(PATIENCE, message)).await.map(tonic::Response::into_inner)
}

/// Polls until a request is answered as wanted: news of the fleet reach the gateway by a watch.
pub(crate) async fn until(
    gateway: &RecommendServiceClient<Channel>,
    message: &pb::RecommendRequest,
    wanted: impl Fn(&Result<pb::RecommendResponse, tonic::Status>) -> bool,
) {
    let polling = async {
        let mut pause = tokio::time::interval(Duration::from_millis(5));
        while !wanted(&ask(gateway, message.clone()).await) {
            pause.tick().await;
        }
    };
    tokio::time::timeout(PATIENCE, polling).await.expect("the gateway learns of the change");
}

pub(crate) fn ids(answer: &pb::RecommendResponse) -> Vec<String> {
    answer.items.iter().map(|item| item.item_id.clone()).collect()
}

pub(crate) fn quality(answer: &pb::RecommendResponse) -> &pb::Quality {
    answer.quality.as_ref().expect("every answer has its quality")
}

pub(crate) fn reasons(answer: &pb::RecommendResponse) -> Vec<pb::DegradationReason> {
    quality(answer).degradation_reasons().collect()
}

pub(crate) fn coverage(answer: &pb::RecommendResponse) -> &pb::Coverage {
    quality(answer).coverage.as_ref().expect("every answer has its coverage")
}
