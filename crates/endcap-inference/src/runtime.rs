//! ONNX Runtime's library, loaded once per process, and the device it runs on.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use ort::{
    environment::Environment,
    ep::{self, ExecutionProvider as _},
    logging::LogLevel,
    session::{Session, builder::GraphOptimizationLevel},
};

use crate::{LoadError, RuntimeError};

const LIBRARY: &str = "libonnxruntime.so";

/// Where models should run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// On a GPU if the library and the machine have one, else on the CPU.
    #[default]
    Auto,
    Cpu,
    /// On a GPU, or not at all.
    Cuda,
}

/// How to find and use ONNX Runtime.
#[derive(Debug, Clone, Default)]
pub struct RuntimeOptions {
    /// Path of the library; otherwise `ORT_DYLIB_PATH`, then beside the executable, then the loader's path.
    pub library: Option<PathBuf>,
    pub device: DeviceChoice,
}

/// A loaded ONNX Runtime. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Runtime {
    environment: Arc<Environment>,
    library: PathBuf,
    cuda: bool,
}

/// An ONNX file, `y[1] = Identity(x[1])`: the least that a provider can be tried with.
const PROBE: &[u8] = include_bytes!("probe.onnx");

static LOADED: OnceLock<(Arc<Environment>, PathBuf)> = OnceLock::new();

impl Runtime {
    /// Loads the library; the first load of a process decides which.
    pub fn load(options: &RuntimeOptions) -> Result<Self, RuntimeError> {
        let (environment, library) = match LOADED.get() {
            Some(loaded) => loaded.clone(),
            None => {
                let loaded = start(&find(options))?;
                LOADED.get_or_init(|| loaded).clone()
            }
        };
        let built_in = ep::CUDA::is_available().unwrap_or(false);
        let cuda = match (options.device, built_in) {
            (DeviceChoice::Cpu, _) | (DeviceChoice::Auto, false) => false,
            (DeviceChoice::Cuda, false) => return Err(RuntimeError::NoCuda),
            // The library may hold the provider where the machine has no GPU, or no CUDA.
            (choice, true) => match probe(&environment) {
                Ok(()) => true,
                Err(error) if choice == DeviceChoice::Cuda => {
                    return Err(RuntimeError::Cuda { detail: error.to_string() });
                }
                Err(error) => {
                    tracing::warn!(%error, "this ONNX Runtime has a CUDA provider that does not work here");
                    false
                }
            },
        };
        let runtime = Self { environment, library, cuda };
        tracing::info!(library = %runtime.library.display(), device = runtime.device(), "ONNX Runtime is loaded");
        Ok(runtime)
    }

    /// "cpu" or "cuda:0".
    pub fn device(&self) -> &'static str {
        if self.cuda { "cuda:0" } else { "cpu" }
    }

    pub(crate) fn is_cuda(&self) -> bool {
        self.cuda
    }

    /// The library that is in use.
    pub fn library(&self) -> &Path {
        &self.library
    }

    /// One session: one thread, no spinning, since sessions share the cores. Public for this crate's benchmark, which
    /// runs it bare.
    pub fn session(&self, path: &Path, file: &str) -> Result<Session, LoadError> {
        self.open(path)
            .map_err(|error| LoadError::Session { file: file.to_owned(), detail: error.to_string() })
    }

    fn open(&self, path: &Path) -> ort::Result<Session> {
        let mut builder = Session::builder(&self.environment)?
            .with_optimization_level(GraphOptimizationLevel::All)?
            .with_intra_threads(1)?
            .with_inter_threads(1)?
            .with_config_entry("session.intra_op.allow_spinning", "0")?;
        if self.cuda {
            // The provider worked when it was probed: a model that then went to the CPU unnoticed would only be slow.
            builder = builder.with_execution_providers([cuda()])?;
        }
        builder.commit_from_file(path)
    }
}

/// In f32 as the CPU computes it: TF32, the provider's default, rounds what is multiplied to ten bits, and a row's score
/// would be another one than was checked. Memory grows by what is asked for: doubled arenas of two versions, as
/// during a swap, fill a card that has room for both.
fn cuda() -> ep::ExecutionProviderDispatch {
    let provider = ep::CUDA::default()
        .with_tf32(false)
        .with_arena_extend_strategy(ep::ArenaExtendStrategy::SameAsRequested);
    provider.build().error_on_failure()
}

/// Whether a session can be made on the GPU.
fn probe(environment: &Environment) -> ort::Result<()> {
    let mut builder = Session::builder(environment)?.with_execution_providers([cuda()])?;
    builder.commit_from_memory(PROBE).map(drop)
}

fn start(library: &Path) -> Result<(Arc<Environment>, PathBuf), RuntimeError> {
    let environment = ort::init_from(library)
        .map_err(|error| RuntimeError::Library {
            tried: library.display().to_string(),
            detail: error.to_string(),
        })?
        .with_name("endcap")
        .with_telemetry(false)
        .build()
        .map_err(|error| RuntimeError::Start { detail: error.to_string() })?;
    // Else it formats several messages in each run, which nobody reads, and goes through tracing with each.
    environment.set_log_level(LogLevel::Warning);
    Ok((Arc::new(environment), library.to_owned()))
}

fn find(options: &RuntimeOptions) -> PathBuf {
    let set = std::env::var_os("ORT_DYLIB_PATH").filter(|path| !path.is_empty()).map(PathBuf::from);
    let beside = std::env::current_exe()
        .ok()
        .and_then(|program| program.parent().map(|folder| folder.join(LIBRARY)))
        .filter(|path| path.exists());
    options.library.clone().or(set).or(beside).unwrap_or_else(|| PathBuf::from(LIBRARY))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(device: DeviceChoice) -> Result<Runtime, RuntimeError> {
        Runtime::load(&RuntimeOptions { library: None, device })
    }

    #[test]
    fn a_gpu_that_is_demanded_and_absent_is_an_error_and_auto_goes_on_without() {
        if ep::CUDA::is_available().unwrap_or(false) {
            return;
        }
        assert!(matches!(load(DeviceChoice::Cuda), Err(RuntimeError::NoCuda)));
        let runtime = load(DeviceChoice::Auto).unwrap();
        assert_eq!((runtime.device(), runtime.is_cuda()), ("cpu", false));
    }

    #[test]
    fn the_probe_is_a_model() {
        let runtime = load(DeviceChoice::Cpu).unwrap();
        let session = Session::builder(&runtime.environment).unwrap().commit_from_memory(PROBE).unwrap();
        assert_eq!((session.inputs()[0].name(), session.outputs()[0].name()), ("x", "y"));
    }
}
