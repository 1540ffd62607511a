//! The store on a real S3 server.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod settings;
mod waiting;
mod wire;

use std::{path::Path, time::Duration};

use endcap_bundle::{
    Bundle, BundleStore, Parts, StoreOptions,
    test_util::{
        TinyOptions,
        s3::{BUCKET, S3Server, options},
        tiny_bundle,
    },
};
use endcap_types::{Coded as _, ErrorCode, ShardCount};
use object_store::{
    ObjectStoreExt as _,
    aws::{AmazonS3, AmazonS3Builder},
    path::Path as ObjectPath,
};

use crate::wire::{Limits, NONE, Wire};

/// The bucket itself, past the store.
fn bucket(server: &S3Server) -> AmazonS3 {
    AmazonS3Builder::new()
        .with_endpoint(format!("http://{}", server.address))
        .with_allow_http(true)
        .with_bucket_name(BUCKET)
        .with_access_key_id("key")
        .with_secret_access_key("hunter2")
        .build()
        .unwrap()
}

fn object(bundle: &Bundle, file: &str) -> ObjectPath {
    format!("fleet/one/{}/{file}", bundle.digest()).into()
}

const SHARD: Parts = Parts::Shards(Vec::new());

fn store_at(address: &str, cache: &Path, cache_max_bytes: u64) -> BundleStore {
    let url = format!("s3://{BUCKET}/fleet/one");
    let cache = cache.to_owned();
    BundleStore::open(&StoreOptions { url, cache, cache_max_bytes, s3: options(address) }).unwrap()
}

fn bundle(folder: &Path, variant: &str, items: usize) -> Bundle {
    let options = TinyOptions { items, variant: variant.to_owned(), ..TinyOptions::default() };
    tiny_bundle(&folder.join(variant), &options, ShardCount::try_from(1).unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_goes_up_comes_down_and_is_deleted() {
    let (server, folder) = (S3Server::start(), tempfile::tempdir().unwrap());
    let store = store_at(&server.address, &folder.path().join("cache"), u64::MAX);
    let bundle = bundle(folder.path(), "a", 50);
    assert!(!store.contains(bundle.digest()).await.unwrap());
    store.put(&bundle).await.unwrap();
    store.put(&bundle).await.unwrap();
    let fetched = store.fetch(bundle.digest(), Parts::All).await.unwrap();
    assert_eq!(fetched.digest(), bundle.digest());
    let journal = store.journal("ledger");
    assert!(journal.append("1/a.json", b"first".to_vec()).await.unwrap());
    assert!(!journal.append("1/a.json", b"second".to_vec()).await.unwrap());
    assert_eq!(journal.names().await.unwrap(), ["1/a.json"]);
    store.delete(bundle.digest()).await.unwrap();
    assert!(!store.contains(bundle.digest()).await.unwrap());
    assert_eq!(journal.read("1/a.json").await.unwrap(), "first");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_that_was_cut_off_is_taken_up_where_it_was() {
    let (server, folder) = (S3Server::start(), tempfile::tempdir().unwrap());
    let cache = folder.path().join("cache");
    let bundle = bundle(folder.path(), "large", 40_000);
    store_at(&server.address, &cache, u64::MAX).put(&bundle).await.unwrap();
    let whole = bundle.size_bytes();
    assert!(whole > 256 << 10, "{whole} bytes are too few to cut");

    // The process that downloads ends in the middle of it.
    let first = Wire::to(&server.address, Limits { served: whole / 2, ..NONE }).await;
    let store = store_at(&first.address, &cache, u64::MAX);
    let folder = cache.join(bundle.digest().to_hex());
    let partial = folder.join("items/shard-00000-of-00001.parquet.partial");
    let received = async {
        first.stalled().await;
        while std::fs::metadata(&partial).map_or(0, |partial| partial.len()) < whole / 3 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        fetched = store.fetch(bundle.digest(), Parts::All) => panic!("it was not cut off: {fetched:?}"),
        () = received => {}
    }
    drop(store);
    let second = Wire::to(&server.address, NONE).await;
    let fetched =
        store_at(&second.address, &cache, u64::MAX).fetch(bundle.digest(), Parts::All).await.unwrap();
    fetched.verify(&Parts::All).unwrap();
    let (one, two) = (first.served(), second.served());
    println!("{whole} bytes: {one} before the cut, {two} after");
    assert!(two < whole * 3 / 4, "{two} of {whole} bytes came again after {one}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partial_file_that_is_damaged_is_fetched_anew() {
    let (server, folder) = (S3Server::start(), tempfile::tempdir().unwrap());
    let cache = folder.path().join("cache");
    let bundle = bundle(folder.path(), "a", 50);
    let store = store_at(&server.address, &cache, u64::MAX);
    store.put(&bundle).await.unwrap();
    let partial = cache.join(bundle.digest().to_hex()).join("ranker.onnx.partial");
    std::fs::create_dir_all(partial.parent().unwrap()).unwrap();
    std::fs::write(&partial, "not the beginning of it").unwrap();
    store.fetch(bundle.digest(), Parts::All).await.unwrap();
    assert!(!partial.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_damaged_in_the_store_is_data_loss_and_gets_no_name() {
    let (server, folder) = (S3Server::start(), tempfile::tempdir().unwrap());
    let cache = folder.path().join("cache");
    let bundle = bundle(folder.path(), "a", 50);
    let store = store_at(&server.address, &cache, u64::MAX);
    store.put(&bundle).await.unwrap();
    let size = bundle.manifest().files["ranker.onnx"].size;
    let wrong = vec![0; usize::try_from(size).unwrap()];
    bucket(&server).put(&object(&bundle, "ranker.onnx"), wrong.into()).await.unwrap();

    let error = store.fetch(bundle.digest(), SHARD).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::DataLoss);
    assert!(error.to_string().contains("ranker.onnx is damaged: expected SHA-256"), "{error}");
    let left = cache.join(bundle.digest().to_hex());
    assert!(!left.join("ranker.onnx").exists() && !left.join("ranker.onnx.partial").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cache_lets_go_of_what_was_used_longest_ago_but_not_of_what_is_in_use() {
    let (server, folder) = (S3Server::start(), tempfile::tempdir().unwrap());
    let cache = folder.path().join("cache");
    let bundles = ["a", "b", "c"].map(|variant| bundle(folder.path(), variant, 2_000));
    let size = bundles[0].size_bytes();
    // Room for two and a half.
    let store = store_at(&server.address, &cache, size * 5 / 2);
    for bundle in &bundles {
        store.put(bundle).await.unwrap();
    }
    let is_cached = |at: usize| cache.join(bundles[at].digest().to_hex()).exists();
    let fetch = async |at: usize| store.fetch(bundles[at].digest(), Parts::All).await.unwrap();
    let held = fetch(0).await;
    drop(fetch(1).await);
    drop(fetch(2).await);
    assert_eq!(
        [0, 1, 2].map(is_cached),
        [true, false, true],
        "the oldest is in use, the second oldest is not"
    );
    held.verify(&Parts::All).unwrap();
    drop(held);
    drop(fetch(1).await);
    assert_eq!([0, 1, 2].map(is_cached), [false, true, true]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_cache_has_whole_is_opened_without_the_store() {
    let (server, folder) = (S3Server::start(), tempfile::tempdir().unwrap());
    let bundle = bundle(folder.path(), "a", 50);
    let wire = Wire::to(&server.address, NONE).await;
    let cache = folder.path().join("cache");
    let store = store_at(&wire.address, &cache, u64::MAX);
    store.put(&bundle).await.unwrap();
    store.fetch(bundle.digest(), Parts::All).await.unwrap();
    let asked = wire.asked();
    for parts in [Parts::All, SHARD, Parts::Gateway] {
        store.fetch(bundle.digest(), parts).await.unwrap();
    }
    assert_eq!(wire.asked(), asked, "the store was asked for what is here");

    // And while it is gone; what is not whole is not opened.
    drop(server);
    store.fetch(bundle.digest(), Parts::All).await.unwrap();
    std::fs::write(cache.join(bundle.digest().to_hex()).join("ranker.onnx"), "damaged").unwrap();
    store.fetch(bundle.digest(), Parts::Gateway).await.unwrap();
    let error = store.fetch(bundle.digest(), Parts::All).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::Unavailable, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_of_the_wrong_size_is_refused_unread() {
    let (server, folder) = (S3Server::start(), tempfile::tempdir().unwrap());
    let bundle = bundle(folder.path(), "a", 50);
    let wire = Wire::to(&server.address, NONE).await;
    let store = store_at(&wire.address, &folder.path().join("cache"), u64::MAX);
    store.put(&bundle).await.unwrap();
    for (file, expected) in
        [("ranker.onnx", "ranker.onnx is damaged: expected"), ("bundle.json", "the limit")]
    {
        let wrong = vec![b' '; 32 << 20];
        bucket(&server).put(&object(&bundle, file), wrong.into()).await.unwrap();
        let before = wire.served();
        let error = store.fetch(bundle.digest(), SHARD).await.unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
        let came = wire.served() - before;
        assert!(came < 16 << 20, "{came} bytes of {file} came");
        let _gone = std::fs::remove_dir_all(folder.path().join("cache"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_fails_leaves_what_another_has_stored() {
    let (server, folder) = (S3Server::start(), tempfile::tempdir().unwrap());
    let bundle = bundle(folder.path(), "large", 2_000);
    // Another upload of it is on its way: everything but the last file is there.
    let files: Vec<String> = bundle.manifest().files.keys().cloned().collect();
    for file in &files {
        let bytes = std::fs::read(bundle.path(file)).unwrap();
        bucket(&server).put(&object(&bundle, file), bytes.into()).await.unwrap();
    }
    // This one breaks off in the middle.
    let wire = Wire::to(&server.address, Limits { asked: 32 << 10, ..NONE }).await;
    let store = store_at(&wire.address, &folder.path().join("cache"), u64::MAX);
    let put = store.put(&bundle);
    let break_off = async {
        wire.stalled().await;
        std::fs::rename(bundle.path("ranker.onnx"), folder.path().join("kept")).unwrap();
        wire.resume();
    };
    let (failed, ()) = tokio::join!(put, break_off);
    assert!(failed.unwrap_err().to_string().contains("ranker.onnx"));
    for file in &files {
        bucket(&server).head(&object(&bundle, file)).await.unwrap();
    }
    assert!(!store.contains(bundle.digest()).await.unwrap());
    // The other one ends well.
    let manifest = std::fs::read(bundle.path("bundle.json")).unwrap();
    bucket(&server).put(&object(&bundle, "bundle.json"), manifest.into()).await.unwrap();
    store.fetch(bundle.digest(), Parts::All).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_of_one_bundle_at_once_all_succeed() {
    let (server, folder) = (S3Server::start(), tempfile::tempdir().unwrap());
    let bundle = bundle(folder.path(), "a", 50);
    let stores = [1, 2, 3].map(|at| store_at(&server.address, &folder.path().join(at.to_string()), u64::MAX));
    let puts = stores.iter().map(|store| store.put(&bundle));
    for done in futures::future::join_all(puts).await {
        done.unwrap();
    }
    stores[0].fetch(bundle.digest(), Parts::All).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_with_holes_is_completed_by_storing_it_again() {
    let (server, folder) = (S3Server::start(), tempfile::tempdir().unwrap());
    let bundle = bundle(folder.path(), "a", 50);
    let store = store_at(&server.address, &folder.path().join("cache"), u64::MAX);
    store.put(&bundle).await.unwrap();
    bucket(&server).delete(&object(&bundle, "ranker.onnx")).await.unwrap();
    bucket(&server).put(&object(&bundle, "popular.json"), "short".into()).await.unwrap();
    let error = store.fetch(bundle.digest(), SHARD).await.unwrap_err();
    assert!(error.to_string().contains("register the bundle again"), "{error}");
    assert_eq!(error.code(), ErrorCode::Unavailable);
    store.put(&bundle).await.unwrap();
    store.fetch(bundle.digest(), Parts::All).await.unwrap();
}
