//! A prefix kept current in memory.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::{StreamExt as _, stream::SelectAll};
use tokio::sync::watch;

use crate::{CoordinationError, Coordinator, KeyValue, WatchEvent, WatchStream};

/// Keys with their values, ascending.
pub type Entries = BTreeMap<String, KeyValue>;

/// Between tries while the coordinator is away; what is known stays known meanwhile.
const RETRY: Duration = Duration::from_millis(200);
/// Changes folded into one update: a burst must not copy the map once per key.
const BURST: usize = 1024;

/// Lists and watches prefixes, and starts over when history was compacted or a watch broke.
#[derive(Debug)]
pub struct Mirror {
    coordinator: Arc<dyn Coordinator>,
    prefixes: Vec<String>,
}

impl Mirror {
    /// Lists now. The second part keeps the entries current and must be run for as long as they are needed.
    pub async fn start(
        coordinator: Arc<dyn Coordinator>,
        prefixes: Vec<String>,
    ) -> Result<(watch::Receiver<Arc<Entries>>, impl Future<Output = ()> + Send + 'static), CoordinationError>
    {
        let mirror = Self { coordinator, prefixes };
        let (entries, stream) = mirror.list_and_watch().await?;
        let (sender, receiver) = watch::channel(Arc::new(entries));
        Ok((receiver, mirror.drive(sender, stream)))
    }

    async fn list_and_watch(&self) -> Result<(Entries, SelectAll<WatchStream>), CoordinationError> {
        let mut entries = Entries::new();
        let mut streams = SelectAll::new();
        for prefix in &self.prefixes {
            let listing = self.coordinator.list(prefix).await?;
            entries.extend(listing.entries.into_iter().map(|entry| (entry.key.clone(), entry)));
            streams.push(self.coordinator.watch(prefix, listing.revision + 1).await?);
        }
        Ok((entries, streams))
    }

    async fn drive(self, sender: watch::Sender<Arc<Entries>>, mut streams: SelectAll<WatchStream>) {
        loop {
            follow(&sender, streams).await;
            if sender.is_closed() {
                return;
            }
            streams = loop {
                match self.list_and_watch().await {
                    Ok((entries, streams)) => {
                        sender.send_if_modified(|known| {
                            let changed = **known != entries;
                            if changed {
                                *known = Arc::new(entries);
                            }
                            changed
                        });
                        break streams;
                    }
                    Err(error) => {
                        tracing::warn!(%error, "cannot list; keeping what is known");
                        tokio::time::sleep(RETRY).await;
                    }
                }
            };
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
        sender.send_replace(Arc::new(entries));
        if broken || bursts.get_ref().len() < expected {
            return;
        }
    }
}
