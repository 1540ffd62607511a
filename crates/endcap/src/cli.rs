//! The command line: what `endcap --help` shows.

use std::{net::SocketAddr, path::PathBuf, sync::LazyLock, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};
use endcap_types::{ModelName, Version};

use crate::{
    bench::BenchArgs,
    features::{Assignment, Entity},
};

/// Version and commit. The commit is what `make build` and the image's build say it is, so that the same source gives
/// the same binary and a new commit alone rebuilds nothing.
static VERSION: LazyLock<String> = LazyLock::new(|| {
    let commit = option_env!("ENDCAP_COMMIT").filter(|commit| !commit.is_empty());
    format!("{} ({})", env!("CARGO_PKG_VERSION"), commit.unwrap_or("unknown"))
});

/// Takes a ranking model from a training job to live search traffic.
#[derive(Debug, Parser)]
#[command(name = "endcap", version = VERSION.as_str(), max_term_width = 110)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Debug, Clone, Args)]
pub struct Global {
    /// Print tables for people or JSON for programs.
    #[arg(long, short = 'o', global = true, value_enum, default_value_t = Output::Table)]
    pub output: Output,
    /// The registry to talk to.
    #[arg(
        long,
        global = true,
        env = "ENDCAP_REGISTRY_URL",
        default_value = "http://127.0.0.1:9420",
        value_name = "URL"
    )]
    pub registry: String,
    /// The gateway to talk to.
    #[arg(
        long,
        global = true,
        env = "ENDCAP_GATEWAY_URL",
        default_value = "http://127.0.0.1:9400",
        value_name = "URL"
    )]
    pub gateway: String,
    /// Who is acting, for the history.
    #[arg(long, global = true, env = "USER", default_value = "unknown", value_name = "NAME")]
    pub actor: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    Table,
    Json,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start a whole fleet in this process on a simulated shop, show a few answers, and stay up.
    Demo(DemoArgs),
    /// Start a whole fleet in this process, with its state kept on disk.
    Dev(DevArgs),
    /// Run a gateway: the door for search services.
    Gateway(RoleArgs),
    /// Run a shard worker: holds shards of versions, retrieves and ranks.
    Worker(RoleArgs),
    /// Run a model registry: versions, aliases, history, and the controller.
    Registry(RoleArgs),
    /// Run a feature-cache: user and session features with a time to live.
    FeatureCache(RoleArgs),
    /// Make, check and look into bundles.
    #[command(subcommand)]
    Bundle(BundleCommand),
    /// Register, validate, promote, roll back and watch model versions.
    #[command(subcommand)]
    Model(ModelCommand),
    /// Read and write what is known of users and sessions.
    #[command(subcommand)]
    Features(FeaturesCommand),
    /// Ask the gateway for a ranked list.
    Recommend(RecommendArgs),
    /// Measure ranking quality through the gateway on labelled queries.
    Evaluate(EvaluateArgs),
    /// Put load on the gateway and measure what it does to the answers.
    Bench(Box<BenchArgs>),
    /// Show the fleet as a tree: models, aliases, versions, shards, replicas.
    Status,
    /// Ask the process with these settings whether it is ready; exit 1 if not. What containers' health checks run.
    Ready {
        #[command(flatten)]
        config: ConfigArgs,
    },
    /// Print the catalogue of metrics.
    Metrics,
    /// Say what is missing on this machine, and the command that mends it.
    Doctor(DoctorArgs),
    /// Print a completion script for a shell.
    Completions { shell: clap_complete::Shell },
}

/// Where settings come from.
#[derive(Debug, Clone, Default, Args)]
pub struct ConfigArgs {
    /// A settings file (TOML), over the compiled-in defaults. Environment variables such as
    /// ENDCAP_GATEWAY__GRPC__LISTEN go over the file.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// One setting, over everything else; may be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = parse_assignment)]
    pub set: Vec<(String, String)>,
}

#[derive(Debug, Clone, Args)]
pub struct RoleArgs {
    #[command(flatten)]
    pub config: ConfigArgs,
    /// This process's id in the fleet, the same after a restart. Default: role, host name and port.
    #[arg(long)]
    pub id: Option<String>,
    /// Only check the settings: print the effective ones, or every mistake (exit 64).
    #[arg(long)]
    pub check_config: bool,
}

#[derive(Debug, Clone, Args)]
pub struct DevArgs {
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Folder for everything the fleet keeps: bundles, versions, aliases, history.
    #[arg(long, default_value = ".endcap/dev", value_name = "DIR")]
    pub data_dir: PathBuf,
    /// Shard workers to start.
    #[arg(long, default_value_t = 2, value_name = "N")]
    pub workers: usize,
    /// A packed bundle to register, validate and promote at the start.
    #[arg(long, value_name = "FILE")]
    pub bundle: Option<PathBuf>,
}

#[derive(Debug, Clone, Args)]
pub struct DemoArgs {
    #[command(flatten)]
    pub config: ConfigArgs,
    /// End after the first answers instead of staying up.
    #[arg(long)]
    pub once: bool,
    /// Another packed bundle than the simulated shop's.
    #[arg(long, value_name = "FILE")]
    pub bundle: Option<PathBuf>,
    /// Keep state here instead of in a temporary folder.
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Shard workers to start.
    #[arg(long, default_value_t = 2, value_name = "N")]
    pub workers: usize,
}

#[derive(Debug, Subcommand)]
pub enum BundleCommand {
    /// Pack a bundle source folder (model.json, items.parquet, *.onnx, ...) into one file.
    Pack {
        /// The source folder.
        source: PathBuf,
        /// The file to write.
        #[arg(long, short = 'f', value_name = "FILE")]
        file: PathBuf,
        /// Shards of the catalogue.
        #[arg(long, default_value_t = 4, value_name = "S")]
        shards: u32,
        /// RFC 3339 time to record instead of now, for reproducible bundles.
        #[arg(long, value_name = "TIME")]
        created: Option<String>,
    },
    /// Check everything that can be checked without running the models.
    Verify {
        /// A packed bundle or an unpacked folder.
        path: PathBuf,
    },
    /// Show what is inside.
    Inspect {
        /// A packed bundle or an unpacked folder.
        path: PathBuf,
    },
    /// Write the labelled queries of a bundle, one JSON object a line.
    Labels {
        /// A packed bundle or an unpacked folder.
        path: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
pub enum ModelCommand {
    /// Upload a packed bundle; it becomes the model's next version.
    Register {
        /// The packed bundle.
        file: PathBuf,
        /// Refuse a bundle of another model.
        #[arg(long)]
        model: Option<ModelName>,
        /// Why, for the history.
        #[arg(long, default_value = "")]
        reason: String,
        /// Also validate it.
        #[arg(long)]
        validate: bool,
        /// Also validate and promote it.
        #[arg(long)]
        promote: bool,
    },
    /// Load a version beside what serves, on every replica, and check its golden requests there.
    Validate {
        model: ModelName,
        version: Version,
        /// Give up after this long (the workers go on loading).
        #[arg(long, default_value = "120s", value_parser = parse_duration)]
        timeout: Duration,
    },
    /// Move `stable` to a validated version. The old one stays loaded as `last_good`.
    Promote {
        model: ModelName,
        version: Version,
        #[command(flatten)]
        edit: EditArgs,
    },
    /// Move `stable` back to `last_good`. Nothing is loaded: it takes as long as a watch event.
    Rollback {
        model: ModelName,
        #[command(flatten)]
        edit: EditArgs,
    },
    /// List models, aliases and versions.
    List {
        /// Only this model.
        model: Option<ModelName>,
    },
    /// Show one version: where it stands, its offline figures, and what it was made from.
    Show { model: ModelName, version: Version },
    /// Show every move ever made.
    History { model: ModelName },
    /// Follow registrations, loading, readiness and moves as they happen.
    Watch {
        /// Only this model.
        model: Option<ModelName>,
    },
}

#[derive(Debug, Subcommand)]
pub enum FeaturesCommand {
    /// Show the features of users and sessions, how old they are, and for how long they are kept.
    Get {
        /// Whose: user/ID or session/ID.
        #[arg(required = true, value_name = "ENTITY")]
        entities: Vec<Entity>,
        #[command(flatten)]
        cache: CacheArgs,
    },
    /// Write features of one user or session. Those that are not named stay as they are.
    Put {
        /// Whose: user/ID or session/ID.
        entity: Entity,
        /// Features and their numbers: user.affinity=0.5 user.style=1,0,2
        #[arg(required = true, value_name = "NAME=NUMBERS")]
        features: Vec<Assignment>,
        /// For how long all features of the entity are kept; default: the cache's.
        #[arg(long, value_parser = parse_duration)]
        ttl: Option<Duration>,
        #[command(flatten)]
        cache: CacheArgs,
    },
}

#[derive(Debug, Clone, Args)]
pub struct CacheArgs {
    /// The feature-cache to talk to.
    #[arg(
        long,
        env = "ENDCAP_FEATURE_CACHE_URL",
        default_value = "http://127.0.0.1:9430",
        value_name = "URL"
    )]
    pub feature_cache: String,
}

#[derive(Debug, Clone, Args)]
pub struct EditArgs {
    /// Only if the rollout still has this revision (see `model list`); otherwise the edit is refused.
    #[arg(long, default_value_t = 0, hide_default_value = true, value_name = "REVISION")]
    pub expected_revision: u64,
    /// Why, for the history.
    #[arg(long, default_value = "")]
    pub reason: String,
}

#[derive(Debug, Clone, Args)]
pub struct RecommendArgs {
    /// What the shopper typed.
    #[arg(default_value = "")]
    pub query: String,
    /// Item ids to rank instead of retrieving; may be repeated or separated by commas.
    #[arg(long, value_delimiter = ',', value_name = "ID")]
    pub candidates: Vec<String>,
    /// Items wanted.
    #[arg(long, short = 'n', default_value_t = 10)]
    pub limit: u32,
    /// Model name; default: the gateway's.
    #[arg(long, default_value = "")]
    pub model: String,
    /// Exactly this version.
    #[arg(long, conflicts_with = "alias")]
    pub version: Option<u64>,
    /// The version of an alias: stable, candidate, last_good.
    #[arg(long)]
    pub alias: Option<String>,
    /// Who asks.
    #[arg(long, default_value = "")]
    pub user: String,
    /// The session.
    #[arg(long, default_value = "")]
    pub session: String,
    /// Item ids that must not appear.
    #[arg(long, value_delimiter = ',', value_name = "ID")]
    pub exclude: Vec<String>,
    /// Catalogue columns to show.
    #[arg(long, value_delimiter = ',', default_value = "name,brand,price", value_name = "COLUMN")]
    pub fields: Vec<String>,
    /// Fail rather than answer from less than this share of the catalogue.
    #[arg(long, default_value_t = 0.0, hide_default_value = true, value_name = "SHARE")]
    pub minimum_coverage: f64,
    /// The deadline of the call.
    #[arg(long, default_value = "1s", value_parser = parse_duration)]
    pub deadline: Duration,
}

#[derive(Debug, Clone, Args)]
pub struct EvaluateArgs {
    /// A packed bundle: its labelled queries are asked, and its offline figures shown beside.
    #[arg(long, value_name = "FILE", required_unless_present = "labels")]
    pub bundle: Option<PathBuf>,
    /// Labelled queries instead, one JSON object a line: query_id, query, gains by item id.
    #[arg(long, value_name = "FILE")]
    pub labels: Option<PathBuf>,
    /// Exactly this version; default: stable.
    #[arg(long)]
    pub version: Option<u64>,
    /// Model name; default: the gateway's.
    #[arg(long, default_value = "")]
    pub model: String,
    /// Calls in flight.
    #[arg(long, default_value_t = 2, value_name = "N")]
    pub concurrency: usize,
    /// Fail (exit 1) when ndcg@10 differs from the bundle's offline figure by more than this.
    #[arg(long, value_name = "DIFFERENCE", requires = "bundle")]
    pub tolerance: Option<f64>,
    /// Tell the registry, which shows it to Prometheus beside the bundle's own figures.
    #[arg(long)]
    pub record: bool,
    /// The deadline of each call.
    #[arg(long, default_value = "5s", value_parser = parse_duration)]
    pub deadline: Duration,
}

#[derive(Debug, Clone, Args)]
pub struct DoctorArgs {
    #[command(flatten)]
    pub config: ConfigArgs,
}

/// Addresses a fleet in one process listens on; port 0 means any free one.
#[derive(Debug, Clone, Copy)]
pub struct Ports {
    pub gateway: SocketAddr,
    pub registry: SocketAddr,
    pub admin: SocketAddr,
}

fn parse_assignment(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("expected KEY=VALUE, e.g. gateway.default_deadline=150ms".to_owned()),
    }
}

pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|e| format!("{e}; expected e.g. 250ms or 2s"))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn settings_are_assignments() {
        assert_eq!(parse_assignment("a.b=c=d"), Ok(("a.b".into(), "c=d".into())));
        assert!(parse_assignment("a.b").is_err());
    }
}
