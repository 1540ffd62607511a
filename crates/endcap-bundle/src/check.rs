//! The deep check: everything that can be known to be wrong without running the models.

mod golden;
mod graphs;
mod schema;

use std::collections::HashSet;

use endcap_types::{FeatureValue, ItemId, ShardIndex, shard_of};

use crate::{Bundle, BundleError, FeatureSchema, ItemTable, LexicalStats, Popular, manifest::shard_file};

impl Bundle {
    /// Checks that the parts fit together. Digests are [`Bundle::verify`]'s business; golden scores are the workers'.
    pub fn check(&self) -> Result<(), BundleError> {
        let schema = self.features()?;
        schema::check_spec(self.spec())?;
        schema::check(&schema, self.spec())?;
        graphs::check(self, &schema)?;
        let mut lexical = LexicalStats::needed(&schema, self.spec());
        let ids = self.check_items(&schema, &mut lexical)?;
        self.lexical()?.check(&lexical)?;
        check_popular(&self.popular()?, &ids)?;
        golden::check(self, &schema, &ids)?;
        self.evaluation()?;
        self.labels()?;
        Ok(())
    }

    /// Checks every shard, and counts the words of its items.
    fn check_items(
        &self,
        schema: &FeatureSchema,
        lexical: &mut LexicalStats,
    ) -> Result<HashSet<ItemId>, BundleError> {
        let mut all = HashSet::new();
        for shard in self.manifest().shard_count.indices() {
            let table = self.items(shard)?;
            self.check_shard(&table, shard)?;
            schema::check_columns(schema, &table, &shard_file(shard, self.manifest().shard_count))?;
            schema::check_lexical(self.spec(), &table, &shard_file(shard, self.manifest().shard_count))?;
            lexical.add_table(&table);
            for item_id in table.ids {
                if let Some(item_id) = all.replace(item_id) {
                    let file = shard_file(shard, self.manifest().shard_count);
                    return Err(BundleError::DuplicateItem { file, item_id });
                }
            }
        }
        if all.is_empty() {
            return Err(BundleError::NoItems { file: "items".to_owned() });
        }
        Ok(all)
    }

    /// Whether a shard's rows are those that belong there. Workers ask this too, of the shards they load.
    pub fn check_shard(&self, table: &ItemTable, shard: ShardIndex) -> Result<(), BundleError> {
        let count = self.manifest().shard_count;
        let file = shard_file(shard, count);
        let expected = self.manifest().shard_rows.get(shard as usize).copied().unwrap_or_default();
        if table.len() as u64 != expected {
            return Err(BundleError::RowCount { file, found: table.len() as u64, expected });
        }
        for item_id in &table.ids {
            let expected = shard_of(item_id, count);
            if expected != shard {
                return Err(BundleError::WrongShard { file, item_id: item_id.clone(), expected });
            }
        }
        let mut seen = HashSet::with_capacity(table.len());
        if let Some(item_id) = table.ids.iter().find(|item_id| !seen.insert(item_id.as_str())) {
            return Err(BundleError::DuplicateItem { file, item_id: item_id.clone() });
        }
        // Workers break ties by row.
        if let Some(pair) = table.ids.windows(2).find(|pair| pair[0] > pair[1]) {
            return Err(BundleError::ItemOrder { file, item_id: pair[1].clone() });
        }
        let Some(encoder) = &self.spec().encoder else {
            return Ok(());
        };
        match &table.vectors {
            None => Err(BundleError::VectorsMissing { file, needed_by: encoder.file.clone() }),
            Some(vectors) if vectors.dim != encoder.dim && !table.is_empty() => {
                Err(BundleError::VectorDimension {
                    file,
                    item_id: table.ids[0].clone(),
                    found: vectors.dim,
                    expected: encoder.dim,
                })
            }
            Some(_) => Ok(()),
        }
    }
}

fn check_popular(popular: &Popular, ids: &HashSet<ItemId>) -> Result<(), BundleError> {
    if popular.overall.is_empty() {
        return Err(BundleError::PopularEmpty);
    }
    let segments = popular.segments.iter().map(|(name, list)| (name.as_str(), list));
    for (list, items) in std::iter::once(("overall", &popular.overall)).chain(segments) {
        let mut seen = HashSet::new();
        for item_id in items {
            let (list, item_id) = (list.to_owned(), item_id.clone());
            if !ids.contains(&item_id) {
                return Err(BundleError::PopularUnknown { list, item_id });
            }
            if !seen.insert(item_id.clone()) {
                return Err(BundleError::PopularDuplicate { list, item_id });
            }
        }
    }
    Ok(())
}

/// Whether all numbers of a value are finite.
fn is_finite(value: &FeatureValue) -> bool {
    match value {
        FeatureValue::F32(values) => values.iter().all(|value| value.is_finite()),
        FeatureValue::I64(_) => true,
    }
}
