//! A fleet of real processes around a real etcd, which tests kill, freeze and restart.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader},
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::Context as _;
use endcap_coordination::test_util::{EtcdCluster, free_port};
use endcap_proto::pb::{
    self, model_registry_client::ModelRegistryClient, recommend_service_client::RecommendServiceClient,
};
use tempfile::TempDir;
use tonic::transport::Channel;

use crate::{MODEL, PATIENCE, cable::Cable, channel, eventually, query, registry};

/// How many processes of each role.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    pub etcd: usize,
    pub registries: usize,
    pub gateways: usize,
    pub workers: usize,
}

/// The fleet that every chaos test starts from: nothing in it exists only once.
pub const USUAL: Size = Size { etcd: 3, registries: 2, gateways: 2, workers: 4 };

/// A fleet of processes. They end with it.
#[derive(Debug)]
pub struct ProcessFleet {
    pub etcd: EtcdCluster,
    nodes: BTreeMap<String, Node>,
    folder: TempDir,
}

#[derive(Debug)]
struct Node {
    /// The program and its arguments.
    command: Vec<String>,
    address: SocketAddr,
    admin: SocketAddr,
    log: PathBuf,
    process: Option<Child>,
}

impl ProcessFleet {
    /// Starts `program` once per member and waits until all of them are ready. `set` goes to every one.
    pub async fn start(program: &Path, size: Size, set: &[(&str, &str)]) -> anyhow::Result<Self> {
        let etcd = EtcdCluster::start(size.etcd).await;
        let mut fleet = Self { etcd, nodes: BTreeMap::new(), folder: tempfile::tempdir()? };
        let roles = [("registry", size.registries), ("worker", size.workers), ("gateway", size.gateways)];
        for (role, count) in roles {
            for number in 1..=count {
                let id = format!("{role}-{number}");
                let node = fleet.node(program, role, &id, set);
                fleet.nodes.insert(id, node);
            }
        }
        for node in fleet.nodes.values_mut() {
            node.start()?;
        }
        for id in fleet.ids("") {
            fleet.until_ready(&id).await?;
        }
        Ok(fleet)
    }

    fn node(&self, program: &Path, role: &str, id: &str, set: &[(&str, &str)]) -> Node {
        let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let (address, admin) = (local(free_port()), local(free_port()));
        let at = |name: &str| self.folder.path().join(name).display().to_string();
        let endpoints = self.etcd.endpoints().join(",");
        let settings = [
            ("coordination.kind", "etcd".to_owned()),
            ("coordination.etcd.endpoints", endpoints),
            ("coordination.etcd.timeout", "1s".to_owned()),
            ("coordination.saved_dir", at("saved")),
            ("store.url", at("bundles")),
            ("store.cache_dir", at("cache")),
            ("registry.data_dir", at(&format!("{id}-data"))),
            ("gateway.default_model", MODEL.to_owned()),
            ("gateway.drain.delay", "300ms".to_owned()),
            ("worker.drain.delay", "300ms".to_owned()),
            ("worker.device", "cpu".to_owned()),
            ("telemetry.log", "info".to_owned()),
            (&format!("{}.grpc.listen", role.replace('-', "_")), address.to_string()),
            ("admin.listen", admin.to_string()),
        ];
        let set = set.iter().map(|(key, value)| (*key, (*value).to_owned()));
        let mut command = vec![program.display().to_string(), role.to_owned(), "--id".into(), id.to_owned()];
        command.extend(settings.into_iter().chain(set).flat_map(|(key, value)| setting(key, &value)));
        let log = self.folder.path().join(format!("{id}.log"));
        Node { command, address, admin, log, process: None }
    }

    /// Starts one more member and waits until it is ready.
    pub async fn add(&mut self, program: &Path, role: &str, set: &[(&str, &str)]) -> anyhow::Result<()> {
        let id = format!("{role}-{}", self.ids(role).len() + 1);
        let node = self.node(program, role, &id, set);
        self.nodes.insert(id.clone(), node);
        self.launch(&id)?;
        self.until_ready(&id).await
    }

    /// Moves a worker behind a cable of its own, which it starts again on.
    pub async fn isolate(&mut self, id: &str, cable: &mut Cable) -> anyhow::Result<()> {
        self.terminate(id).await?;
        let mut endpoints = Vec::new();
        for endpoint in self.etcd.endpoints() {
            let here = endpoint.trim_start_matches("http://").parse()?;
            endpoints.push(format!("http://{}", cable.forward(here).await?));
        }
        let node = self.node_mut(id)?;
        node.address.set_ip(cable.inside.into());
        node.admin.set_ip(cable.inside.into());
        node.command.splice(0..0, cable.wrapper());
        for (key, value) in [
            ("coordination.etcd.endpoints", endpoints.join(",")),
            ("worker.grpc.listen", node.address.to_string()),
            ("admin.listen", node.admin.to_string()),
        ] {
            node.command.extend(setting(key, &value));
        }
        self.launch(id)?;
        self.until_ready(id).await
    }

    /// Ids that begin with `role`, ascending.
    pub fn ids(&self, role: &str) -> Vec<String> {
        self.nodes.keys().filter(|id| id.starts_with(role)).cloned().collect()
    }

    pub fn url(&self, id: &str) -> String {
        format!("http://{}", self.nodes[id].address)
    }

    /// Where a member's admin port listens.
    pub fn admin(&self, id: &str) -> SocketAddr {
        self.nodes[id].admin
    }

    /// An answer of a member's admin port to a POST.
    pub async fn post(&self, id: &str, path: &str, body: &str) -> anyhow::Result<String> {
        let request = format!(
            "POST {path} HTTP/1.0\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        exchange(self.nodes[id].admin, &request).await
    }

    /// The lines that a member has logged.
    pub fn log(&self, id: &str) -> anyhow::Result<String> {
        Ok(std::fs::read_to_string(&self.nodes[id].log)?)
    }

    pub fn pid(&self, id: &str) -> Option<u32> {
        self.nodes[id].process.as_ref().map(Child::id)
    }

    pub fn gateways(&self) -> anyhow::Result<Vec<RecommendServiceClient<Channel>>> {
        self.ids("gateway")
            .iter()
            .map(|id| Ok(RecommendServiceClient::new(channel(&self.url(id))?)))
            .collect()
    }

    pub fn registry(&self, id: &str) -> anyhow::Result<ModelRegistryClient<Channel>> {
        Ok(ModelRegistryClient::new(channel(&self.url(id))?))
    }

    /// `kill -9`.
    pub fn kill(&mut self, id: &str) -> anyhow::Result<()> {
        let mut process = self.node_mut(id)?.process.take().context("it runs")?;
        process.kill()?;
        process.wait()?;
        Ok(())
    }

    /// SIGSTOP: alive but silent.
    pub fn freeze(&self, id: &str) -> anyhow::Result<()> {
        self.signal(id, "STOP")
    }

    /// SIGCONT.
    pub fn thaw(&self, id: &str) -> anyhow::Result<()> {
        self.signal(id, "CONT")
    }

    /// SIGTERM, then waits until it has drained and ended by itself.
    pub async fn terminate(&mut self, id: &str) -> anyhow::Result<()> {
        self.signal(id, "TERM")?;
        let node = self.node_mut(id)?;
        let mut process = node.process.take().context("it runs")?;
        let ended = tokio::task::spawn_blocking(move || process.wait());
        let status = tokio::time::timeout(PATIENCE, ended).await.context("it ends")???;
        anyhow::ensure!(status.success(), "{id} ended with {status}");
        Ok(())
    }

    /// Starts a member that was killed or terminated, as it was.
    pub fn launch(&mut self, id: &str) -> anyhow::Result<()> {
        self.node_mut(id)?.start()
    }

    pub async fn until_ready(&mut self, id: &str) -> anyhow::Result<()> {
        let node = self.node_mut(id)?;
        let admin = node.admin;
        let what = format!("{id} is ready");
        let waited = eventually(&what, async || {
            http(admin, "/readyz").await.is_ok_and(|answer| answer.starts_with("HTTP/1.0 200"))
        });
        waited.await.with_context(|| tail(&self.nodes[id].log))
    }

    /// The text of a member's `/metrics`.
    pub async fn metrics(&self, id: &str) -> anyhow::Result<String> {
        http(self.nodes[id].admin, "/metrics").await
    }

    /// Registers, validates and promotes through the first registry, then waits until every gateway routes to it.
    pub async fn release(&self, packed: &[u8]) -> anyhow::Result<u64> {
        let mut client = self.registry("registry-1")?;
        let version = registry::register(&mut client, packed).await?.version;
        registry::validate(&mut client, version).await?;
        registry::promote(&mut client, version).await?;
        self.until_answering(version).await?;
        Ok(version)
    }

    /// Waits until every gateway answers in full, from all shards, by `version`.
    pub async fn until_answering(&self, version: u64) -> anyhow::Result<()> {
        for mut gateway in self.gateways()? {
            eventually("the gateways answer from the promoted version", async || {
                let answer = gateway.recommend(query("anything")).await;
                let quality = answer.ok().and_then(|answer| answer.into_inner().quality);
                quality.is_some_and(|quality| {
                    let whole = quality.coverage.as_ref().is_some_and(|c| c.shards_ok == c.shards_total);
                    quality.version == version && quality.rung() == pb::Rung::Full && whole
                })
            })
            .await?;
        }
        Ok(())
    }

    /// The registry that controls, as the first one that answers says.
    pub async fn controller(&self) -> anyhow::Result<String> {
        let mut leads = None;
        eventually("a registry controls", async || {
            for id in self.ids("registry") {
                let Ok(mut client) = self.registry(&id) else { continue };
                let Ok(answer) = client.get_fleet(pb::GetFleetRequest {}).await else { continue };
                leads = answer.into_inner().controllers.into_iter().next();
            }
            leads.is_some()
        })
        .await?;
        leads.context("a registry controls")
    }

    /// The workers that are ready, by shard of the newest version, as the first registry that answers says.
    pub async fn holders(&self) -> anyhow::Result<Vec<Vec<String>>> {
        for id in self.ids("registry") {
            let Ok(answer) = self.registry(&id)?.get_fleet(pb::GetFleetRequest {}).await else { continue };
            let replicas = answer.into_inner().replicas;
            let newest = replicas.iter().map(|replica| replica.version).max().unwrap_or_default();
            let mut shards = BTreeMap::<u32, Vec<String>>::new();
            for replica in replicas.into_iter().filter(|replica| replica.version == newest) {
                let ready = replica.state() == pb::ReplicaState::Ready;
                shards.entry(replica.shard).or_default().extend(ready.then_some(replica.worker));
            }
            return Ok(shards.into_values().collect());
        }
        anyhow::bail!("no registry answers")
    }

    fn signal(&self, id: &str, name: &str) -> anyhow::Result<()> {
        let pid = self.pid(id).with_context(|| format!("{id} does not run"))?;
        let done = Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status()?;
        anyhow::ensure!(done.success(), "kill -{name} of {id} failed");
        Ok(())
    }

    fn node_mut(&mut self, id: &str) -> anyhow::Result<&mut Node> {
        self.nodes.get_mut(id).with_context(|| format!("there is no {id}"))
    }
}

impl Node {
    fn start(&mut self) -> anyhow::Result<()> {
        let log = std::fs::File::options().create(true).append(true).open(&self.log)?;
        let process = Command::new(&self.command[0])
            .args(&self.command[1..])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("start {}", self.command[0]))?;
        self.process = Some(process);
        Ok(())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let killed = process.kill().and_then(|()| process.wait().map(|_| ()));
            if let Err(error) = killed {
                eprintln!("{} was not ended: {error}", process.id());
            }
        }
    }
}

impl Drop for ProcessFleet {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for (id, node) in &self.nodes {
                eprintln!("--- {id}\n{}", tail(&node.log));
            }
        }
    }
}

/// The last warnings and errors of a log, or its last lines when there are none.
fn tail(log: &Path) -> String {
    const LINES: usize = 12;
    let Ok(file) = std::fs::File::open(log) else { return "no log".to_owned() };
    let lines: Vec<String> = BufReader::new(file).lines().map_while(Result::ok).collect();
    let is_loud =
        |line: &&String| line.contains("WARN") || line.contains("ERROR") || line.contains("endcap:");
    let loud: Vec<&String> = lines.iter().filter(is_loud).collect();
    let shown: Vec<&String> = if loud.is_empty() { lines.iter().collect() } else { loud };
    let shown = shown.iter().rev().take(LINES).rev().map(|line| line.as_str());
    shown.collect::<Vec<_>>().join("\n")
}

/// A setting on the command line; of two of one key the later one counts.
fn setting(key: &str, value: &str) -> [String; 2] {
    ["--set".to_owned(), format!("{key}={value}")]
}

/// A whole answer, as text. HTTP/1.0, so that nobody sends it in chunks.
pub(crate) async fn http(address: SocketAddr, path: &str) -> anyhow::Result<String> {
    exchange(address, &format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n")).await
}

async fn exchange(address: SocketAddr, request: &str) -> anyhow::Result<String> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let exchange = async {
        let mut stream = tokio::net::TcpStream::connect(address).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        anyhow::Ok(text)
    };
    tokio::time::timeout(Duration::from_secs(5), exchange).await?
}
