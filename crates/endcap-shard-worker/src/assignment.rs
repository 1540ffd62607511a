//! Following the controller: load what is assigned, unload what is not, one replica at a time, beside what serves.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use endcap_coordination::Entries;
use endcap_fleet::{AssignmentRecord, Key, Keys, Record as _, ShardKey};
use endcap_service::Latch;
use endcap_types::VersionPin;
use tokio::sync::watch;

use crate::{
    holdings::{Holdings, Removed},
    load::{Loader, ReplicaError},
    metrics::{self, phase},
    progress::{Absence, Progress},
    publish::Publisher,
};

/// First wait after a passing failure; doubled each time.
const RETRY: Duration = Duration::from_millis(500);
const LONGEST_RETRY: Duration = Duration::from_secs(30);
/// How often a removed replica is looked at until its last request has let it go.
const RELEASE_POLL: Duration = Duration::from_millis(10);

/// How long a worker that joins a fleet with versions, and has been given nothing, waits before it calls itself ready.
const JOIN_PATIENCE: Duration = Duration::from_secs(3);

/// Keeps what is held equal to what is assigned.
#[derive(Debug)]
pub(crate) struct Follower {
    pub(crate) id: Arc<str>,
    pub(crate) keys: Keys,
    pub(crate) loader: Loader,
    pub(crate) holdings: Holdings,
    pub(crate) progress: Progress,
    pub(crate) publisher: Publisher,
    pub(crate) memory_budget: u64,
    /// From not being ready to being unloaded.
    pub(crate) drain_delay: Duration,
    pub(crate) startup: Startup,
}

/// Holds readiness back until the worker has what it was given when it came: an orchestrator that restarts one worker
/// after another must not go on while this one's shards are still with nobody. What it has meanwhile it serves.
#[derive(Debug)]
pub(crate) struct Startup {
    latch: Option<Latch>,
    /// Holds back the health of what gateways ask.
    serving: Option<Latch>,
    patience: tokio::time::Instant,
}

impl Startup {
    pub(crate) fn new(latch: Latch, serving: Latch) -> Self {
        let patience = tokio::time::Instant::now() + JOIN_PATIENCE;
        Self { latch: Some(latch), serving: Some(serving), patience }
    }

    /// There is something to serve, or nothing to wait for.
    fn serves(&mut self) {
        if let Some(latch) = self.serving.take() {
            latch.release();
        }
    }

    /// Nothing is left to load now. Replicas that wait for the store are, since they may come; those that can't be are
    /// not this worker's to wait for.
    fn loaded(&mut self, is_empty_fleet: bool, holds_some: bool, failures: &Failures) {
        let given = holds_some || is_empty_fleet || self.patience <= tokio::time::Instant::now();
        if given
            && !failures.hold_back()
            && let Some(latch) = self.latch.take()
        {
            latch.release();
            self.serves();
        }
    }

    /// When to look again though nothing has changed.
    fn again(&self) -> Option<tokio::time::Instant> {
        self.latch.as_ref().map(|_| self.patience).filter(|patience| *patience > tokio::time::Instant::now())
    }
}

/// Replicas that could not be made ready.
#[derive(Debug, Default)]
struct Failures(BTreeMap<(ShardKey, Assigned), Failure>);

#[derive(Debug)]
struct Failure {
    /// Nothing for a failure that trying again cannot mend.
    again: Option<tokio::time::Instant>,
    wait: Duration,
    /// Whether it is the store's, and not this worker's room.
    holds_back: bool,
}

type Replicas = BTreeMap<ShardKey, Assigned>;

/// What a shard is to hold, and at which attempt of its validation.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Assigned {
    pin: VersionPin,
    attempt: u64,
}

impl Follower {
    /// Follows until the mirror ends. What is known stays in force while the coordinator is away.
    pub(crate) async fn run(mut self, mut entries: watch::Receiver<Arc<Entries>>) {
        let mut failures = Failures::default();
        loop {
            let (wanted, is_empty_fleet) = {
                let entries = entries.borrow_and_update();
                (self.wanted(&entries), entries.is_empty())
            };
            self.retain_failures(&mut failures, &wanted).await;
            for (shard, pin) in self.surplus(&wanted) {
                self.unload(&shard, &pin).await;
            }
            let next = wanted
                .iter()
                .find(|(shard, assigned)| !self.holds(shard, assigned) && failures.may_try(shard, assigned));
            if let Some((shard, assigned)) = next {
                self.load(shard, assigned, &mut failures).await;
                // Look again before the next: what is wanted may have changed meanwhile.
                continue;
            }
            self.startup.loaded(is_empty_fleet, !wanted.is_empty(), &failures);
            let retry = failures.next_try().into_iter().chain(self.startup.again()).min();
            tokio::select! {
                changed = entries.changed() => if changed.is_err() { return },
                () = sleep_until(retry) => {}
            }
        }
    }

    /// What the controller wants of this worker.
    fn wanted(&self, entries: &Entries) -> Replicas {
        let assigned = entries.iter().filter_map(|(key, entry)| {
            let Some(Key::Assignment(shard)) = self.keys.parse(key) else {
                return None;
            };
            let record = AssignmentRecord::from_json(key, &entry.value);
            let record =
                record.inspect_err(|error| tracing::error!(%error, "assignment is not readable")).ok()?;
            let pin =
                VersionPin { model: shard.model.clone(), version: shard.version, digest: record.digest };
            let assigned = Assigned { pin, attempt: record.attempt };
            let names_me = |workers: &[String]| workers.iter().any(|worker| **worker == *self.id);
            let mine =
                names_me(&record.workers) || (names_me(&record.leaving) && self.holds(&shard, &assigned));
            mine.then_some((shard, assigned))
        });
        assigned.collect()
    }

    fn holds(&self, shard: &ShardKey, assigned: &Assigned) -> bool {
        self.holdings.get(&assigned.pin).is_some_and(|holding| holding.shards.contains_key(&shard.shard))
    }

    fn surplus(&self, wanted: &Replicas) -> Vec<(ShardKey, VersionPin)> {
        let held = self.holdings.replicas();
        held.into_iter().filter(|(shard, pin)| wanted.get(shard).is_none_or(|a| a.pin != *pin)).collect()
    }

    async fn load(&mut self, shard: &ShardKey, assigned: &Assigned, failures: &mut Failures) {
        let pin = &assigned.pin;
        let model = self.holdings.get(pin).map(|holding| holding.model);
        let free = self.memory_budget.saturating_sub(self.holdings.memory_bytes());
        self.progress.set(shard, &Absence::Loading);
        match self.loader.load(pin, shard.shard, model, free).await {
            Ok((model, table)) => {
                self.holdings.add(pin, &model, shard.shard, table);
                self.progress.clear(shard);
                failures.0.remove(&(shard.clone(), assigned.clone()));
                // First its health: an ejected worker may be asked about it as soon as this is known.
                self.startup.serves();
                self.publisher.ready(shard, pin).await;
                self.report().await;
                tracing::info!(model = %pin.model, version = %pin.version, shard = shard.shard, "replica is ready");
            }
            Err(error) => {
                let error = match error {
                    ReplicaError::Memory { needed, free, .. } => {
                        ReplicaError::Memory { needed, free, budget: self.memory_budget }
                    }
                    error => error,
                };
                failures.add(shard, assigned, &error);
                self.progress.set(shard, &Absence::Failed { reason: error.to_string().into() });
                self.publisher.failed(shard, pin, assigned.attempt, error.to_string()).await;
            }
        }
    }

    /// Says so first, waits until gateways have heard and requests have ended, and only then lets go.
    async fn unload(&self, shard: &ShardKey, pin: &VersionPin) {
        self.publisher.not_ready(shard).await;
        tokio::time::sleep(self.drain_delay).await;
        let started = Instant::now();
        let Removed { model, table } = self.holdings.remove(pin, shard.shard);
        if let Some(table) = table {
            release(table).await;
        }
        if let Some(model) = model {
            release(model).await;
        }
        phase("unload", started);
        self.report().await;
        tracing::info!(model = %pin.model, version = %pin.version, shard = shard.shard, "replica is unloaded");
    }

    async fn retain_failures(&self, failures: &mut Failures, wanted: &Replicas) {
        let forgotten: Vec<_> = failures
            .0
            .keys()
            .filter(|(shard, assigned)| wanted.get(shard) != Some(assigned))
            .cloned()
            .collect();
        for (shard, assigned) in forgotten {
            self.progress.clear(&shard);
            self.publisher.forget_failure(&shard).await;
            failures.0.remove(&(shard, assigned));
        }
    }

    async fn report(&self) {
        let used = self.holdings.memory_bytes();
        metrics::held(&self.id, self.holdings.shard_count(), used);
        self.publisher.worker(used).await;
    }
}

impl Failures {
    fn may_try(&self, shard: &ShardKey, assigned: &Assigned) -> bool {
        match self.0.get(&(shard.clone(), assigned.clone())) {
            None => true,
            Some(failure) => failure.again.is_some_and(|again| again <= tokio::time::Instant::now()),
        }
    }

    fn add(&mut self, shard: &ShardKey, assigned: &Assigned, error: &ReplicaError) {
        let key = (shard.clone(), assigned.clone());
        let wait = self.0.get(&key).map_or(RETRY, |failure| (failure.wait * 2).min(LONGEST_RETRY));
        let again = error.is_passing().then(|| tokio::time::Instant::now() + wait);
        let holds_back = again.is_some() && !matches!(error, ReplicaError::Memory { .. });
        self.0.insert(key, Failure { again, wait, holds_back });
    }

    fn hold_back(&self) -> bool {
        self.0.values().any(|failure| failure.holds_back)
    }

    fn next_try(&self) -> Option<tokio::time::Instant> {
        self.0.values().filter_map(|failure| failure.again).min()
    }
}

async fn sleep_until(instant: Option<tokio::time::Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

/// Drops the last reference on a thread that may block: ending a model joins its threads.
async fn release<T: Send + Sync + 'static>(mut shared: Arc<T>) {
    let mut polls = tokio::time::interval(RELEASE_POLL);
    let last = loop {
        polls.tick().await;
        match Arc::try_unwrap(shared) {
            Ok(last) => break last,
            Err(still_shared) => shared = still_shared,
        }
    };
    let dropped = tokio::task::spawn_blocking(move || drop(last)).await;
    if let Err(error) = dropped {
        tracing::error!(%error, "unloading panicked");
    }
}

impl Holdings {
    /// Everything held, as replicas.
    pub(crate) fn replicas(&self) -> BTreeSet<(ShardKey, VersionPin)> {
        let key =
            |pin: &VersionPin, shard| ShardKey { model: pin.model.clone(), version: pin.version, shard };
        self.pins()
            .into_iter()
            .flat_map(|(pin, shards)| shards.into_iter().map(move |shard| (key(&pin, shard), pin.clone())))
            .collect()
    }
}
