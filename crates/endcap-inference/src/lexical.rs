//! BM25 over a shard's items, with the statistics of the whole catalogue.
//!
//! An inverted index of our own: search libraries keep an item's length in one byte and count their statistics per
//! index, so that an item's score would be rounded and would depend on which shard it is on. Here each addend is
//! idf x tf x (k1 + 1) / (tf + k1 x (1 - b + b x length / average length)), summed as f64 in the order of the query's
//! tokens, repeats counted (Robertson and Zaragoza, 2009; Lucene's idf).

use std::collections::BTreeMap;

use endcap_bundle::{FieldStats, tokens};

use crate::{scan, text::Vocabulary};

const K1: f64 = 1.2;
const B: f64 = 0.75;

/// Some text columns of a shard, read as one text.
#[derive(Debug)]
pub(crate) struct LexicalField {
    columns: Vec<String>,
    /// By token number: where its postings begin; one more than there are tokens.
    starts: Vec<u32>,
    rows: Vec<u32>,
    counts: Vec<u32>,
    /// By token number: its idf times (k1 + 1).
    weights: Vec<f64>,
    /// By row: k1 x (1 - b + b x length / average length).
    norms: Vec<f64>,
}

impl LexicalField {
    /// Indexes the texts of each row. Numbers of the tokens are the vocabulary's.
    pub(crate) fn build<'a>(
        stats: &FieldStats,
        texts: impl Iterator<Item = Vec<&'a str>>,
        vocabulary: &mut Vocabulary,
    ) -> Self {
        let average = stats.average_length().max(f64::MIN_POSITIVE);
        let (mut postings, mut norms) = (Vec::new(), Vec::new());
        for (row, texts) in (0_u32..).zip(texts) {
            let (mut counts, mut length) = (BTreeMap::<u32, u32>::new(), 0.0);
            for token in texts.into_iter().flat_map(tokens) {
                *counts.entry(vocabulary.add(token)).or_default() += 1;
                length += 1.0;
            }
            postings.extend(counts.into_iter().map(|(token, count)| (token, row, count)));
            norms.push(K1 * (1.0 - B + B * length / average));
        }
        postings.sort_unstable();
        let mut field = Self {
            columns: stats.columns.clone(),
            starts: vec![0; vocabulary.len() + 1],
            rows: postings.iter().map(|(_, row, _)| *row).collect(),
            counts: postings.iter().map(|(_, _, count)| *count).collect(),
            weights: vocabulary.by_number().into_iter().map(|token| stats.idf(token) * (K1 + 1.0)).collect(),
            norms,
        };
        for (token, ..) in &postings {
            field.starts[*token as usize + 1] += 1;
        }
        for token in 1..field.starts.len() {
            field.starts[token] += field.starts[token - 1];
        }
        field
    }

    pub(crate) fn columns(&self) -> &[String] {
        &self.columns
    }

    /// BM25 of one row for a query's tokens, repeats included.
    pub(crate) fn score(&self, row: u32, tokens: &[u32]) -> f32 {
        let addend = |token: &u32| {
            let postings = self.postings(*token);
            let found = self.rows[postings.clone()].binary_search(&row).ok()?;
            Some(self.addend(*token, row, self.counts[postings.start + found]))
        };
        narrow(tokens.iter().filter_map(addend).fold(0.0, |sum, addend| sum + addend))
    }

    /// The `depth` best rows that have any of the tokens and are allowed, best first, ties by row.
    pub(crate) fn top(&self, tokens: &[u32], depth: usize, allowed: impl Fn(u32) -> bool) -> Vec<(u32, f32)> {
        let mut scores = vec![0.0_f64; self.norms.len()];
        for token in tokens {
            for posting in self.postings(*token) {
                let row = self.rows[posting];
                scores[row as usize] += self.addend(*token, row, self.counts[posting]);
            }
        }
        let scored = (0_u32..).zip(scores).map(|(row, score)| (row, narrow(score)));
        let found: Vec<_> = scored.filter(|(row, score)| *score > 0.0 && allowed(*row)).collect();
        scan::ordered(found, depth)
    }

    pub(crate) fn bytes(&self) -> u64 {
        let numbers = self.starts.len() + self.rows.len() + self.counts.len();
        numbers as u64 * 4 + (self.weights.len() + self.norms.len()) as u64 * 8
    }

    /// Tokens that came with a later field have no postings here.
    fn postings(&self, token: u32) -> std::ops::Range<usize> {
        let bound = |at: usize| self.starts.get(at).map_or(self.rows.len(), |start| *start as usize);
        bound(token as usize)..bound(token as usize + 1)
    }

    fn addend(&self, token: u32, row: u32, count: u32) -> f64 {
        let count = f64::from(count);
        self.weights[token as usize] * count / (count + self.norms[row as usize])
    }
}

#[expect(clippy::cast_possible_truncation, reason = "scores are f32 on the wire and in the ranker")]
fn narrow(score: f64) -> f32 {
    score as f32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stats(texts: &[String]) -> FieldStats {
        let mut stats = FieldStats { columns: vec!["name".into()], ..FieldStats::default() };
        for text in texts {
            let mut found = tokens(text);
            stats.documents += 1;
            stats.tokens += found.len() as u64;
            found.sort();
            found.dedup();
            for token in found {
                *stats.document_frequency.entry(token).or_default() += 1;
            }
        }
        stats
    }

    fn field(texts: &[String], stats: &FieldStats) -> (LexicalField, Vocabulary) {
        let mut vocabulary = Vocabulary::default();
        let rows = texts.iter().map(|text| vec![text.as_str()]);
        (LexicalField::build(stats, rows, &mut vocabulary), vocabulary)
    }

    #[test]
    fn a_score_computed_by_hand() {
        let texts = ["red kettle red".to_owned(), "lamp".to_owned(), "red".to_owned(), "blue mug".to_owned()];
        let stats = stats(&texts);
        let (field, vocabulary) = field(&texts, &stats);
        // 7 tokens over 4 items; "red" is in 2 of them.
        let idf = (1.0_f64 + (4.0 - 2.0 + 0.5) / (2.0 + 0.5)).ln();
        let expected = idf * 2.0 * 2.2 / (2.0 + 1.2 * (0.25 + 0.75 * 3.0 / 1.75));
        let red = vocabulary.known(&["red".into()]);
        assert!((f64::from(field.score(0, &red)) - expected).abs() < 1e-6);
        let twice = vocabulary.known(&["red".into(), "red".into()]);
        assert!((f64::from(field.score(0, &twice)) - 2.0 * expected).abs() < 1e-6);
        assert_eq!(field.score(1, &red).to_bits(), 0.0_f32.to_bits());
        assert_eq!(
            field.top(&red, 9, |row| row != 2).into_iter().map(|(row, _)| row).collect::<Vec<_>>(),
            [0]
        );
    }

    proptest! {
        #[test]
        fn a_row_scores_the_same_to_the_bit_on_every_shard_and_in_every_way(
            texts in prop::collection::vec("[a-d]( [a-d]){0,5}", 1..40), query in "[a-e]( [a-e]){0,4}", depth in 1_usize..9,
        ) {
            let stats = stats(&texts);
            let (whole, vocabulary) = field(&texts, &stats);
            let wanted = vocabulary.known(&tokens(&query));
            let all: Vec<f32> = (0..).zip(&texts).map(|(row, _)| whole.score(row, &wanted)).collect();
            let mut oracle: Vec<(u32, f32)> = (0..).zip(all.iter().copied()).filter(|(_, score)| *score > 0.0).collect();
            oracle.sort_by(scan::better);
            oracle.truncate(depth);
            prop_assert_eq!(whole.top(&wanted, depth, |_| true), oracle);

            let (half, vocabulary) = field(&texts[texts.len() / 2..], &stats);
            let wanted = vocabulary.known(&tokens(&query));
            for (row, score) in (0..).zip(&all[texts.len() / 2..]) {
                prop_assert_eq!(half.score(row, &wanted).to_bits(), score.to_bits());
            }
        }
    }
}
