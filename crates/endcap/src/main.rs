//! The `endcap` program.

fn main() -> std::process::ExitCode {
    endcap::program()
}
