//! The program around the commands: environment, runtime, exit codes.

use std::process::ExitCode;

use clap::Parser as _;
use endcap_service::config::ConfigProblems;

use crate::cli::Cli;

const FAILED: u8 = 1;
/// `EX_USAGE`: the settings must be mended before a restart can help.
const WRONG_SETTINGS: u8 = 64;

/// The whole program, from its arguments to its exit code: 0 done, 1 failed, 2 wrong usage, 64 wrong settings.
pub fn program() -> ExitCode {
    // ONNX Runtime reads this when its library is loaded; its own switch comes too late.
    #[expect(unsafe_code, reason = "no other thread exists yet")]
    #[expect(clippy::disallowed_methods, reason = "no other thread exists yet")]
    unsafe {
        std::env::set_var("ORT_DISABLE_TELEMETRY", "1");
    }
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("endcap: cannot start the async runtime: {error}");
            return ExitCode::from(FAILED);
        }
    };
    match runtime.block_on(crate::run(cli)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<ConfigProblems>() => {
            eprintln!("endcap: {error}");
            ExitCode::from(WRONG_SETTINGS)
        }
        Err(error) => {
            eprintln!("endcap: {error:#}");
            ExitCode::from(FAILED)
        }
    }
}
