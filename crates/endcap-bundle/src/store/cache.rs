//! Bundles of a remote store on this machine's disk: whole files under their names, what is on its way as `.partial`.
//!
//! Several processes may share the folder. Whoever uses a bundle holds a shared lock of `<digest>.lock`, and only who
//! gets it alone may evict; whoever downloads a file holds a lock of its `.partial`, and the others wait for it.
//! Locks end with their process, and nobody waits for one for ever.

use std::{
    fs::{File, TryLockError},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use endcap_types::Digest;
use tokio::time::Instant;

use super::{
    blocking,
    partial::{FIRST_PAUSE, LONGEST_PAUSE},
};
use crate::BundleError;

/// An eviction holds its lock for as long as a rename takes; longer, and its process is frozen.
const EVICTION: Duration = Duration::from_secs(10);
/// Folders of what is being evicted.
const EVICTED: &str = "evicted-";

/// The folder and how large it may grow.
#[derive(Debug, Clone)]
pub(super) struct Cache {
    folder: PathBuf,
    max_bytes: u64,
}

/// A cached bundle that nobody evicts.
#[derive(Debug)]
pub(crate) struct InUse {
    _lock: File,
}

/// A bundle that could be evicted.
struct Resident {
    digest: Digest,
    bytes: u64,
    used: SystemTime,
}

impl Cache {
    pub(super) fn new(folder: &Path, max_bytes: u64) -> Self {
        Self { folder: folder.to_owned(), max_bytes }
    }

    pub(super) fn bundle(&self, digest: Digest) -> PathBuf {
        self.folder.join(digest.to_hex())
    }

    /// Keeps a bundle from being evicted, and notes that it was used now.
    pub(super) async fn hold(&self, digest: Digest) -> Result<InUse, BundleError> {
        let (mut pause, deadline) = (FIRST_PAUSE, Instant::now() + EVICTION);
        loop {
            let cache = self.clone();
            if let Some(in_use) = blocking(move || cache.try_hold(digest)).await? {
                return Ok(in_use);
            }
            if Instant::now() >= deadline {
                return Err(BundleError::CacheLocked { path: self.lock_path(digest) });
            }
            tokio::time::sleep(pause).await;
            pause = LONGEST_PAUSE.min(pause * 2);
        }
    }

    /// Nothing while it is being evicted.
    fn try_hold(&self, digest: Digest) -> Result<Option<InUse>, BundleError> {
        std::fs::create_dir_all(&self.folder).map_err(BundleError::io("create", &self.folder))?;
        let path = self.lock_path(digest);
        let lock = File::options().create(true).append(true).open(&path);
        let lock = lock.map_err(BundleError::io("open", &path))?;
        match lock.try_lock_shared() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(BundleError::io("lock", &path)(error)),
        }
        lock.set_modified(SystemTime::now()).map_err(BundleError::io("touch", &path))?;
        Ok(Some(InUse { _lock: lock }))
    }

    /// Evicts what was not used for longest until `needed` bytes more fit, or everything that is left is in use.
    pub(super) fn make_room(&self, needed: u64, keep: Digest) {
        self.sweep();
        let mut residents = self.residents();
        let mut held: u64 = residents.iter().map(|resident| resident.bytes).sum();
        residents.sort_by_key(|resident| resident.used);
        for resident in residents.iter().filter(|resident| resident.digest != keep) {
            if held.saturating_add(needed) <= self.max_bytes {
                return;
            }
            if self.evict(resident.digest) {
                tracing::info!(digest = %resident.digest, bytes = resident.bytes, "evicted a bundle from the cache");
                held -= resident.bytes;
            }
        }
        if held.saturating_add(needed) > self.max_bytes {
            let (max_bytes, wanted) = (self.max_bytes, held.saturating_add(needed));
            tracing::warn!(max_bytes, wanted, "bundles in use need more than store.cache_max_bytes");
        }
    }

    /// `false` when somebody uses it.
    fn evict(&self, digest: Digest) -> bool {
        let Ok(away) = tempfile::Builder::new().prefix(EVICTED).tempdir_in(&self.folder) else {
            return false;
        };
        let lock = File::options().create(true).append(true).open(self.lock_path(digest));
        let Ok(lock) = lock else { return false };
        // Out of the way first: removing may take long, and who wants the bundle again waits for the lock. The lock file
        // stays: whoever waits for it must not be left with one that is gone.
        let moved = lock.try_lock().is_ok()
            && std::fs::rename(self.bundle(digest), away.path().join("bundle")).is_ok();
        drop(lock);
        moved
    }

    /// Removes what processes that were killed while they evicted have left.
    fn sweep(&self) {
        let entries = std::fs::read_dir(&self.folder).into_iter().flatten().flatten();
        for left in entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(EVICTED)) {
            let _gone = std::fs::remove_dir_all(left.path());
        }
    }

    fn residents(&self) -> Vec<Resident> {
        let Ok(folders) = std::fs::read_dir(&self.folder) else { return Vec::new() };
        let resident = |folder: std::fs::DirEntry| {
            let digest: Digest = folder.file_name().to_str()?.parse().ok()?;
            let used = std::fs::metadata(self.lock_path(digest)).and_then(|lock| lock.modified());
            let used = used.unwrap_or(SystemTime::UNIX_EPOCH);
            Some(Resident { digest, bytes: bytes_below(&folder.path()), used })
        };
        folders.flatten().filter_map(resident).collect()
    }

    fn lock_path(&self, digest: Digest) -> PathBuf {
        self.folder.join(format!("{digest}.lock"))
    }
}

fn bytes_below(folder: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    let bytes = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => bytes_below(&entry.path()),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    };
    entries.flatten().map(bytes).sum()
}
