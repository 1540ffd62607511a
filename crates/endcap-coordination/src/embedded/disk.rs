//! What of the embedded coordinator survives a restart: keys without a lease, and the revision.

use std::path::{Path, PathBuf};

use redb::{Database, ReadableDatabase as _, ReadableTable as _, TableDefinition};
use serde::{Deserialize, Serialize};

use crate::{CoordinationError, KeyValue, Op, Revision};

const ENTRIES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("entries");
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const REVISION: &str = "revision";
/// Revisions of leased keys are not written down. Skipping ahead at each start keeps every revision unique all the same.
const SKIP_AT_START: Revision = 1 << 20;

#[derive(Debug)]
pub(super) struct Disk {
    database: Database,
    path: PathBuf,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    value: Vec<u8>,
    create_revision: Revision,
    mod_revision: Revision,
}

impl Disk {
    pub(super) fn open(path: &Path) -> Result<(Self, Vec<KeyValue>, Revision), CoordinationError> {
        let refused = |detail: String| CoordinationError::Store { path: path.display().to_string(), detail };
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(|error| refused(error.to_string()))?;
        }
        let database = Database::create(path).map_err(|error| match error {
            redb::DatabaseError::DatabaseAlreadyOpen => refused(
                "another process has it open; a fleet of several processes needs etcd, and two fleets on one machine \
                 need two data folders"
                    .to_owned(),
            ),
            error => refused(error.to_string()),
        })?;
        let disk = Self { database, path: path.to_owned() };
        let (entries, revision) = disk.read().map_err(|error| disk.error(&error))?;
        Ok((disk, entries, revision + SKIP_AT_START))
    }

    fn read(&self) -> Result<(Vec<KeyValue>, Revision), redb::Error> {
        let write = self.database.begin_write()?;
        write.open_table(ENTRIES)?;
        write.open_table(META)?;
        write.commit()?;
        let read = self.database.begin_read()?;
        let mut entries = Vec::new();
        for row in read.open_table(ENTRIES)?.iter()? {
            let (key, stored) = row?;
            let stored: Stored = serde_json::from_slice(stored.value())
                .map_err(|error| redb::Error::Corrupted(format!("{}: {error}", key.value())))?;
            entries.push(KeyValue {
                key: key.value().to_owned(),
                value: stored.value,
                create_revision: stored.create_revision,
                mod_revision: stored.mod_revision,
                lease: None,
            });
        }
        let revision = read.open_table(META)?.get(REVISION)?.map_or(1, |revision| revision.value());
        Ok((entries, revision))
    }

    /// Writes what a transaction leaves behind, before it is seen. Nothing is written for leased keys alone.
    pub(super) fn apply(
        &self,
        ops: &[Op],
        revision: Revision,
        created: impl Fn(&str) -> Option<Revision>,
    ) -> Result<(), CoordinationError> {
        let leased_and_new = |op: &Op| match op {
            Op::Put { key, lease: Some(_), .. } => created(key).is_none(),
            Op::Put { .. } => false,
            Op::Delete { key } => created(key).is_none(),
        };
        if ops.iter().all(leased_and_new) {
            return Ok(());
        }
        self.write(ops, revision, created).map_err(|error| self.error(&error))
    }

    fn write(
        &self,
        ops: &[Op],
        revision: Revision,
        created: impl Fn(&str) -> Option<Revision>,
    ) -> Result<(), redb::Error> {
        let write = self.database.begin_write()?;
        {
            let mut entries = write.open_table(ENTRIES)?;
            for op in ops {
                match op {
                    Op::Put { key, value, lease: None } => {
                        let create_revision = created(key).unwrap_or(revision);
                        let stored = Stored { value: value.clone(), create_revision, mod_revision: revision };
                        let bytes = serde_json::to_vec(&stored)
                            .map_err(|error| redb::Error::Corrupted(format!("{key}: {error}")))?;
                        entries.insert(key.as_str(), bytes.as_slice())?;
                    }
                    Op::Put { key, .. } | Op::Delete { key } => {
                        entries.remove(key.as_str())?;
                    }
                }
            }
            write.open_table(META)?.insert(REVISION, revision)?;
        }
        write.commit()?;
        Ok(())
    }

    fn error(&self, error: &redb::Error) -> CoordinationError {
        CoordinationError::Store { path: self.path.display().to_string(), detail: error.to_string() }
    }
}
