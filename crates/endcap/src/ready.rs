//! `endcap ready`: the question of a health check, for images without a shell.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use anyhow::Context as _;
use endcap_service::{Settings, admin::AdminConfig};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{cli::ConfigArgs, output, settings};

const PATIENCE: Duration = Duration::from_secs(2);

/// Succeeds if the process that listens on `admin.listen` is ready, and fails with what it waits for.
pub(crate) async fn run(args: &ConfigArgs) -> anyhow::Result<()> {
    let mut settings = Settings::load(args.config.as_deref(), &settings::process_environment(), &args.set)?;
    let config = AdminConfig::read(&mut settings);
    let mut address = settings.finish(config)?.listen;
    if address.ip().is_unspecified() {
        address.set_ip(IpAddr::V4(Ipv4Addr::LOCALHOST));
    }
    let asked = tokio::time::timeout(PATIENCE, ask(address)).await;
    let answer = asked
        .with_context(|| format!("{address} gave no answer within {PATIENCE:?}"))?
        .with_context(|| format!("ask {address}; is a process with this admin.listen running?"))?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    if head.split_whitespace().nth(1) != Some("200") {
        anyhow::bail!("{address} is not ready: {}", body.trim());
    }
    output::line("ready");
    Ok(())
}

async fn ask(address: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(b"GET /readyz HTTP/1.0\r\n\r\n").await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}
