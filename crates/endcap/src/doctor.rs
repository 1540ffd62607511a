//! `endcap doctor`: what is missing on this machine, and the command that mends it.

use std::net::TcpListener;

use endcap_inference::Runtime;
use endcap_service::Settings;
use serde::Serialize;

use crate::{
    cli::{DoctorArgs, Global, Output},
    output, settings,
};

/// One thing that was looked at.
#[derive(Debug, Serialize)]
pub(crate) struct Finding {
    pub(crate) what: &'static str,
    pub(crate) ok: bool,
    /// What was found.
    pub(crate) found: String,
    /// The command or setting that mends it; empty when it is fine.
    pub(crate) mend: String,
}

/// Looks and prints; fails when something that a fleet needs is missing.
pub(crate) fn run(global: &Global, args: &DoctorArgs) -> anyhow::Result<()> {
    let findings = examine(args);
    let broken = findings.iter().filter(|finding| !finding.ok).count();
    if global.output == Output::Json {
        output::json(&findings)?;
    } else {
        let mut table = output::table(&["", "what", "found", "what mends it"], &[]);
        for finding in &findings {
            let mark = if finding.ok { "ok" } else { "MISSING" };
            table.add_row([mark, finding.what, &finding.found, &finding.mend]);
        }
        output::line(table);
    }
    anyhow::ensure!(broken == 0, "{broken} of {} checks failed", findings.len());
    Ok(())
}

/// Everything that a fleet on this machine needs.
pub(crate) fn examine(args: &DoctorArgs) -> Vec<Finding> {
    let env = settings::process_environment();
    let mut loaded = match Settings::load(args.config.config.as_deref(), &env, &args.config.set) {
        Ok(settings) => settings,
        Err(problems) => {
            return vec![fail("settings", problems.to_string(), "mend the settings named on the left")];
        }
    };
    let common = settings::Common::read(&mut loaded);
    let gateway = loaded.read::<std::net::SocketAddr>("gateway.grpc.listen");
    let registry = loaded.read::<std::net::SocketAddr>("registry.grpc.listen");
    let feature_cache = loaded.read::<std::net::SocketAddr>("feature_cache.grpc.listen");
    let common = match loaded.finish(common) {
        Ok(common) => common,
        Err(problems) => {
            return vec![fail("settings", problems.to_string(), "mend the settings named on the left")];
        }
    };
    let mut findings = vec![pass("settings", "every setting is valid".to_owned())];
    findings.push(match Runtime::load(&common.runtime) {
        Ok(runtime) => {
            pass("ONNX Runtime", format!("{} on {}", runtime.library().display(), runtime.device()))
        }
        Err(error) => fail("ONNX Runtime", error.to_string(), "make setup"),
    });
    let telemetry_off = std::env::var("ORT_DISABLE_TELEMETRY").is_ok_and(|value| value == "1");
    findings.push(if telemetry_off {
        pass("ONNX Runtime telemetry", "off".to_owned())
    } else {
        fail("ONNX Runtime telemetry", "not switched off".to_owned(), "export ORT_DISABLE_TELEMETRY=1")
    });
    findings.push(match tempfile::tempdir() {
        Ok(dir) => pass("temporary folder", dir.path().parent().unwrap_or(dir.path()).display().to_string()),
        Err(error) => {
            fail("temporary folder", error.to_string(), "export TMPDIR=<a folder you can write to>")
        }
    });
    let ports =
        [("gateway port", gateway), ("registry port", registry), ("feature-cache port", feature_cache)];
    for (what, address) in ports {
        let Some(address) = address else { continue };
        findings.push(match TcpListener::bind(address) {
            Ok(_) => pass(what, format!("{address} is free")),
            // A fleet that runs here already is no fault.
            Err(error) => pass(what, format!("{address}: {error} (a fleet may be running already)")),
        });
    }
    findings
}

fn pass(what: &'static str, found: String) -> Finding {
    Finding { what, ok: true, found, mend: String::new() }
}

fn fail(what: &'static str, found: String, mend: &str) -> Finding {
    Finding { what, ok: false, found, mend: mend.to_owned() }
}
