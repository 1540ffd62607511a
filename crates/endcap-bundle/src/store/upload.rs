//! Storing a bundle. Several may store the same one at the same time: each object is written whole or not at all and
//! its bytes follow from the bundle's digest, so that they only ever write the same. Nobody takes away what he has
//! written, because somebody else may have counted on it since.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use bytes::Bytes;
use futures::TryStreamExt as _;
use object_store::{buffered::BufWriter, path::Path as ObjectPath};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{BundleStore, blocking, object_path};
use crate::{Bundle, BundleError, Parts, manifest::MANIFEST};

/// Files go up in pieces of this size; one that fits a piece is a single request.
const PIECE: usize = 8 << 20;

impl BundleStore {
    /// Stores a bundle under its digest. Idempotent: does nothing when it is there with all its files, and completes it
    /// when some are missing. After a failure there is no such bundle, unless there was one before; files that were
    /// written remain until it is stored again.
    ///
    /// # Errors
    /// Those of [`Bundle::verify`] when the folder is not what its manifest says, [`BundleError::Io`],
    /// [`BundleError::NoBucket`] and [`BundleError::Store`].
    pub async fn put(&self, bundle: &Bundle) -> Result<(), BundleError> {
        let missing = self.missing(bundle).await?;
        if missing.is_empty() {
            return Ok(());
        }
        let whole = bundle.clone();
        blocking(move || whole.verify(&Parts::All)).await?;
        for (file, size) in missing {
            self.put_file(&bundle.path(&file), object_path(bundle.digest(), &file), size).await?;
        }
        Ok(())
    }

    /// What must be written, in this order, with the sizes: everything as long as there is no `bundle.json`; then what
    /// is not there, or is of another size.
    async fn missing(&self, bundle: &Bundle) -> Result<Vec<(String, u64)>, BundleError> {
        let manifest = bundle.path(MANIFEST);
        let size = tokio::fs::metadata(&manifest).await.map_err(BundleError::io("read", &manifest))?.len();
        let files = bundle.manifest().files.iter().map(|(file, entry)| (file.clone(), entry.size));
        let mut files: Vec<(String, u64)> = files.chain([(MANIFEST.to_owned(), size)]).collect();
        let folder = ObjectPath::from(bundle.digest().to_hex());
        let listed = self.objects.list(Some(&folder)).map_ok(|meta| (meta.location, meta.size));
        let there: BTreeMap<ObjectPath, u64> =
            listed.try_collect().await.map_err(self.failed("list", &folder))?;
        let stored = |file: &str| there.get(&object_path(bundle.digest(), file)).copied();
        if stored(MANIFEST).is_some() {
            files.retain(|(file, size)| stored(file) != Some(*size));
            if let Some((first, _)) = files.first() {
                let (digest, missing) = (bundle.digest(), files.len());
                tracing::warn!(%digest, missing, first, "a bundle in the store has holes; completing it");
            }
        }
        Ok(files)
    }

    async fn put_file(&self, path: &Path, object: ObjectPath, size: u64) -> Result<(), BundleError> {
        let failed = self.failed("write", &object);
        let broken = |error: std::io::Error| {
            failed(object_store::Error::Generic { store: "bundles", source: error.into() })
        };
        let mut file = tokio::fs::File::open(path).await.map_err(BundleError::io("open", path))?;
        let mut writer = BufWriter::with_capacity(Arc::clone(&self.objects), object, PIECE);
        let mut written = 0;
        loop {
            let mut piece = Vec::with_capacity(PIECE.min(usize::try_from(size).unwrap_or(PIECE)));
            let read = (&mut file).take(PIECE as u64).read_to_end(&mut piece).await;
            let wrote = match read {
                Ok(0) if written == size => return writer.shutdown().await.map_err(broken),
                // Not what was verified: somebody changes the files.
                Ok(0) => Err(BundleError::SizeMismatch {
                    file: path.display().to_string(),
                    expected: size,
                    found: written,
                }),
                Ok(read) => {
                    written += read as u64;
                    writer.put(Bytes::from(piece)).await.map_err(&failed)
                }
                Err(error) => Err(BundleError::io("read", path)(error)),
            };
            if let Err(error) = wrote {
                // The error that is told is the first; what stays of the upload, the store forgets by itself.
                let _ = writer.abort().await;
                return Err(error);
            }
        }
    }
}
