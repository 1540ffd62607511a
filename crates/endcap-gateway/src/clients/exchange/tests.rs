//! What holds of streams alone. (`clients/tests.rs` holds them to what calls do singly.)

use super::{
    super::tests::{Bed, until},
    *,
};

#[tokio::test]
async fn a_worker_that_came_back_keeps_its_new_stream_when_the_old_one_ends() {
    let bed = Bed::new(true, true, 100).await;
    let exchanges = bed.remote.exchanges.as_ref().unwrap();
    let old = exchanges.get(&bed.endpoint).unwrap();
    let waiting = Arc::clone(&old.waiting);
    bed.remote.retain(|_| false);
    bed.until_open(true).await;
    drop(old);
    until(async || waiting.calls.lock().closed.is_some()).await;
    let new = exchanges.get(&bed.endpoint).expect("only its own line was closed");
    assert!(new.waiting.calls.lock().closed.is_none());
}
