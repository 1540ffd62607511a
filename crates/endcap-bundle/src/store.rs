//! Where bundles are kept: a folder today, anything that `object_store` reaches later.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use endcap_types::Digest;
use futures::TryStreamExt as _;
use object_store::{
    ObjectStore, ObjectStoreExt as _, buffered::BufWriter, local::LocalFileSystem, path::Path as ObjectPath,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::{Bundle, BundleError, Parts, digest, manifest::MANIFEST};

/// Files go up in pieces of this size; one that fits a piece is a single request.
const PIECE: usize = 8 << 20;

/// Bundles by digest. `bundle.json` is written last and deleted first: a bundle without it does not exist.
#[derive(Debug, Clone)]
pub struct BundleStore {
    objects: Arc<dyn ObjectStore>,
    /// Set when the store is a folder of this machine, whose files need no copy.
    local: Option<PathBuf>,
    cache: PathBuf,
}

impl BundleStore {
    /// Opens a store at a folder or `file:///folder`, which is made if need be. `cache` is where bundles of a remote
    /// store are kept.
    pub fn open(url: &str, cache: &Path) -> Result<Self, BundleError> {
        let folder = url.strip_prefix("file://").unwrap_or(url);
        if folder.is_empty() || folder.contains("://") {
            return Err(BundleError::StoreUrl { url: url.to_owned() });
        }
        let folder = PathBuf::from(folder);
        std::fs::create_dir_all(&folder).map_err(BundleError::io("create", &folder))?;
        let folder = folder.canonicalize().map_err(BundleError::io("open", &folder))?;
        let objects = LocalFileSystem::new_with_prefix(&folder).map_err(|source| BundleError::Store {
            action: "open",
            what: url.to_owned(),
            source,
        })?;
        let objects = objects.with_fsync(true).with_automatic_cleanup(true);
        Ok(Self { objects: Arc::new(objects), local: Some(folder), cache: cache.to_owned() })
    }

    /// A store that is not a folder of this machine. `cache` is where fetched bundles are kept.
    pub fn remote(objects: Arc<dyn ObjectStore>, cache: &Path) -> Self {
        Self { objects, local: None, cache: cache.to_owned() }
    }

    pub(crate) fn objects(&self) -> Arc<dyn ObjectStore> {
        Arc::clone(&self.objects)
    }

    /// Stores a bundle under its digest. Idempotent. After a failure nothing of it is left.
    ///
    /// # Errors
    /// Those of [`Bundle::verify`] when the folder is not what its manifest says, [`BundleError::Io`] and
    /// [`BundleError::Store`].
    pub async fn put(&self, bundle: &Bundle) -> Result<(), BundleError> {
        if self.contains(bundle.digest()).await? {
            return Ok(());
        }
        let whole = bundle.clone();
        blocking(move || whole.verify(&Parts::All)).await?;
        let stored = self.put_files(bundle).await;
        // Unless somebody else has stored the same bundle meanwhile: then its files are theirs.
        if stored.is_err() && !self.contains(bundle.digest()).await.unwrap_or(true) {
            let cleaned = self.delete(bundle.digest()).await;
            if let Err(error) = cleaned {
                tracing::warn!(digest = %bundle.digest(), %error, "parts of a bundle that failed to store remain");
            }
        }
        stored
    }

    async fn put_files(&self, bundle: &Bundle) -> Result<(), BundleError> {
        let files = bundle.manifest().files.keys().map(String::as_str).chain([MANIFEST]);
        for file in files {
            self.put_file(&bundle.path(file), object_path(bundle.digest(), file)).await?;
        }
        Ok(())
    }

    async fn put_file(&self, path: &Path, object: ObjectPath) -> Result<(), BundleError> {
        let what = object.to_string();
        let failed = |source| BundleError::Store { action: "write", what: what.clone(), source };
        let broken = |error: std::io::Error| {
            failed(object_store::Error::Generic { store: "bundles", source: error.into() })
        };
        let mut file = tokio::fs::File::open(path).await.map_err(BundleError::io("open", path))?;
        let mut writer = BufWriter::with_capacity(Arc::clone(&self.objects), object, PIECE);
        loop {
            let mut piece = Vec::with_capacity(PIECE);
            let read = (&mut file).take(PIECE as u64).read_to_end(&mut piece).await;
            let wrote = match read {
                Ok(0) => return writer.shutdown().await.map_err(broken),
                Ok(_) => writer.put(Bytes::from(piece)).await.map_err(failed),
                Err(error) => Err(BundleError::io("read", path)(error)),
            };
            if let Err(error) = wrote {
                // The error that is told is the first; what stays of the upload, the store forgets by itself.
                let _ = writer.abort().await;
                return Err(error);
            }
        }
    }

    /// A local bundle whose manifest and named parts have been verified.
    pub async fn fetch(&self, digest: Digest, parts: Parts) -> Result<Bundle, BundleError> {
        if !self.contains(digest).await? {
            return Err(BundleError::NotInStore { digest });
        }
        let folder = match &self.local {
            Some(folder) => folder.join(digest.to_hex()),
            None => self.download(digest, &parts).await?,
        };
        blocking(move || {
            let bundle = Bundle::open(&folder)?;
            if bundle.digest() != digest {
                let (file, found) = (MANIFEST.to_owned(), bundle.digest());
                return Err(BundleError::DigestMismatch { file, expected: digest, found });
            }
            bundle.verify(&parts)?;
            Ok(bundle)
        })
        .await
    }

    pub async fn contains(&self, digest: Digest) -> Result<bool, BundleError> {
        let object = object_path(digest, MANIFEST);
        match self.objects.head(&object).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(source) => Err(BundleError::Store { action: "look for", what: object.to_string(), source }),
        }
    }

    /// Removes a bundle. Idempotent.
    pub async fn delete(&self, digest: Digest) -> Result<(), BundleError> {
        let failed = |source| BundleError::Store { action: "delete", what: digest.to_hex(), source };
        let mut objects: Vec<ObjectPath> = self
            .objects
            .list(Some(&ObjectPath::from(digest.to_hex())))
            .map_ok(|meta| meta.location)
            .try_collect()
            .await
            .map_err(failed)?;
        // The manifest first: from then on there is no such bundle.
        objects.sort_by_key(|object| object.filename() != Some(MANIFEST));
        for object in objects {
            match self.objects.delete(&object).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
                Err(source) => return Err(failed(source)),
            }
        }
        Ok(())
    }

    /// Copies what is missing into the cache. What is there but damaged is fetched again, so that a bad cache mends.
    async fn download(&self, digest: Digest, parts: &Parts) -> Result<PathBuf, BundleError> {
        let folder = self.cache.join(digest.to_hex());
        self.download_file(digest, MANIFEST, digest, &folder).await?;
        let bundle = Bundle::open(&folder)?;
        for file in bundle.files_of(parts)? {
            let Some(entry) = bundle.manifest().files.get(&file) else {
                continue;
            };
            self.download_file(digest, &file, entry.sha256, &folder).await?;
        }
        Ok(folder)
    }

    async fn download_file(
        &self,
        bundle: Digest,
        file: &str,
        expected: Digest,
        folder: &Path,
    ) -> Result<(), BundleError> {
        let path = folder.join(file);
        let cached = path.clone();
        if blocking(move || Ok(digest::of_file(&cached).is_ok_and(|(found, _)| found == expected))).await? {
            return Ok(());
        }
        let object = object_path(bundle, file);
        let failed = |source| BundleError::Store { action: "read", what: object.to_string(), source };
        let parent = path.parent().unwrap_or(folder);
        tokio::fs::create_dir_all(parent).await.map_err(BundleError::io("create", parent))?;
        // A name of its own for every attempt: two fetches of one file must not write into each other.
        let temporary =
            tempfile::NamedTempFile::new_in(parent).map_err(BundleError::io("create a file in", parent))?;
        let (out, temporary) = temporary.into_parts();
        let mut out = tokio::fs::File::from_std(out);
        let mut pieces = self.objects.get(&object).await.map_err(failed)?.into_stream();
        while let Some(piece) = pieces.try_next().await.map_err(failed)? {
            out.write_all(&piece).await.map_err(BundleError::io("write", &temporary))?;
        }
        out.sync_all().await.map_err(BundleError::io("write", &temporary))?;
        temporary.persist(&path).map_err(|error| BundleError::io("rename to", &path)(error.error))
    }
}

/// Runs work that reads and hashes files where it holds up nobody.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BundleError> + Send + 'static,
) -> Result<T, BundleError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| BundleError::TaskEnded { detail: error.to_string() })?
}

fn object_path(digest: Digest, file: &str) -> ObjectPath {
    ObjectPath::from(format!("{digest}/{file}"))
}
