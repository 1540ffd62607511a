//! The packed form: one file, a tar in zstd, `bundle.json` first.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, Read, Write as _},
    path::Path,
};

use endcap_types::Digest;
use tar::{Archive, Builder, EntryType, Header};

use crate::{
    Bundle, BundleError, Progress,
    assemble::Scratch,
    bundle::{compare, parse_manifest},
    digest::{self, CopyError},
    manifest::{LARGEST_MANIFEST, MANIFEST},
};

/// What [`unpack`] writes at most, whatever the manifest promises: more than any catalogue here, less than a disk.
pub const MAX_BUNDLE_BYTES: u64 = 64 << 30;
/// Padding that may follow the last file.
const LONGEST_TAIL: u64 = 1 << 20;
const LEVEL: i32 = 9;

/// A packed bundle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackedFile {
    pub digest: Digest,
    /// Bytes of the file.
    pub size: u64,
}

/// Packs a bundle folder into one file. The same bundle gives the same bytes; a failure leaves no file.
pub fn pack(bundle: &Bundle, out: &Path, progress: &dyn Progress) -> Result<PackedFile, BundleError> {
    let folder = out.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(folder).map_err(BundleError::io("create", folder))?;
    let failed = |action| BundleError::io(action, out);
    let mut temporary = tempfile::NamedTempFile::new_in(folder).map_err(failed("create"))?;
    let encoder = zstd::Encoder::new(temporary.as_file_mut(), LEVEL).map_err(failed("write"))?;
    let mut archive = Builder::new(encoder);
    append(&mut archive, &bundle.path(MANIFEST), MANIFEST)?;
    let files = &bundle.manifest().files;
    for (done, file) in files.keys().enumerate() {
        progress.step("pack files", done as u64, files.len() as u64);
        append(&mut archive, &bundle.path(file), file)?;
    }
    archive
        .into_inner()
        .and_then(zstd::Encoder::finish)
        .and_then(|file| file.flush())
        .map_err(failed("write"))?;
    temporary.as_file().sync_all().map_err(failed("write"))?;
    let size = temporary.as_file().metadata().map_err(failed("read"))?.len();
    temporary.persist(out).map_err(|error| BundleError::io("rename to", out)(error.error))?;
    Ok(PackedFile { digest: bundle.digest(), size })
}

fn append(archive: &mut Builder<impl io::Write>, path: &Path, name: &str) -> Result<(), BundleError> {
    let mut file = File::open(path).map_err(BundleError::io("open", path))?;
    let mut header = Header::new_gnu();
    header.set_size(file.metadata().map_err(BundleError::io("read", path))?.len());
    // Nothing of this machine: no owner, no time.
    header.set_mode(0o644);
    header.set_mtime(0);
    header.set_entry_type(EntryType::Regular);
    archive.append_data(&mut header, name, &mut file).map_err(BundleError::io("pack", path))
}

/// Unpacks into a new folder and verifies every digest. Whatever is wrong, nothing is left behind.
///
/// # Errors
/// As [`unpack_within`] of [`MAX_BUNDLE_BYTES`].
pub fn unpack(reader: impl Read, dest: &Path) -> Result<Bundle, BundleError> {
    unpack_within(reader, dest, MAX_BUNDLE_BYTES)
}

/// [`unpack`] of a bundle whose files have at most `limit` bytes together.
///
/// # Errors
/// One per way in which an archive can be wrong; see [`BundleError`].
pub fn unpack_within(reader: impl Read, dest: &Path, limit: u64) -> Result<Bundle, BundleError> {
    let scratch = Scratch::create(dest)?;
    let decoder = zstd::Decoder::new(reader).map_err(|error| not_an_archive(&error))?;
    let mut archive = Archive::new(decoder);
    // Raw: otherwise the reader holds long names and extension headers in memory, of whatever size they say.
    let entries = archive.entries().map_err(|error| not_an_archive(&error))?;
    let mut entries = entries.raw(true);

    let first =
        entries.next().ok_or_else(|| BundleError::Truncated { after: "before bundle.json".to_owned() })?;
    let mut first = first.map_err(|error| cut_or_wrong(&error, "before bundle.json"))?;
    let name = regular_file(&first)?;
    if name != MANIFEST {
        return Err(BundleError::ManifestNotFirst { found: name });
    }
    check_size(MANIFEST, first.size(), LARGEST_MANIFEST)?;
    let mut bytes = Vec::new();
    first.read_to_end(&mut bytes).map_err(|error| cut_or_wrong(&error, "inside bundle.json"))?;
    let manifest = parse_manifest(&bytes)?;
    let promised = manifest.files.values().fold(0_u64, |sum, entry| sum.saturating_add(entry.size));
    check_size("the bundle", promised, limit)?;
    let path = scratch.path().join(MANIFEST);
    fs::write(&path, &bytes).map_err(BundleError::io("write", &path))?;

    let mut seen = BTreeSet::new();
    for entry in entries {
        let mut entry = entry.map_err(|error| cut_or_wrong(&error, "between files"))?;
        let file = regular_file(&entry)?;
        crate::bundle::safe_path(&file)?;
        let Some(listed) = manifest.files.get(&file) else {
            return Err(BundleError::UnknownFile { file });
        };
        if !seen.insert(file.clone()) {
            return Err(BundleError::DuplicateFile { file });
        }
        check_size(&file, entry.size(), listed.size)?;
        let path = scratch.path().join(&file);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(BundleError::io("create", folder))?;
        }
        let mut out = File::create(&path).map_err(BundleError::io("create", &path))?;
        let found = digest::copy(&mut entry, &mut out).map_err(|error| match error {
            CopyError::Read(error) => cut_or_wrong(&error, &format!("inside {file}")),
            CopyError::Write(error) => BundleError::io("write", &path)(error),
        })?;
        compare(&file, Some(listed), found)?;
    }
    // To the very end: an archive that lost only its last bytes was cut, too.
    let tail = io::copy(&mut archive.into_inner().take(LONGEST_TAIL + 1), &mut io::sink())
        .map_err(|error| cut_or_wrong(&error, "after the last file"))?;
    if tail > LONGEST_TAIL {
        return Err(BundleError::NotAnArchive { detail: "something follows the last file".to_owned() });
    }
    match manifest.files.into_keys().find(|file| !seen.contains(file)) {
        Some(file) => Err(BundleError::MissingFile { file }),
        None => Bundle::open(&scratch.keep()?),
    }
}

/// The entry's name, if it is a file and nothing cleverer.
fn regular_file(entry: &tar::Entry<'_, impl Read>) -> Result<String, BundleError> {
    let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
    let kind = entry.header().entry_type();
    if kind.is_file() { Ok(path) } else { Err(BundleError::NotAFile { path, kind: format!("{kind:?}") }) }
}

/// A header that promises more than the manifest does is refused before a byte is written.
fn check_size(file: &str, found: u64, limit: u64) -> Result<(), BundleError> {
    if found > limit {
        return Err(BundleError::TooLarge { file: file.to_owned(), found, limit });
    }
    Ok(())
}

fn not_an_archive(error: &io::Error) -> BundleError {
    BundleError::NotAnArchive { detail: error.to_string() }
}

fn cut_or_wrong(error: &io::Error, place: &str) -> BundleError {
    let text = error.to_string();
    let cut = error.kind() == io::ErrorKind::UnexpectedEof
        || ["incomplete frame", "unexpected end", "failed to read entire block", "unexpected EOF"]
            .iter()
            .any(|sign| text.contains(sign));
    if cut {
        BundleError::Truncated { after: place.to_owned() }
    } else {
        BundleError::NotAnArchive { detail: format!("{place}: {text}") }
    }
}
