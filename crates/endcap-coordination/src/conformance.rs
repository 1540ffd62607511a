//! What every implementation of the port has to do. Written against [`Coordinator`] alone; waits by condition, never by
//! the clock, and asks for leases of whole seconds, as etcd grants them.
#![expect(clippy::unwrap_used, reason = "a suite of tests fails by panicking")]

use std::{sync::Arc, time::Duration};

use futures::{StreamExt as _, future::join_all};
use tokio::time::{Instant, timeout};

use crate::{
    Compare, CoordinationError, Coordinator, Mirror, MirrorOptions, Session, Txn, TxnOutcome, WatchEvent,
    WatchStream, campaign, leader,
};

/// A wait that reaches this has failed.
const PATIENCE: Duration = Duration::from_secs(30);
/// The shortest lease that etcd grants reliably.
const TTL: Duration = Duration::from_secs(2);

type Shared = Arc<dyn Coordinator>;

/// Runs the suite on a coordinator whose keys below `/conformance/` may be used. Panics on the first difference.
pub async fn run(coordinator: Shared) {
    puts_are_read_and_revisions_grow(&coordinator).await;
    a_transaction_is_all_or_nothing(&coordinator).await;
    compare_and_set_loses_no_update(&coordinator).await;
    a_watch_sees_every_change_in_order(&coordinator).await;
    an_expired_lease_takes_its_keys(&coordinator).await;
    a_kept_lease_lives_and_a_revoked_one_ends(&coordinator).await;
    one_leads_and_the_next_succeeds(&coordinator).await;
    a_deposed_leader_cannot_write(&coordinator).await;
    a_mirror_converges(&coordinator).await;
    a_session_puts_its_keys_again_after_its_lease_was_lost(&coordinator).await;
}

async fn puts_are_read_and_revisions_grow(coordinator: &Shared) {
    let key = "/conformance/put/a";
    assert_eq!(coordinator.get(key).await.unwrap(), None);
    let first = committed(coordinator, Txn::default().put(key, "one")).await;
    let second = committed(coordinator, Txn::default().put(key, "two")).await;
    assert!(second > first);
    let entry = coordinator.get(key).await.unwrap().unwrap();
    assert_eq!((entry.value.as_slice(), entry.lease), (&b"two"[..], None));
    assert_eq!((entry.create_revision, entry.mod_revision), (first, second));

    committed(coordinator, Txn::default().put("/conformance/put/b", "three")).await;
    let listing = coordinator.list("/conformance/put/").await.unwrap();
    let keys: Vec<_> = listing.entries.iter().map(|entry| entry.key.as_str()).collect();
    assert_eq!(keys, ["/conformance/put/a", "/conformance/put/b"]);
    assert!(listing.revision > second);

    committed(coordinator, Txn::default().delete(key).delete("/conformance/put/never")).await;
    assert_eq!(coordinator.get(key).await.unwrap(), None);
    let again = committed(coordinator, Txn::default().put(key, "four")).await;
    assert_eq!(
        coordinator.get(key).await.unwrap().unwrap().create_revision,
        again,
        "it came into being again"
    );
}

async fn a_transaction_is_all_or_nothing(coordinator: &Shared) {
    let (one, two) = ("/conformance/txn/one", "/conformance/txn/two");
    let absent = |key: &str| Compare::Absent { key: key.to_owned() };
    let both = Txn::default().when(absent(one)).when(absent(two)).put(one, "1").put(two, "2");
    let revision = committed(coordinator, both.clone()).await;
    for key in [one, two] {
        assert_eq!(
            coordinator.get(key).await.unwrap().unwrap().mod_revision,
            revision,
            "one revision for all"
        );
    }
    assert_eq!(coordinator.commit(both).await.unwrap(), TxnOutcome::Conflict);
    let half = Compare::ModRevision { key: two.to_owned(), revision: revision + 1_000 };
    let txn = Txn::default().when(half).put(one, "changed").delete(two);
    assert_eq!(coordinator.commit(txn).await.unwrap(), TxnOutcome::Conflict);
    assert_eq!(coordinator.get(one).await.unwrap().unwrap().value, b"1");
    let twice = Txn::default().put(one, "x").put(one, "y");
    assert!(matches!(coordinator.commit(twice).await, Err(CoordinationError::DuplicateKey { .. })));
}

async fn compare_and_set_loses_no_update(coordinator: &Shared) {
    const WRITERS: usize = 8;
    const TIMES: usize = 20;
    let key = "/conformance/counter";
    committed(coordinator, Txn::default().put(key, "0")).await;
    let writers = (0..WRITERS).map(|_| async {
        for _ in 0..TIMES {
            loop {
                let entry = coordinator.get(key).await.unwrap().unwrap();
                let count: usize = String::from_utf8(entry.value).unwrap().parse().unwrap();
                let compare = Compare::ModRevision { key: key.to_owned(), revision: entry.mod_revision };
                let txn = Txn::default().when(compare).put(key, (count + 1).to_string());
                if coordinator.commit(txn).await.unwrap() != TxnOutcome::Conflict {
                    break;
                }
            }
        }
    });
    join_all(writers).await;
    let count = coordinator.get(key).await.unwrap().unwrap().value;
    assert_eq!(String::from_utf8(count).unwrap(), (WRITERS * TIMES).to_string());
}

async fn a_watch_sees_every_change_in_order(coordinator: &Shared) {
    let prefix = "/conformance/watch/";
    let first = committed(coordinator, Txn::default().put(format!("{prefix}a"), "1")).await;
    committed(coordinator, Txn::default().put("/conformance/elsewhere", "unseen")).await;
    // From the past on, and into what is still to come.
    let mut watch = coordinator.watch(prefix, first).await.unwrap();
    committed(coordinator, Txn::default().put(format!("{prefix}a"), "2").put(format!("{prefix}b"), "3"))
        .await;
    committed(coordinator, Txn::default().delete(format!("{prefix}a"))).await;
    let mut seen = Vec::new();
    for _ in 0..4 {
        seen.push(match next(&mut watch).await {
            WatchEvent::Put(entry) => format!("{}={}", entry.key, String::from_utf8(entry.value).unwrap()),
            WatchEvent::Delete { key, .. } => format!("{key} deleted"),
            WatchEvent::Compacted => "compacted".to_owned(),
        });
    }
    let expected = ["a=1", "a=2", "b=3", "a deleted"].map(|event| format!("{prefix}{event}"));
    assert_eq!(seen, expected);
}

async fn an_expired_lease_takes_its_keys(coordinator: &Shared) {
    let key = "/conformance/lease/expires";
    let lease = coordinator.grant_lease(TTL).await.unwrap();
    let put = committed(coordinator, Txn::default().put_leased(key, "alive", lease)).await;
    assert_eq!(coordinator.get(key).await.unwrap().unwrap().lease, Some(lease));
    let mut watch = coordinator.watch(key, put + 1).await.unwrap();
    assert!(matches!(next(&mut watch).await, WatchEvent::Delete { key: gone, .. } if gone == key));
    assert_eq!(coordinator.get(key).await.unwrap(), None);
    assert!(matches!(coordinator.keep_alive(lease).await, Err(CoordinationError::LeaseExpired { .. })));
    let late = Txn::default().put_leased(key, "late", lease);
    assert!(matches!(coordinator.commit(late).await, Err(CoordinationError::LeaseExpired { .. })));
}

async fn a_kept_lease_lives_and_a_revoked_one_ends(coordinator: &Shared) {
    let key = "/conformance/lease/kept";
    let lease = coordinator.grant_lease(TTL).await.unwrap();
    committed(coordinator, Txn::default().put_leased(key, "alive", lease)).await;
    let until = Instant::now() + 2 * TTL;
    let mut beats = tokio::time::interval(TTL / 4);
    while Instant::now() < until {
        beats.tick().await;
        coordinator.keep_alive(lease).await.unwrap();
    }
    assert!(coordinator.get(key).await.unwrap().is_some(), "a kept lease expired");
    coordinator.revoke_lease(lease).await.unwrap();
    assert_eq!(coordinator.get(key).await.unwrap(), None);
    coordinator.revoke_lease(lease).await.unwrap();
}

async fn one_leads_and_the_next_succeeds(coordinator: &Shared) {
    let election = "/conformance/election";
    let (first, second) = (lease(coordinator).await, lease(coordinator).await);
    assert_eq!(leader(&**coordinator, election).await.unwrap(), None);
    campaign(&**coordinator, election, "first", first).await.unwrap();
    let succeeding = campaign(&**coordinator, election, "second", second);
    tokio::pin!(succeeding);
    assert!(futures::poll!(&mut succeeding).is_pending(), "two lead");
    assert_eq!(leader(&**coordinator, election).await.unwrap().as_deref(), Some("first"));
    coordinator.revoke_lease(first).await.unwrap();
    timeout(PATIENCE, succeeding).await.expect("the next succeeds").unwrap();
    assert_eq!(leader(&**coordinator, election).await.unwrap().as_deref(), Some("second"));
    coordinator.revoke_lease(second).await.unwrap();
}

async fn a_deposed_leader_cannot_write(coordinator: &Shared) {
    let held = lease(coordinator).await;
    let leadership = campaign(&**coordinator, "/conformance/fence", "a", held).await.unwrap();
    let write = Txn::default().when(leadership.fence()).put("/conformance/fenced", "by a");
    assert!(matches!(coordinator.commit(write.clone()).await.unwrap(), TxnOutcome::Committed(_)));
    coordinator.revoke_lease(held).await.unwrap();
    assert_eq!(coordinator.commit(write).await.unwrap(), TxnOutcome::Conflict);
}

async fn a_mirror_converges(coordinator: &Shared) {
    let prefixes = vec!["/conformance/mirror/x/".to_owned(), "/conformance/mirror/y/".to_owned()];
    committed(coordinator, Txn::default().put("/conformance/mirror/x/1", "a")).await;
    let (mut entries, _, driver) =
        Mirror::start(Arc::clone(coordinator), MirrorOptions { prefixes, ..MirrorOptions::default() })
            .await
            .unwrap();
    assert_eq!(entries.borrow().len(), 1);
    let change = async {
        for i in 0..50 {
            committed(coordinator, Txn::default().put(format!("/conformance/mirror/y/{i:02}"), "b")).await;
        }
        committed(coordinator, Txn::default().delete("/conformance/mirror/x/1")).await;
        let converged =
            entries.wait_for(|entries| entries.len() == 50 && entries.values().all(|e| e.value == b"b"));
        timeout(PATIENCE, converged).await.expect("the mirror converges").unwrap();
    };
    tokio::select! {
        () = change => {}
        () = driver => panic!("the mirror ended"),
    }
}

async fn a_session_puts_its_keys_again_after_its_lease_was_lost(coordinator: &Shared) {
    let key = "/conformance/session/a";
    let (session, driver) = Session::start(Arc::clone(coordinator), TTL);
    let story = async {
        session.put(key, "here").await.unwrap();
        let put = coordinator.get(key).await.unwrap().unwrap();
        let lost = session.lease().await.unwrap();
        let mut watch = coordinator.watch(key, put.mod_revision + 1).await.unwrap();
        coordinator.revoke_lease(lost).await.unwrap();
        assert!(matches!(next(&mut watch).await, WatchEvent::Delete { .. }));
        assert!(matches!(next(&mut watch).await, WatchEvent::Put(entry) if entry.value == b"here"));
        assert_ne!(session.lease().await.unwrap(), lost);
        session.delete(key).await.unwrap();
        assert_eq!(coordinator.get(key).await.unwrap(), None);
        session.put(key, "again").await.unwrap();
        session.close().await.unwrap();
        assert_eq!(coordinator.get(key).await.unwrap(), None);
    };
    tokio::select! {
        () = story => {}
        () = driver => panic!("the session ended"),
    }
}

async fn lease(coordinator: &Shared) -> crate::LeaseId {
    coordinator.grant_lease(Duration::from_secs(60)).await.unwrap()
}

async fn committed(coordinator: &Shared, txn: Txn) -> u64 {
    match coordinator.commit(txn).await.unwrap() {
        TxnOutcome::Committed(revision) => revision,
        TxnOutcome::Conflict => panic!("an unconditional transaction conflicted"),
    }
}

async fn next(watch: &mut WatchStream) -> WatchEvent {
    timeout(PATIENCE, watch.next()).await.expect("an event comes").expect("the watch goes on").unwrap()
}
