//! `endcap model …`: the registry's verbs.

use std::{path::Path, time::Duration};

use anyhow::Context as _;
use endcap_proto::pb::{self, register_version_request::Part};
use endcap_types::{Alias, ModelName, Version};
use futures::StreamExt as _;
use serde_json::json;
use tokio::io::AsyncReadExt as _;

use crate::{
    cli::{EditArgs, Global, ModelCommand, Output},
    clients::{self, with_deadline},
    output::{self, Bar},
    view,
};

/// Bytes of a bundle in one message of an upload.
const CHUNK: usize = 256 << 10;
/// Calls that only read or move a pointer.
const SHORT: Duration = Duration::from_secs(10);
/// An upload and its verification.
const UPLOAD: Duration = Duration::from_secs(600);

/// Runs one verb.
pub(crate) async fn run(global: &Global, command: ModelCommand) -> anyhow::Result<()> {
    match command {
        ModelCommand::Register { file, model, reason, validate, promote } => {
            let version = register(global, &file, model.as_ref(), &reason).await?;
            let name: ModelName = version.model.parse()?;
            let number = Version::try_from(version.version)?;
            if validate || promote {
                validate_version(global, &name, number, Duration::from_secs(120)).await?;
            }
            if promote {
                promote_version(global, &name, number, &EditArgs { expected_revision: 0, reason }).await?;
            }
            Ok(())
        }
        ModelCommand::Validate { model, version, timeout } => {
            validate_version(global, &model, version, timeout).await
        }
        ModelCommand::Promote { model, version, edit } => {
            promote_version(global, &model, version, &edit).await
        }
        ModelCommand::Rollback { model, edit } => rollback(global, &model, &edit).await,
        ModelCommand::List { model } => list(global, model.as_ref()).await,
        ModelCommand::Show { model, version } => show(global, &model, version).await,
        ModelCommand::History { model } => history(global, &model).await,
        ModelCommand::Watch { model } => watch(global, model.as_ref()).await,
    }
}

/// Uploads a packed bundle with a progress bar.
pub(crate) async fn register(
    global: &Global,
    file: &Path,
    model: Option<&ModelName>,
    reason: &str,
) -> anyhow::Result<pb::ModelVersion> {
    let mut client = clients::registry(&global.registry)?;
    let mut reader =
        tokio::fs::File::open(file).await.with_context(|| format!("open the bundle {}", file.display()))?;
    let total = reader.metadata().await?.len();
    let header = pb::RegisterHeader {
        model: model.map(ToString::to_string).unwrap_or_default(),
        uri: String::new(),
        actor: global.actor.clone(),
        reason: reason.to_owned(),
    };
    // A channel, so that the upload's memory is bounded by what the registry has taken.
    let (parts, stream) = tokio::sync::mpsc::channel(4);
    let upload = async move {
        let bar = Bar::new();
        let mut sent = 0;
        parts.send(pb::RegisterVersionRequest { part: Some(Part::Header(header)) }).await.ok();
        loop {
            let mut chunk = vec![0; CHUNK];
            let read = reader.read(&mut chunk).await?;
            if read == 0 {
                break;
            }
            chunk.truncate(read);
            sent += read as u64;
            let message = pb::RegisterVersionRequest { part: Some(Part::Chunk(chunk.into())) };
            if parts.send(message).await.is_err() {
                // The registry has answered already; its answer says why.
                break;
            }
            endcap_bundle::Progress::step(&bar, "upload", sent, total);
        }
        bar.finish();
        Ok::<_, std::io::Error>(())
    };
    let stream = tokio_stream::wrappers::ReceiverStream::new(stream);
    let call = client.register_version(with_deadline(stream, UPLOAD));
    let (uploaded, answer) = tokio::join!(upload, call);
    let answer = answer.map_err(|e| output::remote("register", &global.registry, &e))?.into_inner();
    uploaded.with_context(|| format!("read {}", file.display()))?;
    let version = answer.version.context("the registry's answer has no version")?;
    let verb = if answer.already_registered { "was already registered as" } else { "is now" };
    report(global, "register", &view::version_json(&version), || {
        format!(
            "{} {verb} {} version {} ({} items in {} shards, digest {})",
            file.display(),
            version.model,
            version.version,
            version.items_total,
            version.shard_count,
            &version.digest[..12.min(version.digest.len())]
        )
    })?;
    Ok(version)
}

/// Loads a version on its workers, showing replicas as they become ready.
pub(crate) async fn validate_version(
    global: &Global,
    model: &ModelName,
    version: Version,
    timeout: Duration,
) -> anyhow::Result<()> {
    let mut client = clients::registry(&global.registry)?;
    let request = pb::ValidateVersionRequest {
        model: model.to_string(),
        version: version.get(),
        actor: global.actor.clone(),
    };
    let progress = show_loading(global.clone(), model.clone(), version);
    let answer = tokio::select! {
        answer = client.validate_version(with_deadline(request, timeout)) => answer,
        () = progress => anyhow::bail!("the progress stream outlived the validation"),
    };
    let answer = answer.map_err(|e| output::remote("validate", &global.registry, &e))?.into_inner();
    let replicas = answer.ready_replicas;
    report(
        global,
        "validate",
        &json!({"model": model, "version": version, "ready_replicas": replicas}),
        || format!("{model} version {version} is ready: {} shards, replicas {replicas:?}", replicas.len()),
    )
}

/// Follows the replicas of one version until dropped. Never ends by itself, not even when the watch breaks.
async fn show_loading(global: Global, model: ModelName, version: Version) {
    let bar = Bar::new();
    if let Ok(mut client) = clients::registry(&global.registry) {
        let request = pb::WatchRequest { model: model.to_string() };
        if let Ok(events) = client.watch(request).await {
            let mut events = events.into_inner();
            let mut replicas = std::collections::BTreeMap::new();
            while let Some(Ok(event)) = events.next().await {
                let Some(pb::watch_response::Event::Replica(replica)) = event.event else {
                    continue;
                };
                if replica.version == version.get() {
                    let state = replica.state();
                    replicas.insert((replica.shard, replica.worker), state);
                    let ready = replicas.values().filter(|s| **s == pb::ReplicaState::Ready).count() as u64;
                    endcap_bundle::Progress::step(
                        &bar,
                        "load and check replicas",
                        ready,
                        replicas.len() as u64,
                    );
                }
            }
        }
    }
    std::future::pending().await
}

pub(crate) async fn promote_version(
    global: &Global,
    model: &ModelName,
    version: Version,
    edit: &EditArgs,
) -> anyhow::Result<()> {
    let request = pb::PromoteRequest {
        model: model.to_string(),
        version: version.get(),
        expected_revision: edit.expected_revision,
        actor: global.actor.clone(),
        reason: edit.reason.clone(),
    };
    match clients::registry(&global.registry)?.promote(with_deadline(request, SHORT)).await {
        Ok(answer) => moved(global, "promote", answer.into_inner().rollout),
        // What was asked for is so: a script that runs twice has not failed.
        Err(status) if status.code() == tonic::Code::FailedPrecondition => {
            let rollout = rollout_of(global, model).await?;
            if rollout.aliases.get(Alias::Stable.as_str()) != Some(&version.get()) {
                return Err(output::remote("promote", &global.registry, &status));
            }
            moved(global, "promote", Some(rollout))
        }
        Err(status) => Err(output::remote("promote", &global.registry, &status)),
    }
}

/// Where the aliases of a model stand now.
async fn rollout_of(global: &Global, model: &ModelName) -> anyhow::Result<pb::Rollout> {
    let found = models(global, Some(model)).await?.into_iter().next();
    Ok(found.and_then(|model| model.rollout).unwrap_or_default())
}

async fn models(global: &Global, model: Option<&ModelName>) -> anyhow::Result<Vec<pb::Model>> {
    let request = pb::ListModelsRequest { model: model.map(ToString::to_string).unwrap_or_default() };
    let answer = clients::registry(&global.registry)?
        .list_models(with_deadline(request, SHORT))
        .await
        .map_err(|e| output::remote("list", &global.registry, &e))?;
    Ok(answer.into_inner().models)
}

async fn show(global: &Global, name: &ModelName, number: Version) -> anyhow::Result<()> {
    let found = models(global, Some(name)).await?;
    let known: Vec<_> = found.iter().flat_map(|model| &model.versions).collect();
    let version = known.iter().find(|version| version.version == number.get()).with_context(|| {
        format!(
            "{name} has no version {number}; it has {:?}",
            known.iter().map(|v| v.version).collect::<Vec<_>>()
        )
    })?;
    if global.output == Output::Json {
        return output::json(&view::version_json(version));
    }
    let mut table = output::table(&["of", "what", "value"], &[]);
    for (name, value) in view::version_facts(version) {
        table.add_row(["version".to_owned(), name.to_owned(), value]);
    }
    for (name, value) in version.evaluation.iter().collect::<std::collections::BTreeMap<_, _>>() {
        table.add_row(["offline".to_owned(), name.clone(), format!("{value:.4}")]);
    }
    for (name, value) in version.lineage.iter().collect::<std::collections::BTreeMap<_, _>>() {
        table.add_row(["lineage".to_owned(), name.clone(), value.clone()]);
    }
    output::line(table);
    Ok(())
}

async fn rollback(global: &Global, model: &ModelName, edit: &EditArgs) -> anyhow::Result<()> {
    let request = pb::RollbackRequest {
        model: model.to_string(),
        expected_revision: edit.expected_revision,
        actor: global.actor.clone(),
        reason: edit.reason.clone(),
    };
    let answer = clients::registry(&global.registry)?
        .rollback(with_deadline(request, SHORT))
        .await
        .map_err(|e| output::remote("rollback", &global.registry, &e))?;
    moved(global, "rollback", answer.into_inner().rollout)
}

fn moved(global: &Global, what: &str, rollout: Option<pb::Rollout>) -> anyhow::Result<()> {
    let rollout = rollout.context("the registry's answer has no rollout")?;
    report(global, what, &view::rollout_json(&rollout), || {
        format!("{}: {} (revision {})", rollout.model, view::aliases(&rollout), rollout.revision)
    })
}

async fn list(global: &Global, model: Option<&ModelName>) -> anyhow::Result<()> {
    let models = models(global, model).await?;
    if global.output == Output::Json {
        return output::json(&models.iter().map(view::model_json).collect::<Vec<_>>());
    }
    if models.is_empty() {
        output::line("no models yet; `endcap model register FILE --promote` adds one");
        return Ok(());
    }
    let mut table = output::table(
        &[
            "model",
            "version",
            "aliases",
            "state",
            "items",
            "shards",
            "size",
            "ndcg@10",
            "digest",
            "registered",
        ],
        &[1, 4, 5, 6, 7],
    );
    for model in &models {
        for version in &model.versions {
            table.add_row(view::version_row(version));
        }
    }
    output::line(table);
    for model in &models {
        if let Some(rollout) = &model.rollout {
            output::line(format!(
                "{}: {} (revision {})",
                model.name,
                view::aliases(rollout),
                rollout.revision
            ));
        }
    }
    Ok(())
}

async fn history(global: &Global, model: &ModelName) -> anyhow::Result<()> {
    let request = pb::GetHistoryRequest { model: model.to_string(), after_sequence: 0 };
    let entries = clients::registry(&global.registry)?
        .get_history(with_deadline(request, SHORT))
        .await
        .map_err(|e| output::remote("history", &global.registry, &e))?
        .into_inner()
        .entries;
    if global.output == Output::Json {
        return output::json(&entries.iter().map(view::history_json).collect::<Vec<_>>());
    }
    let mut table = output::table(&["#", "when", "who", "what", "from", "to", "why"], &[0, 4, 5]);
    for entry in &entries {
        let from = if entry.from_version == 0 { "-".to_owned() } else { entry.from_version.to_string() };
        table.add_row([
            entry.sequence.to_string(),
            entry.at.clone(),
            entry.actor.clone(),
            entry.action.clone(),
            from,
            entry.to_version.to_string(),
            entry.reason.clone(),
        ]);
    }
    output::line(table);
    Ok(())
}

async fn watch(global: &Global, model: Option<&ModelName>) -> anyhow::Result<()> {
    let request = pb::WatchRequest { model: model.map(ToString::to_string).unwrap_or_default() };
    let mut events = clients::registry(&global.registry)?
        .watch(request)
        .await
        .map_err(|e| output::remote("watch", &global.registry, &e))?
        .into_inner();
    while let Some(event) = events.next().await {
        let event = event.map_err(|e| output::remote("watch", &global.registry, &e))?;
        if global.output == Output::Json {
            output::line(view::event_json(&event));
        } else {
            output::line(view::event_line(&event));
        }
    }
    Ok(())
}

fn report(
    global: &Global,
    what: &str,
    value: &serde_json::Value,
    text: impl FnOnce() -> String,
) -> anyhow::Result<()> {
    match global.output {
        Output::Table => output::line(text()),
        Output::Json => output::json(&json!({ "action": what, "result": value }))?,
    }
    Ok(())
}
