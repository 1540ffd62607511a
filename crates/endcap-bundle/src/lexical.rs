//! Tokens, and what BM25 must know of the whole catalogue: computed once when a bundle is packed, so that a shard scores
//! its items exactly as a single process would.

use std::collections::BTreeMap;

use arrow::array::RecordBatch;
use serde::{Deserialize, Serialize};

use crate::{BundleError, Column, FeatureSchema, ItemTable, ModelSpec, items};
use endcap_types::Compute;

/// The tokens of a text, repeats included: lower-cased, maximal runs of `[a-z0-9]`.
pub fn tokens(text: &str) -> Vec<String> {
    let lower = text.to_lowercase();
    lower
        .split(|c: char| !c.is_ascii_lowercase() && !c.is_ascii_digit())
        .filter(|token| !token.is_empty())
        .map(str::to_owned)
        .collect()
}

/// `lexical.json`: the statistics of every text that is scored.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LexicalStats {
    pub fields: Vec<FieldStats>,
}

/// The statistics of some text columns, read as one text.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FieldStats {
    pub columns: Vec<String>,
    /// Items in the catalogue.
    pub documents: u64,
    /// Tokens of all items, repeats counted.
    pub tokens: u64,
    /// Items that have a token.
    pub document_frequency: BTreeMap<String, u64>,
}

#[expect(clippy::cast_precision_loss, reason = "counts far below 2^53")]
impl FieldStats {
    /// Mean number of tokens; 0 for an empty catalogue.
    pub fn average_length(&self) -> f64 {
        if self.documents == 0 { 0.0 } else { self.tokens as f64 / self.documents as f64 }
    }

    /// Lucene's idf: ln(1 + (N - n + 0.5) / (n + 0.5)), never negative.
    pub fn idf(&self, token: &str) -> f64 {
        let frequency = self.document_frequency.get(token).copied().unwrap_or_default() as f64;
        (1.0 + (self.documents as f64 - frequency + 0.5) / (frequency + 0.5)).ln()
    }

    /// Counts one item more.
    fn add(&mut self, texts: &[Option<&str>]) {
        let mut found: Vec<String> = texts.iter().flatten().flat_map(|text| tokens(text)).collect();
        self.documents += 1;
        self.tokens += found.len() as u64;
        found.sort_unstable();
        found.dedup();
        for token in found {
            *self.document_frequency.entry(token).or_default() += 1;
        }
    }
}

impl LexicalStats {
    pub fn field(&self, columns: &[String]) -> Option<&FieldStats> {
        self.fields.iter().find(|field| field.columns == columns)
    }

    /// Statistics of nothing yet, for everything that a version scores by its words.
    pub(crate) fn needed(schema: &FeatureSchema, spec: &ModelSpec) -> Self {
        let of_feature = |compute: &Compute| match compute {
            Compute::Bm25 { columns } | Compute::IdfShare { columns, .. } => Some(columns.clone()),
            _ => None,
        };
        let of_retrieval = spec.retrieval.iter().map(|retrieval| &retrieval.lexical_columns);
        let columns = of_retrieval
            .filter(|columns| !columns.is_empty())
            .cloned()
            .chain(schema.iter().filter_map(|feature| of_feature(feature.compute.as_ref()?)));
        let mut stats = Self::default();
        for columns in columns {
            if stats.field(&columns).is_none() {
                stats.fields.push(FieldStats { columns, ..FieldStats::default() });
            }
        }
        stats
    }

    /// Counts the items of a batch. A column that is not there or holds no text counts as empty: the deep check tells.
    pub(crate) fn add_batch(&mut self, batch: &RecordBatch) {
        for field in &mut self.fields {
            let columns: Vec<_> = field.columns.iter().map(|name| items::texts(batch, name)).collect();
            for row in 0..batch.num_rows() {
                let texts: Vec<_> =
                    columns.iter().map(|column| column.and_then(|column| items::text(column, row))).collect();
                field.add(&texts);
            }
        }
    }

    /// The same for a shard.
    pub(crate) fn add_table(&mut self, table: &ItemTable) {
        for field in &mut self.fields {
            let texts = |name: &String| match table.columns.get(name) {
                Some(Column::Text(texts)) => Some(texts),
                _ => None,
            };
            let columns: Vec<_> = field.columns.iter().map(texts).collect();
            for row in 0..table.len() {
                let texts: Vec<_> =
                    columns.iter().map(|texts| texts.and_then(|t| t[row].as_deref())).collect();
                field.add(&texts);
            }
        }
    }

    /// Whether these, found in a bundle, are `expected`, counted in its items.
    pub(crate) fn check(&self, expected: &Self) -> Result<(), BundleError> {
        for field in &expected.fields {
            let columns = field.columns.join(", ");
            match self.field(&field.columns) {
                None => return Err(BundleError::LexicalMissing { columns }),
                Some(found) if found != field => return Err(BundleError::LexicalStats { columns }),
                Some(_) => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_lower_cased_runs_of_letters_and_digits() {
        assert_eq!(tokens("Red-Kettle, 1.8 l (ÉMAIL)"), ["red", "kettle", "1", "8", "l", "mail"]);
        assert!(tokens(" \u{0}…").is_empty());
    }

    #[test]
    fn an_item_counts_once_for_each_of_its_tokens() {
        let mut stats = FieldStats::default();
        stats.add(&[Some("Red kettle, red lid"), None]);
        stats.add(&[Some("kettle"), Some("red")]);
        stats.add(&[None, None]);
        assert_eq!((stats.documents, stats.tokens), (3, 6));
        assert_eq!(stats.document_frequency["red"], 2);
        assert!((stats.average_length() - 2.0).abs() < 1e-12);
        // ln(1 + (3 - 2 + 0.5) / (2 + 0.5)), and for a token that nothing has ln(1 + 3.5 / 0.5).
        assert!((stats.idf("red") - 1.6_f64.ln()).abs() < 1e-12);
        assert!((stats.idf("lamp") - 8.0_f64.ln()).abs() < 1e-12);
    }
}
