//! A shard's item ids, and where each is.

use std::hash::BuildHasher as _;

use endcap_types::ItemId;
use hashbrown::{DefaultHashBuilder, HashTable};

/// Ids by row, and rows by id. Rows are found by a table of row numbers alone: a map would hold every id twice, and the
/// standard one hashes three times as long, for each item of a request.
#[derive(Debug)]
pub(crate) struct ItemIds {
    ids: Vec<ItemId>,
    rows: HashTable<u32>,
    hasher: DefaultHashBuilder,
}

impl ItemIds {
    pub(crate) fn new(ids: Vec<ItemId>) -> Self {
        let hasher = DefaultHashBuilder::default();
        let mut rows = HashTable::with_capacity(ids.len());
        for (row, id) in (0_u32..).zip(&ids) {
            let _entry = rows.insert_unique(hasher.hash_one(id.as_str()), row, |row| {
                hasher.hash_one(ids[*row as usize].as_str())
            });
        }
        Self { ids, rows, hasher }
    }

    pub(crate) fn len(&self) -> usize {
        self.ids.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    pub(crate) fn id(&self, row: u32) -> &str {
        &self.ids[row as usize]
    }

    pub(crate) fn row(&self, id: &str) -> Option<u32> {
        let is_it = |row: &u32| self.ids[*row as usize] == id;
        self.rows.find(self.hasher.hash_one(id), is_it).copied()
    }

    /// What it takes, within a few percent.
    pub(crate) fn bytes(&self) -> u64 {
        let ids: usize = self.ids.iter().map(|id| id.len() + size_of::<ItemId>()).sum();
        (ids + self.rows.allocation_size()) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_id_has_its_row_and_others_have_none() {
        let ids: Vec<ItemId> = (0..1000).map(|i| format!("item-{i}")).collect();
        let table = ItemIds::new(ids.clone());
        assert_eq!((table.len(), table.is_empty()), (1000, false));
        for (row, id) in (0..).zip(&ids) {
            assert_eq!((table.row(id), table.id(row)), (Some(row), id.as_str()));
        }
        assert_eq!(["item-1000", "item", ""].map(|id| table.row(id)), [None; 3]);
        assert_eq!(ItemIds::new(Vec::new()).row("item-0"), None);
    }
}
