//! Tokens for `match.*` features: lower-cased, maximal runs of `[a-z0-9]`.

use std::collections::HashMap;

/// Words after which a shopper names what they do *not* want.
const NEGATIONS: [&str; 3] = ["without", "no", "not"];

/// The tokens of a text, repeats included.
pub(crate) fn tokens(text: &str) -> Vec<String> {
    let lower = text.to_lowercase();
    lower
        .split(|c: char| !c.is_ascii_lowercase() && !c.is_ascii_digit())
        .filter(|token| !token.is_empty())
        .map(str::to_owned)
        .collect()
}

/// A query's tokens, as the features need them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct QueryTokens {
    /// Distinct, in order of appearance.
    pub(crate) distinct: Vec<String>,
    /// Distinct tokens that follow a negation.
    pub(crate) negated: Vec<String>,
    /// All, repeats counted.
    pub(crate) count: usize,
}

impl QueryTokens {
    pub(crate) fn of(query: &str) -> Self {
        let mut found = Self::default();
        let mut negating = false;
        for token in tokens(query) {
            found.count += 1;
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

    /// Numbers of the tokens that any item has.
    pub(crate) fn known(&self, tokens: &[String]) -> Vec<u32> {
        tokens.iter().filter_map(|token| self.0.get(token).copied()).collect()
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
    fn tokens_are_lower_cased_runs_of_letters_and_digits() {
        assert_eq!(tokens("Red-Kettle, 1.8 l (ÉMAIL)"), ["red", "kettle", "1", "8", "l", "mail"]);
        assert!(tokens(" \u{0}…").is_empty());
    }

    #[test]
    fn negated_tokens_follow_a_negation() {
        let query = QueryTokens::of("kettle without red red lid");
        assert_eq!(query.distinct, ["kettle", "without", "red", "lid"]);
        assert_eq!(query.negated, ["red", "lid"]);
        assert_eq!(query.count, 5);
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
