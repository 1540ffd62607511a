//! Members that have never reached their coordinator, as real processes.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{Receiver, channel},
    time::{Duration, Instant},
};

use serde_json::Value;

/// Far longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);

struct Lonely {
    child: Child,
    log: Receiver<Value>,
}

impl Lonely {
    fn start(role: &str, etcd: SocketAddr, home: &Path) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let endpoints = format!("coordination.etcd.endpoints=http://{etcd}");
        let listen = format!("{role}.grpc.listen=127.0.0.1:0");
        let set = ["coordination.kind=etcd", "admin.listen=127.0.0.1:0", "telemetry.format=json"];
        let set = set.into_iter().chain([endpoints.as_str(), listen.as_str()]);
        let mut child = Command::new(env!("CARGO_BIN_EXE_endcap"))
            .arg(role)
            .args(set.flat_map(|setting| ["--set", setting]))
            .env("ORT_DYLIB_PATH", root.join(".tools/onnxruntime/libonnxruntime.so"))
            .current_dir(home)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (lines, log) = channel();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                let _nobody_listens = lines.send(serde_json::from_str(&line).unwrap_or_default());
            }
        });
        Self { child, log }
    }

    /// Reads the log up to what is looked for, and gives the warnings on the way, too.
    fn until<T>(&self, found: impl Fn(&Value) -> Option<T>) -> (T, Vec<Value>) {
        let (deadline, mut warnings) = (Instant::now() + PATIENCE, Vec::new());
        loop {
            let line = self.log.recv_timeout(deadline.saturating_duration_since(Instant::now())).unwrap();
            if line["level"] == "WARN" {
                warnings.push(line.clone());
            }
            if let Some(found) = found(&line) {
                return (found, warnings);
            }
        }
    }

    /// Its end after SIGTERM.
    fn terminate(&mut self) -> ExitStatus {
        assert!(
            Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status().unwrap().success()
        );
        // The log ends with the process.
        while self.log.recv_timeout(PATIENCE).is_ok() {}
        let ended = self.child.try_wait().unwrap();
        ended.unwrap_or_else(|| self.child.wait().unwrap())
    }
}

impl Drop for Lonely {
    fn drop(&mut self) {
        let _already_gone = self.child.kill();
        let _already_gone = self.child.wait();
    }
}

fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// Waits for an etcd that is not there: answers probes, complains seldom and fully, and ends at once when told to.
fn waits(role: &str) {
    let home = tempfile::tempdir().unwrap();
    let nothing = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut lonely = Lonely::start(role, nothing, home.path());
    let admin = |line: &Value| {
        let address = (line["fields"]["message"] == "admin listens").then(|| &line["fields"]["address"]);
        address?.as_str()?.parse::<SocketAddr>().ok()
    };
    let (admin, _) = lonely.until(admin);
    assert!(get(admin, "/livez").starts_with("HTTP/1.1 200"), "{role}");
    let ready = get(admin, "/readyz");
    assert!(
        ready.starts_with("HTTP/1.1 503") && ready.contains("waiting for: coordinator"),
        "{role}: {ready}"
    );

    let waited = |line: &Value| {
        let waited = line["fields"]["waited"].as_str()?;
        (waited != "0ns").then_some(())
    };
    let ((), warnings) = lonely.until(waited);
    let text = warnings.last().unwrap()["fields"].to_string();
    assert!(text.contains(&format!("http://{nothing}")), "{role}: {text}");
    // In a second: one of the session, two of what is waited for, two of the election, one of the registration.
    assert!(warnings.len() <= 6, "{role}: {warnings:#?}");

    let status = lonely.terminate();
    assert_eq!(status.code(), Some(0), "{role}: {status}");
}

#[test]
fn a_gateway_that_waits_for_its_coordinator_answers_probes_and_ends_when_told_to() {
    waits("gateway");
}

#[test]
fn a_worker_that_waits_for_its_coordinator_answers_probes_and_ends_when_told_to() {
    waits("worker");
}

#[test]
fn a_registry_that_waits_for_its_coordinator_answers_probes_and_ends_when_told_to() {
    waits("registry");
}
