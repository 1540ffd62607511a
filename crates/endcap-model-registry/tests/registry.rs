//! The registry over gRPC, with workers that only say that they are ready.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]
#![expect(clippy::disallowed_methods, reason = "the parts of a test are nobody's background tasks")]

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
    time::Duration,
};

use endcap_bundle::{
    BundleStore, pack,
    test_util::{TinyOptions, tiny_bundle},
};
use endcap_coordination::{Coordinator, EmbeddedCoordinator, Mirror, MirrorOptions, Session, leader};
use endcap_fleet::{AssignmentRecord, Key, Keys, ReadyRecord, Record as _, WorkerRecord};
use endcap_model_registry::{App, Config, Deps};
use endcap_proto::pb::{self, model_registry_client::ModelRegistryClient, register_version_request::Part};
use endcap_service::Settings;
use endcap_types::ShardCount;
use futures::{StreamExt as _, future::join_all};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use tonic::{Code, transport::Channel};

const PATIENCE: Duration = Duration::from_secs(30);
const MODEL: &str = "tiny";

struct Registry {
    client: ModelRegistryClient<Channel>,
    shutdown: CancellationToken,
    served: tokio::task::JoinHandle<()>,
}

async fn start(coordinator: &Arc<dyn Coordinator>, folder: &Path, id: &str) -> Registry {
    let data_dir = folder.join(id).display().to_string();
    let set = [("registry.grpc.listen", "127.0.0.1:0"), ("registry.data_dir", data_dir.as_str())];
    let set: Vec<_> = set.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let mut settings = Settings::load(None, &BTreeMap::new(), &set).unwrap();
    let config = Config::read(&mut settings);
    let store = BundleStore::folder(&folder.join("bundles").display().to_string()).unwrap();
    let deps = Deps {
        coordinator: Arc::clone(coordinator),
        keys: Keys::default(),
        store: Arc::new(store),
        id: id.to_owned(),
    };
    let app = App::build(settings.finish(config).unwrap(), deps).await.unwrap();
    let channel = endcap_service::client::channel(&app.local_addr().to_string()).unwrap();
    let shutdown = CancellationToken::new();
    let serving = app.serve(shutdown.clone());
    let served = tokio::spawn(async move { serving.await.unwrap() });
    Registry { client: ModelRegistryClient::new(channel), shutdown, served }
}

/// A worker that is ready for whatever it is assigned, at once.
async fn willing_worker(coordinator: Arc<dyn Coordinator>, id: &'static str) {
    let keys = Keys::default();
    let (session, driver) = Session::start(Arc::clone(&coordinator), PATIENCE);
    let options = MirrorOptions { prefixes: vec![keys.assignments()], ..MirrorOptions::default() };
    let (mut entries, _, mirror) = Mirror::start(coordinator, options).await.unwrap();
    let record = WorkerRecord {
        endpoint: "127.0.0.1:1".into(),
        device: "cpu".into(),
        memory_budget_bytes: 0,
        memory_used_bytes: 0,
        build: "test".into(),
        topology: String::new(),
    };
    session.put(keys.worker(id), record.to_json()).await.unwrap();
    let follow = async {
        loop {
            let now = Arc::clone(&entries.borrow_and_update());
            for (key, entry) in now.iter() {
                let Some(Key::Assignment(shard)) = keys.parse(key) else { continue };
                let assigned = AssignmentRecord::from_json(key, &entry.value).unwrap();
                if assigned.workers.iter().any(|worker| worker == id) {
                    let ready = ReadyRecord { digest: assigned.digest, endpoint: "127.0.0.1:1".into() };
                    session.put(keys.ready(&shard, id), ready.to_json()).await.unwrap();
                }
            }
            entries.changed().await.unwrap();
        }
    };
    tokio::select! {
        () = follow => {}
        () = driver => {}
        () = mirror => {}
    }
}

fn packed(variant: &str) -> (TempDir, Vec<u8>) {
    let folder = tempfile::tempdir().unwrap();
    let options = TinyOptions { variant: variant.into(), items: 20, ..TinyOptions::default() };
    let bundle = tiny_bundle(folder.path(), &options, ShardCount::try_from(2).unwrap()).unwrap();
    let file = folder.path().join("tiny.endcap");
    pack(&bundle, &file, &()).unwrap();
    let bytes = std::fs::read(file).unwrap();
    (folder, bytes)
}

async fn register(client: &mut ModelRegistryClient<Channel>, bytes: Vec<u8>) -> pb::RegisterVersionResponse {
    let header = pb::RegisterHeader { actor: "ada".into(), ..Default::default() };
    let mut parts = vec![pb::RegisterVersionRequest { part: Some(Part::Header(header)) }];
    let chunks = bytes.chunks(10_000).map(|chunk| Part::Chunk(chunk.to_vec().into()));
    parts.extend(chunks.map(|chunk| pb::RegisterVersionRequest { part: Some(chunk) }));
    client.register_version(tokio_stream::iter(parts)).await.unwrap().into_inner()
}

async fn validate(client: &mut ModelRegistryClient<Channel>, version: u64) {
    let request = pb::ValidateVersionRequest { model: MODEL.into(), version, actor: "ada".into() };
    let mut request = tonic::Request::new(request);
    request.set_timeout(PATIENCE);
    client.validate_version(request).await.unwrap();
}

async fn history(client: &mut ModelRegistryClient<Channel>) -> Vec<pb::HistoryEntry> {
    let request = pb::GetHistoryRequest { model: MODEL.into(), after_sequence: 0 };
    client.get_history(request).await.unwrap().into_inner().entries
}

#[tokio::test(flavor = "multi_thread")]
async fn every_successful_edit_of_eight_concurrent_editors_is_in_the_history_exactly_once() {
    let folder = tempfile::tempdir().unwrap();
    let coordinator: Arc<dyn Coordinator> = Arc::new(EmbeddedCoordinator::in_memory());
    let mut registry = start(&coordinator, folder.path(), "r1").await;
    let second = start(&coordinator, folder.path(), "r2").await;
    let worker = tokio::spawn(willing_worker(Arc::clone(&coordinator), "w1"));
    for variant in ["one", "two"] {
        let (_folder, bytes) = packed(variant);
        let version = register(&mut registry.client, bytes).await.version.unwrap().version;
        validate(&mut registry.client, version).await;
    }
    let editors = (0..8_u64).map(|editor| {
        // Half of them at the other registry.
        let mut client = if editor % 2 == 0 { registry.client.clone() } else { second.client.clone() };
        async move {
            let mut revisions = Vec::new();
            for attempt in 0..25 {
                let list = client.list_models(pb::ListModelsRequest::default()).await.unwrap().into_inner();
                let rollout = list.models[0].rollout.clone().unwrap_or_default();
                let request = pb::PromoteRequest {
                    model: MODEL.into(),
                    version: (editor + attempt) % 2 + 1,
                    expected_revision: rollout.revision,
                    actor: format!("editor-{editor}"),
                    reason: String::new(),
                };
                match client.promote(request).await {
                    Ok(answer) => revisions.push(answer.into_inner().rollout.unwrap().revision),
                    Err(status) => {
                        assert!(
                            matches!(status.code(), Code::Aborted | Code::FailedPrecondition),
                            "{status:?}"
                        );
                    }
                }
            }
            (format!("editor-{editor}"), revisions)
        }
    });
    let done = join_all(editors).await;
    let entries = history(&mut registry.client).await;
    for (expected, entry) in (1..).zip(&entries) {
        assert_eq!(entry.sequence, expected, "history has a gap");
    }
    let moves: Vec<_> = entries.iter().filter(|entry| entry.action == "promoted").collect();
    let revisions: BTreeSet<u64> = done.iter().flat_map(|(_, revisions)| revisions).copied().collect();
    assert!(!revisions.is_empty());
    assert_eq!(
        revisions,
        (1..=moves.len() as u64).collect(),
        "each success moved once, each move succeeded once"
    );
    for (editor, revisions) in &done {
        let written: Vec<u64> = (1..)
            .zip(&moves)
            .filter(|(_, entry)| entry.actor == *editor)
            .map(|(revision, _)| revision)
            .collect();
        assert_eq!(&written, revisions, "{editor}");
    }
    // Linear: each move starts from where the one before ended.
    for pair in moves.windows(2) {
        assert_eq!(pair[1].from_version, pair[0].to_version);
    }
    worker.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_registrations_get_distinct_numbers_and_the_same_bundle_one() {
    let folder = tempfile::tempdir().unwrap();
    let coordinator: Arc<dyn Coordinator> = Arc::new(EmbeddedCoordinator::in_memory());
    let registry = start(&coordinator, folder.path(), "r1").await;
    let uploads = (0..12).map(|i| {
        let mut client = registry.client.clone();
        async move {
            let (_folder, bytes) = packed(&format!("v{}", i % 6));
            register(&mut client, bytes).await.version.unwrap().version
        }
    });
    let numbers: BTreeSet<u64> = join_all(uploads).await.into_iter().collect();
    assert_eq!(numbers, (1..=6).collect());
    let incoming = std::fs::read_dir(folder.path().join("r1/incoming")).unwrap();
    assert_eq!(incoming.count(), 0, "uploads are left behind");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_shows_the_present_and_then_every_step_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let coordinator: Arc<dyn Coordinator> = Arc::new(EmbeddedCoordinator::in_memory());
    let mut registry = start(&coordinator, folder.path(), "r1").await;
    let worker = tokio::spawn(willing_worker(Arc::clone(&coordinator), "w1"));
    let request = pb::WatchRequest { model: MODEL.into() };
    let mut events = registry.client.watch(request).await.unwrap().into_inner();
    let (_folder, bytes) = packed("one");
    let version = register(&mut registry.client, bytes).await.version.unwrap().version;
    validate(&mut registry.client, version).await;
    let promote = pb::PromoteRequest { model: MODEL.into(), version, ..Default::default() };
    registry.client.promote(promote).await.unwrap();

    let mut actions = Vec::new();
    let mut ready = BTreeSet::new();
    while actions.len() < 3 {
        let event = tokio::time::timeout(PATIENCE, events.next()).await.expect("an event").unwrap().unwrap();
        match event.event.unwrap() {
            pb::watch_response::Event::History(entry) => actions.push(entry.action),
            pb::watch_response::Event::Replica(replica) => {
                if replica.state() == pb::ReplicaState::Ready {
                    ready.insert(replica.shard);
                }
            }
        }
    }
    assert_eq!(actions, ["registered", "validated", "promoted"]);
    assert_eq!(ready, BTreeSet::from([0, 1]));
    worker.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn another_registry_leads_when_the_leader_goes() {
    let folder = tempfile::tempdir().unwrap();
    let coordinator: Arc<dyn Coordinator> = Arc::new(EmbeddedCoordinator::in_memory());
    let first = start(&coordinator, folder.path(), "r1").await;
    let election = Keys::default().controller_election();
    until(async || leader(&*coordinator, &election).await.unwrap().as_deref() == Some("r1")).await;
    let mut second = start(&coordinator, folder.path(), "r2").await;
    first.shutdown.cancel();
    first.served.await.unwrap();
    until(async || leader(&*coordinator, &election).await.unwrap().as_deref() == Some("r2")).await;
    // It places shards: a worker that comes now gets them.
    let worker = tokio::spawn(willing_worker(Arc::clone(&coordinator), "w1"));
    let (_folder, bytes) = packed("one");
    let version = register(&mut second.client, bytes).await.version.unwrap().version;
    validate(&mut second.client, version).await;
    worker.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_validation_without_workers_says_what_it_waits_for() {
    let folder = tempfile::tempdir().unwrap();
    let coordinator: Arc<dyn Coordinator> = Arc::new(EmbeddedCoordinator::in_memory());
    let mut registry = start(&coordinator, folder.path(), "r1").await;
    let (_folder, bytes) = packed("one");
    let version = register(&mut registry.client, bytes).await.version.unwrap().version;
    let mut request = tonic::Request::new(pb::ValidateVersionRequest {
        model: MODEL.into(),
        version,
        actor: String::new(),
    });
    request.set_timeout(Duration::from_millis(500));
    let status = registry.client.validate_version(request).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert!(status.message().contains("shard 0 has no worker"), "{status:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_breaks_off_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let coordinator: Arc<dyn Coordinator> = Arc::new(EmbeddedCoordinator::in_memory());
    let registry = start(&coordinator, folder.path(), "r1").await;
    let incoming = folder.path().join("r1/incoming");
    let (parts, stream) = tokio::sync::mpsc::channel(4);
    let mut client = registry.client.clone();
    let call = tokio::spawn(async move {
        client.register_version(tokio_stream::wrappers::ReceiverStream::new(stream)).await
    });
    let header = Part::Header(pb::RegisterHeader::default());
    for part in [header, Part::Chunk(vec![1; 1000].into())] {
        parts.send(pb::RegisterVersionRequest { part: Some(part) }).await.unwrap();
    }
    let count = || std::fs::read_dir(&incoming).unwrap().count();
    until(async || count() == 1).await;
    call.abort();
    until(async || count() == 0).await;
}

async fn until(mut condition: impl AsyncFnMut() -> bool) {
    let polling = async {
        let mut pause = tokio::time::interval(Duration::from_millis(5));
        while !condition().await {
            pause.tick().await;
        }
    };
    tokio::time::timeout(PATIENCE, polling).await.expect("the condition comes true");
}

#[tokio::test]
async fn an_evaluation_is_kept_for_a_version_that_exists_and_only_with_finite_figures() {
    let folder = tempfile::tempdir().unwrap();
    let coordinator: Arc<dyn Coordinator> = Arc::new(EmbeddedCoordinator::in_memory());
    let mut registry = start(&coordinator, folder.path(), "registry-1").await;
    let (_kept, bytes) = packed("a");
    register(&mut registry.client, bytes).await;
    let record = |version, figures: &[(&str, f64)]| pb::RecordEvaluationRequest {
        model: MODEL.into(),
        version,
        metrics: figures.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect(),
        actor: "ada".into(),
    };
    let refused = registry.client.record_evaluation(record(1, &[("ndcg@10", f64::NAN)])).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert_eq!(
        registry.client.record_evaluation(record(1, &[])).await.unwrap_err().code(),
        Code::InvalidArgument
    );
    let unknown = registry.client.record_evaluation(record(2, &[("ndcg@10", 0.5)])).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);

    registry.client.record_evaluation(record(1, &[("ndcg@10", 0.4)])).await.unwrap();
    registry.client.record_evaluation(record(1, &[("ndcg@10", 0.5)])).await.unwrap();
    let key = Keys::default().evaluation(&MODEL.parse().unwrap(), endcap_types::Version::FIRST);
    let entry = coordinator.get(&key).await.unwrap().unwrap();
    let kept = endcap_fleet::EvaluationRecord::from_json(&key, &entry.value).unwrap();
    assert_eq!((kept.actor.as_str(), kept.metrics["ndcg@10"]), ("ada", 0.5));
    registry.shutdown.cancel();
    registry.served.await.unwrap();
}
