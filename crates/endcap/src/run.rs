//! From the parsed command line to the command.

use clap::CommandFactory as _;

use crate::{
    bench, bundle,
    cli::{Cli, Command},
    demo, doctor, evaluate, features, metrics, model, ready, recommend,
    roles::{self, Role},
    status,
};

/// Runs one command to its end.
pub async fn run(cli: Cli) -> anyhow::Result<()> {
    let Cli { global, command } = cli;
    match command {
        Command::Demo(args) => demo::demo(&global, args).await,
        Command::Dev(args) => demo::dev(&global, args).await,
        Command::Gateway(args) => roles::run(Role::Gateway, args).await,
        Command::Worker(args) => roles::run(Role::Worker, args).await,
        Command::Registry(args) => roles::run(Role::Registry, args).await,
        Command::FeatureCache(args) => roles::run(Role::FeatureCache, args).await,
        Command::Bundle(command) => tokio::task::block_in_place(|| bundle::run(&global, command)),
        Command::Model(command) => model::run(&global, command).await,
        Command::Features(command) => features::run(&global, command).await,
        Command::Recommend(args) => recommend::run(&global, args).await,
        Command::Evaluate(args) => evaluate::run(&global, args).await,
        Command::Bench(args) => bench::run(&global, *args).await,
        Command::Status => status::run(&global).await,
        Command::Ready { config } => ready::run(&config).await,
        Command::Metrics => metrics::run(&global),
        Command::Doctor(args) => doctor::run(&global, &args),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "endcap", &mut std::io::stdout());
            Ok(())
        }
    }
}
