//! The ledger's pages in the bundle store, which outlive the coordinator.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use endcap_bundle::Journal;
use endcap_fleet::{LedgerPage, Record as _, Recovered, replay};
use endcap_types::ModelName;
use futures::future::try_join_all;
use parking_lot::Mutex;

use crate::error::RegistryError;

/// Pages read at a time.
const AT_ONCE: usize = 16;

/// Pages by epoch, model and sequence: `000001/shop/0000000042.json`.
#[derive(Debug, Clone)]
pub(crate) struct Archive {
    journal: Journal,
    /// By model, up to which sequence every page is known to be there.
    complete: Arc<Mutex<BTreeMap<ModelName, u64>>>,
}

/// Everything that was ever archived.
#[derive(Debug, Default)]
pub(crate) struct Restored {
    /// The last epoch that left a page; 0 for none.
    pub(crate) epoch: u64,
    pub(crate) models: BTreeMap<ModelName, Recovered>,
}

/// How far the ledger goes, as the names of its pages tell.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Reach {
    /// The last epoch that left a page; 0 for none.
    pub(crate) epoch: u64,
    /// By model, the sequence of the last page that counts: the last one of its last epoch.
    pub(crate) lengths: BTreeMap<ModelName, u64>,
}

impl Archive {
    pub(crate) fn new(journal: Journal) -> Self {
        Self { journal, complete: Arc::default() }
    }

    /// Writes a page that follows on the ones before. Idempotent. A page stays as it was first written: an entry that is
    /// another one is told in the log.
    pub(crate) async fn append(
        &self,
        epoch: u64,
        model: &ModelName,
        page: &LedgerPage,
    ) -> Result<(), RegistryError> {
        let sequence = page.entry.sequence;
        let (name, json) = (name(epoch, model, sequence), page.to_json());
        if !self.journal.append(&name, json).await? {
            let there = LedgerPage::from_json(&name, &self.journal.read(&name).await?)?;
            if there.entry != page.entry {
                tracing::error!(
                    %model, sequence, there = ?there.entry, here = ?page.entry,
                    "the ledger has another entry of this number: the coordinator lost the one that was there first"
                );
            }
        }
        let mut complete = self.complete.lock();
        let known = complete.entry(model.clone()).or_default();
        if *known + 1 == sequence {
            *known = sequence;
        }
        Ok(())
    }

    /// Whether pages of a history of this length may be missing.
    pub(crate) fn lags(&self, model: &ModelName, length: u64) -> bool {
        self.complete.lock().get(model).copied().unwrap_or_default() < length
    }

    /// Sequences up to `length` that have no page.
    pub(crate) async fn missing(&self, model: &ModelName, length: u64) -> Result<Vec<u64>, RegistryError> {
        let names = self.journal.names().await?;
        let there: BTreeSet<u64> = names
            .iter()
            .filter_map(|name| parse(name))
            .filter(|(_, of, _)| of == model)
            .map(|(.., s)| s)
            .collect();
        let missing: Vec<u64> = (1..=length).filter(|sequence| !there.contains(sequence)).collect();
        let complete = missing.first().map_or(length, |first| first - 1);
        self.complete.lock().insert(model.clone(), complete);
        Ok(missing)
    }

    /// Up to which sequence each model's pages are known to be there.
    pub(crate) fn known(&self) -> BTreeMap<ModelName, u64> {
        self.complete.lock().clone()
    }

    /// Forgets which pages are there, so that they are looked for again.
    pub(crate) fn forget(&self) {
        self.complete.lock().clear();
    }

    /// Looks how far the ledger goes, without reading its pages.
    pub(crate) async fn reach(&self) -> Result<Reach, RegistryError> {
        let names = self.journal.names().await?;
        let mut last = BTreeMap::<ModelName, (u64, u64)>::new();
        for (epoch, model, sequence) in names.iter().filter_map(|name| parse(name)) {
            let last = last.entry(model).or_default();
            *last = (epoch, sequence).max(*last);
        }
        let epoch = last.values().map(|(epoch, _)| *epoch).max().unwrap_or_default();
        let lengths = last.into_iter().map(|(model, (_, sequence))| (model, sequence)).collect();
        Ok(Reach { epoch, lengths })
    }

    /// Reads every page.
    pub(crate) async fn restore(&self) -> Result<Restored, RegistryError> {
        let names = self.journal.names().await?;
        let mut pages = Vec::with_capacity(names.len());
        for some in names.chunks(AT_ONCE) {
            pages.extend(try_join_all(some.iter().map(|name| self.page(name))).await?.into_iter().flatten());
        }
        let epoch = pages.iter().map(|(epoch, ..)| *epoch).max().unwrap_or_default();
        let mut by_model = BTreeMap::<ModelName, Vec<(u64, LedgerPage)>>::new();
        for (epoch, model, page) in pages {
            by_model.entry(model).or_default().push((epoch, page));
        }
        let models = by_model.into_iter().map(|(model, pages)| (model, replay(pages))).collect();
        Ok(Restored { epoch, models })
    }

    /// A page with its epoch and model; nothing for what is no page.
    async fn page(&self, name: &str) -> Result<Option<(u64, ModelName, LedgerPage)>, RegistryError> {
        let Some((epoch, model, _)) = parse(name) else { return Ok(None) };
        let page = LedgerPage::from_json(name, &self.journal.read(name).await?)?;
        Ok(Some((epoch, model, page)))
    }
}

fn name(epoch: u64, model: &ModelName, sequence: u64) -> String {
    format!("{epoch:06}/{model}/{sequence:010}.json")
}

fn parse(name: &str) -> Option<(u64, ModelName, u64)> {
    let (epoch, rest) = name.strip_suffix(".json")?.split_once('/')?;
    let (model, sequence) = rest.split_once('/')?;
    Some((epoch.parse().ok()?, model.parse().ok()?, sequence.parse().ok()?))
}
