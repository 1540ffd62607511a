//! The tokens of queries and items, for `match.*` features.

use std::collections::HashMap;

use endcap_bundle::tokens;

/// Words after which a shopper names what they do *not* want.
const NEGATIONS: [&str; 3] = ["without", "no", "not"];

/// A query's tokens, as the features need them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct QueryTokens {
    /// Distinct, in order of appearance.
    pub(crate) distinct: Vec<String>,
    /// Distinct tokens that follow a negation.
    pub(crate) negated: Vec<String>,
    /// All, in order of appearance.
    pub(crate) all: Vec<String>,
}

impl QueryTokens {
    pub(crate) fn of(query: &str) -> Self {
        let mut found = Self::default();
        let mut negating = false;
        for token in tokens(query) {
            found.all.push(token.clone());
            if NEGATIONS.contains(&token.as_str()) {
                negating = true;
            } else if negating && !found.negated.contains(&token) {
                found.negated.push(token.clone());
            }
            if !found.distinct.contains(&token) {
                found.distinct.push(token);
            }
        }
        found
    }
}

/// Distinct tokens of each row of a text column, as numbers: sorted, so that a look-up is a binary search.
#[derive(Debug, Clone, Default)]
pub(crate) struct TokenColumn {
    starts: Vec<u32>,
    tokens: Vec<u32>,
}

/// The tokens that a shard knows.
#[derive(Debug, Clone, Default)]
pub(crate) struct Vocabulary(HashMap<String, u32>);

impl Vocabulary {
    pub(crate) fn add(&mut self, token: String) -> u32 {
        let next = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        *self.0.entry(token).or_insert(next)
    }

    pub(crate) fn number(&self, token: &str) -> Option<u32> {
        self.0.get(token).copied()
    }

    /// Numbers of the tokens that any item has.
    pub(crate) fn known(&self, tokens: &[String]) -> Vec<u32> {
        tokens.iter().filter_map(|token| self.0.get(token).copied()).collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// All tokens, in the order of their numbers.
    pub(crate) fn by_number(&self) -> Vec<&str> {
        let mut tokens = vec![""; self.0.len()];
        for (token, number) in &self.0 {
            tokens[*number as usize] = token;
        }
        tokens
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.0.keys().map(|token| token.len() as u64 + 48).sum()
    }
}

impl TokenColumn {
    pub(crate) fn of(texts: &[Option<String>], vocabulary: &mut Vocabulary) -> Self {
        let mut column = Self { starts: vec![0], tokens: Vec::new() };
        for text in texts {
            let mut row: Vec<u32> =
                tokens(text.as_deref().unwrap_or_default()).into_iter().map(|t| vocabulary.add(t)).collect();
            row.sort_unstable();
            row.dedup();
            column.tokens.extend(row);
            column.starts.push(u32::try_from(column.tokens.len()).unwrap_or(u32::MAX));
        }
        column
    }

    pub(crate) fn has(&self, row: u32, token: u32) -> bool {
        let row = row as usize;
        let (start, end) = (self.starts[row] as usize, self.starts[row + 1] as usize);
        self.tokens[start..end].binary_search(&token).is_ok()
    }

    pub(crate) fn bytes(&self) -> u64 {
        (self.starts.len() + self.tokens.len()) as u64 * 4
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn negated_tokens_follow_a_negation() {
        let query = QueryTokens::of("kettle without red red lid");
        assert_eq!(query.distinct, ["kettle", "without", "red", "lid"]);
        assert_eq!(query.negated, ["red", "lid"]);
        assert_eq!(query.all.len(), 5);
    }

    #[test]
    fn a_column_knows_its_rows_tokens() {
        let mut vocabulary = Vocabulary::default();
        let column =
            TokenColumn::of(&[Some("red kettle".into()), None, Some("red red".into())], &mut vocabulary);
        let red = vocabulary.known(&["red".into(), "nowhere".into()]);
        assert_eq!(red.len(), 1);
        assert_eq!([0, 1, 2].map(|row| column.has(row, red[0])), [true, false, true]);
    }
}
