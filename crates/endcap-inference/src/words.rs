//! Everything that a shard knows of its items' words, laid out at load for the features and lists that read it.

use endcap_bundle::{Column, ItemTable, tokens};
use endcap_types::Compute;

use crate::{
    LoadError,
    binding::Binding,
    lexical::LexicalField,
    shard::wrong_column,
    text::{TokenColumn, Vocabulary},
};

/// Tokens by column, joined texts, and inverted indices.
#[derive(Debug, Default)]
pub(crate) struct Words {
    pub(crate) vocabulary: Vocabulary,
    pub(crate) columns: Vec<(String, TokenColumn)>,
    /// Each text's tokens, joined by spaces.
    pub(crate) joined: Vec<(String, Vec<String>)>,
    pub(crate) fields: Vec<LexicalField>,
    /// Columns of the lexical list; empty without one.
    pub(crate) listed: Vec<String>,
}

impl Words {
    pub(crate) fn build(binding: &Binding, table: &ItemTable) -> Result<Self, LoadError> {
        let mut words = Self { listed: binding.listed.clone(), ..Self::default() };
        if !words.listed.is_empty() {
            words.index(binding, table, &binding.listed, "retrieval")?;
        }
        for slot in &binding.matches {
            let needed_by = slot.spec.name.as_str();
            match &slot.spec.compute {
                Some(Compute::Bm25 { columns }) => words.index(binding, table, columns, needed_by)?,
                Some(Compute::BigramShare { column }) => words.join(table, column, needed_by)?,
                Some(compute) => words.tokenize(table, compute.columns(), needed_by)?,
                None => {}
            }
        }
        Ok(words)
    }

    /// What it takes, within a few percent.
    pub(crate) fn bytes(&self) -> u64 {
        let columns: u64 = self.columns.iter().map(|(_, column)| column.bytes()).sum();
        let texts = self.joined.iter().flat_map(|(_, texts)| texts);
        let joined: u64 = texts.map(|text| text.len() as u64 + 24).sum();
        let fields: u64 = self.fields.iter().map(LexicalField::bytes).sum();
        columns + joined + fields + self.vocabulary.bytes()
    }

    fn tokenize(&mut self, table: &ItemTable, names: &[String], needed_by: &str) -> Result<(), LoadError> {
        for name in names {
            if self.columns.iter().all(|(known, _)| known != name) {
                let texts = texts(table, name, needed_by)?;
                self.columns.push((name.clone(), TokenColumn::of(texts, &mut self.vocabulary)));
            }
        }
        Ok(())
    }

    fn join(&mut self, table: &ItemTable, name: &String, needed_by: &str) -> Result<(), LoadError> {
        if self.joined.iter().all(|(known, _)| known != name) {
            let texts = texts(table, name, needed_by)?.iter();
            let joined = texts.map(|text| tokens(text.as_deref().unwrap_or_default()).join(" "));
            self.joined.push((name.clone(), joined.collect()));
        }
        Ok(())
    }

    fn index(
        &mut self,
        binding: &Binding,
        table: &ItemTable,
        names: &[String],
        needed_by: &str,
    ) -> Result<(), LoadError> {
        if self.fields.iter().any(|field| field.columns() == names) {
            return Ok(());
        }
        let Some(stats) = binding.lexical.field(names) else {
            let (columns, needed_by) = (names.join(", "), needed_by.to_owned());
            return Err(LoadError::Lexical { columns, needed_by });
        };
        let columns =
            names.iter().map(|name| texts(table, name, needed_by)).collect::<Result<Vec<_>, _>>()?;
        let row = |row: usize| columns.iter().filter_map(|texts| texts[row].as_deref()).collect();
        let field = LexicalField::build(stats, (0..table.len()).map(row), &mut self.vocabulary);
        self.fields.push(field);
        Ok(())
    }
}

fn texts<'a>(table: &'a ItemTable, name: &str, needed_by: &str) -> Result<&'a [Option<String>], LoadError> {
    match table.columns.get(name) {
        Some(Column::Text(texts)) => Ok(texts),
        found => Err(wrong_column(needed_by, name, "text", found)),
    }
}
