//! `endcap-shop generate`: the simulated shop as a data folder.

use std::path::PathBuf;

use clap::{Parser, Subcommand};
use endcap_shop::{Shop, ShopOptions};

/// Makes a simulated shop. None of its products, shoppers and clicks is real.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Write a data folder: products, queries, labels, events.
    Generate {
        /// Everything follows from it.
        #[arg(long, default_value_t = 7)]
        seed: u64,
        #[arg(long, default_value_t = 5_000)]
        items: usize,
        #[arg(long, default_value_t = 300)]
        queries: u32,
        #[arg(long, default_value_t = 500)]
        shoppers: usize,
        /// Pages that shoppers were shown.
        #[arg(long, default_value_t = 5_000)]
        pages: usize,
        /// The folder to write.
        #[arg(long)]
        out: PathBuf,
    },
}

fn main() -> anyhow::Result<()> {
    let Command::Generate { seed, items, queries, shoppers, pages, out } = Cli::parse().command;
    let shop = Shop::generate(&ShopOptions { seed, items, queries, shoppers, pages });
    endcap_shop::write(&shop, &out)?;
    println!(
        "{}: {} products, {} queries, {} labels, {} shoppers",
        out.display(),
        shop.products.len(),
        shop.queries.len(),
        shop.labels.len(),
        shop.shoppers.len()
    );
    Ok(())
}
