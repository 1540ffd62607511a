use std::{path::PathBuf, sync::Arc, time::Duration};

use futures::StreamExt as _;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use tokio::time::timeout;

use super::*;
use crate::{Mirror, MirrorOptions, conformance, test_util::EtcdCluster};

const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread")]
async fn one_node_conforms() {
    let etcd = EtcdCluster::start(1).await;
    conformance::run(Arc::new(etcd.coordinator())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn three_nodes_conform() {
    let etcd = EtcdCluster::start(3).await;
    conformance::run(Arc::new(etcd.coordinator())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_from_before_a_compaction_says_so() {
    let etcd = EtcdCluster::start(1).await;
    let coordinator = etcd.coordinator();
    let mut last = 0;
    for i in 0..10 {
        last = put(&coordinator, "/a", &i.to_string()).await;
    }
    etcd.etcdctl(&["compact", &last.to_string()]);
    let mut watch = coordinator.watch("/a", last - 5).await.unwrap();
    assert_eq!(watch.next().await, Some(Ok(WatchEvent::Compacted)));
    assert_eq!(watch.next().await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listing_of_many_pages_is_whole_and_of_one_revision() {
    let etcd = EtcdCluster::start(1).await;
    let coordinator = etcd.coordinator();
    for chunk in (0..4_500).collect::<Vec<_>>().chunks(100) {
        let txn = chunk.iter().fold(Txn::default(), |txn, i| txn.put(format!("/many/{i:05}"), "x"));
        coordinator.commit(txn).await.unwrap();
    }
    put(&coordinator, "/manz", "beyond").await;
    let listing = coordinator.list("/many").await.unwrap();
    assert_eq!(listing.entries.len(), 4_500);
    assert!(listing.entries.is_sorted_by(|a, b| a.key < b.key));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_lives_through_the_death_of_every_member_in_turn() {
    let mut etcd = EtcdCluster::start(3).await;
    let coordinator = Arc::new(etcd.coordinator());
    let (mut entries, _, driver) = Mirror::start(coordinator.clone(), following("/mirror/")).await.unwrap();
    let story = async {
        for round in 0..3 {
            let leader = etcd.leader();
            etcd.kill(leader);
            // A write whose answer was lost may be made again: this one does the same thing twice.
            let value = format!("after {round}");
            let written = async {
                while coordinator.commit(Txn::default().put("/mirror/a", value.as_str())).await.is_err() {}
            };
            timeout(PATIENCE, written).await.expect("two of three members take a write");
            let seen = entries.wait_for(|e| e.get("/mirror/a").is_some_and(|e| e.value == value.as_bytes()));
            timeout(PATIENCE, seen).await.expect("the mirror follows").unwrap();
            etcd.restart(leader);
        }
    };
    tokio::select! {
        () = story => {}
        () = driver => panic!("the mirror ended"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_outlives_etcd_its_own_restart_and_the_loss_of_all_data() {
    let mut etcd = EtcdCluster::start(1).await;
    let folder = tempfile::tempdir().unwrap();
    let coordinator: Arc<dyn Coordinator> = Arc::new(etcd.coordinator());
    let options = MirrorOptions {
        prefixes: vec!["/mirror/".to_owned()],
        saved: Some(folder.path().join("saved/mirror.json")),
        epoch: Some("/epoch".to_owned()),
    };
    let fill = Txn::default().put("/mirror/a", "1").put("/epoch", "first");
    coordinator.commit(fill).await.unwrap();
    let (entries, freshness, driver) = Mirror::start(coordinator.clone(), options.clone()).await.unwrap();
    let saved = options.saved.clone().unwrap();
    let written = async {
        while !saved.exists() {
            tokio::task::yield_now().await;
        }
        assert_eq!(freshness.age(), Duration::ZERO);
    };
    tokio::select! {
        written = timeout(PATIENCE, written) => written.expect("the entries are saved"),
        () = driver => panic!("the mirror ended"),
    }
    drop(entries);

    // A start without etcd shows what was known, and how old it is.
    etcd.stop();
    let (mut entries, freshness, driver) = Mirror::start(coordinator.clone(), options).await.unwrap();
    assert_eq!(entries.borrow()["/mirror/a"].value, b"1");
    assert!(freshness.age() > Duration::ZERO);
    // etcd comes back empty: nothing is believed of it before the epoch is there.
    let story = async {
        etcd.wipe();
        etcd.resume().await;
        put(&etcd.coordinator(), "/mirror/b", "2").await;
        let listed = timeout(Duration::from_secs(1), entries.changed()).await;
        assert!(listed.is_err(), "an emptied etcd was believed");
        assert_eq!(entries.borrow().len(), 2);
        put(&etcd.coordinator(), "/epoch", "second").await;
        let rebuilt = entries.wait_for(|entries| entries.contains_key("/mirror/b") && entries.len() == 2);
        timeout(PATIENCE, rebuilt).await.expect("the rebuilt state is followed").unwrap();
    };
    tokio::select! {
        () = story => {}
        () = driver => panic!("the mirror ended"),
    }
    assert_eq!(freshness.age(), Duration::ZERO);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_and_password_are_needed_where_etcd_asks_for_them() {
    let etcd = EtcdCluster::start(1).await;
    etcd.etcdctl(&["user", "add", "root:secret"]);
    etcd.etcdctl(&["user", "grant-role", "root", "root"]);
    etcd.etcdctl(&["auth", "enable"]);
    let with = |user: Option<(&str, &str)>| {
        let user = user.map(|(name, password)| (name.to_owned(), password.to_owned()));
        EtcdCoordinator::new(EtcdOptions { user, ..etcd.options() }).unwrap()
    };
    put(&with(Some(("root", "secret"))), "/a", "1").await;
    for user in [None, Some(("root", "wrong"))] {
        let refused = with(user).get("/a").await.unwrap_err();
        assert!(matches!(refused, CoordinationError::Refused { .. }), "{user:?}: {refused}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_with_client_certificates_works_and_is_enforced() {
    let dir = tempfile::tempdir().unwrap();
    let pems = certificates(dir.path());
    let tls = EtcdTls { ca: pems.ca.clone(), identity: Some((pems.client.0.clone(), pems.client.1.clone())) };
    let etcd = EtcdCluster::start_with(1, Some((tls, pems.server.0, pems.server.1))).await;
    put(&etcd.coordinator(), "/a", "1").await;
    let nameless = EtcdTls { ca: pems.ca, identity: None };
    let refused = EtcdCoordinator::new(EtcdOptions { tls: Some(nameless), ..etcd.options() }).unwrap();
    assert!(refused.get("/a").await.is_err());
    let missing = EtcdTls { ca: "/nowhere/ca.pem".into(), identity: None };
    let told = EtcdCoordinator::new(EtcdOptions { tls: Some(missing), ..etcd.options() }).unwrap_err();
    assert!(told.to_string().contains("/nowhere/ca.pem"), "{told}");
}

#[tokio::test]
async fn an_unreachable_etcd_is_told_as_such() {
    let endpoints = vec![format!("http://127.0.0.1:{}", crate::test_util::free_port())];
    let options = EtcdOptions { endpoints, user: None, tls: None, timeout: Duration::from_millis(500) };
    let told = EtcdCoordinator::new(options).unwrap().get("/a").await.unwrap_err();
    assert!(matches!(told, CoordinationError::Unavailable { .. }), "{told}");
}

fn following(prefix: &str) -> MirrorOptions {
    MirrorOptions { prefixes: vec![prefix.to_owned()], ..MirrorOptions::default() }
}

async fn put(coordinator: &EtcdCoordinator, key: &str, value: &str) -> u64 {
    match coordinator.commit(Txn::default().put(key, value)).await.unwrap() {
        TxnOutcome::Committed(revision) => revision,
        TxnOutcome::Conflict => panic!("an unconditional put conflicted"),
    }
}

struct Pems {
    ca: PathBuf,
    server: (PathBuf, PathBuf),
    client: (PathBuf, PathBuf),
}

fn certificates(dir: &std::path::Path) -> Pems {
    let write = |name: &str, pem: String| {
        let path = dir.join(name);
        std::fs::write(&path, pem).unwrap();
        path
    };
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
    let issue = |name: &str| {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&key, &authority).unwrap();
        (write(&format!("{name}.pem"), certificate.pem()), write(&format!("{name}.key"), key.serialize_pem()))
    };
    let (server, client) = (issue("server"), issue("client"));
    Pems { ca: write("ca.pem", authority.pem()), server, client }
}
