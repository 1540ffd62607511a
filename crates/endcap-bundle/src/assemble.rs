//! From a source folder, as the training side writes it, to a bundle folder.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use arrow::array::RecordBatch;
use endcap_types::{ItemId, ShardCount, shard_of};

use crate::{
    Bundle, BundleError, FORMAT, FeatureSchema, FileEntry, LexicalStats, Manifest, ModelSpec, digest, items,
    manifest::{EVALUATION, FEATURES, GOLDEN, LABELS, LEXICAL, MANIFEST, POPULAR, shard_file},
};

const SPEC: &str = "model.json";
const ITEMS: &str = "items.parquet";

/// How to make a bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackOptions {
    pub shards: ShardCount,
    /// RFC 3339; part of the digest.
    pub created: String,
}

/// Hears how far a long work is.
pub trait Progress: Sync {
    fn step(&self, what: &str, done: u64, total: u64);
}

impl Progress for () {
    fn step(&self, _what: &str, _done: u64, _total: u64) {}
}

/// Partitions the items, copies the other files and writes `bundle.json`. The same source gives the same digest.
/// Leaves nothing behind on failure. Does not run [`Bundle::check`].
pub fn assemble(
    source: &Path,
    dest: &Path,
    options: &PackOptions,
    progress: &dyn Progress,
) -> Result<Bundle, BundleError> {
    let scratch = Scratch::create(dest)?;
    let spec: ModelSpec = read_spec(&source.join(SPEC))?;
    let mut files = BTreeMap::new();
    let items = read_items(source)?;
    let shard_rows = write_shards(&items, scratch.path(), options.shards, progress, &mut files)?;
    write_lexical(source, &items.0, scratch.path(), &spec, &mut files)?;

    let mut copied: Vec<String> = [FEATURES, POPULAR, GOLDEN, EVALUATION].map(str::to_owned).to_vec();
    copied.push(spec.ranker.file.clone());
    if let Some(encoder) = &spec.encoder {
        copied.extend([encoder.file.clone(), encoder.tokenizer.clone()]);
    }
    if source.join(LABELS).is_file() {
        copied.push(LABELS.to_owned());
    }
    for (done, file) in copied.iter().enumerate() {
        progress.step("copy files", done as u64, copied.len() as u64);
        crate::bundle::safe_path(file)?;
        let (from, to) = (source.join(file), scratch.path().join(file));
        if !from.is_file() {
            return Err(BundleError::MissingFile { file: from.display().to_string() });
        }
        fs::copy(&from, &to).map_err(BundleError::io("copy", &from))?;
        files.insert(file.clone(), entry(&to)?);
    }

    let manifest = Manifest {
        format: FORMAT,
        created: options.created.clone(),
        spec,
        shard_count: options.shards,
        items_total: shard_rows.iter().sum(),
        shard_rows,
        files,
    };
    let bytes = serde_json::to_vec_pretty(&manifest).map_err(BundleError::json(MANIFEST))?;
    let path = scratch.path().join(MANIFEST);
    fs::write(&path, bytes).map_err(BundleError::io("write", &path))?;
    Bundle::open(&scratch.keep()?)
}

fn read_spec(path: &Path) -> Result<ModelSpec, BundleError> {
    let bytes = fs::read(path).map_err(BundleError::open(path, SPEC))?;
    serde_json::from_slice(&bytes).map_err(BundleError::json(SPEC))
}

/// The catalogue, and its ids.
fn read_items(source: &Path) -> Result<(RecordBatch, Vec<ItemId>), BundleError> {
    let batch = items::read_batch(&source.join(ITEMS), ITEMS)?;
    let ids = items::ids(&batch, ITEMS)?;
    if ids.is_empty() {
        return Err(BundleError::NoItems { file: ITEMS.to_owned() });
    }
    let batch = items::with_fixed_vectors(batch, &ids, ITEMS)?;
    Ok((batch, ids))
}

/// Statistics of the whole catalogue, if anything is scored by them.
fn write_lexical(
    source: &Path,
    batch: &RecordBatch,
    dest: &Path,
    spec: &ModelSpec,
    files: &mut BTreeMap<String, FileEntry>,
) -> Result<(), BundleError> {
    let path = source.join(FEATURES);
    let bytes = fs::read(&path).map_err(BundleError::open(&path, FEATURES))?;
    let schema: FeatureSchema = serde_json::from_slice(&bytes).map_err(BundleError::json(FEATURES))?;
    let mut stats = LexicalStats::needed(&schema, spec);
    if stats.fields.is_empty() {
        return Ok(());
    }
    stats.add_batch(batch);
    let path = dest.join(LEXICAL);
    let bytes = serde_json::to_vec(&stats).map_err(BundleError::json(LEXICAL))?;
    fs::write(&path, bytes).map_err(BundleError::io("write", &path))?;
    files.insert(LEXICAL.to_owned(), entry(&path)?);
    Ok(())
}

fn write_shards(
    (batch, ids): &(RecordBatch, Vec<ItemId>),
    dest: &Path,
    shards: ShardCount,
    progress: &dyn Progress,
    files: &mut BTreeMap<String, FileEntry>,
) -> Result<Vec<u64>, BundleError> {
    // By id inside a shard: rows in the order in which ties are broken.
    let mut order: Vec<u32> = (0..u32::try_from(ids.len()).unwrap_or(u32::MAX)).collect();
    order.sort_by(|a, b| ids[*a as usize].cmp(&ids[*b as usize]));
    if let Some(pair) = order.windows(2).find(|pair| ids[pair[0] as usize] == ids[pair[1] as usize]) {
        let item_id = ids[pair[0] as usize].clone();
        return Err(BundleError::DuplicateItem { file: ITEMS.to_owned(), item_id });
    }
    let mut rows: Vec<Vec<u32>> = vec![Vec::new(); shards.get() as usize];
    for row in order {
        rows[shard_of(&ids[row as usize], shards) as usize].push(row);
    }
    let folder = dest.join("items");
    fs::create_dir_all(&folder).map_err(BundleError::io("create", &folder))?;
    for (shard, rows) in shards.indices().zip(&rows) {
        progress.step("partition items", shard.into(), shards.get().into());
        let file = shard_file(shard, shards);
        let path = dest.join(&file);
        items::write_batch(&items::select(batch, rows, ITEMS)?, &path, &file)?;
        files.insert(file, entry(&path)?);
    }
    Ok(rows.iter().map(|rows| rows.len() as u64).collect())
}

fn entry(path: &Path) -> Result<FileEntry, BundleError> {
    let (sha256, size) = digest::of_file(path).map_err(BundleError::io("read", path))?;
    Ok(FileEntry { sha256, size })
}

/// A folder beside its destination that is renamed when all went well and removed when not.
pub(crate) struct Scratch {
    folder: tempfile::TempDir,
    dest: PathBuf,
}

impl Scratch {
    pub(crate) fn create(dest: &Path) -> Result<Self, BundleError> {
        let occupied = fs::read_dir(dest).is_ok_and(|mut entries| entries.next().is_some());
        if occupied || dest.is_file() {
            return Err(BundleError::DestinationExists { path: dest.to_owned() });
        }
        let parent = dest.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        fs::create_dir_all(parent).map_err(BundleError::io("create", parent))?;
        let folder = tempfile::Builder::new()
            .prefix(".incoming-")
            .tempdir_in(parent)
            .map_err(BundleError::io("create a folder in", parent))?;
        Ok(Self { folder, dest: dest.to_owned() })
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn keep(self) -> Result<PathBuf, BundleError> {
        // Temporary folders are private to their maker; a bundle is read by members that may run as other users.
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            fs::set_permissions(self.folder.path(), fs::Permissions::from_mode(0o755))
                .map_err(BundleError::io("set the permissions of", self.folder.path()))?;
        }
        fs::rename(self.folder.path(), &self.dest).map_err(BundleError::io("rename to", &self.dest))?;
        // It has moved: there is nothing left to remove.
        let _old_name = self.folder.keep();
        Ok(self.dest)
    }
}
