//! A real Redis for tests: a process of its own on a free port, gone with the value.
#![expect(clippy::unwrap_used, reason = "a test's equipment fails by panicking")]

use std::{
    fs,
    net::Ipv4Addr,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use endcap_coordination::test_util::free_port;
use tempfile::TempDir;

/// A server that has not answered by then has failed to start.
const PATIENCE: Duration = Duration::from_secs(60);

/// A Redis that writes down what it is given.
#[derive(Debug)]
pub struct RedisServer {
    wrapper: Vec<String>,
    host: Ipv4Addr,
    port: u16,
    dir: TempDir,
    process: Child,
}

impl RedisServer {
    /// Starts a process and waits until it answers.
    pub async fn start() -> Self {
        Self::start_at(Ipv4Addr::LOCALHOST, Vec::new()).await
    }

    /// The same on another address, run by `wrapper`.
    pub async fn start_at(host: Ipv4Addr, wrapper: Vec<String>) -> Self {
        let (port, dir) = (free_port(), tempfile::tempdir().unwrap());
        let server = Self { process: run(&wrapper, host, port, &dir), wrapper, host, port, dir };
        server.wait_until_it_answers().await;
        server
    }

    /// Without user and password.
    pub fn url(&self) -> String {
        format!("redis://{}:{}/0", self.host, self.port)
    }

    /// `kill -9`.
    pub fn stop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Starts it again after [`Self::stop`], on the data it has; does not wait.
    pub fn restart(&mut self) {
        self.process = run(&self.wrapper, self.host, self.port, &self.dir);
    }

    /// What it answers to a command.
    pub async fn say(&self, words: &[&str]) -> redis::Value {
        self.ask(words).await.unwrap()
    }

    async fn ask(&self, words: &[&str]) -> redis::RedisResult<redis::Value> {
        let mut connection = redis::Client::open(self.url())?.get_multiplexed_async_connection().await?;
        let mut command = redis::cmd(words[0]);
        words[1..].iter().for_each(|word| {
            command.arg(word);
        });
        command.query_async(&mut connection).await
    }

    async fn wait_until_it_answers(&self) {
        let patience = Instant::now() + PATIENCE;
        let mut pause = tokio::time::interval(Duration::from_millis(10));
        while let Err(error) = self.ask(&["PING"]).await {
            let log = fs::read_to_string(self.dir.path().join("log"));
            assert!(Instant::now() < patience, "{error}: {}", log.unwrap_or_default());
            pause.tick().await;
        }
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.stop();
    }
}

fn run(wrapper: &[String], host: Ipv4Addr, port: u16, dir: &TempDir) -> Child {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.tools/redis/redis-server");
    assert!(program.exists(), "{} is missing; `make setup-tests` gets it", program.display());
    let mut words = wrapper.to_vec();
    words.push(program.display().to_string());
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).args(["--port", &port.to_string(), "--bind", &host.to_string()]);
    // Whoever is on the machine may ask it, which is refused on other addresses than the loopback's by default.
    command.args(["--appendonly", "yes", "--protected-mode", "no"]);
    command.arg("--dir").arg(dir.path()).arg("--logfile").arg(dir.path().join("log"));
    command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap()
}
