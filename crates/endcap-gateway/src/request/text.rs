//! Text from outside.

use endcap_types::Violations;

/// Ids are keys, not documents.
const LONGEST_ID: usize = 512;

/// Trimmed, with every run of white space as one space. Case is kept: tokenizers lower it.
pub(super) fn normalised(query: &str) -> String {
    query.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Records what is wrong with a query, and says whether it may be used.
pub(super) fn check_query(query: &str, most_bytes: usize, found: &mut Violations) -> bool {
    if query.len() > most_bytes {
        found.push("query", format!("has {} bytes; expected at most {most_bytes}", query.len()));
        return false;
    }
    // Tabs and line breaks are white space, which people paste.
    let control = |(_, c): &(usize, char)| c.is_control() && !matches!(c, '\t' | '\n' | '\r');
    if let Some((at, c)) = query.char_indices().find(control) {
        let code = u32::from(c);
        found.push("query", format!("has the control character U+{code:04X} at byte {at}; expected none"));
        return false;
    }
    true
}

/// Records what is wrong with an id, of which a request may have thousands: `field` is called when something is. An empty
/// one is for the caller of this to judge.
pub(super) fn check_id(field: impl FnOnce() -> String, id: &str, found: &mut Violations) {
    if id.len() > LONGEST_ID {
        found.push(field(), format!("has {} bytes; expected at most {LONGEST_ID}", id.len()));
    } else if let Some(c) = id.chars().find(|c| c.is_control()) {
        found.push(field(), format!("has the control character U+{:04X}; expected none", u32::from(c)));
    }
}

/// Outside text may be huge; an error message may not.
pub(super) fn shortened(text: &str) -> String {
    const LIMIT: usize = 40;
    if text.chars().count() <= LIMIT {
        return text.to_owned();
    }
    text.chars().take(LIMIT).chain("…".chars()).collect()
}
