//! What both stores must do, on both; and what only a Redis can get wrong, on a real one.

use std::time::Instant;

use redis::IntoConnectionInfo as _;

use super::*;
use crate::{config::RedisConfig, test_util::RedisServer};

/// A condition that does not hold by then never will.
const PATIENCE: Duration = Duration::from_secs(60);

fn config(server: &RedisServer) -> RedisConfig {
    let info = server.url().into_connection_info().unwrap();
    RedisConfig { server: info, prefix: "endcap".to_owned(), timeout: Duration::from_secs(5) }
}

fn store(server: &RedisServer) -> Store {
    of(Kept::Redis(Redis::new(config(server)).unwrap()))
}

fn of(kept: Kept) -> Store {
    Store { kept, default_ttl: Duration::from_secs(60), meters: Meters::default() }
}

fn memory() -> Store {
    of(Kept::Memory(Memory::new(100)))
}

fn key(entity: &str) -> Key {
    Key { namespace: Namespace::User, entity_id: entity.into() }
}

fn put(entity: &str, feature: &str, value: FeatureValue, ttl: Option<Duration>) -> Put {
    Put { key: key(entity), values: Group::from([(feature.parse().unwrap(), value)]), ttl }
}

fn number(value: f32) -> FeatureValue {
    FeatureValue::F32(vec![value])
}

async fn one(store: &Store, entity: &str) -> Option<Stored> {
    store.get(&[key(entity)]).await.unwrap().pop().unwrap()
}

async fn a_write_is_read_by_the_next_reader_and_keeps_the_groups_other_features(store: &Store) {
    store.put(vec![put("ada", "user.a", number(1.0), None)]).await.unwrap();
    let long = FeatureValue::I64(vec![i64::MIN, 0, i64::MAX]);
    store.put(vec![put("ada", "user.b", long.clone(), None)]).await.unwrap();
    store.put(vec![put("ada", "user.a", number(3.0), None)]).await.unwrap();
    let stored = one(store, "ada").await.unwrap();
    assert_eq!(stored.values.len(), 2);
    assert_eq!(stored.values[&"user.a".parse().unwrap()], number(3.0));
    assert_eq!(stored.values[&"user.b".parse().unwrap()], long);
    assert!(stored.age < Duration::from_secs(30) && stored.ttl_left <= Duration::from_secs(60));
    assert!(stored.age + stored.ttl_left >= Duration::from_secs(59), "{stored:?}");
}

async fn results_are_in_the_order_of_the_keys(store: &Store) {
    store
        .put(vec![put("bob", "user.a", number(1.0), None), put("eve", "user.a", number(2.0), None)])
        .await
        .unwrap();
    let session = Key { namespace: Namespace::Session, entity_id: "bob".into() };
    let found = store.get(&[key("eve"), key("nobody"), session, key("bob"), key("eve")]).await.unwrap();
    let values: Vec<_> = found
        .iter()
        .map(|found| found.as_ref().map(|stored| stored.values[&"user.a".parse().unwrap()].clone()))
        .collect();
    assert_eq!(values, [Some(number(2.0)), None, None, Some(number(1.0)), Some(number(2.0))]);
}

async fn an_expired_group_is_missing_and_a_write_lets_it_live_on(store: &Store) {
    let short = Some(Duration::from_millis(1));
    store.put(vec![put("fay", "user.a", number(1.0), short)]).await.unwrap();
    let patience = Instant::now() + PATIENCE;
    while one(store, "fay").await.is_some() {
        assert!(Instant::now() < patience, "a group of 1 ms still lives");
    }
    store.put(vec![put("fay", "user.b", number(2.0), None)]).await.unwrap();
    // What had expired is not there again.
    assert_eq!(one(store, "fay").await.unwrap().values.len(), 1);
}

async fn concurrent_writers_of_one_user_lose_nothing(store: Store) {
    let store = Arc::new(store);
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..8 {
        let store = Arc::clone(&store);
        let _handle = writers.spawn(async move {
            for i in 0..50 {
                let feature = format!("user.w{writer}_{i}");
                store.put(vec![put("gil", &feature, number(1.0), None)]).await.unwrap();
            }
        });
    }
    while let Some(written) = writers.join_next().await {
        written.unwrap();
    }
    assert_eq!(one(&store, "gil").await.unwrap().values.len(), 400);
}

async fn conforms(store: Store) {
    a_write_is_read_by_the_next_reader_and_keeps_the_groups_other_features(&store).await;
    results_are_in_the_order_of_the_keys(&store).await;
    an_expired_group_is_missing_and_a_write_lets_it_live_on(&store).await;
    concurrent_writers_of_one_user_lose_nothing(store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_conforms() {
    conforms(memory()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_conforms() {
    conforms(store(&RedisServer::start().await)).await;
}

#[tokio::test]
async fn two_caches_of_one_redis_read_what_the_other_wrote() {
    let server = RedisServer::start().await;
    let (one_cache, other) = (store(&server), store(&server));
    one_cache.put(vec![put("ada", "user.a", number(1.0), None)]).await.unwrap();
    assert!(one(&other, "ada").await.is_some());
    // Nothing is kept for ever by mistake.
    let left = server.say(&["PTTL", "endcap:features:user:ada"]).await;
    assert!(matches!(left, redis::Value::Int(1..=60_000)), "{left:?}");
}

#[tokio::test]
async fn while_it_is_gone_errors_say_so_in_time_and_then_all_is_as_before() {
    let mut server = RedisServer::start().await;
    let config = RedisConfig { timeout: Duration::from_millis(500), ..config(&server) };
    let store = of(Kept::Redis(Redis::new(config).unwrap()));
    store.put(vec![put("ada", "user.a", number(1.0), None)]).await.unwrap();
    server.stop();
    let asked = Instant::now();
    for _ in 0..3 {
        let refused = store.get(&[key("ada")]).await.unwrap_err();
        assert_eq!(refused.code(), ErrorCode::Unavailable);
        assert!(refused.to_string().starts_with("Redis"), "{refused}");
    }
    // And why, for whoever reads the log.
    let refused = store.get(&[key("ada")]).await.unwrap_err();
    assert!(refused.to_string().contains("refused"), "{refused}");
    assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
    server.restart();
    let patience = Instant::now() + PATIENCE;
    let found = loop {
        match store.get(&[key("ada")]).await {
            Ok(mut found) => break found.pop().unwrap(),
            Err(error) => assert!(Instant::now() < patience, "{error}"),
        }
    };
    assert!(found.is_some(), "what it had on its disk");
}

#[tokio::test]
async fn a_connection_that_was_closed_since_costs_nobody_an_answer() {
    let server = RedisServer::start().await;
    let store = store(&server);
    for _ in 0..20 {
        store.put(vec![put("ada", "user.a", number(1.0), None)]).await.unwrap();
        let closed = server.say(&["CLIENT", "KILL", "TYPE", "normal"]).await;
        assert!(matches!(closed, redis::Value::Int(1..)), "{closed:?}");
        assert!(one(&store, "ada").await.is_some());
    }
}

#[tokio::test]
async fn a_frozen_redis_is_not_waited_for() {
    let server = RedisServer::start().await;
    let config = RedisConfig { timeout: Duration::from_millis(100), ..config(&server) };
    let store = of(Kept::Redis(Redis::new(config).unwrap()));
    store.check().await.unwrap();
    // It answers nobody meanwhile.
    let _paused = server.say(&["CLIENT", "PAUSE", "60000", "ALL"]).await;
    let refused = store.get(&[key("ada")]).await.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::Unavailable);
}

#[tokio::test]
async fn what_others_wrote_there_is_no_feature_and_harms_none() {
    let server = RedisServer::start().await;
    let store = store(&server);
    store.put(vec![put("ada", "user.a", number(1.0), None)]).await.unwrap();
    let name = "endcap:features:user:ada";
    let _added = server.say(&["HSET", name, "no feature", "x", "user.b", "\u{1}not protobuf"]).await;
    assert_eq!(one(&store, "ada").await.unwrap().values.len(), 1);
    // A key of another kind is Redis's own error, not a panic and not another user's features.
    let _set = server.say(&["SET", "endcap:features:user:eve", "text"]).await;
    let refused = store.get(&[key("eve")]).await.unwrap_err();
    assert!(refused.to_string().contains("WRONGTYPE"), "{refused}");
    // One that never expires was not written by a feature-cache.
    let _added = server.say(&["HSET", "endcap:features:user:bob", "user.a", "x"]).await;
    assert!(one(&store, "bob").await.is_none());
}

#[tokio::test]
async fn a_user_needs_no_rights_but_those_that_are_named() {
    let server = RedisServer::start().await;
    let rights = ["+ping", "+hset", "+hgetall", "+pexpire", "+pttl", "+multi", "+exec"];
    let user = ["ACL", "SETUSER", "ranking", "on", ">hush", "~endcap:*"];
    let _set = server.say(&[&user[..], &rights].concat()).await;
    let config = config(&server);
    let login = config.server.redis_settings().clone().set_username("ranking").set_password("hush");
    let config = RedisConfig { server: config.server.clone().set_redis_settings(login), ..config };
    let store = of(Kept::Redis(Redis::new(config).unwrap()));
    store.check().await.unwrap();
    conforms(store).await;
}

#[tokio::test]
async fn a_password_is_needed_where_it_is_asked_for() {
    let server = RedisServer::start().await;
    let _set = server.say(&["CONFIG", "SET", "requirepass", "hush"]).await;
    assert!(store(&server).check().await.is_err());
    let config = config(&server);
    let login = config.server.redis_settings().clone().set_password("hush");
    let config = RedisConfig { server: config.server.clone().set_redis_settings(login), ..config };
    of(Kept::Redis(Redis::new(config).unwrap())).check().await.unwrap();
}
