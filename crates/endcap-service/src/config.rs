//! Settings: compiled-in defaults < file < environment < command line. Every mistake is found and told at once.

mod setting;

use std::{collections::BTreeMap, fmt, path::Path};

pub use setting::{ByteSize, Secret, Setting};
use thiserror::Error;
use toml::Value;

/// The shipped settings *are* the defaults: file, documentation and code cannot drift apart.
pub const DEFAULTS: &str = include_str!("../../../deploy/config/endcap.toml");

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    Default,
    File(String),
    Environment(String),
    CommandLine,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => f.write_str(path),
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::CommandLine => f.write_str("command line"),
        }
    }
}

/// One mistake in the settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub key: String,
    pub found: String,
    pub source: String,
    pub expected: String,
}

/// Every mistake in the settings, in the order of keys.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub struct ConfigProblems(pub Vec<Problem>);

impl fmt::Display for ConfigProblems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.0.len();
        write!(f, "{count} setting{} must be mended:", if count == 1 { "" } else { "s" })?;
        for Problem { key, found, source, expected } in &self.0 {
            write!(f, "\n  {key} = {found} ({source}): expected {expected}")?;
        }
        Ok(())
    }
}

#[derive(Debug, Clone)]
struct Entry {
    value: Value,
    source: Source,
}

/// The merged settings of a process. Each part of it reads its own keys; [`Settings::finish`] tells what was wrong.
#[derive(Debug)]
pub struct Settings {
    entries: BTreeMap<String, Entry>,
    problems: Vec<Problem>,
}

impl Settings {
    /// Merges the layers. `env` holds variables like `ENDCAP_GATEWAY__GRPC__LISTEN`; a double underscore separates
    /// the parts of a key. `overrides` are keys with values as text. Fails only on a file that cannot be read; unknown
    /// keys are told by [`Settings::finish`], together with everything else.
    pub fn load(
        file: Option<&Path>,
        env: &BTreeMap<String, String>,
        overrides: &[(String, String)],
    ) -> Result<Self, ConfigProblems> {
        let mut settings = Self { entries: BTreeMap::new(), problems: Vec::new() };
        settings.merge_text(DEFAULTS, &Source::Default)?;
        if let Some(path) = file {
            let source = Source::File(path.display().to_string());
            match std::fs::read_to_string(path) {
                Ok(text) => settings.merge_text(&text, &source)?,
                Err(error) => {
                    let expected = format!("a readable file ({error})");
                    settings.problem(
                        "--config",
                        &path.display().to_string(),
                        &Source::CommandLine,
                        &expected,
                    );
                    return Err(settings.take_problems());
                }
            }
        }
        for (name, text) in env {
            let Some(key) = name.strip_prefix("ENDCAP_").filter(|key| key.contains("__")) else {
                continue;
            };
            let key = key.to_lowercase().replace("__", ".");
            settings.set(key, Value::String(text.clone()), Source::Environment(name.clone()));
        }
        for (key, text) in overrides {
            settings.set(key.clone(), Value::String(text.clone()), Source::CommandLine);
        }
        Ok(settings)
    }

    /// One value, or nothing and a recorded problem.
    pub fn read<T: Setting>(&mut self, key: &str) -> Option<T> {
        let Some(entry) = self.entries.get(key) else {
            self.problem(key, "nothing", &Source::Default, &format!("{} (no such key)", T::EXPECTED));
            return None;
        };
        let value = T::from_value(&entry.value);
        if value.is_none() {
            self.reject(key, T::EXPECTED);
        }
        value
    }

    /// Records that a value which could be read is wrong for another reason.
    pub fn reject(&mut self, key: &str, expected: &str) {
        let (found, source) = match self.entries.get(key) {
            Some(entry) => (shown(key, &entry.value), entry.source.clone()),
            None => ("nothing".to_owned(), Source::Default),
        };
        self.problem(key, &found, &source, &expected);
    }

    /// The configuration that was read, or every problem found since the last call.
    pub fn finish<C>(&mut self, config: Option<C>) -> Result<C, ConfigProblems> {
        match config {
            Some(config) if self.problems.is_empty() => Ok(config),
            _ => Err(self.take_problems()),
        }
    }

    /// Every setting with its value and where it came from. Secrets are hidden.
    pub fn effective(&self) -> Vec<(String, String, String)> {
        self.entries
            .iter()
            .map(|(key, entry)| (key.clone(), shown(key, &entry.value), entry.source.to_string()))
            .collect()
    }

    fn merge_text(&mut self, text: &str, source: &Source) -> Result<(), ConfigProblems> {
        match text.parse::<toml::Table>() {
            Ok(table) => {
                let mut flat = Vec::new();
                flatten("", table, &mut flat);
                for (key, value) in flat {
                    self.set(key, value, source.clone());
                }
                Ok(())
            }
            Err(error) => {
                self.problem("(the whole file)", "a mistake", source, &format!("TOML: {error}"));
                Err(self.take_problems())
            }
        }
    }

    /// Only the defaults may introduce keys: any other unknown key is a typing mistake.
    fn set(&mut self, key: String, value: Value, source: Source) {
        if source == Source::Default || self.entries.contains_key(&key) {
            self.entries.insert(key, Entry { value, source });
            return;
        }
        let near = self.entries.keys().min_by_key(|known| distance(known, &key)).cloned();
        let hint = near.map_or_else(String::new, |near| format!(" (did you mean {near}?)"));
        self.problem(&key, &shown(&key, &value), &source, &format!("a known key{hint}"));
    }

    fn problem(&mut self, key: &str, found: &str, source: &Source, expected: &dyn fmt::Display) {
        self.problems.push(Problem {
            key: key.to_owned(),
            found: found.to_owned(),
            source: source.to_string(),
            expected: expected.to_string(),
        });
    }

    fn take_problems(&mut self) -> ConfigProblems {
        let mut problems = std::mem::take(&mut self.problems);
        problems.sort_by(|a, b| a.key.cmp(&b.key));
        ConfigProblems(problems)
    }
}

fn flatten(prefix: &str, table: toml::Table, flat: &mut Vec<(String, Value)>) {
    for (name, value) in table {
        let key = if prefix.is_empty() { name } else { format!("{prefix}.{name}") };
        match value {
            Value::Table(inner) => flatten(&key, inner, flat),
            value => flat.push((key, value)),
        }
    }
}

/// Levenshtein's edit distance, for "did you mean".
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, a) in left.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, b) in right.iter().enumerate() {
            let substituted = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[right.len()]
}

/// A value for people, unless its key names a secret.
fn shown(key: &str, value: &Value) -> String {
    let is_secret = ["password", "secret", "token"].iter().any(|word| key.contains(word));
    if is_secret { "[redacted]".to_owned() } else { value.to_string() }
}

#[cfg(test)]
mod tests;
