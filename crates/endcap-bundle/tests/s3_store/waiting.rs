//! Waiting for another process that downloads the same.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, mpsc},
    time::Duration,
};

use endcap_bundle::{Bundle, BundleStore, Parts};
use endcap_types::{Coded as _, ErrorCode};
use object_store::{ObjectStore, memory::InMemory};
use tempfile::TempDir;

use crate::bundle;

/// Far longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);

struct Waiting {
    folder: TempDir,
    bundle: Bundle,
    store: BundleStore,
}

impl Waiting {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let bundle = bundle(folder.path(), "a", 50);
        let objects: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let store = BundleStore::remote(objects, &folder.path().join("cache"), u64::MAX);
        store.put(&bundle).await.unwrap();
        Self { folder, bundle, store }
    }

    fn partial(&self) -> PathBuf {
        let bundle = self.folder.path().join("cache").join(self.bundle.digest().to_hex());
        std::fs::create_dir_all(&bundle).unwrap();
        bundle.join("ranker.onnx.partial")
    }

    async fn fetch(&self) -> Bundle {
        self.store.fetch(self.bundle.digest(), Parts::All).await.unwrap()
    }
}

/// A process that downloads a file, or evicts a bundle, as the others see it.
fn locking(partial: &Path) -> File {
    let file = File::options().create(true).append(true).open(partial).unwrap();
    file.lock().unwrap();
    file
}

#[tokio::test(start_paused = true)]
async fn one_who_stands_still_in_the_middle_is_overtaken() {
    let waiting = Waiting::new().await;
    let partial = waiting.partial();
    std::fs::write(&partial, "the beginning").unwrap();
    let frozen = locking(&partial);
    waiting.fetch().await.verify(&Parts::All).unwrap();
    assert!(partial.exists(), "its file is its own");
    drop(frozen);
}

#[tokio::test(start_paused = true)]
async fn one_who_goes_on_is_waited_for() {
    use std::io::Write as _;
    let waiting = Waiting::new().await;
    let mut slow = locking(&waiting.partial());
    let goes_on = async {
        for _ in 0..10 {
            slow.write_all(b"x").unwrap();
            tokio::time::sleep(Duration::from_secs(10)).await;
        }
    };
    tokio::select! {
        _ = waiting.fetch() => panic!("did not wait"),
        () = goes_on => {}
    }
    // Its end, however it comes, lets the next one go on at once.
    drop(slow);
    waiting.fetch().await;
}

#[tokio::test(start_paused = true)]
async fn an_eviction_is_waited_for_but_not_for_ever() {
    let waiting = Waiting::new().await;
    waiting.fetch().await;
    let digest = waiting.bundle.digest();
    let evicting = locking(&waiting.folder.path().join("cache").join(format!("{digest}.lock")));
    let error = waiting.store.fetch(digest, Parts::All).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::Unavailable);
    assert!(error.to_string().contains(&format!("{digest}.lock")), "{error}");
    drop(evicting);
    waiting.fetch().await;
}

/// Runs `work` on a runtime of its own, and tells whether that ended.
fn ends(work: impl AsyncFnOnce() + Send + 'static) -> bool {
    let (ended, end) = mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(work());
        drop(runtime);
        ended.send(()).unwrap();
    });
    end.recv_timeout(PATIENCE).is_ok()
}

#[test]
fn whoever_waits_can_end() {
    assert!(ends(async || {
        let waiting = Waiting::new().await;
        let held = locking(&waiting.partial());
        let fetched = tokio::time::timeout(Duration::from_millis(100), waiting.fetch()).await;
        assert!(fetched.is_err(), "it did not wait");
        // Still held while the runtime ends.
        std::mem::forget(held);
    }));
}

#[test]
fn a_disk_that_hangs_holds_up_nobody_else() {
    let (told, tell) = mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let waiting = Waiting::new().await;
            // Who reads from it waits for ever.
            let partial = waiting.partial();
            assert!(Command::new("mkfifo").arg(&partial).status().unwrap().success());
            let fetched = tokio::time::timeout(Duration::from_millis(100), waiting.fetch()).await;
            told.send(fetched.is_err()).unwrap();
        });
        runtime.shutdown_background();
    });
    assert_eq!(tell.recv_timeout(PATIENCE), Ok(true), "the runtime's thread hangs");
}
