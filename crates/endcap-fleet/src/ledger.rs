//! The ledger: a page per history entry, kept outside the coordinator. A coordinator that lost its data is rebuilt
//! from it.

use std::collections::BTreeMap;

use endcap_types::Version;
use serde::{Deserialize, Serialize};

use crate::{HistoryRecord, ModelView, Record, RolloutRecord, VersionRecord};

/// `epoch`: the coordinator's data are whole. Each rebuilding begins the next one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EpochRecord {
    /// From 1.
    pub number: u64,
    /// RFC 3339.
    pub since: String,
}

/// What one history entry made of a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LedgerPage {
    pub entry: HistoryRecord,
    /// After it.
    pub rollout: RolloutRecord,
    /// Those that it changed, after it.
    pub versions: Vec<(Version, VersionRecord)>,
}

impl Record for EpochRecord {
    const KIND: &'static str = "epoch";
}
impl Record for LedgerPage {
    const KIND: &'static str = "ledger page";
}

/// A model as its pages tell it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Recovered {
    pub view: ModelView,
    /// By sequence.
    pub history: BTreeMap<u64, HistoryRecord>,
    /// Sequences that no page was found for.
    pub missing: Vec<u64>,
}

/// Reads a model out of its pages, each with the epoch that it was written in. An epoch continues the one before it
/// from its own first entry on; what an editor of the earlier one wrote from there on came too late and does not
/// count.
pub fn replay(pages: impl IntoIterator<Item = (u64, LedgerPage)>) -> Recovered {
    let mut epochs = BTreeMap::<u64, BTreeMap<u64, LedgerPage>>::new();
    for (epoch, page) in pages {
        epochs.entry(epoch).or_default().insert(page.entry.sequence, page);
    }
    let mut kept = BTreeMap::<u64, LedgerPage>::new();
    for (_, mut pages) in epochs.into_iter().rev() {
        if let Some((first, _)) = kept.first_key_value() {
            pages.split_off(first);
        }
        kept.append(&mut pages);
    }
    let mut recovered = Recovered::default();
    let mut next = 1;
    for (sequence, page) in kept {
        recovered.missing.extend(next..sequence);
        next = sequence + 1;
        recovered.view.rollout = RolloutRecord { history_length: sequence, ..page.rollout };
        recovered.view.versions.extend(page.versions);
        recovered.history.insert(sequence, page.entry);
    }
    recovered
}

#[cfg(test)]
mod tests {
    use endcap_types::{Alias, Digest};

    use super::*;
    use crate::Action;

    fn page(sequence: u64, reason: &str) -> LedgerPage {
        let to = Version::try_from(sequence).unwrap();
        let entry = HistoryRecord {
            sequence,
            at: String::new(),
            action: Action::Promoted,
            actor: String::new(),
            from: None,
            to,
            digest: Digest::from_bytes([0; 32]),
            reason: reason.into(),
        };
        let aliases = BTreeMap::from([(Alias::Stable, to)]);
        let rollout = RolloutRecord { revision: sequence, aliases, ..RolloutRecord::default() };
        LedgerPage { entry, rollout, versions: Vec::new() }
    }

    fn reasons(recovered: &Recovered) -> Vec<&str> {
        recovered.history.values().map(|entry| entry.reason.as_str()).collect()
    }

    #[test]
    fn the_last_page_says_where_the_aliases_stand() {
        let recovered = replay([(1, page(2, "b")), (1, page(1, "a")), (1, page(3, "c"))]);
        assert_eq!(reasons(&recovered), ["a", "b", "c"]);
        assert_eq!(recovered.view.rollout.aliases[&Alias::Stable].get(), 3);
        assert_eq!(recovered.view.rollout.history_length, 3);
        assert!(recovered.missing.is_empty());
    }

    #[test]
    fn a_late_writer_of_an_earlier_epoch_does_not_count() {
        let pages = [(1, page(1, "a")), (1, page(2, "late")), (2, page(2, "b")), (1, page(3, "later"))];
        assert_eq!(reasons(&replay(pages)), ["a", "b"]);
    }

    #[test]
    fn an_epoch_without_entries_takes_nothing_away() {
        let pages = [(1, page(1, "a")), (1, page(2, "b")), (3, page(3, "c"))];
        assert_eq!(reasons(&replay(pages)), ["a", "b", "c"]);
    }

    #[test]
    fn a_lost_page_is_named() {
        assert_eq!(replay([(1, page(1, "a")), (1, page(4, "d"))]).missing, [2, 3]);
    }
}
