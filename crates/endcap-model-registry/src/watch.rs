//! Watching: the present state first, then every change.

use std::{collections::BTreeMap, sync::Arc};

use endcap_coordination::{Entries, WatchEvent, WatchStream};
use endcap_fleet::{HistoryRecord, Key, Keys, Record as _};
use endcap_proto::pb::{self, ReplicaState, watch_response::Event};
use endcap_types::ModelName;
use futures::StreamExt as _;
use tokio::sync::{mpsc, watch};

use crate::{
    convert::{self, Place},
    error::{RegistryError, model_name},
    ledger::{Ledger, now},
    world::World,
};

/// Events that may wait for a slow client; beyond, it is cut off rather than remembered for.
const BUFFER: usize = 1024;

type Replicas = BTreeMap<Place, (ReplicaState, String)>;

#[derive(Debug)]
pub(crate) struct Watch {
    pub(crate) ledger: Ledger,
    pub(crate) keys: Keys,
    pub(crate) entries: watch::Receiver<Arc<Entries>>,
}

/// One client's watch.
pub(crate) struct Watching {
    keys: Keys,
    only: Option<ModelName>,
    entries: watch::Receiver<Arc<Entries>>,
    history: WatchStream,
    known: Replicas,
    events: mpsc::Sender<pb::WatchResponse>,
}

impl Watch {
    pub(crate) async fn run(
        &self,
        request: pb::WatchRequest,
    ) -> Result<(Watching, mpsc::Receiver<pb::WatchResponse>), RegistryError> {
        let only = match request.model.as_str() {
            "" => None,
            name => Some(model_name(name)?),
        };
        let prefix = match &only {
            Some(model) => self.keys.histories(model),
            None => self.keys.histories_all(),
        };
        let coordinator = &self.ledger.coordinator;
        let revision = coordinator.list(&prefix).await?.revision;
        let history = coordinator.watch(&prefix, revision + 1).await?;
        let (events, receiver) = mpsc::channel(BUFFER);
        let watching = Watching {
            keys: self.keys.clone(),
            only,
            entries: self.entries.clone(),
            history,
            known: Replicas::new(),
            events,
        };
        Ok((watching, receiver))
    }
}

impl Watching {
    /// Sends events until the client goes, falls behind, or a source ends.
    pub(crate) async fn drive(mut self) {
        loop {
            if self.send_replicas().is_none() {
                return;
            }
            let history = tokio::select! {
                changed = self.entries.changed() => match changed {
                    Ok(()) => None,
                    Err(_) => return,
                },
                event = self.history.next() => match event {
                    Some(Ok(event)) => Some(event),
                    Some(Err(_)) | None => return,
                },
                () = self.events.closed() => return,
            };
            if let Some(event) = history
                && self.send_history(event).is_none()
            {
                return;
            }
        }
    }

    /// Sends what has changed about replicas. Nothing when the watch is over.
    fn send_replicas(&mut self) -> Option<()> {
        let world = World::read(&self.keys, &self.entries.borrow_and_update());
        let mut current = convert::replicas(&world);
        current.retain(|(model, ..), _| self.only.as_ref().is_none_or(|only| only == model));
        let gone = self.known.keys().filter(|place| !current.contains_key(place));
        let gone = gone.map(|place| (place.clone(), (ReplicaState::Gone, String::new())));
        let changed = current.iter().filter(|(place, state)| self.known.get(place) != Some(state));
        let events: Vec<_> =
            gone.chain(changed.map(|(place, state)| (place.clone(), state.clone()))).collect();
        for ((model, version, shard, worker), (state, detail)) in events {
            let replica =
                pb::ReplicaEvent { version: version.get(), shard, worker, state: state.into(), detail };
            self.send(&model, Event::Replica(replica))?;
        }
        self.known = current;
        Some(())
    }

    fn send_history(&self, event: WatchEvent) -> Option<()> {
        let WatchEvent::Put(entry) = event else {
            return None;
        };
        let Some(Key::History { model, .. }) = self.keys.parse(&entry.key) else {
            return Some(());
        };
        let record = HistoryRecord::from_json(&entry.key, &entry.value).ok()?;
        self.send(&model, Event::History(convert::history(record)))
    }

    fn send(&self, model: &ModelName, event: Event) -> Option<()> {
        let response = pb::WatchResponse { at: now(), event: Some(event), model: model.to_string() };
        self.events.try_send(response).ok()
    }
}
