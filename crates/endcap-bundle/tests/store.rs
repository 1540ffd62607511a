//! The store, as a folder of this machine and as one that must be downloaded from.

#![expect(clippy::unwrap_used, reason = "a test's helpers fail as its tests do")]

use std::{fs, path::Path, sync::Arc};

use endcap_bundle::{
    Bundle, BundleError, BundleStore, Parts,
    test_util::{TinyOptions, tiny_bundle},
};
use endcap_types::{Coded as _, Digest, ErrorCode, ShardCount};
use object_store::{ObjectStore, ObjectStoreExt as _, memory::InMemory, path::Path as ObjectPath};
use tempfile::TempDir;

struct Setting {
    folder: TempDir,
    bundle: Bundle,
    store: BundleStore,
    objects: Option<Arc<InMemory>>,
}

impl Setting {
    fn new(remote: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let options = TinyOptions { items: 24, ..TinyOptions::default() };
        let bundle = tiny_bundle(folder.path(), &options, ShardCount::try_from(2).unwrap()).unwrap();
        let objects = remote.then(|| Arc::new(InMemory::new()));
        let cache = folder.path().join("cache");
        let store = match &objects {
            Some(objects) => {
                BundleStore::remote(Arc::clone(objects) as Arc<dyn ObjectStore>, &cache, u64::MAX)
            }
            None => BundleStore::folder(folder.path().join("store").to_str().unwrap()).unwrap(),
        };
        Self { folder, bundle, store, objects }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }
}

fn files_under(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut left = vec![folder.to_owned()];
    while let Some(at) = left.pop() {
        for entry in fs::read_dir(at).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                left.push(path);
            } else {
                found.push(path.strip_prefix(folder).unwrap().display().to_string());
            }
        }
    }
    found.sort();
    found
}

/// What both kinds of store promise.
async fn conforms(setting: &Setting) {
    let Setting { bundle, store, .. } = setting;
    let digest = bundle.digest();
    assert!(!store.contains(digest).await.unwrap());
    let error = store.fetch(digest, Parts::All).await.unwrap_err();
    assert!(matches!(error, BundleError::NotInStore { digest: found } if found == digest), "{error}");
    assert_eq!(error.code(), ErrorCode::NotFound);
    // Deleting what is not there is no error.
    store.delete(digest).await.unwrap();

    store.put(bundle).await.unwrap();
    store.put(bundle).await.unwrap();
    assert!(store.contains(digest).await.unwrap());
    for parts in [Parts::Gateway, Parts::Shards(vec![1]), Parts::All] {
        let fetched = store.fetch(digest, parts.clone()).await.unwrap();
        assert_eq!((fetched.digest(), fetched.manifest()), (digest, bundle.manifest()));
        fetched.verify(&parts).unwrap();
    }
    store.fetch(digest, Parts::All).await.unwrap().check().unwrap();
    let error = store.fetch(digest, Parts::Shards(vec![2])).await.unwrap_err();
    assert!(matches!(error, BundleError::NoSuchShard { .. }), "{error}");

    store.delete(digest).await.unwrap();
    assert!(!store.contains(digest).await.unwrap());
    // And once more: an id may come back.
    store.put(bundle).await.unwrap();
    store.fetch(digest, Parts::All).await.unwrap();
}

#[tokio::test]
async fn a_folder_keeps_bundles() {
    conforms(&Setting::new(false)).await;
}

#[tokio::test]
async fn a_remote_store_keeps_bundles() {
    conforms(&Setting::new(true)).await;
}

#[tokio::test]
async fn a_folder_is_read_in_place_and_empty_after_a_deletion() {
    let setting = Setting::new(false);
    setting.store.put(&setting.bundle).await.unwrap();
    let fetched = setting.store.fetch(setting.bundle.digest(), Parts::All).await.unwrap();
    let root = setting.path("store").canonicalize().unwrap();
    assert_eq!(fetched.dir(), root.join(setting.bundle.digest().to_hex()));
    assert_eq!(files_under(&setting.path("cache")), [""; 0]);
    setting.store.delete(setting.bundle.digest()).await.unwrap();
    assert_eq!(fs::read_dir(root).unwrap().count(), 0);
}

#[tokio::test]
async fn only_the_parts_that_are_asked_for_are_downloaded() {
    let setting = Setting::new(true);
    setting.store.put(&setting.bundle).await.unwrap();
    let digest = setting.bundle.digest();
    setting.store.fetch(digest, Parts::Gateway).await.unwrap();
    let cached = setting.path("cache").join(digest.to_hex());
    assert_eq!(files_under(&cached), ["bundle.json", "features.json", "popular.json"]);
    setting.store.fetch(digest, Parts::Shards(vec![1])).await.unwrap();
    assert!(cached.join("items/shard-00001-of-00002.parquet").is_file());
    assert!(!cached.join("items/shard-00000-of-00002.parquet").exists());
}

#[tokio::test]
async fn many_fetches_at_once_of_one_bundle_all_succeed() {
    let setting = Setting::new(true);
    setting.store.put(&setting.bundle).await.unwrap();
    let fetches = (0..8).map(|_| setting.store.fetch(setting.bundle.digest(), Parts::All));
    for fetched in futures::future::join_all(fetches).await {
        fetched.unwrap();
    }
    let expected = setting.bundle.manifest().files.len() + 1;
    let cached = setting.path("cache").join(setting.bundle.digest().to_hex());
    assert_eq!(files_under(&cached).len(), expected, "temporary files remain");
}

#[tokio::test]
async fn a_damaged_cache_mends_itself() {
    let setting = Setting::new(true);
    setting.store.put(&setting.bundle).await.unwrap();
    let digest = setting.bundle.digest();
    let cached = setting.path("cache").join(digest.to_hex());
    setting.store.fetch(digest, Parts::All).await.unwrap();
    for file in ["ranker.onnx", "bundle.json"] {
        fs::write(cached.join(file), "damaged").unwrap();
        setting.store.fetch(digest, Parts::All).await.unwrap();
    }
}

#[tokio::test]
async fn damage_in_the_store_is_data_loss() {
    for (remote, file) in
        [(false, "ranker.onnx"), (false, "bundle.json"), (true, "ranker.onnx"), (true, "bundle.json")]
    {
        let setting = Setting::new(remote);
        setting.store.put(&setting.bundle).await.unwrap();
        let digest = setting.bundle.digest();
        let mut bytes = fs::read(setting.bundle.path(file)).unwrap();
        // A space more: still JSON, but not the same.
        bytes.push(b' ');
        match &setting.objects {
            Some(objects) => {
                let object = ObjectPath::from(format!("{digest}/{file}"));
                objects.put(&object, bytes.into()).await.unwrap();
            }
            None => fs::write(setting.path("store").join(digest.to_hex()).join(file), bytes).unwrap(),
        }
        let error = setting.store.fetch(digest, Parts::All).await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::DataLoss, "{file}: {error}");
        assert!(error.to_string().contains(file), "{error}");
    }
}

#[tokio::test]
async fn a_bundle_that_is_not_what_it_says_is_not_stored() {
    for remote in [false, true] {
        let setting = Setting::new(remote);
        fs::write(setting.bundle.path("popular.json"), "{}").unwrap();
        let error = setting.store.put(&setting.bundle).await.unwrap_err();
        assert!(
            matches!(&error, BundleError::SizeMismatch { file, .. } if file == "popular.json"),
            "{error}"
        );
        assert!(!setting.store.contains(setting.bundle.digest()).await.unwrap());
        assert_eq!(files_under(&setting.path("store")), [""; 0]);
    }
}

#[tokio::test]
async fn an_upload_that_fails_leaves_no_bundle_and_takes_nothing_from_others() {
    let setting = Setting::new(false);
    // Another registry is storing the same; a file where the store needs a folder fails this one half way.
    let root = setting.path("store").join(setting.bundle.digest().to_hex());
    fs::create_dir_all(&root).unwrap();
    fs::copy(setting.bundle.path("tokenizer.json"), root.join("tokenizer.json")).unwrap();
    fs::write(root.join("items"), "in the way").unwrap();
    let error = setting.store.put(&setting.bundle).await.unwrap_err();
    assert!(matches!(error, BundleError::Store { .. }), "{error}");
    assert_eq!(error.code(), ErrorCode::Unavailable);
    assert!(!setting.store.contains(setting.bundle.digest()).await.unwrap());
    assert!(root.join("tokenizer.json").exists(), "another's file was taken");
    fs::remove_file(root.join("items")).unwrap();
    setting.store.put(&setting.bundle).await.unwrap();
    setting.store.fetch(setting.bundle.digest(), Parts::All).await.unwrap();
}

#[tokio::test]
async fn a_bundle_with_holes_is_completed_by_storing_it_again() {
    let setting = Setting::new(false);
    setting.store.put(&setting.bundle).await.unwrap();
    let root = setting.path("store").join(setting.bundle.digest().to_hex());
    for hole in ["ranker.onnx", "items/shard-00001-of-00002.parquet"] {
        fs::remove_file(root.join(hole)).unwrap();
        fs::write(root.join("popular.json"), "cut").unwrap();
        setting.store.fetch(setting.bundle.digest(), Parts::All).await.unwrap_err();
        setting.store.put(&setting.bundle).await.unwrap();
        setting.store.fetch(setting.bundle.digest(), Parts::All).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_registries_that_share_a_folder_store_one_bundle_at_once() {
    let setting = Setting::new(false);
    let url = setting.path("store");
    let stores = [1, 2, 3, 4].map(|_| BundleStore::folder(url.to_str().unwrap()).unwrap());
    for stored in futures::future::join_all(stores.iter().map(|store| store.put(&setting.bundle))).await {
        stored.unwrap();
    }
    setting.store.fetch(setting.bundle.digest(), Parts::All).await.unwrap();
    let expected = setting.bundle.manifest().files.len() + 1;
    assert_eq!(files_under(&url).len(), expected, "temporary files remain");
}

#[test]
fn a_store_is_named_by_a_path_or_a_file_url() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path().join("made");
    BundleStore::folder(&format!("file://{}", at.display())).unwrap();
    assert!(at.is_dir());
    for url in ["", "s3://bucket", "http://host/x"] {
        let error = BundleStore::folder(url).unwrap_err();
        assert!(matches!(error, BundleError::StoreUrl { .. }), "{url}: {error}");
        assert!(error.to_string().contains("file:///"), "{error}");
    }
    let unknown = Digest::from_bytes([7; 32]);
    assert!(BundleError::NotInStore { digest: unknown }.to_string().contains("register it first"));
}
