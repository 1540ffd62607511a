//! Where bundles are kept: a folder today, anything that `object_store` reaches later.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use endcap_types::Digest;
use futures::TryStreamExt as _;
use object_store::{
    ObjectStore, ObjectStoreExt as _, PutPayload, local::LocalFileSystem, path::Path as ObjectPath,
};

use crate::{Bundle, BundleError, Parts, manifest::MANIFEST};

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
        let objects = LocalFileSystem::new_with_prefix(&folder)
            .map_err(|source| BundleError::Store { action: "open", what: url.to_owned(), source })?;
        Ok(Self { objects: Arc::new(objects.with_fsync(true)), local: Some(folder), cache: cache.to_owned() })
    }

    /// Stores a bundle under its digest. Idempotent.
    pub async fn put(&self, bundle: &Bundle) -> Result<(), BundleError> {
        let digest = bundle.digest();
        if self.contains(digest).await? {
            return Ok(());
        }
        let files = bundle.manifest().files.keys().map(String::as_str).chain([MANIFEST]);
        for file in files {
            let path = bundle.path(file);
            let bytes = tokio::fs::read(&path).await.map_err(BundleError::io("read", &path))?;
            let object = object_path(digest, file);
            self.objects
                .put(&object, PutPayload::from(Bytes::from(bytes)))
                .await
                .map_err(|source| BundleError::Store { action: "write", what: object.to_string(), source })?;
        }
        Ok(())
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
        let verified = tokio::task::spawn_blocking(move || {
            let bundle = Bundle::open(&folder)?;
            if bundle.digest() != digest {
                let (file, found) = (MANIFEST.to_owned(), bundle.digest());
                return Err(BundleError::DigestMismatch { file, expected: digest, found });
            }
            bundle.verify(&parts)?;
            Ok(bundle)
        });
        verified.await.map_err(|error| BundleError::TaskEnded { detail: error.to_string() })?
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
        let failed =
            |source| BundleError::Store { action: "delete", what: digest.to_hex(), source };
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

    /// Copies what is missing into the cache, each file under a temporary name first.
    async fn download(&self, digest: Digest, parts: &Parts) -> Result<PathBuf, BundleError> {
        let folder = self.cache.join(digest.to_hex());
        self.download_file(digest, MANIFEST, &folder).await?;
        for file in Bundle::open(&folder)?.files_of(parts)? {
            self.download_file(digest, &file, &folder).await?;
        }
        Ok(folder)
    }

    async fn download_file(&self, digest: Digest, file: &str, folder: &Path) -> Result<(), BundleError> {
        let path = folder.join(file);
        if path.is_file() {
            return Ok(());
        }
        let object = object_path(digest, file);
        let failed =
            |source| BundleError::Store { action: "read", what: object.to_string(), source };
        let bytes = self.objects.get(&object).await.map_err(failed)?.bytes().await.map_err(failed)?;
        let parent = path.parent().unwrap_or(folder);
        tokio::fs::create_dir_all(parent).await.map_err(BundleError::io("create", parent))?;
        let temporary = path.with_extension("part");
        tokio::fs::write(&temporary, &bytes).await.map_err(BundleError::io("write", &temporary))?;
        tokio::fs::rename(&temporary, &path).await.map_err(BundleError::io("rename to", &path))
    }
}

fn object_path(digest: Digest, file: &str) -> ObjectPath {
    ObjectPath::from(format!("{digest}/{file}"))
}
