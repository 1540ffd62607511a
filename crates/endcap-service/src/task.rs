//! Background tasks: every one is named and owned, so that a shutdown can wait for it and name what did not end.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use thiserror::Error;
use tokio::task::JoinHandle;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// The tasks of one component. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    token: CancellationToken,
    running: Arc<Mutex<BTreeMap<&'static str, usize>>>,
}

/// Tasks that did not end in time.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("tasks did not end in time: {}", names.join(", "))]
pub struct UnfinishedTasks {
    pub names: Vec<&'static str>,
}

impl Tasks {
    pub fn new() -> Self {
        Self::default()
    }

    /// Runs a task. It should end soon after [`Tasks::token`] is cancelled.
    pub fn spawn<F>(&self, name: &'static str, task: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        *self.running.lock().entry(name).or_default() += 1;
        let mark = Running { name, running: Arc::clone(&self.running) };
        self.tracker.spawn(async move {
            let _mark = mark;
            task.await
        })
    }

    /// Cancelled when the component shuts down.
    pub fn token(&self) -> CancellationToken {
        self.token.clone()
    }

    /// Tells every task to end and waits.
    pub async fn shutdown(&self, grace: Duration) -> Result<(), UnfinishedTasks> {
        self.token.cancel();
        self.tracker.close();
        tokio::time::timeout(grace, self.tracker.wait())
            .await
            .map_err(|_elapsed| UnfinishedTasks { names: self.running.lock().keys().copied().collect() })
    }
}

/// Strikes a task off the list when it ends, also by a panic.
struct Running {
    name: &'static str,
    running: Arc<Mutex<BTreeMap<&'static str, usize>>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut running = self.running.lock();
        if let Some(count) = running.get_mut(self.name) {
            *count -= 1;
            if *count == 0 {
                running.remove(self.name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_task_that_does_not_end_is_named() {
        let tasks = Tasks::new();
        let token = tasks.token();
        tasks.spawn("obedient", async move { token.cancelled().await });
        tasks.spawn("stubborn", std::future::pending::<()>());
        let unfinished = tasks.shutdown(Duration::from_secs(1)).await.unwrap_err();
        assert_eq!(unfinished.names, ["stubborn"]);
    }
}
