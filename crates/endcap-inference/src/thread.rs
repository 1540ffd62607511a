//! What this crate's threads ask of the system: a core of their own, or to stand back. Both are favours; where the
//! platform has neither, nothing happens.

/// Runs `work` on a thread that stands back for all others of the process, so that loading a version does not disturb
/// those that serve. Threads started by `work` would inherit that: start none that serve.
pub fn in_background<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            stand_back();
            work()
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// A third of the weight of a thread that serves: a load must still end on a machine that is always busy.
#[cfg(target_os = "linux")]
const NICE: i32 = 5;

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

/// Ties the calling thread to one of the cores that the process may use, counted round.
#[cfg(target_os = "linux")]
pub(crate) fn pin(number: usize) {
    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

    let pinned = sched_getaffinity(None).and_then(|allowed| {
        let cores: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core)).collect();
        let mut one = CpuSet::new();
        cores.iter().cycle().nth(number).into_iter().for_each(|core| one.set(*core));
        sched_setaffinity(None, &one)
    });
    if let Err(error) = pinned {
        tracing::warn!(%error, "an inference thread could not be pinned to a core");
    }
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn pin(_number: usize) {}

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

    #[test]
    fn a_pinned_thread_has_one_core() {
        let cores = |number: usize| {
            let pinned = std::thread::spawn(move || {
                pin(number);
                rustix::thread::sched_getaffinity(None).unwrap()
            });
            pinned.join().unwrap().count()
        };
        assert_eq!([cores(0), cores(1), cores(1000)], [1, 1, 1]);
    }
}
