//! The store on a real S3 server.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use endcap_bundle::{
    Bundle, BundleStore, Parts, StoreOptions,
    test_util::{
        TinyOptions,
        s3::{BUCKET, S3Server, options},
        tiny_bundle,
    },
};
use endcap_types::{Coded as _, ErrorCode, ShardCount};
use object_store::{ObjectStoreExt as _, aws::AmazonS3Builder};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::Notify,
};

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

/// Passes bytes on and counts those that come back; stops, still connected, after so many.
struct Wire {
    address: String,
    served: Arc<AtomicU64>,
    stalled: Arc<Notify>,
}

impl Wire {
    #[expect(clippy::disallowed_methods, reason = "it ends with the test's runtime")]
    async fn to(server: &str, stop_after: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (served, stalled) = (Arc::<AtomicU64>::default(), Arc::<Notify>::default());
        let (server, count, notify) = (server.to_owned(), Arc::clone(&served), Arc::clone(&stalled));
        tokio::spawn(async move {
            while let Ok((from, _)) = listener.accept().await {
                let to = TcpStream::connect(&server).await.unwrap();
                tokio::spawn(pass(from, to, stop_after, Arc::clone(&count), Arc::clone(&notify)));
            }
        });
        Self { address, served, stalled }
    }

    fn served(&self) -> u64 {
        self.served.load(Ordering::Relaxed)
    }
}

#[expect(clippy::disallowed_methods, reason = "it ends with the test's runtime")]
async fn pass(from: TcpStream, to: TcpStream, stop_after: u64, served: Arc<AtomicU64>, stalled: Arc<Notify>) {
    let ((mut asking, mut back), (mut answering, mut on)) = (from.into_split(), to.into_split());
    tokio::spawn(async move { tokio::io::copy(&mut asking, &mut on).await });
    let mut buffer = vec![0; 8 << 10];
    while let Ok(count @ 1..) = answering.read(&mut buffer).await {
        if served.fetch_add(count as u64, Ordering::Relaxed) >= stop_after {
            stalled.notify_one();
            std::future::pending::<()>().await;
        }
        if back.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
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
    let first = Wire::to(&server.address, whole / 2).await;
    let store = store_at(&first.address, &cache, u64::MAX);
    let folder = cache.join(bundle.digest().to_hex());
    let partial = folder.join("items/shard-00000-of-00001.parquet.partial");
    let received = async {
        first.stalled.notified().await;
        while std::fs::metadata(&partial).map_or(0, |partial| partial.len()) < whole / 3 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        fetched = store.fetch(bundle.digest(), Parts::All) => panic!("it was not cut off: {fetched:?}"),
        () = received => {}
    }
    drop(store);
    let second = Wire::to(&server.address, u64::MAX).await;
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
    // Somebody writes to the bucket past the store.
    let bucket = AmazonS3Builder::new()
        .with_endpoint(format!("http://{}", server.address))
        .with_allow_http(true)
        .with_bucket_name(BUCKET)
        .with_access_key_id("key")
        .with_secret_access_key("hunter2")
        .build()
        .unwrap();
    let object = format!("fleet/one/{}/ranker.onnx", bundle.digest());
    bucket.put(&object.into(), "wrong".into()).await.unwrap();

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
async fn mistakes_in_the_settings_are_told_apart() {
    let (server, folder) = (S3Server::start(), tempfile::tempdir().unwrap());
    let bundle = bundle(folder.path(), "a", 50);
    let options = |url: &str, address: &str| StoreOptions {
        url: url.to_owned(),
        cache: folder.path().join("cache"),
        cache_max_bytes: u64::MAX,
        s3: options(address),
    };
    let missing = BundleStore::open(&options("s3://nowhere/x", &server.address)).unwrap();
    let error = missing.put(&bundle).await.unwrap_err();
    assert!(error.to_string().contains("no such bucket"), "{error}");
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let gone = BundleStore::open(&options(&format!("s3://{BUCKET}"), &free)).unwrap();
    let error = gone.contains(bundle.digest()).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::Unavailable);
    assert!(error.to_string().contains("store.s3.endpoint"), "{error}");
    for url in ["s3://", "s3:///prefix", "gs://bucket", ""] {
        let error = BundleStore::open(&options(url, &server.address)).unwrap_err();
        assert!(error.to_string().contains("s3://bucket/prefix"), "{url}: {error}");
    }
    assert!(!format!("{:?}", options("s3://b", "h:1")).contains("hunter2"));
}
