//! A real Prometheus and a real Alertmanager around a fleet of processes, on free ports, gone with the value.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::Context as _;
use axum::{Router, extract::State, routing::post};
use endcap_coordination::test_util::free_port;
use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::mpsc;

use crate::{eventually, processes::http};

/// A file of the repository.
pub fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// A program that `make setup-tests` has fetched.
pub fn program(name: &str) -> PathBuf {
    repository(".tools/prometheus").join(name)
}

/// A process that ends with the value.
#[derive(Debug)]
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let ended = self.0.kill().and_then(|()| self.0.wait());
        if let Err(error) = ended {
            eprintln!("{} was not ended: {error}", self.0.id());
        }
    }
}

fn run(name: &str, folder: &TempDir, args: &[String]) -> anyhow::Result<Running> {
    let log = std::fs::File::create(folder.path().join("log"))?;
    // In their own folder: Alertmanager finds its templates from there.
    let home = repository(".tools/prometheus").canonicalize().context("`make setup-tests` makes it")?;
    let child = Command::new(home.join(name))
        .args(args)
        .current_dir(&home)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .with_context(|| format!("start {name}; `make setup-tests` fetches it"))?;
    Ok(Running(child))
}

/// A Prometheus that scrapes every second.
#[derive(Debug)]
pub struct Prometheus {
    address: SocketAddr,
    _running: Running,
    _folder: TempDir,
}

impl Prometheus {
    /// Scrapes `targets` as the job "endcap", evaluates `rules`, and tells `alertmanager`.
    pub async fn start(
        targets: &[SocketAddr],
        rules: &str,
        alertmanager: SocketAddr,
    ) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let at = |name: &str| folder.path().join(name).display().to_string();
        let targets: Vec<_> = targets.iter().map(|target| format!("'{target}'")).collect();
        let config = format!(
            "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\n\
             rule_files: ['rules.yaml']\n\
             alerting: {{alertmanagers: [{{static_configs: [{{targets: ['{alertmanager}']}}]}}]}}\n\
             scrape_configs: [{{job_name: endcap, static_configs: [{{targets: [{}]}}]}}]\n",
            targets.join(", ")
        );
        std::fs::write(at("rules.yaml"), rules)?;
        std::fs::write(at("prometheus.yaml"), config)?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let args = [
            format!("--config.file={}", at("prometheus.yaml")),
            format!("--storage.tsdb.path={}", at("data")),
            format!("--web.listen-address={address}"),
            "--enable-feature=exemplar-storage".to_owned(),
        ];
        let running = run("prometheus", &folder, &args)?;
        let started = eventually("Prometheus is ready", async || {
            http(address, "/-/ready").await.is_ok_and(|answer| answer.starts_with("HTTP/1.0 200"))
        });
        let log = || std::fs::read_to_string(folder.path().join("log")).unwrap_or_default();
        started.await.with_context(log)?;
        Ok(Self { address, _running: running, _folder: folder })
    }

    /// The series that a PromQL expression gives now.
    pub async fn query(&self, expression: &str) -> anyhow::Result<Vec<Value>> {
        let answer = self.api(&format!("query?query={}", encoded(expression))).await?;
        let found = answer["result"].as_array().cloned();
        found.with_context(|| format!("{expression} gave {answer}"))
    }

    /// The exemplars of the last minute beside the series that an expression names.
    pub async fn exemplars(&self, expression: &str) -> anyhow::Result<Vec<Value>> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let window = format!("start={}&end={}", now - 60, now + 60);
        let series = self.api(&format!("query_exemplars?query={}&{window}", encoded(expression))).await?;
        let series = series.as_array().with_context(|| format!("{expression} gave {series}"))?;
        Ok(series.iter().filter_map(|series| series["exemplars"].as_array()).flatten().cloned().collect())
    }

    /// The `data` of an answer of `/api/v1/`.
    pub async fn api(&self, path: &str) -> anyhow::Result<Value> {
        let answer = http(self.address, &format!("/api/v1/{path}")).await?;
        let (_, body) = answer.split_once("\r\n\r\n").context("an answer has a body")?;
        let body: Value = serde_json::from_str(body).with_context(|| body.to_owned())?;
        anyhow::ensure!(body["status"] == "success", "{path}: {body}");
        Ok(body["data"].clone())
    }
}

/// An Alertmanager, and what it tells its webhook.
#[derive(Debug)]
pub struct Alertmanager {
    pub address: SocketAddr,
    notifications: mpsc::UnboundedReceiver<Value>,
    _running: Running,
    _folder: TempDir,
}

impl Alertmanager {
    /// Sends every alert on at once.
    #[expect(clippy::disallowed_methods, reason = "a test's equipment is nobody's background task")]
    pub async fn start() -> anyhow::Result<Self> {
        let (sender, notifications) = mpsc::unbounded_channel();
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let webhook = listener.local_addr()?;
        let router = Router::new().route("/", post(receive)).with_state(sender);
        tokio::spawn(async move { axum::serve(listener, router).await });

        let folder = tempfile::tempdir()?;
        let at = |name: &str| folder.path().join(name).display().to_string();
        let config = format!(
            "route: {{receiver: test, group_by: [alertname], group_wait: 0s, group_interval: 1s}}\n\
             receivers: [{{name: test, webhook_configs: [{{url: 'http://{webhook}/'}}]}}]\n"
        );
        std::fs::write(at("alertmanager.yaml"), config)?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let args = [
            format!("--config.file={}", at("alertmanager.yaml")),
            format!("--storage.path={}", at("data")),
            format!("--web.listen-address={address}"),
            // No cluster: it would listen on a fixed port.
            "--cluster.listen-address=".to_owned(),
        ];
        let running = run("alertmanager", &folder, &args)?;
        eventually("Alertmanager is ready", async || {
            http(address, "/-/ready").await.is_ok_and(|answer| answer.starts_with("HTTP/1.0 200"))
        })
        .await?;
        Ok(Self { address, notifications, _running: running, _folder: folder })
    }

    /// The next alert of this name that fires.
    pub async fn firing(&mut self, name: &str) -> anyhow::Result<Value> {
        let waiting = async {
            while let Some(notification) = self.notifications.recv().await {
                let alerts = notification["alerts"].as_array().cloned().unwrap_or_default();
                let wanted =
                    |alert: &Value| alert["labels"]["alertname"] == name && alert["status"] == "firing";
                if let Some(alert) = alerts.into_iter().find(wanted) {
                    return Ok(alert);
                }
            }
            anyhow::bail!("the webhook has ended")
        };
        tokio::time::timeout(crate::PATIENCE, waiting)
            .await
            .with_context(|| format!("{name} did not fire"))?
    }
}

async fn receive(State(sender): State<mpsc::UnboundedSender<Value>>, body: String) {
    if let Ok(notification) = serde_json::from_str(&body) {
        // The test may have seen enough.
        let _ended = sender.send(notification);
    }
}

fn encoded(text: &str) -> String {
    text.bytes()
        .map(
            |byte| {
                if byte.is_ascii_alphanumeric() {
                    char::from(byte).to_string()
                } else {
                    format!("%{byte:02X}")
                }
            },
        )
        .collect()
}
