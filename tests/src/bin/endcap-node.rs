//! The `endcap` program, built beside the tests that start it as processes of their own.

fn main() -> std::process::ExitCode {
    endcap::program()
}
