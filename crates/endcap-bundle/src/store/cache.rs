//! Bundles of a remote store on this machine's disk: whole files under their names, what is on its way as `.partial`.
//!
//! Several processes may share the folder. Whoever uses a bundle holds a shared lock of `<digest>.lock`, and only who
//! gets it alone may evict; whoever downloads a file holds a lock of its `.partial`, and the others wait for it.

use std::{
    fs::File,
    io::{Read as _, Seek as _, SeekFrom},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::SystemTime,
};

use endcap_types::Digest;

use crate::BundleError;

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
    pub(super) fn hold(&self, digest: Digest) -> Result<InUse, BundleError> {
        std::fs::create_dir_all(&self.folder).map_err(BundleError::io("create", &self.folder))?;
        let path = self.lock_path(digest);
        let lock = File::options().create(true).append(true).open(&path);
        let lock = lock.map_err(BundleError::io("open", &path))?;
        lock.lock_shared().map_err(BundleError::io("lock", &path))?;
        lock.set_modified(SystemTime::now()).map_err(BundleError::io("touch", &path))?;
        Ok(InUse { _lock: lock })
    }

    /// Evicts what was not used for longest until `needed` bytes more fit, or everything that is left is in use.
    pub(super) fn make_room(&self, needed: u64, keep: Digest) {
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
        let lock = File::options().create(true).append(true).open(self.lock_path(digest));
        let Ok(lock) = lock else { return false };
        // The lock file stays: whoever waits for it must not be left with one that is gone.
        lock.try_lock().is_ok() && std::fs::remove_dir_all(self.bundle(digest)).is_ok()
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

/// A file on its way, which nobody else writes.
#[derive(Debug)]
pub(super) struct Partial {
    path: PathBuf,
    file: File,
}

impl Partial {
    /// Waits until nobody else downloads the file.
    pub(super) fn open(target: &Path) -> Result<Self, BundleError> {
        let mut name = target.as_os_str().to_owned();
        name.push(".partial");
        let path = PathBuf::from(name);
        let parent = path.parent().unwrap_or(&path);
        std::fs::create_dir_all(parent).map_err(BundleError::io("create", parent))?;
        loop {
            let file = File::options().create(true).read(true).append(true).open(&path);
            let file = file.map_err(BundleError::io("open", &path))?;
            file.lock().map_err(BundleError::io("lock", &path))?;
            // Whoever held it may have finished: then this is the finished file, and no longer at this path.
            let mine = file.metadata().map_err(BundleError::io("look at", &path))?.ino();
            if std::fs::metadata(&path).is_ok_and(|there| there.ino() == mine) {
                return Ok(Self { path, file });
            }
        }
    }

    /// Feeds what is there already to `digest`, and tells how much that is.
    pub(super) fn replay(&mut self, mut digest: impl FnMut(&[u8])) -> Result<u64, BundleError> {
        let read = |error| BundleError::io("read", &self.path)(error);
        self.file.seek(SeekFrom::Start(0)).map_err(read)?;
        let (mut buffer, mut length) = (vec![0; 256 << 10], 0);
        loop {
            match self.file.read(&mut buffer).map_err(read)? {
                0 => return Ok(length),
                count => {
                    digest(&buffer[..count]);
                    length += count as u64;
                }
            }
        }
    }

    pub(super) fn append(&mut self, piece: &[u8]) -> Result<(), BundleError> {
        std::io::Write::write_all(&mut self.file, piece).map_err(BundleError::io("write", &self.path))
    }

    pub(super) fn clear(&mut self) -> Result<(), BundleError> {
        self.file.set_len(0).map_err(BundleError::io("empty", &self.path))
    }

    /// Gives the file its name.
    pub(super) fn finish(self, target: &Path) -> Result<(), BundleError> {
        self.file.sync_all().map_err(BundleError::io("write", &self.path))?;
        std::fs::rename(&self.path, target).map_err(BundleError::io("rename to", target))
    }

    pub(super) fn discard(self) {
        let _gone = std::fs::remove_file(&self.path);
    }
}
