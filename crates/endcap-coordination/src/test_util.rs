//! A real etcd for tests: processes of their own on free ports, gone with the value.
#![expect(clippy::unwrap_used, reason = "a test's equipment fails by panicking")]

use std::{
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use tempfile::TempDir;

use crate::{Coordinator as _, EtcdCoordinator, EtcdOptions, EtcdTls};

/// A member that has not answered by then has failed to start.
const PATIENCE: Duration = Duration::from_secs(60);

/// An etcd cluster of one or more members.
#[derive(Debug)]
pub struct EtcdCluster {
    members: Vec<Member>,
    tls: Option<EtcdTls>,
    dir: TempDir,
}

#[derive(Debug)]
struct Member {
    args: Vec<String>,
    endpoint: String,
    data: PathBuf,
    log: PathBuf,
    process: Option<Child>,
}

impl EtcdCluster {
    /// Starts `members` processes and waits until they have a leader.
    pub async fn start(members: usize) -> Self {
        Self::start_with(members, None).await
    }

    /// The same behind TLS, where clients must show a certificate. The files are those of the one member.
    pub async fn start_with(members: usize, tls: Option<(EtcdTls, PathBuf, PathBuf)>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let ports: Vec<(u16, u16)> = (0..members).map(|_| (free_port(), free_port())).collect();
        let peers: Vec<String> =
            ports.iter().enumerate().map(|(i, (_, peer))| format!("m{i}=http://127.0.0.1:{peer}")).collect();
        let members = ports
            .iter()
            .enumerate()
            .map(|(i, (client, peer))| {
                let endpoint = format!("{scheme}://127.0.0.1:{client}");
                let data = dir.path().join(format!("m{i}"));
                let mut args: Vec<String> = [
                    ("name", format!("m{i}")),
                    ("data-dir", data.display().to_string()),
                    ("listen-client-urls", endpoint.clone()),
                    ("advertise-client-urls", endpoint.clone()),
                    ("listen-peer-urls", format!("http://127.0.0.1:{peer}")),
                    ("initial-advertise-peer-urls", format!("http://127.0.0.1:{peer}")),
                    ("initial-cluster", peers.join(",")),
                    ("heartbeat-interval", "50".to_owned()),
                    ("election-timeout", "500".to_owned()),
                    ("logger", "zap".to_owned()),
                ]
                .into_iter()
                .map(|(name, value)| format!("--{name}={value}"))
                .collect();
                if let Some((tls, certificate, key)) = &tls {
                    args.push("--client-cert-auth".into());
                    args.push(format!("--trusted-ca-file={}", tls.ca.display()));
                    args.push(format!("--cert-file={}", certificate.display()));
                    args.push(format!("--key-file={}", key.display()));
                }
                let log = dir.path().join(format!("m{i}.log"));
                Member { args, endpoint, data, log, process: None }
            })
            .collect();
        let mut cluster = Self { members, tls: tls.map(|(tls, ..)| tls), dir };
        for member in &mut cluster.members {
            member.start();
        }
        cluster.wait_until_it_answers().await;
        cluster
    }

    pub fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(|member| member.endpoint.clone()).collect()
    }

    pub fn options(&self) -> EtcdOptions {
        EtcdOptions {
            endpoints: self.endpoints(),
            user: None,
            tls: self.tls.clone(),
            timeout: Duration::from_secs(2),
        }
    }

    pub fn coordinator(&self) -> EtcdCoordinator {
        EtcdCoordinator::new(self.options()).unwrap()
    }

    /// `kill -9` of one member.
    pub fn kill(&mut self, member: usize) {
        self.members[member].kill();
    }

    /// Starts a member that was killed, on the data it has.
    pub fn restart(&mut self, member: usize) {
        self.members[member].start();
    }

    /// Kills every member.
    pub fn stop(&mut self) {
        for member in &mut self.members {
            member.kill();
        }
    }

    /// Starts every member that is not running and waits until the cluster answers.
    pub async fn resume(&mut self) {
        for member in self.members.iter_mut().filter(|member| member.process.is_none()) {
            member.start();
        }
        self.wait_until_it_answers().await;
    }

    /// Throws all data away; only while stopped.
    pub fn wipe(&mut self) {
        for member in &self.members {
            assert!(member.process.is_none(), "a running member's data cannot be wiped");
            std::fs::remove_dir_all(&member.data).unwrap();
        }
    }

    /// Copies all data; only while stopped.
    pub fn backup(&self) -> TempDir {
        let backup = tempfile::tempdir().unwrap();
        for member in &self.members {
            assert!(member.process.is_none(), "a running member's data cannot be copied");
            copy_folder(&member.data, &backup.path().join(member.data.file_name().unwrap()));
        }
        backup
    }

    /// Puts a backup in the place of the data; only while stopped.
    pub fn restore(&mut self, backup: &TempDir) {
        self.wipe();
        for member in &self.members {
            copy_folder(&backup.path().join(member.data.file_name().unwrap()), &member.data);
        }
    }

    /// The member that leads now, as etcdctl tells it.
    pub fn leader(&self) -> usize {
        let until = std::time::Instant::now() + PATIENCE;
        while std::time::Instant::now() < until {
            for (i, member) in self.members.iter().enumerate().filter(|(_, m)| m.process.is_some()) {
                let answer = Command::new(tool("etcdctl"))
                    .env("ETCDCTL_API", "3")
                    .args(["--endpoints", &member.endpoint, "endpoint", "status", "-w", "json"])
                    .output()
                    .unwrap();
                let status: serde_json::Value = serde_json::from_slice(&answer.stdout).unwrap_or_default();
                let status = &status[0]["Status"];
                if !status["leader"].is_null() && status["leader"] == status["header"]["member_id"] {
                    return i;
                }
            }
            std::thread::yield_now();
        }
        panic!("no member leads after {PATIENCE:?}; logs are in {}", self.dir.path().display());
    }

    /// Runs etcdctl against the cluster and gives what it printed.
    pub fn etcdctl(&self, args: &[&str]) -> String {
        let endpoints = self.endpoints().join(",");
        let done = Command::new(tool("etcdctl"))
            .env("ETCDCTL_API", "3")
            .args(["--endpoints", &endpoints])
            .args(args)
            .output()
            .unwrap();
        let (out, err) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
        assert!(done.status.success(), "etcdctl {args:?}: {out}{err}");
        out.into_owned()
    }

    async fn wait_until_it_answers(&self) {
        let coordinator = EtcdCoordinator::new(self.options()).unwrap();
        let answers = async {
            while let Err(error) = coordinator.get("/").await {
                tracing::debug!(%error, "etcd does not answer yet");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        if tokio::time::timeout(PATIENCE, answers).await.is_err() {
            let log = std::fs::read_to_string(&self.members[0].log).unwrap_or_default();
            panic!("etcd does not answer:\n{log}");
        }
    }
}

impl Member {
    fn start(&mut self) {
        let log = std::fs::File::options().create(true).append(true).open(&self.log).unwrap();
        let process = Command::new(tool("etcd"))
            .args(&self.args)
            .stdout(Stdio::null())
            .stderr(log)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        self.process = Some(process);
    }

    fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A port that nothing listens on, below those that the system gives to outgoing connections: it can be bound again
/// after its listener was restarted.
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    const FIRST: u32 = 15_000;
    const COUNT: u32 = 17_000;
    // Processes that look for ports at the same time begin at different places.
    let offset = std::process::id().wrapping_mul(131);
    let free = std::iter::repeat_with(|| {
        let next = offset.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % COUNT + FIRST;
        u16::try_from(next).unwrap()
    });
    free.take(COUNT as usize).find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()).unwrap()
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let (entry, to) = (entry.as_ref().unwrap().path(), to.join(entry.as_ref().unwrap().file_name()));
        if entry.is_dir() {
            copy_folder(&entry, &to);
        } else {
            std::fs::copy(&entry, &to).unwrap();
        }
    }
}

fn tool(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.tools/etcd").join(name);
    assert!(path.exists(), "{} is missing: `make setup-tests` fetches it", path.display());
    path
}
