//! Fetching into the cache: each file verified before it has its name, and taken up where it was cut off.

use std::{path::Path, time::Duration};

use bytes::Bytes;
use endcap_types::Digest;
use futures::{StreamExt as _, TryStreamExt as _, stream::BoxStream, stream::TryReadyChunksError};
use object_store::{Error, GetOptions, GetRange, GetResult};
use sha2::{Digest as _, Sha256};

use super::{BundleStore, blocking, cache::Cache, object_path, partial::Partial};
use crate::{
    Bundle, BundleError, Parts, digest,
    manifest::{LARGEST_MANIFEST, MANIFEST},
};

/// Tries of one file in which nothing comes, before the caller hears of it. The store's client has its own within each.
const TRIES: u32 = 4;
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// Pieces that are hashed and written at once. One is what the store's client reads at a time, far below a MiB.
const AT_ONCE: usize = 16;

/// A file as it must be.
struct Expected {
    file: String,
    digest: Digest,
    /// `bundle.json` alone does not say it of itself.
    size: Option<u64>,
}

/// A partial file with the digest of what is in it. What it does blocks.
struct Copy {
    partial: Partial,
    hasher: Sha256,
    length: u64,
}

impl BundleStore {
    /// Opens a bundle in the cache, after fetching what is not whole there. What is damaged is fetched again, so that a
    /// bad cache mends.
    pub(super) async fn cached(
        &self,
        cache: &Cache,
        digest: Digest,
        parts: &Parts,
    ) -> Result<Bundle, BundleError> {
        let in_use = cache.hold(digest).await?;
        let folder = cache.bundle(digest);
        let found = open(&folder, digest, parts).await?;
        if let Some((bundle, lacking)) = &found
            && lacking.is_empty()
        {
            return Ok(bundle.clone().kept_by(in_use));
        }
        if !self.contains(digest).await? {
            return Err(BundleError::NotInStore { digest });
        }
        let (bundle, lacking) = match found {
            Some(found) => found,
            None => {
                let manifest = Expected { file: MANIFEST.to_owned(), digest, size: None };
                self.download(digest, manifest, &folder.join(MANIFEST)).await?;
                let opened = open(&folder, digest, parts).await?;
                opened.ok_or_else(|| BundleError::MissingFile { file: MANIFEST.to_owned() })?
            }
        };
        let needed: u64 = lacking.iter().filter_map(|expected| expected.size).sum();
        let making_room = cache.clone();
        blocking(move || {
            making_room.make_room(needed, digest);
            Ok(())
        })
        .await?;
        for expected in lacking {
            let target = bundle.path(&expected.file);
            self.download(digest, expected, &target).await?;
        }
        Ok(bundle.kept_by(in_use))
    }

    async fn download(&self, bundle: Digest, expected: Expected, target: &Path) -> Result<(), BundleError> {
        let partial = Partial::open(target).await?;
        // Whoever was waited for may have got it.
        let (there, size) = (target.to_owned(), expected.size);
        let copy = blocking(move || {
            if is_whole(&there, expected.digest) {
                partial.discard();
                return Ok(None);
            }
            Copy::taken_up(partial, size).map(Some)
        });
        let Some(mut copy) = copy.await? else { return Ok(()) };
        let taken_up = copy.length > 0;
        copy = self.fill(copy, bundle, &expected).await?;
        // What a cut-off download left may be damaged; what came whole and is wrong is wrong in the store.
        if taken_up && copy.digest() != expected.digest {
            copy = self.fill(copy.cleared()?, bundle, &expected).await?;
        }
        let target = target.to_owned();
        blocking(move || {
            let found = copy.digest();
            if found == expected.digest {
                return copy.partial.finish(&target);
            }
            copy.partial.discard();
            let Expected { file, digest, .. } = expected;
            Err(BundleError::DigestMismatch { file, expected: digest, found })
        })
        .await
    }

    /// Completes a file, from where it was cut off.
    async fn fill(&self, mut copy: Copy, bundle: Digest, expected: &Expected) -> Result<Copy, BundleError> {
        let mut idle = 0;
        while Some(copy.length) != expected.size {
            let from = copy.length;
            let error = match self.get(bundle, expected, from).await {
                Ok(got) => {
                    // Of the whole object, whatever the range.
                    let size = got.meta.size;
                    let broke;
                    (copy, broke) = pour(copy, got.into_stream()).await?;
                    if copy.length == size {
                        break;
                    }
                    match broke {
                        Some(source) => self.failed("read", &object_path(bundle, &expected.file))(source),
                        None => expected.size_is(size, copy.length),
                    }
                }
                Err(error) => error,
            };
            idle = if copy.length > from { 0 } else { idle + 1 };
            if idle >= TRIES || is_final(&error) {
                return Err(error);
            }
            let (file, at) = (&expected.file, copy.length);
            tracing::warn!(%bundle, file, at, %error, "a download was cut off; going on from there");
            tokio::time::sleep(FIRST_PAUSE * 2_u32.pow(idle)).await;
        }
        Ok(copy)
    }

    /// The object from a byte on, unread. One of another size than the manifest says is refused.
    async fn get(&self, bundle: Digest, expected: &Expected, from: u64) -> Result<GetResult, BundleError> {
        let Expected { file, size, .. } = expected;
        let object = object_path(bundle, file);
        let range = (from > 0).then_some(GetRange::Offset(from));
        let options = GetOptions { range, ..GetOptions::default() };
        let got = self.objects.get_opts(&object, options).await.map_err(|source| match source {
            Error::NotFound { .. } if !super::s3::is_no_bucket(&source) => {
                BundleError::Hole { digest: bundle, file: file.clone() }
            }
            source => self.failed("read", &object)(source),
        })?;
        let found = got.meta.size;
        match size {
            Some(size) if *size != found => Err(expected.size_is(*size, found)),
            None if found > LARGEST_MANIFEST => {
                Err(BundleError::TooLarge { file: file.clone(), found, limit: LARGEST_MANIFEST })
            }
            _ => Ok(got),
        }
    }
}

impl Expected {
    fn size_is(&self, expected: u64, found: u64) -> BundleError {
        BundleError::SizeMismatch { file: self.file.clone(), expected, found }
    }
}

impl Copy {
    /// Takes up what is there of a file of this size; begins anew when it cannot be the beginning of it.
    fn taken_up(mut partial: Partial, size: Option<u64>) -> Result<Self, BundleError> {
        let mut hasher = Sha256::new();
        let length = partial.replay(|piece| hasher.update(piece))?;
        let copy = Self { partial, hasher, length };
        if size.is_some_and(|size| length <= size) { Ok(copy) } else { copy.cleared() }
    }

    fn cleared(mut self) -> Result<Self, BundleError> {
        self.partial.clear()?;
        Ok(Self { hasher: Sha256::new(), length: 0, ..self })
    }

    fn append(&mut self, piece: &[u8]) -> Result<(), BundleError> {
        self.partial.append(piece)?;
        self.hasher.update(piece);
        self.length += piece.len() as u64;
        Ok(())
    }

    fn digest(&self) -> Digest {
        Digest::from_bytes(self.hasher.clone().finalize().into())
    }
}

/// Hashes and writes what comes, as much as is there at a time; nothing more is read meanwhile. Gives back what there
/// is now, and why it ended early.
async fn pour(
    mut copy: Copy,
    pieces: BoxStream<'static, Result<Bytes, Error>>,
) -> Result<(Copy, Option<Error>), BundleError> {
    let mut ready = pieces.try_ready_chunks(AT_ONCE);
    while let Some(came) = ready.next().await {
        let (pieces, broke) = match came {
            Ok(pieces) => (pieces, None),
            Err(TryReadyChunksError(pieces, error)) => (pieces, Some(error)),
        };
        copy = blocking(move || {
            pieces.iter().try_for_each(|piece| copy.append(piece))?;
            Ok(copy)
        })
        .await?;
        if broke.is_some() {
            return Ok((copy, broke));
        }
    }
    Ok((copy, None))
}

/// Whether trying again changes nothing.
fn is_final(error: &BundleError) -> bool {
    match error {
        BundleError::Store { source, .. } => {
            matches!(source, Error::PermissionDenied { .. } | Error::Unauthenticated { .. })
        }
        _ => true,
    }
}

/// The bundle in a folder of the cache, with what of these parts is not whole; nothing when its manifest is not.
async fn open(
    folder: &Path,
    digest: Digest,
    parts: &Parts,
) -> Result<Option<(Bundle, Vec<Expected>)>, BundleError> {
    let (folder, parts) = (folder.to_owned(), parts.clone());
    blocking(move || {
        if !is_whole(&folder.join(MANIFEST), digest) {
            return Ok(None);
        }
        let bundle = Bundle::open(&folder)?;
        let mut lacking = Vec::new();
        for file in bundle.files_of(&parts)? {
            let Some(entry) = bundle.manifest().files.get(&file) else { continue };
            if !is_whole(&bundle.path(&file), entry.sha256) {
                lacking.push(Expected { file, digest: entry.sha256, size: Some(entry.size) });
            }
        }
        Ok(Some((bundle, lacking)))
    })
    .await
}

fn is_whole(path: &Path, expected: Digest) -> bool {
    digest::of_file(path).is_ok_and(|(found, _)| found == expected)
}
