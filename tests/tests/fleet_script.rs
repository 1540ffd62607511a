//! `make fleet` and `make fleet-down`, as an operator runs them.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::{
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use endcap_coordination::test_util::free_port;

/// Ports that the script uses, from its first one.
const PORTS: u16 = 120;

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

fn script(folder: &Path) -> Script {
    Script { folder: folder.join("fleet"), base: free_port().min(u16::MAX - PORTS) }
}

#[test]
fn numbers_that_cannot_be_are_refused_with_one_line_each() {
    let folder = tempfile::tempdir().unwrap();
    let script = script(folder.path());
    for (name, value) in [
        ("BASE_PORT", "abc"),
        ("BASE_PORT", "99999999999999999999"),
        ("BASE_PORT", "65530"),
        ("WORKERS", "0"),
        ("WORKERS", "-1"),
        ("GATEWAYS", "a[$(touch injected)]"),
        ("REGISTRIES", "1.5"),
        ("KEEP", "yes"),
    ] {
        for verb in ["up", "down", "status"] {
            let refused = script.run(verb, &[(name, value)]);
            let text = String::from_utf8_lossy(&refused.stderr).into_owned();
            assert_eq!(refused.status.code(), Some(64), "{name}={value} {verb}: {text}");
            assert!(text.contains(name) && text.contains("expected"), "{name}={value}: {text}");
            assert_eq!(text.lines().count(), 1, "{text}");
        }
    }
    assert!(!script.folder.exists());
}

#[test]
fn a_pid_that_another_program_has_now_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let script = script(folder.path());
    // Its command line even names the member.
    let mut other = Command::new("sleep").args(["600"]).arg0("worker-1").spawn().unwrap();
    std::fs::create_dir_all(script.folder.join("pids")).unwrap();
    std::fs::write(script.folder.join("pids/worker-1.pid"), other.id().to_string()).unwrap();
    std::fs::write(script.folder.join("pids/worker-1.birth"), "12345 of-another-start").unwrap();
    let status = done(&script.run("status", &[]));
    let line = status.lines().find(|line| line.starts_with("worker-1 ")).unwrap();
    assert!(line.contains("down"), "{line}");
    done(&script.run("down", &[]));
    assert!(other.try_wait().unwrap().is_none(), "the other program was ended");
    other.kill().unwrap();
    other.wait().unwrap();
}

#[test]
fn a_fleet_goes_up_mends_itself_and_goes_down_without_a_trace() {
    let folder = tempfile::tempdir().unwrap();
    let script = script(folder.path());
    // A port that somebody else has is named, with what to do.
    let taken = std::net::TcpListener::bind(("127.0.0.1", script.base + 30)).unwrap();
    let refused = script.run("up", &[]);
    assert!(!refused.status.success());
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(text.contains(&format!("port {}", script.base + 30)) && text.contains("BASE_PORT"), "{text}");
    drop(taken);

    // Broken off between registering and promoting.
    let refused = script.run("up", &[("WORKERS", "1"), ("BUNDLE", "/nowhere.endcap")]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("/nowhere.endcap"));
    script.endcap(&["model", "register", "../deploy/demo/search-ranker.endcap"]);
    assert!(!script.endcap(&["-o", "json", "model", "list"]).contains("\"stable\""));

    // And with more workers than were up.
    let others = ["registry-1", "feature-cache-1", "worker-1", "gateway-2"].map(|id| script.pid(id));
    let text = done(&script.run("up", &[]));
    assert!(text.contains("stable=1") && text.contains("gateway-2"), "{text}");
    assert_eq!(["registry-1", "feature-cache-1", "worker-1", "gateway-2"].map(|id| script.pid(id)), others);
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
