//! Registering a version: spool, unpack, verify, check, store, and only then one transaction that makes it exist.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use endcap_bundle::{Bundle, BundleStore, Parts, background, unpack};
use endcap_fleet::{Action, ModelView, VersionRecord, VersionState};
use endcap_proto::pb::{self, register_version_request::Part};
use endcap_service::status::from_status;
use endcap_types::{Digest, ModelName, Version};
use futures::{Stream, StreamExt as _};
use tempfile::{NamedTempFile, TempDir};
use tokio::io::AsyncWriteExt as _;
use tonic::Status;

use crate::{
    convert,
    error::{RegistryError, invalid, model_name},
    ledger::{Decision, Edit, Entry, Ledger, now},
};

/// The use case, with what it needs.
#[derive(Debug)]
pub(crate) struct Register {
    pub(crate) ledger: Ledger,
    pub(crate) store: Arc<BundleStore>,
    /// Uploads on their way in; whatever a killed process left there is removed at the next start.
    pub(crate) incoming: PathBuf,
    pub(crate) max_bundle: u64,
}

/// A bundle that has been verified and checked, in a folder that goes when this does, unless it is the store's.
struct Checked {
    bundle: Bundle,
    size: u64,
    _folder: Option<TempDir>,
}

impl Register {
    /// Empties the folder of uploads.
    pub(crate) fn prepare(incoming: &Path) -> std::io::Result<()> {
        if incoming.exists() {
            std::fs::remove_dir_all(incoming)?;
        }
        std::fs::create_dir_all(incoming)
    }

    pub(crate) async fn run(
        &self,
        mut parts: impl Stream<Item = Result<pb::RegisterVersionRequest, Status>> + Unpin,
    ) -> Result<pb::RegisterVersionResponse, RegistryError> {
        let header = match parts.next().await {
            Some(Ok(pb::RegisterVersionRequest { part: Some(Part::Header(header)) })) => header,
            Some(Err(status)) => return Err(RegistryError::Upload(from_status(&status))),
            _ => return Err(invalid("header", &"the first message must be the header")),
        };
        let expected = match header.model.as_str() {
            "" => None,
            name => Some(model_name(name)?),
        };
        let checked = match header.uri.as_str() {
            "" => self.checked_upload(parts).await?,
            uri => self.checked_uri(uri).await?,
        };
        let found = checked.bundle.spec().model.clone();
        if let Some(expected) = expected.filter(|expected| *expected != found) {
            return Err(RegistryError::WrongModel { expected, found });
        }
        self.store.put(&checked.bundle).await?;
        self.record(&found, &checked, &header).await
    }

    async fn checked_upload(
        &self,
        parts: impl Stream<Item = Result<pb::RegisterVersionRequest, Status>> + Unpin,
    ) -> Result<Checked, RegistryError> {
        let spooled = self.spool(parts).await?;
        self.unpacked(spooled).await
    }

    /// Writes the chunks to disk: an upload never takes more memory than a chunk.
    async fn spool(
        &self,
        mut parts: impl Stream<Item = Result<pb::RegisterVersionRequest, Status>> + Unpin,
    ) -> Result<NamedTempFile, RegistryError> {
        let failed = |source| RegistryError::Io { action: "write the upload", source };
        let spooled = NamedTempFile::new_in(&self.incoming).map_err(failed)?;
        let mut file = tokio::fs::File::from_std(spooled.reopen().map_err(failed)?);
        let mut size = 0;
        while let Some(part) = parts.next().await {
            let part = part.map_err(|status| RegistryError::Upload(from_status(&status)))?;
            let Some(Part::Chunk(chunk)) = part.part else {
                return Err(invalid("chunk", &"only chunks may follow the header"));
            };
            size += chunk.len() as u64;
            if size > self.max_bundle {
                return Err(RegistryError::TooLarge { limit: self.max_bundle });
            }
            file.write_all(&chunk).await.map_err(failed)?;
        }
        file.flush().await.map_err(failed)?;
        Ok(spooled)
    }

    async fn unpacked(&self, packed: NamedTempFile) -> Result<Checked, RegistryError> {
        let folder = TempDir::new_in(&self.incoming)
            .map_err(|source| RegistryError::Io { action: "make a folder for the upload", source })?;
        blocking(move || {
            let file =
                packed.reopen().map_err(|source| RegistryError::Io { action: "read the upload", source })?;
            let bundle = unpack(file, &folder.path().join("bundle"))?;
            bundle.check()?;
            let size = packed.as_file().metadata().map(|metadata| metadata.len()).unwrap_or_default();
            Ok(Checked { bundle, size, _folder: Some(folder) })
        })
        .await
    }

    async fn checked_uri(&self, uri: &str) -> Result<Checked, RegistryError> {
        if let Some(digest) = uri.strip_prefix("digest:") {
            let digest: Digest = digest.parse().map_err(|error| invalid("uri", &error))?;
            let bundle = self.store.fetch(digest, Parts::All).await?;
            return blocking(move || {
                bundle.check()?;
                let size = bundle.size_bytes();
                Ok(Checked { bundle, size, _folder: None })
            })
            .await;
        }
        let Some(path) = uri.strip_prefix("file://").map(PathBuf::from) else {
            let found: String = uri.chars().take(80).collect();
            return Err(invalid("uri", &format!("is {found:?}; expected digest:<hex> or file:///path")));
        };
        let copied = NamedTempFile::new_in(&self.incoming)
            .map_err(|source| RegistryError::Io { action: "write the upload", source })?;
        let into = copied.path().to_owned();
        blocking(move || {
            let size = std::fs::metadata(&path).map(|metadata| metadata.len());
            size.and_then(|_| std::fs::copy(&path, into))
                .map_err(|error| invalid("uri", &format!("{} cannot be read: {error}", path.display())))
        })
        .await?;
        self.unpacked(copied).await
    }

    /// The transaction that makes the version exist; the same bundle again is the same version.
    async fn record(
        &self,
        model: &ModelName,
        checked: &Checked,
        header: &pb::RegisterHeader,
    ) -> Result<pb::RegisterVersionResponse, RegistryError> {
        let digest = checked.bundle.digest();
        let manifest = checked.bundle.manifest();
        let record = VersionRecord {
            digest,
            shard_count: manifest.shard_count,
            items_total: manifest.items_total,
            size_bytes: checked.size,
            registered_at: now(),
            state: VersionState::Registered,
            attempt: 0,
            failure: String::new(),
            evaluation: checked.bundle.evaluation()?.metrics,
            lineage: manifest.spec.lineage.clone(),
        };
        let decide = |view: &ModelView| {
            let known = view.versions.iter().find(|(_, known)| known.digest == digest);
            if let Some((number, known)) = known {
                let version = Some(convert::version(model, *number, known, &view.rollout));
                return Ok(Decision::Nothing(pb::RegisterVersionResponse {
                    version,
                    already_registered: true,
                }));
            }
            let number = view.versions.keys().next_back().map_or(Version::FIRST, |last| last.next());
            let history = Entry {
                action: Action::Registered,
                actor: header.actor.clone(),
                to: number,
                digest,
                reason: header.reason.clone(),
            };
            let version = Some(convert::version(model, number, &record, &view.rollout));
            let edit =
                Edit { rollout: None, versions: vec![(number, record.clone())], history: Some(history) };
            let answer = pb::RegisterVersionResponse { version, already_registered: false };
            Ok(Decision::Commit(Box::new(edit), answer))
        };
        self.ledger.edit(model, decide).await
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, RegistryError> + Send + 'static,
) -> Result<T, RegistryError> {
    background(work).await.map_err(|error| RegistryError::Ended { detail: error.to_string() })?
}
