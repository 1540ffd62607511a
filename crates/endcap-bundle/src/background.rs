//! Work that stands back for whoever serves.

/// Runs `work` on a thread that stands back for all others of the process, so that loading a version does not disturb
/// those that serve. Threads started by `work` would inherit that: start none that serve. Where the platform has no
/// such favour, nothing happens.
pub fn in_background<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            stand_back();
            work()
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// The same for a task, which goes on meanwhile.
///
/// # Errors
/// That of tokio when `work` panics, or the runtime ends before it began.
pub async fn background<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, tokio::task::JoinError> {
    tokio::task::spawn_blocking(move || in_background(work)).await
}

/// The least weight that a thread can have: it takes what those that serve leave, and little more than a hundredth of a
/// core that they would fill, so a load ends even then.
#[cfg(target_os = "linux")]
const NICE: i32 = 19;

#[cfg(target_os = "linux")]
fn stand_back() {
    // Despite its name: on Linux a priority belongs to a thread, and no process means the calling one.
    let stood = rustix::process::getpriority_process(None)
        .and_then(|mine| rustix::process::setpriority_process(None, NICE.max(mine)));
    if let Err(error) = stood {
        tracing::debug!(%error, "loading goes on at full priority");
    }
}

#[cfg(not(target_os = "linux"))]
fn stand_back() {}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn work_in_the_background_stands_back_and_its_caller_does_not() {
        let mine = rustix::process::getpriority_process(None).unwrap();
        let background = in_background(|| rustix::process::getpriority_process(None).unwrap());
        assert_eq!(background, NICE.max(mine));
        assert_eq!(rustix::process::getpriority_process(None).unwrap(), mine);
    }
}
