use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;
use endcap_service::{Deadline, RequestId, status::RemoteError};
use endcap_types::{Digest, Version, VersionPin};

use super::*;
use crate::ports::Pinned;

const MS: Duration = Duration::from_millis(1);

/// Answers for ten items after a delay that each shard has for itself.
#[derive(Debug)]
struct Shards(Vec<Duration>);

#[async_trait]
impl ShardClient for Shards {
    async fn score(
        &self,
        _: &str,
        question: &Question,
        part: &Part,
        _: Call,
    ) -> Result<Pinned<ShardAnswer>, RemoteError> {
        tokio::time::sleep(self.0[part.shard as usize]).await;
        let answer = ShardAnswer { items_considered: 10, ..ShardAnswer::default() };
        Ok(Pinned { pin: Some(question.pin.clone()), answer })
    }

    async fn encode(
        &self,
        _: &str,
        _: &VersionPin,
        _: &str,
        _: Call,
    ) -> Result<Pinned<Vec<f32>>, RemoteError> {
        unreachable!("nothing is encoded here")
    }
}

/// Which shards answered of those with these delays, and after how long, within 100 ms.
async fn run(delays: &[Duration], minimum_items: u64, straggler_wait: f64) -> (Vec<ShardIndex>, Duration) {
    let pin = VersionPin {
        model: "m".parse().unwrap(),
        version: Version::try_from(1).unwrap(),
        digest: Digest::from_bytes([1; 32]),
    };
    let replica = Replica { worker: "w".into(), endpoint: "w".into() };
    let route = Route {
        pin: pin.clone(),
        shard_count: u32::try_from(delays.len()).unwrap().try_into().unwrap(),
        items_total: 10 * delays.len() as u64,
        shards: vec![vec![replica]; delays.len()],
    };
    let question = Question {
        pin,
        query: String::new(),
        vector: Arc::default(),
        features: BTreeMap::new(),
        fields: Vec::new(),
    };
    let shards = 0..u32::try_from(delays.len()).unwrap();
    let parts: Vec<Part> =
        shards.map(|shard| Part { shard, work: Work::Retrieve { depth: 10, exclude: Vec::new() } }).collect();
    let scatter = Scatter { client: Arc::new(Shards(delays.to_vec())), load: Arc::default(), straggler_wait };
    let call = Call { deadline: Deadline::after(100 * MS), id: RequestId::new() };
    let started = Instant::now();
    let inquiry = Inquiry { question: &question, parts: &parts, minimum_items, began: Instant::now() };
    let replies = scatter.run(&route, inquiry, &call).await;
    let ok = replies.iter().filter(|reply| reply.answer.is_ok()).map(|reply| reply.shard).collect();
    (ok, started.elapsed())
}

/// Delays of `count` shards, all 20 ms but the last.
fn all_but_one(count: usize, last: Duration) -> Vec<Duration> {
    let mut delays = vec![20 * MS; count];
    delays[count - 1] = last;
    delays
}

#[tokio::test(start_paused = true)]
async fn the_last_of_many_shards_is_waited_for_a_share_of_the_time() {
    // 80 ms are left when the others have answered; a quarter of them is waited.
    let (ok, took) = run(&all_but_one(20, 90 * MS), 0, 0.25).await;
    assert_eq!((ok, took.as_millis()), ((0..19).collect(), 40));
    let (ok, took) = run(&all_but_one(20, 35 * MS), 0, 0.25).await;
    assert_eq!((ok.len(), took.as_millis()), (20, 35));
}

#[tokio::test(start_paused = true)]
async fn nothing_that_the_caller_demands_is_left_out() {
    let (ok, took) = run(&all_but_one(20, 90 * MS), 200, 0.25).await;
    assert_eq!((ok.len(), took.as_millis()), (20, 90));
    let (ok, _) = run(&all_but_one(20, 90 * MS), 190, 0.25).await;
    assert_eq!(ok.len(), 19);
}

#[tokio::test(start_paused = true)]
async fn few_shards_are_all_waited_for() {
    for count in [1, 2, 4, 9] {
        let (ok, took) = run(&all_but_one(count, 90 * MS), 0, 0.0).await;
        assert_eq!((ok.len(), took.as_millis()), (count, 90), "{count} shards");
    }
}
