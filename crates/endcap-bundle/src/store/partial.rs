//! A file on its way into the cache: `<name>.partial`, locked by whoever downloads it.

use std::{
    fs::{File, TryLockError},
    io::{Read as _, Write as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::time::Instant;

use super::blocking;
use crate::BundleError;

/// Between two looks at a lock that somebody else holds.
pub(super) const FIRST_PAUSE: Duration = Duration::from_millis(20);
pub(super) const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// Whoever downloads and gets nothing for this long is waited for no longer: its process may be frozen. Longer than the
/// store may be silent within one try.
const STALL: Duration = Duration::from_secs(30);

/// A file on its way, which nobody else writes.
#[derive(Debug)]
pub(super) struct Partial {
    path: PathBuf,
    file: File,
}

impl Partial {
    /// Waits until nobody else downloads the file, or until who does has stood still for [`STALL`]: then a second one
    /// is begun beside it, and a third beside that. Whichever is whole first gets the name; they are all the same.
    ///
    /// The wait is given up by dropping it, and ends with the process that is waited for.
    pub(super) async fn open(target: &Path) -> Result<Self, BundleError> {
        let mut place = 1;
        loop {
            if let Some(partial) = Self::open_at(path_of(target, place)).await? {
                return Ok(partial);
            }
            tracing::warn!(
                file = %target.display(),
                "another process stands still in the middle of this download; beginning a new one"
            );
            place += 1;
        }
    }

    /// Nothing when somebody else has it and stands still.
    async fn open_at(path: PathBuf) -> Result<Option<Self>, BundleError> {
        let (mut length, mut since, mut pause) = (None, Instant::now(), FIRST_PAUSE);
        loop {
            let at = path.clone();
            let (partial, found) = blocking(move || {
                let partial = Self::try_open(&at)?;
                Ok((partial, std::fs::metadata(&at).map(|there| there.len()).ok()))
            })
            .await?;
            if partial.is_some() {
                return Ok(partial);
            }
            if length != found {
                (length, since) = (found, Instant::now());
            } else if since.elapsed() >= STALL {
                return Ok(None);
            }
            tokio::time::sleep(pause).await;
            pause = LONGEST_PAUSE.min(pause * 2);
        }
    }

    /// Nothing when somebody else has it.
    fn try_open(path: &Path) -> Result<Option<Self>, BundleError> {
        let parent = path.parent().unwrap_or(path);
        std::fs::create_dir_all(parent).map_err(BundleError::io("create", parent))?;
        loop {
            let file = File::options().create(true).read(true).append(true).open(path);
            let file = file.map_err(BundleError::io("open", path))?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(error)) => return Err(BundleError::io("lock", path)(error)),
            }
            // Whoever held it may have finished: then this is the finished file, and no longer at this path.
            let mine = file.metadata().map_err(BundleError::io("look at", path))?.ino();
            if std::fs::metadata(path).is_ok_and(|there| there.ino() == mine) {
                return Ok(Some(Self { path: path.to_owned(), file }));
            }
        }
    }

    /// Feeds what is there already to `digest`, and tells how much that is. Once, and before anything else: it reads from
    /// where the file stands, which is its beginning after it was opened.
    pub(super) fn replay(&mut self, mut digest: impl FnMut(&[u8])) -> Result<u64, BundleError> {
        let read = |error| BundleError::io("read", &self.path)(error);
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
        self.file.write_all(piece).map_err(BundleError::io("write", &self.path))
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

/// `ranker.onnx.partial`, and for those who waited in vain `ranker.onnx.partial-2` and so on.
fn path_of(target: &Path, place: u32) -> PathBuf {
    let mut name = target.as_os_str().to_owned();
    name.push(".partial");
    if place > 1 {
        name.push(format!("-{place}"));
    }
    PathBuf::from(name)
}
