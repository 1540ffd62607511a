//! The `endcap` program.

/// Of ONNX Runtime, too, since it takes the place of the C library's. A call allocates in many small pieces: with this one
/// a saturated core makes a tenth more of them.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    endcap::program()
}
