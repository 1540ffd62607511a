//! A prefix kept current in memory, and on disk for the day that the coordinator is gone.

mod saved;

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures::{StreamExt as _, stream::SelectAll};
use parking_lot::Mutex;
use tokio::sync::watch;

use self::saved::Saved;
use crate::{Complaint, CoordinationError, Coordinator, KeyValue, WatchEvent, WatchStream};

/// Keys with their values, ascending.
pub type Entries = BTreeMap<String, KeyValue>;

/// Between tries while the coordinator is away; what is known stays known meanwhile.
const RETRY: Duration = Duration::from_millis(200);
/// Changes folded into one update: a burst must not copy the map once per key.
const BURST: usize = 1024;

/// What a mirror shows, and how it lives without its coordinator.
#[derive(Debug, Clone, Default)]
pub struct MirrorOptions {
    pub prefixes: Vec<String>,
    /// A file that holds what was known last, for a start without the coordinator.
    pub saved: Option<PathBuf>,
    /// A key that exists as long as the coordinator's data are whole. A coordinator that once had it and has lost it
    /// was emptied: what is known stays known until the key is back.
    pub epoch: Option<String>,
}

/// How old the news are.
#[derive(Debug, Clone)]
pub struct Freshness(Arc<Mutex<Option<SystemTime>>>);

impl Freshness {
    /// Time since the coordinator was last followed; zero while it is.
    pub fn age(&self) -> Duration {
        let since = *self.0.lock();
        since.map_or(Duration::ZERO, |since| since.elapsed().unwrap_or_default())
    }

    fn lost(&self, since: SystemTime) {
        self.0.lock().get_or_insert(since);
    }

    fn current(&self) {
        *self.0.lock() = None;
    }
}

/// Lists and watches prefixes, and starts over when history was compacted or a watch broke.
#[derive(Debug)]
pub struct Mirror {
    coordinator: Arc<dyn Coordinator>,
    options: MirrorOptions,
    freshness: Freshness,
}

type Followed = (Entries, SelectAll<WatchStream>);

impl Mirror {
    /// Lists now, or takes what was saved when the coordinator cannot be reached; waits for it when there is neither. The
    /// last part keeps the entries current and must be run for as long as they are needed.
    pub async fn start(
        coordinator: Arc<dyn Coordinator>,
        options: MirrorOptions,
    ) -> Result<
        (watch::Receiver<Arc<Entries>>, Freshness, impl Future<Output = ()> + Send + 'static),
        CoordinationError,
    > {
        let freshness = Freshness(Arc::default());
        let mut mirror = Self { coordinator, options, freshness: freshness.clone() };
        if let Some(epoch) = &mirror.options.epoch {
            mirror.options.prefixes.push(epoch.clone());
        }
        let saved = mirror.options.saved.clone().map(Saved);
        let mut complaint = Complaint::default();
        let (entries, streams) = loop {
            match mirror.list_and_watch(None).await {
                Ok((entries, streams)) => break (entries, Some(streams)),
                Err(error @ CoordinationError::Unavailable { .. }) => {
                    if let Some((entries, at)) = saved.as_ref().and_then(Saved::read) {
                        mirror.freshness.lost(at);
                        let age = mirror.freshness.age();
                        tracing::warn!(%error, ?age, keys = entries.len(), "starting on what was saved");
                        break (entries, None);
                    }
                    if let Some(waited) = complaint.due() {
                        tracing::warn!(%error, ?waited, "nothing is known yet: waiting for the coordinator");
                    }
                    tokio::time::sleep(RETRY).await;
                }
                Err(error) => return Err(error),
            }
        };
        let (sender, receiver) = watch::channel(Arc::new(entries));
        let saver = saved.map(|saved| saved.follow(receiver.clone(), freshness.clone()));
        let driver = async move {
            let saving = async {
                match saver {
                    Some(saver) => saver.await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = mirror.drive(sender, streams) => {}
                () = saving => {}
            }
        };
        Ok((receiver, freshness, driver))
    }

    /// `known` is what an emptied coordinator must not take away.
    async fn list_and_watch(&self, known: Option<&Entries>) -> Result<Followed, CoordinationError> {
        if let (Some(epoch), Some(known)) = (&self.options.epoch, known)
            && known.contains_key(epoch)
            && self.coordinator.get(epoch).await?.is_none()
        {
            let detail = "its data are gone and not yet rebuilt".to_owned();
            return Err(CoordinationError::Unavailable { detail });
        }
        let (mut entries, mut streams) = (Entries::new(), SelectAll::new());
        for prefix in &self.options.prefixes {
            let listing = self.coordinator.list(prefix).await?;
            entries.extend(listing.entries.into_iter().map(|entry| (entry.key.clone(), entry)));
            streams.push(self.coordinator.watch(prefix, listing.revision + 1).await?);
        }
        Ok((entries, streams))
    }

    async fn drive(self, sender: watch::Sender<Arc<Entries>>, mut streams: Option<SelectAll<WatchStream>>) {
        let mut complaint = Complaint::default();
        loop {
            if let Some(streams) = streams.take() {
                self.freshness.current();
                follow(&sender, streams).await;
                self.freshness.lost(SystemTime::now());
            }
            if sender.is_closed() {
                return;
            }
            let known = Arc::clone(&sender.borrow());
            match self.list_and_watch(Some(&known)).await {
                Ok((entries, followed)) => {
                    complaint.settle();
                    sender.send_if_modified(|known| {
                        let changed = **known != entries;
                        if changed {
                            *known = Arc::new(entries);
                        }
                        changed
                    });
                    streams = Some(followed);
                }
                Err(error) => {
                    if complaint.due().is_some() {
                        tracing::warn!(%error, age = ?self.freshness.age(), "cannot list; keeping what is known");
                    }
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }
}

/// Applies changes until the watch breaks, history is compacted, or nobody listens.
async fn follow(sender: &watch::Sender<Arc<Entries>>, streams: SelectAll<WatchStream>) {
    let expected = streams.len();
    let mut bursts = streams.ready_chunks(BURST);
    loop {
        let burst = tokio::select! {
            burst = bursts.next() => burst,
            () = sender.closed() => return,
        };
        let Some(burst) = burst else { return };
        let mut entries = Entries::clone(&sender.borrow());
        let mut broken = false;
        for event in burst {
            match event {
                Ok(WatchEvent::Put(entry)) => {
                    entries.insert(entry.key.clone(), entry);
                }
                Ok(WatchEvent::Delete { key, .. }) => {
                    entries.remove(&key);
                }
                Ok(WatchEvent::Compacted) | Err(_) => broken = true,
            }
        }
        sender.send_if_modified(|known| {
            let changed = **known != entries;
            if changed {
                *known = Arc::new(entries);
            }
            changed
        });
        if broken || bursts.get_ref().len() < expected {
            return;
        }
    }
}
