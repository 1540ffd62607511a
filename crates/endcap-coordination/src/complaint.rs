//! Complaining of what goes on failing: soon enough to be noticed, seldom enough to be read.

use std::time::Duration;

use tokio::time::Instant;

const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// When a failure that repeats is worth a line in the log: at once, then at doubling intervals up to half a minute.
#[derive(Debug, Default)]
pub struct Complaint {
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    since: Instant,
    next: Instant,
    pause: Duration,
}

impl Complaint {
    /// It has failed. How long it has been failing, when that should be told now.
    pub fn due(&mut self) -> Option<Duration> {
        let now = Instant::now();
        let running = self.running.get_or_insert(Running { since: now, next: now, pause: FIRST_PAUSE });
        if now < running.next {
            return None;
        }
        running.next = now + running.pause;
        running.pause = LONGEST_PAUSE.min(running.pause * 2);
        Some(now - running.since)
    }

    /// It works: the next failure is a new one.
    pub fn settle(&mut self) {
        self.running = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_comes_at_once_then_ever_more_seldom_and_anew_after_a_success() {
        let (mut complaint, mut told) = (Complaint::default(), Vec::new());
        for _ in 0..600 {
            told.extend(complaint.due().map(|lasted| lasted.as_secs()));
            tokio::time::advance(Duration::from_millis(200)).await;
        }
        assert_eq!(told, [0, 1, 3, 7, 15, 31, 61, 91]);
        complaint.settle();
        assert_eq!(complaint.due(), Some(Duration::ZERO));
    }
}
