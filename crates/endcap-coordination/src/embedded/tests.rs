use std::collections::BTreeMap;

use futures::StreamExt as _;
use proptest::prelude::*;

use super::*;
use crate::{Compare, conformance};

#[tokio::test(start_paused = true)]
async fn the_store_in_memory_conforms() {
    conformance::run(Arc::new(EmbeddedCoordinator::in_memory())).await;
}

#[tokio::test(start_paused = true)]
async fn the_store_on_disk_conforms() {
    let folder = tempfile::tempdir().unwrap();
    conformance::run(Arc::new(EmbeddedCoordinator::open(&folder.path().join("store.redb")).unwrap())).await;
}

#[tokio::test]
async fn a_second_opener_is_told_who_is_in_the_way() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    let _open = EmbeddedCoordinator::open(&path).unwrap();
    let error = EmbeddedCoordinator::open(&path).unwrap_err().to_string();
    assert!(error.contains("store.redb") && error.contains("another process"), "{error}");
}

#[tokio::test]
async fn a_restart_keeps_unleased_keys_and_never_reuses_a_revision() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    let coordinator = EmbeddedCoordinator::open(&path).unwrap();
    let lease = coordinator.grant_lease(Duration::from_secs(60)).await.unwrap();
    coordinator.commit(Txn::default().put("/kept", "1").put_leased("/leased", "2", lease)).await.unwrap();
    coordinator.commit(Txn::default().put("/deleted", "3")).await.unwrap();
    coordinator.commit(Txn::default().delete("/deleted")).await.unwrap();
    coordinator.commit(Txn::default().put_leased("/leased", "4", lease)).await.unwrap();
    let before = coordinator.list("/").await.unwrap();
    drop(coordinator);

    let coordinator = EmbeddedCoordinator::open(&path).unwrap();
    let after = coordinator.list("/").await.unwrap();
    let kept: Vec<_> = before.entries.into_iter().filter(|entry| entry.lease.is_none()).collect();
    assert_eq!(after.entries, kept);
    let TxnOutcome::Committed(next) = coordinator.commit(Txn::default().put("/new", "5")).await.unwrap()
    else {
        panic!("an unconditional transaction conflicted");
    };
    assert!(next > before.revision, "{next} was used before the restart");
}

#[tokio::test]
async fn a_watch_from_forgotten_history_is_told_so() {
    let coordinator = EmbeddedCoordinator::in_memory();
    for i in 0..10_050 {
        coordinator.commit(Txn::default().put("/busy", i.to_string())).await.unwrap();
    }
    let mut old = coordinator.watch("/", 2).await.unwrap();
    assert_eq!(old.next().await.unwrap().unwrap(), WatchEvent::Compacted);
    assert!(old.next().await.is_none(), "the stream ends after it");
}

/// One step of a random history.
#[derive(Debug, Clone)]
enum Step {
    Put(u8, u8),
    Delete(u8),
    /// Only if the key is absent.
    Create(u8, u8),
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0..6_u8, any::<u8>()).prop_map(|(key, value)| Step::Put(key, value)),
        2 => (0..6_u8).prop_map(Step::Delete),
        2 => (0..6_u8, any::<u8>()).prop_map(|(key, value)| Step::Create(key, value)),
        1 => Just(Step::Reopen),
    ];
    prop::collection::vec(step, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn any_history_equals_a_map_and_is_watched_in_order(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(follow(steps));
    }
}

async fn follow(steps: Vec<Step>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    let mut coordinator = EmbeddedCoordinator::open(&path).unwrap();
    let mut model: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let mut watched = model.clone();
    let mut watch = coordinator.watch("/", coordinator.list("/").await.unwrap().revision + 1).await.unwrap();
    for step in steps {
        let changed = match step {
            Step::Put(key, value) => {
                let key = format!("/{key}");
                coordinator.commit(Txn::default().put(&key, vec![value])).await.unwrap();
                model.insert(key, vec![value]);
                true
            }
            Step::Delete(key) => {
                let key = format!("/{key}");
                coordinator.commit(Txn::default().delete(&key)).await.unwrap();
                model.remove(&key).is_some()
            }
            Step::Create(key, value) => {
                let key = format!("/{key}");
                let absent = Compare::Absent { key: key.clone() };
                let outcome = coordinator.commit(Txn::default().when(absent).put(&key, vec![value])).await;
                let free = !model.contains_key(&key);
                assert_eq!(matches!(outcome.unwrap(), TxnOutcome::Committed(_)), free);
                if free {
                    model.insert(key, vec![value]);
                }
                free
            }
            Step::Reopen => {
                drop(watch);
                drop(coordinator);
                coordinator = EmbeddedCoordinator::open(&path).unwrap();
                let listing = coordinator.list("/").await.unwrap();
                watched = listing.entries.into_iter().map(|entry| (entry.key, entry.value)).collect();
                watch = coordinator.watch("/", listing.revision + 1).await.unwrap();
                false
            }
        };
        if changed {
            match watch.next().await.unwrap().unwrap() {
                WatchEvent::Put(entry) => drop(watched.insert(entry.key, entry.value)),
                WatchEvent::Delete { key, .. } => drop(watched.remove(&key)),
                WatchEvent::Compacted => panic!("nothing was compacted"),
            }
        }
        assert_eq!(watched, model);
    }
}
