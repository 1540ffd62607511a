//! What this crate's threads ask of the system: a core of their own. A favour; where the platform has none, nothing
//! happens.

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
