//! Fetching into the cache: each file verified before it has its name, and taken up where it was cut off.

use std::{path::Path, time::Duration};

use endcap_types::Digest;
use futures::TryStreamExt as _;
use object_store::{Error, GetOptions, GetRange, ObjectStoreExt as _};
use sha2::{Digest as _, Sha256};

use super::{
    BundleStore, blocking,
    cache::{Cache, InUse, Partial},
    object_path,
};
use crate::{Bundle, BundleError, Parts, digest, manifest::MANIFEST};

/// Tries of one file in which nothing comes, before the caller hears of it. The store's client has its own within each.
const TRIES: u32 = 4;
const FIRST_PAUSE: Duration = Duration::from_millis(200);

impl BundleStore {
    /// Copies what is missing into the cache. What is there but damaged is fetched again, so that a bad cache mends.
    pub(super) async fn download(
        &self,
        cache: &Cache,
        digest: Digest,
        parts: &Parts,
    ) -> Result<(Bundle, InUse), BundleError> {
        let folder = cache.bundle(digest);
        let in_use = {
            let cache = cache.clone();
            blocking(move || cache.hold(digest)).await?
        };
        self.download_file(digest, MANIFEST, digest, &folder.join(MANIFEST)).await?;
        let bundle = Bundle::open(&folder)?;
        let files = bundle.files_of(parts)?;
        let entries = files.iter().filter_map(|file| Some((file, bundle.manifest().files.get(file)?)));
        let missing = entries.clone().filter(|(file, _)| !bundle.path(file).exists());
        let needed: u64 = missing.map(|(_, entry)| entry.size).sum();
        if needed > 0 {
            let cache = cache.clone();
            blocking(move || {
                cache.make_room(needed, digest);
                Ok(())
            })
            .await?;
        }
        for (file, entry) in entries {
            self.download_file(digest, file, entry.sha256, &bundle.path(file)).await?;
        }
        Ok((bundle, in_use))
    }

    async fn download_file(
        &self,
        bundle: Digest,
        file: &str,
        expected: Digest,
        target: &Path,
    ) -> Result<(), BundleError> {
        if is_there(target, expected).await? {
            return Ok(());
        }
        let mut partial = {
            let target = target.to_owned();
            blocking(move || Partial::open(&target)).await?
        };
        // Whoever was waited for may have got it.
        if is_there(target, expected).await? {
            partial.discard();
            return Ok(());
        }
        let mut found = None;
        // What a cut-off download left may be damaged; what comes whole and is wrong is wrong in the store.
        for again in [false, true] {
            if again {
                partial.clear()?;
            }
            let digest = self.fill(&mut partial, bundle, file).await?;
            if digest == expected {
                return partial.finish(target);
            }
            found = Some(digest);
        }
        partial.discard();
        let file = file.to_owned();
        Err(BundleError::DigestMismatch { file, expected, found: found.unwrap_or(expected) })
    }

    /// Completes a file, from where it was cut off, and tells its digest.
    async fn fill(&self, partial: &mut Partial, bundle: Digest, file: &str) -> Result<Digest, BundleError> {
        let object = object_path(bundle, file);
        let failed = |source| BundleError::Store { action: "read", what: object.to_string(), source };
        let size = self.objects.head(&object).await.map_err(failed)?.size;
        let mut hasher = Sha256::new();
        let mut at = partial.replay(|piece| hasher.update(piece))?;
        if at > size {
            partial.clear()?;
            (hasher, at) = (Sha256::new(), 0);
        }
        let mut idle = 0;
        while at < size {
            let from = at;
            let range = (at > 0).then_some(GetRange::Offset(at));
            let copied = async {
                let got = self.objects.get_opts(&object, GetOptions { range, ..GetOptions::default() }).await;
                let mut pieces = got.map_err(failed)?.into_stream();
                while let Some(piece) = pieces.try_next().await.map_err(failed)? {
                    partial.append(&piece)?;
                    hasher.update(&piece);
                    at += piece.len() as u64;
                }
                Ok::<_, BundleError>(())
            };
            let copied = copied.await;
            idle = if at > from { 0 } else { idle + 1 };
            match copied {
                Ok(()) if at > from => {}
                Err(error) if idle >= TRIES || is_final(&error) => return Err(error),
                Err(error) => {
                    tracing::warn!(%object, at, size, %error, "a download was cut off; going on from there");
                    tokio::time::sleep(FIRST_PAUSE * 2_u32.pow(idle)).await;
                }
                Ok(()) => {
                    return Err(BundleError::SizeMismatch {
                        file: file.to_owned(),
                        expected: size,
                        found: at,
                    });
                }
            }
        }
        Ok(Digest::from_bytes(hasher.finalize().into()))
    }
}

/// Whether trying again changes nothing.
fn is_final(error: &BundleError) -> bool {
    match error {
        BundleError::Store { source, .. } => {
            matches!(
                source,
                Error::NotFound { .. } | Error::PermissionDenied { .. } | Error::Unauthenticated { .. }
            )
        }
        _ => true,
    }
}

async fn is_there(path: &Path, expected: Digest) -> Result<bool, BundleError> {
    let path = path.to_owned();
    blocking(move || Ok(digest::of_file(&path).is_ok_and(|(found, _)| found == expected))).await
}
