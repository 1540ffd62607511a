//! A real worker on a free port, with assignments written by hand.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use endcap_bundle::{
    Bundle, BundleStore,
    test_util::{TinyOptions, tiny_bundle},
};
use endcap_coordination::{Coordinator, EmbeddedCoordinator, Txn};
use endcap_fleet::{AssignmentRecord, FailedRecord, Keys, Record as _, ShardKey, WorkerRecord};
use endcap_inference::{Runtime, RuntimeOptions};
use endcap_proto::pb::shard_service_client::ShardServiceClient;
use endcap_service::Settings;
use endcap_shard_worker::{App, Config, Deps};
use endcap_types::{ShardCount, Version, VersionPin};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
const ID: &str = "w1";

pub(crate) struct Worker {
    pub(crate) client: ShardServiceClient<Channel>,
    pub(crate) channel: Channel,
    /// host:port.
    pub(crate) address: String,
    pub(crate) folder: TempDir,
    store: Arc<BundleStore>,
    coordinator: Arc<dyn Coordinator>,
    keys: Keys,
}

impl Worker {
    pub(crate) async fn start(set: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let coordinator: Arc<dyn Coordinator> = Arc::new(EmbeddedCoordinator::in_memory());
        let store = folder.path().join("bundles").display().to_string();
        let store = Arc::new(BundleStore::folder(&store).unwrap());
        let keys = Keys::default();
        let app = build(set, ID, &coordinator, &store).await;
        let address = app.local_addr().to_string();
        let channel = endcap_service::client::channel(&address).unwrap();
        let readiness = app.readiness();
        tokio::spawn(app.serve(CancellationToken::new()));
        tokio::time::timeout(PATIENCE, readiness.changed_from(false)).await.expect("it becomes ready");
        let client = ShardServiceClient::new(channel.clone());
        Self { client, channel, address, folder, store, coordinator, keys }
    }

    /// Another worker of the same fleet.
    pub(crate) async fn another(&self, id: &str) -> App {
        build(&[], id, &self.coordinator, &self.store).await
    }

    /// Stores a tiny bundle under the name of a version.
    pub(crate) async fn store(
        &self,
        version: u64,
        options: &TinyOptions,
        shards: u32,
    ) -> (VersionPin, Bundle) {
        let folder = self.folder.path().join(format!("source-{version}"));
        std::fs::create_dir(&folder).unwrap();
        let bundle = tiny_bundle(&folder, options, ShardCount::try_from(shards).unwrap()).unwrap();
        (self.put(version, &bundle).await, bundle)
    }

    /// Stores a bundle under the name of a version.
    pub(crate) async fn put(&self, version: u64, bundle: &Bundle) -> VersionPin {
        self.store.put(bundle).await.unwrap();
        let version = Version::try_from(version).unwrap();
        VersionPin { model: bundle.spec().model.clone(), version, digest: bundle.digest() }
    }

    /// Gives a shard to another worker of the fleet.
    pub(crate) async fn assign_to(&self, id: &str, pin: &VersionPin, shard: u32) {
        self.write(pin, shard, &[id], &[]).await;
    }

    /// Whether the other worker has said that it holds the shard.
    pub(crate) async fn is_ready_at(&self, id: &str, pin: &VersionPin, shard: u32) -> bool {
        self.coordinator.get(&self.keys.ready(&key(pin, shard), id)).await.unwrap().is_some()
    }

    pub(crate) async fn assign(&self, pin: &VersionPin, shard: u32) {
        self.write(pin, shard, &[ID], &[]).await;
    }

    /// Another worker is to have it; this one keeps what it has until then.
    pub(crate) async fn leave(&self, pin: &VersionPin, shard: u32) {
        self.write(pin, shard, &["another"], &[ID]).await;
    }

    async fn write(&self, pin: &VersionPin, shard: u32, workers: &[&str], leaving: &[&str]) {
        let ids = |ids: &[&str]| ids.iter().map(ToString::to_string).collect();
        let (workers, leaving) = (ids(workers), ids(leaving));
        let record = AssignmentRecord { digest: pin.digest, attempt: 1, workers, leaving };
        let txn = Txn::default().put(self.keys.assignment(&key(pin, shard)), record.to_json());
        self.coordinator.commit(txn).await.unwrap();
    }

    pub(crate) async fn unassign(&self, pin: &VersionPin, shard: u32) {
        let txn = Txn::default().delete(self.keys.assignment(&key(pin, shard)));
        self.coordinator.commit(txn).await.unwrap();
    }

    pub(crate) async fn until_ready(&self, pin: &VersionPin, shard: u32) {
        let ready = self.keys.ready(&key(pin, shard), ID);
        until(async || {
            let failure = self.failure(pin, shard).await;
            assert_eq!(failure, None, "the replica failed");
            self.coordinator.get(&ready).await.unwrap().is_some()
        })
        .await;
    }

    pub(crate) async fn failure(&self, pin: &VersionPin, shard: u32) -> Option<String> {
        let key = self.keys.failed(&key(pin, shard), ID);
        let entry = self.coordinator.get(&key).await.unwrap()?;
        Some(FailedRecord::from_json(&key, &entry.value).unwrap().reason)
    }

    pub(crate) async fn is_ready(&self, pin: &VersionPin, shard: u32) -> bool {
        self.is_ready_at(ID, pin, shard).await
    }

    pub(crate) async fn memory_used(&self) -> u64 {
        let key = self.keys.worker(ID);
        let entry = self.coordinator.get(&key).await.unwrap().unwrap();
        WorkerRecord::from_json(&key, &entry.value).unwrap().memory_used_bytes
    }
}

async fn build(
    set: &[(&str, &str)],
    id: &str,
    coordinator: &Arc<dyn Coordinator>,
    store: &Arc<BundleStore>,
) -> App {
    let own = [("worker.grpc.listen", "127.0.0.1:0"), ("worker.drain.delay", "0ms")];
    let set: Vec<_> = own.iter().chain(set).map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let mut settings = Settings::load(None, &BTreeMap::new(), &set).unwrap();
    let config = Config::read(&mut settings);
    let runtime = tokio::task::block_in_place(|| Runtime::load(&RuntimeOptions::default())).unwrap();
    let deps = Deps {
        coordinator: Arc::clone(coordinator),
        keys: Keys::default(),
        store: Arc::clone(store),
        runtime,
        id: id.into(),
        saved: None,
    };
    App::build(settings.finish(config).unwrap(), deps).await.unwrap()
}

fn key(pin: &VersionPin, shard: u32) -> ShardKey {
    ShardKey { model: pin.model.clone(), version: pin.version, shard }
}

pub(crate) async fn until(mut condition: impl AsyncFnMut() -> bool) {
    let polling = async {
        let mut pause = tokio::time::interval(Duration::from_millis(2));
        while !condition().await {
            pause.tick().await;
        }
    };
    tokio::time::timeout(PATIENCE, polling).await.expect("the condition comes true");
}
