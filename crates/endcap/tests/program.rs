//! The program as its users run it: real processes, their output, their exit codes, their signals.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::{
    io::{BufRead as _, BufReader, Read as _},
    path::Path,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

fn endcap(home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_endcap"));
    command
        .env("HOME", home)
        .env_remove("ORT_DISABLE_TELEMETRY")
        .env("ORT_DYLIB_PATH", library())
        .env("USER", "tester")
        .current_dir(home)
        .stdin(Stdio::null());
    command
}

fn library() -> std::path::PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    std::env::var_os("ORT_DYLIB_PATH")
        .map_or_else(|| root.join(".tools/onnxruntime/libonnxruntime.so"), Into::into)
}

fn text(output: &Output) -> (String, String) {
    (String::from_utf8_lossy(&output.stdout).into(), String::from_utf8_lossy(&output.stderr).into())
}

#[test]
fn the_demo_answers_and_ends_by_itself_and_leaves_nothing_at_home() {
    let home = tempfile::tempdir().unwrap();
    let output = endcap(home.path()).args(["demo", "--once"]).output().unwrap();
    let (stdout, stderr) = text(&output);
    assert!(output.status.success(), "{stdout}\n{stderr}");
    for expected in ["FULL", "search-ranker version 1 (stable)", "4 of 4 shards", "score", "brand"] {
        assert!(stdout.contains(expected), "no {expected:?} in:\n{stdout}\n{stderr}");
    }
    // ONNX Runtime's telemetry would leave a device id below ~/.cache; nothing else belongs here either.
    let left: Vec<_> = std::fs::read_dir(home.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(left.is_empty(), "left behind: {left:?}");
}

/// A `dev` fleet as a process, killed when dropped.
struct Dev {
    child: Child,
    gateway: String,
    registry: String,
    feature_cache: String,
}

impl Dev {
    fn start(home: &Path, extra: &[&str]) -> Self {
        let mut child = endcap(home)
            .args(["dev", "--data-dir", "state"])
            .args(["--set", "gateway.grpc.listen=127.0.0.1:0", "--set", "registry.grpc.listen=127.0.0.1:0"])
            .args(["--set", "feature_cache.grpc.listen=127.0.0.1:0"])
            .args(["--set", "admin.listen=127.0.0.1:0"])
            .args(extra)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut first = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut first).unwrap();
        let address = |role: &str| {
            let (_, rest) = first.split_once(role).unwrap_or_else(|| panic!("no {role} in {first:?}"));
            rest.split_whitespace().next().unwrap().to_owned()
        };
        Self {
            gateway: address("gateway "),
            registry: address("registry "),
            feature_cache: address("feature-cache "),
            child,
        }
    }

    fn run(&self, home: &Path, arguments: &[&str]) -> Output {
        endcap(home)
            .args(["--registry", &self.registry, "--gateway", &self.gateway])
            .args(arguments)
            .output()
            .unwrap()
    }

    fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([name, &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        let _already_gone = self.child.kill();
        let _already_gone = self.child.wait();
    }
}

#[test]
fn a_killed_fleet_starts_again_with_its_versions_aliases_and_history() {
    let home = tempfile::tempdir().unwrap();
    let bundle = home.path().join("demo.endcap");
    std::fs::write(&bundle, endcap::DEMO_BUNDLE).unwrap();
    let mut dev = Dev::start(home.path(), &[]);
    let registered =
        dev.run(home.path(), &["model", "register", "demo.endcap", "--promote", "--reason", "first"]);
    assert!(registered.status.success(), "{:?}", text(&registered));
    // A script that runs twice has not failed, and makes no history.
    let again = dev.run(home.path(), &["model", "register", "demo.endcap", "--promote"]);
    assert!(again.status.success() && text(&again).0.contains("stable=1 (revision 1)"), "{:?}", text(&again));
    let show = |dev: &Dev| {
        ["list", "history search-ranker"]
            .map(|verb| {
                let arguments: Vec<&str> =
                    ["-o", "json", "model"].into_iter().chain(verb.split(' ')).collect();
                let output = dev.run(home.path(), &arguments);
                assert!(output.status.success(), "{verb}: {:?}", text(&output));
                text(&output).0
            })
            .join("\n")
    };
    let before = show(&dev);
    assert!(before.contains("\"promoted\"") && before.contains("\"stable\""), "{before}");
    dev.signal("-KILL");
    dev.child.wait().unwrap();

    let dev = Dev::start(home.path(), &[]);
    assert_eq!(show(&dev), before);
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let output = dev.run(home.path(), &["-o", "json", "recommend", "kettle", "--deadline", "5s"]);
        if text(&output).0.contains("\"FULL\"") {
            break;
        }
        assert!(Instant::now() < deadline, "no full answer after a restart: {:?}", text(&output));
    }
    let status = dev.run(home.path(), &["status"]);
    assert!(text(&status).0.contains("ready"), "{:?}", text(&status));
}

#[test]
fn a_version_shows_what_it_was_made_from_and_each_query_its_figure() {
    let home = tempfile::tempdir().unwrap();
    let (bundle, labels) = (home.path().join("demo.endcap"), home.path().join("labels.jsonl"));
    std::fs::write(bundle, endcap::DEMO_BUNDLE).unwrap();
    std::fs::write(
        labels,
        concat!(
            r#"{"query_id": "a", "query": "grey pine bar stool", "gains": {"S004695": 1.0}}"#,
            "\n",
            r#"{"query_id": "b", "query": "red rug", "gains": {"nothing": 1.0}}"#,
        ),
    )
    .unwrap();
    let dev = Dev::start(home.path(), &["--bundle", "demo.endcap"]);
    let json = |arguments: &str| {
        let arguments: Vec<&str> = ["-o", "json"].into_iter().chain(arguments.split(' ')).collect();
        let output = dev.run(home.path(), &arguments);
        assert!(output.status.success(), "{:?}", text(&output));
        serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap()
    };
    let deadline = Instant::now() + Duration::from_secs(60);
    while json("model list")[0]["rollout"]["aliases"]["stable"] != 1 {
        assert!(Instant::now() < deadline, "the bundle was not promoted");
    }
    let listed = json("model list")[0]["versions"][0].clone();
    assert_eq!(json("model show search-ranker 1"), listed);
    let shown = text(&dev.run(home.path(), &["model", "show", "search-ranker", "1"])).0;
    for (name, value) in listed["lineage"].as_object().unwrap() {
        assert!(shown.contains(name) && shown.contains(value.as_str().unwrap()), "no {name} in:\n{shown}");
    }
    let unknown = dev.run(home.path(), &["model", "show", "search-ranker", "7"]);
    assert!(text(&unknown).1.contains("has no version 7; it has [1]"), "{:?}", text(&unknown));

    let report = json("evaluate --labels labels.jsonl");
    assert_eq!(report["queries"], serde_json::json!({"a": 1.0, "b": 0.0}));
    assert_eq!(report["metrics"]["ndcg@10"], 0.5);
    assert!(report["latency_ms"]["p50"].as_f64() <= report["latency_ms"]["p95"].as_f64());
}

#[test]
fn features_are_written_shown_and_kept_apart_by_entity() {
    let home = tempfile::tempdir().unwrap();
    let dev = Dev::start(home.path(), &[]);
    let run = |arguments: &[&str]| {
        let output = endcap(home.path())
            .env("ENDCAP_FEATURE_CACHE_URL", &dev.feature_cache)
            .args(arguments)
            .output()
            .unwrap();
        (output.status.success(), text(&output).0, text(&output).1)
    };
    let (written, said, error) =
        run(&["features", "put", "user/ada", "user.affinity=0.5", "user.style=1,0,2"]);
    assert!(written && said == "user/ada: 2 written\n", "{said}{error}");
    assert!(run(&["features", "put", "user/ada", "user.affinity=0.25", "--ttl", "1h"]).0);
    let (read, said, error) = run(&["features", "get", "user/ada", "session/x"]);
    assert!(read, "{error}");
    for expected in
        ["user.affinity", "0.25", "user.style", "1, 0, 2", "59m", "not known, or expired: session/x"]
    {
        assert!(said.contains(expected), "no {expected:?} in:\n{said}");
    }
    let (_, said, _) = run(&["-o", "json", "features", "get", "user/ada", "user/bob"]);
    let found: serde_json::Value = serde_json::from_str(&said).unwrap();
    let features = serde_json::json!({"user.affinity": [0.25], "user.style": [1, 0, 2]});
    assert_eq!((&found[0]["features"], &found[1]["features"]), (&features, &serde_json::Value::Null));
    // What the cache itself refuses is told by field.
    let (refused, _, error) = run(&["features", "put", "user/ada", "session.clicks=1"]);
    assert!(!refused && error.contains("is not a user.* feature"), "{error}");
    assert!(run(&["features", "put", "user/ada", "user.a=1", "user.a=2"]).2.contains("named twice"));
    let nobody = run(&["features", "get", "user/ada", "--feature-cache", "http://127.0.0.1:9"]).2;
    assert!(nobody.contains("asked http://127.0.0.1:9"), "{nobody}");
}

#[test]
fn sigterm_drains_and_ends_within_five_seconds() {
    let home = tempfile::tempdir().unwrap();
    let mut dev = Dev::start(home.path(), &[]);
    let asked = Instant::now();
    dev.signal("-TERM");
    let status = dev.child.wait().unwrap();
    assert!(asked.elapsed() < Duration::from_secs(5), "took {:?}", asked.elapsed());
    let mut rest = String::new();
    dev.child.stdout.take().unwrap().read_to_string(&mut rest).unwrap();
    assert!(status.success(), "{status}: {rest}");
}

#[test]
fn wrong_settings_are_listed_at_once_and_exit_64() {
    let home = tempfile::tempdir().unwrap();
    let output = endcap(home.path())
        .args(["gateway", "--set", "gateway.default_deadline=soon", "--set", "gateway.max_limit=many"])
        .env("ENDCAP_GATEWAY__NO_SUCH_KEY", "1")
        .output()
        .unwrap();
    let (_, stderr) = text(&output);
    assert_eq!(output.status.code(), Some(64), "{stderr}");
    for expected in ["gateway.default_deadline", "soon", "gateway.max_limit", "many", "no_such_key"] {
        assert!(stderr.contains(expected), "no {expected:?} in:\n{stderr}");
    }
}

#[test]
fn a_store_that_is_not_encrypted_is_allowed_by_name_alone() {
    let home = tempfile::tempdir().unwrap();
    let check = |set: &[&str]| {
        let set = set.iter().flat_map(|setting| ["--set", setting]);
        endcap(home.path()).args(["registry", "--check-config"]).args(set).output().unwrap()
    };
    let (bucket, plain) = ("store.url=s3://bucket", "store.s3.endpoint=http://minio:9000");
    let refused = check(&[bucket, plain]);
    let (_, stderr) = text(&refused);
    assert_eq!(refused.status.code(), Some(64), "{stderr}");
    assert!(stderr.contains("store.s3.endpoint") && stderr.contains("store.s3.allow_http"), "{stderr}");
    assert!(check(&[bucket, plain, "store.s3.allow_http=true"]).status.success());
}

#[test]
fn the_shipped_settings_are_valid_for_every_role() {
    let home = tempfile::tempdir().unwrap();
    for role in ["gateway", "worker", "registry", "feature-cache"] {
        let output = endcap(home.path()).args([role, "--check-config"]).output().unwrap();
        assert!(output.status.success(), "{role}: {:?}", text(&output));
    }
}

#[test]
fn a_missing_library_is_a_readable_error_with_the_command_that_mends_it() {
    let home = tempfile::tempdir().unwrap();
    let output = endcap(home.path())
        .args(["demo", "--once"])
        .env("ORT_DYLIB_PATH", "/nowhere/lib.so")
        .output()
        .unwrap();
    let (_, stderr) = text(&output);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("/nowhere/lib.so") && stderr.contains("make setup"), "{stderr}");
}

#[test]
fn ready_tells_a_health_check_what_the_process_waits_for() {
    let home = tempfile::tempdir().unwrap();
    let admin = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = admin.local_addr().unwrap().to_string();
    let ask = || endcap(home.path()).arg("ready").env("ENDCAP_ADMIN__LISTEN", &address).output().unwrap();
    let answers = std::thread::spawn(move || {
        for answer in
            ["200 OK\r\n\r\nready\n", "503 Service Unavailable\r\n\r\nwaiting for: routing snapshot\n"]
        {
            let (mut stream, _) = admin.accept().unwrap();
            let mut request = [0; 64];
            let read = stream.read(&mut request).unwrap();
            assert!(request[..read].starts_with(b"GET /readyz "));
            std::io::Write::write_all(&mut stream, format!("HTTP/1.0 {answer}").as_bytes()).unwrap();
        }
    });
    let ready = ask();
    assert_eq!((ready.status.code(), text(&ready).0.as_str()), (Some(0), "ready\n"), "{ready:?}");
    let waits = ask();
    assert!(waits.status.code() == Some(1) && text(&waits).1.contains("routing snapshot"), "{waits:?}");
    answers.join().unwrap();
    let nobody = ask();
    assert!(nobody.status.code() == Some(1) && text(&nobody).1.contains(&address), "{nobody:?}");
}

#[test]
fn the_version_names_the_commit_or_says_that_it_does_not_know_it() {
    let home = tempfile::tempdir().unwrap();
    let output = endcap(home.path()).arg("--version").output().unwrap();
    let commit = option_env!("ENDCAP_COMMIT").filter(|commit| !commit.is_empty()).unwrap_or("unknown");
    let expected = format!("endcap {} ({commit})\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(text(&output).0, expected);
}

#[test]
fn the_doctor_finds_a_sound_machine_sound() {
    let home = tempfile::tempdir().unwrap();
    let output = endcap(home.path()).args(["-o", "json", "doctor"]).output().unwrap();
    assert!(output.status.success(), "{:?}", text(&output));
}

#[test]
fn a_dead_registry_is_told_with_what_to_do() {
    let home = tempfile::tempdir().unwrap();
    let output =
        endcap(home.path()).args(["--registry", "http://127.0.0.1:1", "model", "list"]).output().unwrap();
    let (_, stderr) = text(&output);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr.contains("http://127.0.0.1:1") && stderr.contains("endcap demo"), "{stderr}");
}

#[test]
fn completions_are_printed_for_shells() {
    let home = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish"] {
        let output = endcap(home.path()).args(["completions", shell]).output().unwrap();
        assert!(text(&output).0.contains("recommend"), "{shell}");
    }
}

#[test]
fn the_bench_verb_measures_a_running_fleet_and_writes_what_it_saw() {
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("demo.endcap"), endcap::DEMO_BUNDLE).unwrap();
    std::fs::write(home.path().join("log.txt"), "enamel kettle\nred mug\n").unwrap();
    let dev = Dev::start(home.path(), &[]);
    let registered = dev.run(home.path(), &["model", "register", "demo.endcap", "--promote"]);
    assert!(registered.status.success(), "{:?}", text(&registered));

    let load = ["bench", "--ramp", "10:30:20", "--duration", "500ms", "--deadline", "5s", "--seed", "3"];
    let files = ["--queries", "log.txt", "--json", "bench.json", "--svg", "bench.svg"];
    let output = dev.run(home.path(), &[load.as_slice(), &files].concat());
    let (table, _) = text(&output);
    assert!(output.status.success(), "{:?}", text(&output));
    for expected in ["offered/s", "not sent", "p99.9", "from the intended send", "2 queries, 10 items"] {
        assert!(table.contains(expected), "no {expected:?} in:\n{table}");
    }
    let json: serde_json::Value =
        serde_json::from_slice(&std::fs::read(home.path().join("bench.json")).unwrap()).unwrap();
    let offered: Vec<u64> =
        json["steps"].as_array().unwrap().iter().map(|step| step["offered"].as_u64().unwrap()).collect();
    assert_eq!(offered, [5, 15], "{json}");
    assert_eq!(json["steps"][1]["answered"], 15, "{json}");
    let svg = std::fs::read_to_string(home.path().join("bench.svg")).unwrap();
    assert!(svg.starts_with("<svg") && svg.contains("<circle"), "{svg}");

    let candidates = ["-o", "json", "bench", "--closed", "--max-outstanding", "2", "--candidates", "5"];
    let output =
        dev.run(home.path(), &[candidates.as_slice(), &["--duration", "300ms", "--deadline", "5s"]].concat());
    let report: serde_json::Value = serde_json::from_str(&text(&output).0).unwrap();
    assert!(report["steps"][0]["rate_answered"].as_f64().unwrap() > 0.0, "{report}");
    assert_eq!(report["setup"]["loop"], "closed");
}

/// `make bench` in the small: every row of its report has a value, or the reason why it has none.
#[test]
fn the_comparison_reports_a_value_or_a_reason_for_everybody() {
    let home = tempfile::tempdir().unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let report = home.path().join("report.md");
    let sizes = [
        "--rounds",
        "1",
        "--seconds",
        "0.3",
        "--items",
        "300",
        "--table-rows",
        "50",
        "--rows",
        "1",
        "--peers",
    ];
    let output = Command::new(root.join(".tools/pipelines/bin/python"))
        .arg(root.join("deploy/bench/compare.py"))
        .args(sizes)
        .arg("--programs")
        .arg(Path::new(env!("CARGO_BIN_EXE_endcap")).parent().unwrap())
        .arg("--report")
        .arg(&report)
        .env("ORT_DYLIB_PATH", library())
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .unwrap();
    assert!(output.status.success(), "{:?}", text(&output));
    let text = std::fs::read_to_string(&report).unwrap();
    for named in [
        "commit:",
        "processor:",
        "bare ONNX Runtime loop",
        "ModelInfer",
        "Score on a gateway's stream",
        "Recommend",
        "KServe SDK",
        "MLServer",
    ] {
        assert!(text.contains(named), "no {named:?} in:\n{text}");
    }
    let rows = text.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| |"));
    for row in rows.filter(|row| !row.starts_with("| part |")) {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        assert!(cells.len() >= 2 && cells.iter().all(|cell| !cell.is_empty()), "{row}");
    }
    let lanes =
        ["| Endcap gateway beside its clients", "| Endcap gateway and worker", "| Endcap worker, Score"];
    for lane in lanes {
        let row = text.lines().find(|line| line.starts_with(lane)).unwrap();
        assert!(row.contains("/s"), "{lane} was measured: {text}");
    }
}
