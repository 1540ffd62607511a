//! `make fleet` and `make fleet-down`, as an operator runs them.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

use endcap_coordination::test_util::free_port;

/// Ports that the script uses, from its first one.
const PORTS: u16 = 110;

struct Script {
    folder: PathBuf,
    base: u16,
}

impl Script {
    fn run(&self, verb: &str, set: &[(&str, &str)]) -> Output {
        Command::new("deploy/fleet/fleet.sh")
            .arg(verb)
            .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap())
            .env("ENDCAP", env!("CARGO_BIN_EXE_endcap-node"))
            .env("DIR", &self.folder)
            .env("BASE_PORT", self.base.to_string())
            .envs(set.iter().copied())
            .output()
            .unwrap()
    }

    fn pid(&self, id: &str) -> String {
        std::fs::read_to_string(self.folder.join(format!("pids/{id}.pid"))).unwrap().trim().to_owned()
    }

    fn endcap(&self, args: &[&str]) -> String {
        let url = |offset| format!("http://127.0.0.1:{}", self.base + offset);
        let answer = Command::new(env!("CARGO_BIN_EXE_endcap-node"))
            .args(["--gateway", &url(0), "--registry", &url(20)])
            .args(args)
            .output()
            .unwrap();
        assert!(answer.status.success(), "{}", String::from_utf8_lossy(&answer.stderr));
        String::from_utf8(answer.stdout).unwrap()
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        let _ended = self.run("down", &[("KEEP", "0")]);
    }
}

fn done(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    text
}

#[test]
fn a_fleet_goes_up_mends_itself_and_goes_down_without_a_trace() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().join("fleet");
    let script = Script { folder, base: free_port().min(u16::MAX - PORTS) };
    // A port that somebody else has is named, with what to do.
    let taken = std::net::TcpListener::bind(("127.0.0.1", script.base + 30)).unwrap();
    let refused = script.run("up", &[]);
    assert!(!refused.status.success());
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(text.contains(&format!("port {}", script.base + 30)) && text.contains("BASE_PORT"), "{text}");
    drop(taken);

    let text = done(&script.run("up", &[]));
    assert!(text.contains("stable=1") && text.contains("gateway-2"), "{text}");
    assert!(script.endcap(&["recommend", "red kettle"]).contains("FULL"));
    let killed = script.pid("worker-1");
    assert!(Command::new("kill").args(["-9", &killed]).status().unwrap().success());
    assert!(script.endcap(&["recommend", "red kettle"]).contains("4 of 4 shards"));
    let others = script.pid("worker-2");
    done(&script.run("up", &[]));
    assert_ne!(script.pid("worker-1"), killed);
    assert_eq!(script.pid("worker-2"), others, "what is up is left alone");
    let status = script.endcap(&["status"]);
    assert!(status.contains("worker worker-1") && status.contains("controls"), "{status}");

    let pids: Vec<String> = ["etcd-1", "registry-1", "worker-1", "gateway-2"].map(|id| script.pid(id)).into();
    done(&script.run("down", &[("KEEP", "0")]));
    for pid in pids {
        assert!(!Path::new("/proc").join(&pid).join("exe").exists(), "{pid} is still there");
    }
    assert!(!script.folder.exists());
}
