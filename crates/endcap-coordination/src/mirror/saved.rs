//! The entries in a file. Its modification time says when the coordinator last confirmed them.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::{Entries, Freshness};
use crate::KeyValue;

const FORMAT: u32 = 1;
/// Shortest time between two writes; a burst of changes is written once.
const PAUSE: Duration = Duration::from_millis(500);
/// How often the file is confirmed while nothing changes.
const CONFIRM: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(super) struct Saved(pub(super) PathBuf);

#[derive(Serialize, Deserialize)]
struct File {
    format: u32,
    entries: Vec<Entry>,
}

/// Every value in the fleet is JSON text, so it is kept as text that a person can read.
#[derive(Serialize, Deserialize)]
struct Entry {
    key: String,
    value: String,
    create_revision: u64,
    mod_revision: u64,
}

impl Saved {
    /// What was saved, and when it was last known to be true. Nothing when there is no file, or none that can be read.
    pub(super) fn read(&self) -> Option<(Entries, SystemTime)> {
        let read = || -> io::Result<(Entries, SystemTime)> {
            let at = std::fs::metadata(&self.0)?.modified()?;
            let file: File = serde_json::from_slice(&std::fs::read(&self.0)?)?;
            if file.format != FORMAT {
                return Err(io::Error::other(format!("its format is {}, not {FORMAT}", file.format)));
            }
            let entries = file.entries.into_iter().map(|entry| {
                let value = KeyValue {
                    key: entry.key.clone(),
                    value: entry.value.into_bytes(),
                    create_revision: entry.create_revision,
                    mod_revision: entry.mod_revision,
                    lease: None,
                };
                (entry.key, value)
            });
            Ok((entries.collect(), at))
        };
        match read() {
            Ok(found) => Some(found),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                tracing::warn!(path = %self.0.display(), %error, "what was saved cannot be read");
                None
            }
        }
    }

    /// Writes every change until the entries end.
    pub(super) async fn follow(self, mut entries: watch::Receiver<Arc<Entries>>, freshness: Freshness) {
        let path: Arc<Path> = self.0.into();
        // Not what has just been read from this very file.
        let mut write = freshness.age().is_zero();
        loop {
            let (now, to) = (Arc::clone(&entries.borrow_and_update()), Arc::clone(&path));
            let followed = freshness.age().is_zero();
            let done = tokio::task::spawn_blocking(move || match (write, followed) {
                (true, _) => replace(&to, &now),
                (false, true) => {
                    std::fs::File::options().append(true).open(&to)?.set_modified(SystemTime::now())
                }
                (false, false) => Ok(()),
            });
            if let Err(error) = done.await.unwrap_or_else(|error| Err(io::Error::other(error))) {
                tracing::warn!(path = %path.display(), %error, "cannot save what is known");
            }
            tokio::time::sleep(PAUSE).await;
            write = match tokio::time::timeout(CONFIRM, entries.changed()).await {
                Ok(Ok(())) => true,
                Ok(Err(_)) => return,
                Err(_) => false,
            };
        }
    }
}

/// Under its final name only when complete.
fn replace(path: &Path, entries: &Entries) -> io::Result<()> {
    let entry = |entry: &KeyValue| Entry {
        key: entry.key.clone(),
        value: String::from_utf8_lossy(&entry.value).into_owned(),
        create_revision: entry.create_revision,
        mod_revision: entry.mod_revision,
    };
    let file = File { format: FORMAT, entries: entries.values().map(entry).collect() };
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder)?;
    }
    let incoming = path.with_extension("incoming");
    std::fs::write(&incoming, serde_json::to_vec(&file)?)?;
    std::fs::File::open(&incoming)?.sync_all()?;
    std::fs::rename(&incoming, path)
}
