//! A bundle folder.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use endcap_types::{Digest, ShardIndex};
use serde::de::DeserializeOwned;

use crate::{
    BundleError, Evaluation, FORMAT, FeatureSchema, FileEntry, GoldenRequest, ItemTable, LabelledQuery,
    LexicalStats, Manifest, ModelSpec, Popular, digest,
    manifest::{EVALUATION, FEATURES, GOLDEN, LABELS, LEXICAL, MANIFEST, POPULAR, shard_file},
    store::InUse,
};

/// Which files somebody needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parts {
    All,
    /// What a gateway needs: the feature schema and the popularity lists.
    Gateway,
    /// What a worker needs for these shards: models, tokenizer, features, golden requests, lexical statistics, and
    /// their item files.
    Shards(Vec<ShardIndex>),
}

/// A bundle folder whose manifest has been read. Its other files are read, and their digests verified, on demand.
#[derive(Debug, Clone)]
pub struct Bundle {
    dir: PathBuf,
    manifest: Manifest,
    digest: Digest,
    /// Keeps a cached bundle's files for as long as this lives.
    #[expect(dead_code, reason = "what matters is when it is dropped")]
    in_use: Option<Arc<InUse>>,
}

impl Bundle {
    /// Reads and validates `bundle.json`. No other file is touched.
    pub fn open(dir: &Path) -> Result<Self, BundleError> {
        let path = dir.join(MANIFEST);
        if !path.is_file() {
            return Err(BundleError::MissingFile { file: path.display().to_string() });
        }
        let bytes = std::fs::read(&path).map_err(BundleError::io("read", &path))?;
        let manifest = parse_manifest(&bytes)?;
        Ok(Self { dir: dir.to_owned(), manifest, digest: digest::of_bytes(&bytes), in_use: None })
    }

    pub(crate) fn kept_by(self, in_use: InUse) -> Self {
        Self { in_use: Some(Arc::new(in_use)), ..self }
    }

    /// SHA-256 of `bundle.json`, which covers every other file.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    pub fn spec(&self) -> &ModelSpec {
        &self.manifest.spec
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn path(&self, file: &str) -> PathBuf {
        self.dir.join(file)
    }

    /// Bytes of all files.
    pub fn size_bytes(&self) -> u64 {
        self.manifest.files.values().map(|entry| entry.size).sum()
    }

    /// Compares size and SHA-256 of these parts with the manifest.
    pub fn verify(&self, parts: &Parts) -> Result<(), BundleError> {
        for file in self.files_of(parts)? {
            let path = self.path(&file);
            if !path.is_file() {
                return Err(BundleError::MissingFile { file });
            }
            let found = digest::of_file(&path).map_err(BundleError::io("read", &path))?;
            compare(&file, self.manifest.files.get(&file), found)?;
        }
        Ok(())
    }

    /// The files of these parts that the bundle has.
    pub(crate) fn files_of(&self, parts: &Parts) -> Result<Vec<String>, BundleError> {
        let listed = |file: &str| self.manifest.files.contains_key(file);
        Ok(match parts {
            Parts::All => self.manifest.files.keys().cloned().collect(),
            Parts::Gateway => [FEATURES, POPULAR].map(str::to_owned).to_vec(),
            Parts::Shards(shards) => {
                let count = self.manifest.shard_count;
                let mut files: Vec<String> = [FEATURES, GOLDEN, LEXICAL].map(str::to_owned).to_vec();
                files.push(self.spec().ranker.file.clone());
                if let Some(encoder) = &self.spec().encoder {
                    files.extend([encoder.file.clone(), encoder.tokenizer.clone()]);
                }
                for shard in shards {
                    if *shard >= count.get() {
                        return Err(BundleError::NoSuchShard { shard: *shard, count: count.get() });
                    }
                    files.push(shard_file(*shard, count));
                }
                files.into_iter().filter(|file| listed(file)).collect()
            }
        })
    }

    pub fn features(&self) -> Result<FeatureSchema, BundleError> {
        self.json(FEATURES)
    }

    pub fn popular(&self) -> Result<Popular, BundleError> {
        self.json(POPULAR)
    }

    pub fn evaluation(&self) -> Result<Evaluation, BundleError> {
        self.json(EVALUATION)
    }

    pub fn golden(&self) -> Result<Vec<GoldenRequest>, BundleError> {
        self.lines(GOLDEN)
    }

    /// Labelled queries; none if the bundle brings none.
    pub fn labels(&self) -> Result<Vec<LabelledQuery>, BundleError> {
        // By the manifest: a file that only lies there has no digest.
        if self.manifest.files.contains_key(LABELS) { self.lines(LABELS) } else { Ok(Vec::new()) }
    }

    /// Statistics of the whole catalogue; none if nothing is scored by them.
    pub fn lexical(&self) -> Result<LexicalStats, BundleError> {
        if self.manifest.files.contains_key(LEXICAL) {
            self.json(LEXICAL)
        } else {
            Ok(LexicalStats::default())
        }
    }

    pub fn items(&self, shard: ShardIndex) -> Result<ItemTable, BundleError> {
        let count = self.manifest.shard_count;
        if shard >= count.get() {
            return Err(BundleError::NoSuchShard { shard, count: count.get() });
        }
        let file = shard_file(shard, count);
        ItemTable::read(&self.path(&file), &file)
    }

    fn json<T: DeserializeOwned>(&self, file: &str) -> Result<T, BundleError> {
        let path = self.path(file);
        let bytes = std::fs::read(&path).map_err(BundleError::open(&path, file))?;
        serde_json::from_slice(&bytes).map_err(BundleError::json(file))
    }

    fn lines<T: DeserializeOwned>(&self, file: &'static str) -> Result<Vec<T>, BundleError> {
        let path = self.path(file);
        let text = std::fs::read_to_string(&path).map_err(|error| match error.kind() {
            std::io::ErrorKind::InvalidData => BundleError::Line { file, line: 1, detail: error.to_string() },
            _ => BundleError::open(&path, file)(error),
        })?;
        text.lines()
            .enumerate()
            .filter(|(_, line)| !line.trim().is_empty())
            .map(|(i, line)| {
                serde_json::from_str(line).map_err(|error| BundleError::Line {
                    file,
                    line: i + 1,
                    detail: error.to_string(),
                })
            })
            .collect()
    }
}

/// Reads a manifest and validates what can be without any other file.
pub(crate) fn parse_manifest(bytes: &[u8]) -> Result<Manifest, BundleError> {
    // The format first: a newer one may have fields that this build would call mistakes.
    let value: serde_json::Value = serde_json::from_slice(bytes).map_err(BundleError::json(MANIFEST))?;
    let format = value.get("format").and_then(serde_json::Value::as_u64).unwrap_or_default();
    if format != u64::from(FORMAT) {
        let found = u32::try_from(format).unwrap_or(u32::MAX);
        return Err(BundleError::Format { found, expected: FORMAT });
    }
    let manifest: Manifest = serde_json::from_value(value).map_err(BundleError::json(MANIFEST))?;
    for file in manifest.files.keys() {
        safe_path(file)?;
    }
    let wrong = |field: &str, found: String, expected: String| {
        Err(BundleError::Manifest { file: MANIFEST, field: field.to_owned(), found, expected })
    };
    let shards = manifest.shard_count.get() as usize;
    if manifest.shard_rows.len() != shards {
        return wrong("shard_rows", format!("{} numbers", manifest.shard_rows.len()), format!("{shards}"));
    }
    // Saturating: the numbers are anybody's.
    let rows = manifest.shard_rows.iter().fold(0_u64, |sum, rows| sum.saturating_add(*rows));
    if rows != manifest.items_total {
        return wrong(
            "items_total",
            manifest.items_total.to_string(),
            format!("{rows}, the sum of shard_rows"),
        );
    }
    if rows == 0 {
        return Err(BundleError::NoItems { file: MANIFEST.to_owned() });
    }
    let mut required: Vec<String> = [FEATURES, POPULAR, GOLDEN, EVALUATION].map(str::to_owned).to_vec();
    required.push(manifest.spec.ranker.file.clone());
    if let Some(encoder) = &manifest.spec.encoder {
        required.extend([encoder.file.clone(), encoder.tokenizer.clone()]);
    }
    required.extend(manifest.shard_count.indices().map(|shard| shard_file(shard, manifest.shard_count)));
    match required.into_iter().find(|file| !manifest.files.contains_key(file)) {
        Some(file) => Err(BundleError::MissingFile { file }),
        None => Ok(manifest),
    }
}

/// Refuses every path that could leave the bundle's folder.
pub(crate) fn safe_path(file: &str) -> Result<(), BundleError> {
    let legal = |part: &str| !part.is_empty() && part != "." && part != "..";
    // 100 bytes are what a plain tar header holds.
    let plain = !file.contains('\\') && !file.contains('\0') && file.len() <= 100;
    if plain && file.split('/').all(legal) && file != MANIFEST {
        Ok(())
    } else {
        Err(BundleError::UnsafePath { path: file.chars().take(200).collect() })
    }
}

/// Compares what was found of a file with what its manifest says.
pub(crate) fn compare(
    file: &str,
    entry: Option<&FileEntry>,
    (found, size): (Digest, u64),
) -> Result<(), BundleError> {
    let Some(entry) = entry else {
        return Err(BundleError::UnknownFile { file: file.to_owned() });
    };
    if entry.size != size {
        return Err(BundleError::SizeMismatch { file: file.to_owned(), expected: entry.size, found: size });
    }
    if entry.sha256 != found {
        return Err(BundleError::DigestMismatch { file: file.to_owned(), expected: entry.sha256, found });
    }
    Ok(())
}
