//! Where bundles are kept: a folder, or a bucket of S3 with a cache on this machine.

mod cache;
mod download;
mod s3;

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

use self::cache::Cache;
pub(crate) use self::cache::InUse;
pub use self::s3::S3Options;
use crate::{Bundle, BundleError, Parts, manifest::MANIFEST};

/// Files go up in pieces of this size; one that fits a piece is a single request.
const PIECE: usize = 8 << 20;

/// Bundles by digest. `bundle.json` is written last and deleted first: a bundle without it does not exist.
#[derive(Debug, Clone)]
pub struct BundleStore {
    objects: Arc<dyn ObjectStore>,
    place: Place,
}

#[derive(Debug, Clone)]
enum Place {
    /// A folder of this machine, whose files need no copy.
    Local(PathBuf),
    Remote(Cache),
}

/// Where bundles are kept and how they are reached.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StoreOptions {
    /// A folder, `file:///folder` or `s3://bucket/prefix`.
    pub url: String,
    /// Where fetched bundles of a remote store are kept.
    pub cache: PathBuf,
    /// How large the cache may grow. Bundles in use are kept even so.
    pub cache_max_bytes: u64,
    pub s3: S3Options,
}

impl BundleStore {
    /// Opens a store. A folder is made if need be; a remote store is not talked to yet.
    ///
    /// # Errors
    /// [`BundleError::StoreUrl`], and [`BundleError::Store`] for options that cannot be right.
    pub fn open(options: &StoreOptions) -> Result<Self, BundleError> {
        if options.url.starts_with("s3://") {
            let objects = s3::open(&options.url, &options.s3)?;
            return Ok(Self::remote(objects, &options.cache, options.cache_max_bytes));
        }
        Self::folder(&options.url)
    }

    /// Opens a store at a folder or `file:///folder`, which is made if need be.
    pub fn folder(url: &str) -> Result<Self, BundleError> {
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
        Ok(Self { objects: Arc::new(objects), place: Place::Local(folder) })
    }

    /// A store that is not a folder of this machine. `cache` is where fetched bundles are kept, at most so many bytes.
    pub fn remote(objects: Arc<dyn ObjectStore>, cache: &Path, cache_max_bytes: u64) -> Self {
        Self { objects, place: Place::Remote(Cache::new(cache, cache_max_bytes)) }
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
        let bundle = match &self.place {
            Place::Local(folder) => Bundle::open(&folder.join(digest.to_hex()))?,
            Place::Remote(cache) => {
                let (bundle, in_use) = self.download(cache, digest, &parts).await?;
                bundle.kept_by(in_use)
            }
        };
        blocking(move || {
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
