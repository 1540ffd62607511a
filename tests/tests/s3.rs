//! A whole fleet whose bundles and ledger are in S3.

use endcap_bundle::test_util::{
    TinyOptions,
    s3::{BUCKET, S3Server},
};
use endcap_proto::pb;
use endcap_tests::{TestFleet, query, registry, tiny};

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_keeps_bundles_and_its_ledger_in_s3() {
    let (server, folder) = (S3Server::start(), tempfile::tempdir().unwrap());
    let (url, options) = (format!("s3://{BUCKET}/shop"), server.options());
    let set = [
        ("store.url", url.as_str()),
        ("store.s3.endpoint", &options.endpoint),
        ("store.s3.region", &options.region),
        ("store.s3.access_key_id", &options.access_key_id),
        ("store.s3.secret_access_key", &options.secret_access_key),
    ];
    let mut fleet = TestFleet::start(&folder.path().join("one"), 2, &set).await.unwrap();
    let one = fleet.release(&tiny(&TinyOptions::default(), 3).unwrap().bytes).await.unwrap();
    let variant = TinyOptions { variant: "two".into(), ..TinyOptions::default() };
    let two = fleet.release(&tiny(&variant, 3).unwrap().bytes).await.unwrap();
    let answer = fleet.gateway.recommend(query("red kettle")).await.unwrap().into_inner();
    assert_eq!(answer.quality.unwrap().rung(), pb::Rung::Full);
    let history = registry::history(&mut fleet.registry).await.unwrap();
    fleet.fleet.stop().await.unwrap();

    // Another machine with nothing but the bucket: everything is there again.
    let mut fleet = TestFleet::start(&folder.path().join("another"), 2, &set).await.unwrap();
    fleet.until_answering(two).await.unwrap();
    assert_eq!(registry::history(&mut fleet.registry).await.unwrap(), history);
    fleet.rollback().await.unwrap();
    fleet.until_answering(one).await.unwrap();
    fleet.fleet.stop().await.unwrap();

    // And again while the bucket cannot be reached: what was fetched then is all that serving needs.
    drop(server);
    let mut fleet = TestFleet::start(&folder.path().join("another"), 2, &set).await.unwrap();
    fleet.until_answering(one).await.unwrap();
    fleet.fleet.stop().await.unwrap();
}
