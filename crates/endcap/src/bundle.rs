//! `endcap bundle …`: make, check and look into bundles.

use std::{fs::File, ops::Deref, path::Path};

use anyhow::Context as _;
use endcap_bundle::{Bundle, PackOptions, Parts};
use endcap_types::ShardCount;
use serde_json::json;
use tempfile::TempDir;

use crate::{
    cli::{BundleCommand, Global, Output},
    output::{self, Bar},
};

/// Runs one verb. Blocking: bundles are files.
pub(crate) fn run(global: &Global, command: BundleCommand) -> anyhow::Result<()> {
    match command {
        BundleCommand::Pack { source, file, shards, created } => {
            pack(global, &source, &file, shards, created)
        }
        BundleCommand::Verify { path } => verify(global, &path),
        BundleCommand::Inspect { path } => inspect(global, &path),
        BundleCommand::Labels { path } => {
            for labelled in open(&path)?.labels()? {
                output::line(serde_json::to_string(&labelled)?);
            }
            Ok(())
        }
    }
}

/// A bundle folder, or a packed bundle unpacked into a temporary one that lives as long as this.
pub(crate) struct Opened {
    bundle: Bundle,
    _unpacked: Option<TempDir>,
}

impl Deref for Opened {
    type Target = Bundle;

    fn deref(&self) -> &Bundle {
        &self.bundle
    }
}

/// Opens a packed bundle or a bundle folder. A packed one has had every digest verified.
pub(crate) fn open(path: &Path) -> anyhow::Result<Opened> {
    if path.is_dir() {
        return Ok(Opened { bundle: Bundle::open(path)?, _unpacked: None });
    }
    let file = File::open(path).with_context(|| format!("open the bundle {}", path.display()))?;
    let unpacked = tempfile::tempdir().context("make a temporary folder")?;
    let bundle = endcap_bundle::unpack(file, &unpacked.path().join("bundle"))
        .with_context(|| format!("unpack {}", path.display()))?;
    Ok(Opened { bundle, _unpacked: Some(unpacked) })
}

fn pack(
    global: &Global,
    source: &Path,
    file: &Path,
    shards: u32,
    created: Option<String>,
) -> anyhow::Result<()> {
    let shards = ShardCount::try_from(shards).context("--shards")?;
    let created = match created {
        Some(text) => text.parse::<jiff::Timestamp>().context("--created")?.to_string(),
        None => jiff::Timestamp::now().to_string(),
    };
    let bar = Bar::new();
    let scratch = tempfile::tempdir().context("make a temporary folder")?;
    let folder = scratch.path().join("bundle");
    let bundle = endcap_bundle::assemble(source, &folder, &PackOptions { shards, created }, &bar)?;
    bundle.check()?;
    let packed = endcap_bundle::pack(&bundle, file, &bar)?;
    bar.finish();
    let manifest = bundle.manifest();
    match global.output {
        Output::Json => output::json(&json!({
            "file": file, "digest": packed.digest, "size_bytes": packed.size, "model": manifest.spec.model,
            "items_total": manifest.items_total, "shard_count": manifest.shard_count,
        })),
        Output::Table => {
            output::line(format!(
                "{}: {} with {} items in {} shards, {}, digest {}",
                file.display(),
                manifest.spec.model,
                manifest.items_total,
                manifest.shard_count,
                output::bytes(packed.size),
                packed.digest.short()
            ));
            Ok(())
        }
    }
}

fn verify(global: &Global, path: &Path) -> anyhow::Result<()> {
    let bundle = open(path)?;
    bundle.verify(&Parts::All)?;
    bundle.check()?;
    match global.output {
        Output::Json => output::json(&json!({ "ok": true, "digest": bundle.digest() })),
        Output::Table => {
            output::line(format!(
                "{} is sound: digest {}. Its golden requests are answered by the workers at `endcap model validate`.",
                path.display(),
                bundle.digest()
            ));
            Ok(())
        }
    }
}

fn inspect(global: &Global, path: &Path) -> anyhow::Result<()> {
    let bundle = open(path)?;
    let manifest = bundle.manifest();
    if global.output == Output::Json {
        return output::json(&json!({
            "digest": bundle.digest(), "manifest": manifest, "evaluation": bundle.evaluation()?.metrics,
        }));
    }
    output::line(format!("{} {}", manifest.spec.model, bundle.digest()));
    output::line(format!(
        "created {} · {} items in {} shards · {} golden requests · {} labelled queries",
        manifest.created,
        manifest.items_total,
        manifest.shard_count,
        bundle.golden()?.len(),
        bundle.labels()?.len()
    ));
    let mut inputs = output::table(&["ranker input", "features"], &[]);
    for input in &manifest.spec.ranker.inputs {
        let names: Vec<_> = input.features.iter().map(ToString::to_string).collect();
        inputs.add_row([input.name.clone(), names.join("\n")]);
    }
    output::line(inputs);
    let mut files = output::table(&["file", "size", "sha256"], &[1]);
    for (name, entry) in &manifest.files {
        files.add_row([name.clone(), output::bytes(entry.size), entry.sha256.short()]);
    }
    output::line(files);
    let mut metrics = output::table(&["offline metric", "value"], &[1]);
    for (name, value) in bundle.evaluation()?.metrics {
        metrics.add_row([name, format!("{value:.4}")]);
    }
    output::line(metrics);
    for (key, value) in &manifest.spec.lineage {
        output::line(format!("{key}: {value}"));
    }
    Ok(())
}
