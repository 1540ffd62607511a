//! Where bundles are kept: a folder, or a bucket of S3 with a cache on this machine.

mod cache;
mod download;
mod partial;
mod s3;
mod upload;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use endcap_types::Digest;
use futures::{StreamExt as _, TryStreamExt as _};
use object_store::{ObjectStore, ObjectStoreExt as _, local::LocalFileSystem, path::Path as ObjectPath};

pub(crate) use self::cache::InUse;
pub use self::s3::S3Options;
use self::{cache::Cache, s3::Bucket};
use crate::{Bundle, BundleError, Parts, background, manifest::MANIFEST};

/// Bundles by digest. `bundle.json` is written last and deleted first: a bundle without it does not exist. What lies
/// there without it is of an upload that goes on or was cut off, and the next one of the same bundle writes it again.
#[derive(Debug, Clone)]
pub struct BundleStore {
    objects: Arc<dyn ObjectStore>,
    place: Place,
    /// Of a store in S3.
    bucket: Option<Bucket>,
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
    /// [`BundleError::StoreUrl`], [`BundleError::PlainEndpoint`], and [`BundleError::Store`] for options that cannot be
    /// right.
    pub fn open(options: &StoreOptions) -> Result<Self, BundleError> {
        if options.url.starts_with("s3://") {
            let (objects, bucket) = s3::open(&options.url, &options.s3)?;
            let store = Self::remote(objects, &options.cache, options.cache_max_bytes);
            return Ok(Self { bucket: Some(bucket), ..store });
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
        Ok(Self { objects: Arc::new(objects), place: Place::Local(folder), bucket: None })
    }

    /// A store that is not a folder of this machine. `cache` is where fetched bundles are kept, at most so many bytes.
    pub fn remote(objects: Arc<dyn ObjectStore>, cache: &Path, cache_max_bytes: u64) -> Self {
        Self { objects, place: Place::Remote(Cache::new(cache, cache_max_bytes)), bucket: None }
    }

    pub(crate) fn objects(&self) -> Arc<dyn ObjectStore> {
        Arc::clone(&self.objects)
    }

    /// A local bundle whose manifest and named parts have been verified. A remote store is asked only for what is not
    /// whole in the cache: what is there can be opened while the store is gone.
    ///
    /// # Errors
    /// [`BundleError::NotInStore`], those of [`Bundle::verify`], [`BundleError::NoBucket`] and [`BundleError::Store`].
    pub async fn fetch(&self, digest: Digest, parts: Parts) -> Result<Bundle, BundleError> {
        match &self.place {
            Place::Remote(cache) => self.cached(cache, digest, &parts).await,
            Place::Local(folder) => {
                if !self.contains(digest).await? {
                    return Err(BundleError::NotInStore { digest });
                }
                let folder = folder.join(digest.to_hex());
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
        }
    }

    /// Whether there is such a bundle: whether its `bundle.json` is there.
    pub async fn contains(&self, digest: Digest) -> Result<bool, BundleError> {
        let object = object_path(digest, MANIFEST);
        match self.objects.head(&object).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::NotFound { .. }) => self.bucket_exists().await.map(|()| false),
            Err(source) => Err(self.failed("look for", &object)(source)),
        }
    }

    /// To a question for one object, a bucket that is not there and one that is empty answer the same.
    async fn bucket_exists(&self) -> Result<(), BundleError> {
        if self.bucket.is_none() {
            return Ok(());
        }
        match self.objects.list(None).next().await {
            Some(Err(source)) if s3::is_no_bucket(&source) => {
                Err(self.failed("list", &"its objects")(source))
            }
            // Whoever may not list may fetch all the same.
            _ => Ok(()),
        }
    }

    /// Removes a bundle. Idempotent. Whoever stores the same at the same time may have to do it again.
    pub async fn delete(&self, digest: Digest) -> Result<(), BundleError> {
        let folder = ObjectPath::from(digest.to_hex());
        let found = self.objects.list(Some(&folder)).map_ok(|meta| meta.location).try_collect().await;
        let mut objects: Vec<ObjectPath> = found.map_err(self.failed("delete", &folder))?;
        // The manifest first: from then on there is no such bundle.
        objects.sort_by_key(|object| object.filename() != Some(MANIFEST));
        for object in objects {
            match self.objects.delete(&object).await {
                Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
                Err(source) => return Err(self.failed("delete", &object)(source)),
            }
        }
        Ok(())
    }

    /// What a failure of the store means to whoever runs it.
    fn failed(
        &self,
        action: &'static str,
        what: &impl ToString,
    ) -> impl Fn(object_store::Error) -> BundleError + 'static {
        let (what, bucket) = (what.to_string(), self.bucket.clone());
        move |source| match &bucket {
            Some(Bucket { name, endpoint }) if s3::is_no_bucket(&source) => {
                BundleError::NoBucket { bucket: name.clone(), endpoint: endpoint.clone() }
            }
            _ => BundleError::Store { action, what: what.clone(), source },
        }
    }
}

/// Runs work that reads, hashes and writes files where it holds up nobody.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BundleError> + Send + 'static,
) -> Result<T, BundleError> {
    background(work).await.map_err(|error| BundleError::TaskEnded { detail: error.to_string() })?
}

fn object_path(digest: Digest, file: &str) -> ObjectPath {
    ObjectPath::from(format!("{digest}/{file}"))
}
