//! Names, numbers and digests.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};
use thiserror::Error;
use xxhash_rust::xxh3::xxh3_64;

/// Why a name, alias or digest from outside was refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum IdError {
    #[error("a model name is 1 to 63 of a-z, 0-9, '-' and '_', beginning with a letter; found {found:?}")]
    ModelName { found: String },
    #[error("a digest is 64 lower-case hex digits; found {found:?}")]
    Digest { found: String },
    #[error("an alias is one of stable, candidate, last_good; found {found:?}")]
    Alias { found: String },
    #[error("a version is a number from 1; found {found:?}")]
    Version { found: String },
    #[error("a shard count is 1 to 65536; found {found}")]
    ShardCount { found: u64 },
}

/// A model's name, e.g. `search-ranker`. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ModelName(Arc<str>);

impl ModelName {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ModelName {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
        let begins_with_letter = text.starts_with(|c: char| c.is_ascii_lowercase());
        if text.len() > 63 || !begins_with_letter || !text.chars().all(legal) {
            return Err(IdError::ModelName { found: shortened(text) });
        }
        Ok(Self(text.into()))
    }
}

/// A version number of a model, from 1. Given by the registry, never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct Version(u64);

impl Version {
    pub const FIRST: Self = Self(1);

    pub fn get(self) -> u64 {
        self.0
    }

    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl TryFrom<u64> for Version {
    type Error = IdError;

    fn try_from(number: u64) -> Result<Self, IdError> {
        if number == 0 { Err(IdError::Version { found: "0".into() }) } else { Ok(Self(number)) }
    }
}

impl FromStr for Version {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let number: u64 = text.parse().map_err(|_| IdError::Version { found: shortened(text) })?;
        Self::try_from(number)
    }
}

/// SHA-256 of a bundle's manifest, which in turn holds the SHA-256 of every file: it names a version's exact bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest([u8; 32]);

impl Digest {
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    pub fn to_hex(self) -> String {
        hex::encode(self.0)
    }

    /// The first 12 digits, for people.
    pub fn short(self) -> String {
        hex::encode(&self.0[..6])
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({})", self.short())
    }
}

impl FromStr for Digest {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let refused = || IdError::Digest { found: shortened(text) };
        let mut bytes = [0; 32];
        // The library would take a prefix, and upper case.
        if text.len() != 64 || text.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(refused());
        }
        hex::decode_to_slice(text, &mut bytes).map_err(|_| refused())?;
        Ok(Self(bytes))
    }
}

/// A pointer from a model to one of its versions. Aliases move; versions never change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Alias {
    Stable,
    Candidate,
    LastGood,
}

impl Alias {
    pub const ALL: [Self; 3] = [Self::Stable, Self::Candidate, Self::LastGood];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stable => "stable",
            Self::Candidate => "candidate",
            Self::LastGood => "last_good",
        }
    }
}

impl FromStr for Alias {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        Self::ALL
            .into_iter()
            .find(|alias| alias.as_str() == text)
            .ok_or_else(|| IdError::Alias { found: shortened(text) })
    }
}

/// The exact bytes that must answer: a version and the digest that it must have.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct VersionPin {
    pub model: ModelName,
    pub version: Version,
    pub digest: Digest,
}

impl fmt::Display for VersionPin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{} ({})", self.model, self.version, self.digest.short())
    }
}

/// An item's id in the catalogue.
pub type ItemId = String;

/// Index of a shard of a version, 0 to S-1.
pub type ShardIndex = u32;

/// How many shards a version's catalogue has. It belongs to the version, so resharding is an ordinary promotion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct ShardCount(u32);

impl ShardCount {
    pub const MAX: u32 = 65_536;

    pub fn get(self) -> u32 {
        self.0
    }

    pub fn indices(self) -> impl Iterator<Item = ShardIndex> {
        0..self.0
    }
}

impl TryFrom<u32> for ShardCount {
    type Error = IdError;

    fn try_from(count: u32) -> Result<Self, IdError> {
        if (1..=Self::MAX).contains(&count) {
            Ok(Self(count))
        } else {
            Err(IdError::ShardCount { found: count.into() })
        }
    }
}

/// The shard that holds an item: `xxh3_64(item_id) % S`.
pub fn shard_of(item_id: &str, shards: ShardCount) -> ShardIndex {
    let shard = xxh3_64(item_id.as_bytes()) % u64::from(shards.get());
    u32::try_from(shard).unwrap_or_default()
}

/// Outside text may be huge; an error message may not.
fn shortened(text: &str) -> String {
    const LIMIT: usize = 80;
    if text.chars().count() <= LIMIT {
        return text.to_owned();
    }
    text.chars().take(LIMIT).chain("…".chars()).collect()
}

macro_rules! text_conversions {
    ($($type:ty => $text:expr;)*) => {$(
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let text: fn(&$type) -> String = $text;
                f.pad(&text(self))
            }
        }
    )*};
}

text_conversions! {
    ModelName => |name| name.0.to_string();
    Version => |version| version.0.to_string();
    Digest => |digest| digest.to_hex();
    Alias => |alias| alias.as_str().to_owned();
    ShardCount => |count| count.0.to_string();
}

impl TryFrom<String> for ModelName {
    type Error = IdError;

    fn try_from(text: String) -> Result<Self, IdError> {
        text.parse()
    }
}

impl From<ModelName> for String {
    fn from(name: ModelName) -> Self {
        name.0.to_string()
    }
}

impl TryFrom<String> for Digest {
    type Error = IdError;

    fn try_from(text: String) -> Result<Self, IdError> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_hex()
    }
}

impl From<Version> for u64 {
    fn from(version: Version) -> Self {
        version.0
    }
}

impl From<ShardCount> for u32 {
    fn from(count: ShardCount) -> Self {
        count.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn model_names_are_checked() {
        for good in ["search-ranker", "a", "m_2"] {
            assert_eq!(good.parse::<ModelName>().unwrap().as_str(), good);
        }
        for bad in ["", "2m", "Ranker", "a/b", "../x", &"a".repeat(64)] {
            assert!(bad.parse::<ModelName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn digests_round_trip_and_refuse_upper_case() {
        let digest = Digest::from_bytes([0xab; 32]);
        assert_eq!(digest.to_hex().parse::<Digest>().unwrap(), digest);
        assert!(digest.to_hex().to_uppercase().parse::<Digest>().is_err());
        for other in [
            "0x".to_owned() + &digest.to_hex(),
            "0x".to_owned() + &digest.to_hex()[2..],
            digest.to_hex() + "ab",
        ] {
            assert!(other.parse::<Digest>().is_err(), "{other}");
        }
        assert!("ab".parse::<Digest>().is_err());
    }

    #[test]
    fn the_shard_hash_is_the_published_one() {
        // xxh3_64("B07H3VQCM1") from the reference implementation; a change here would orphan every stored bundle.
        let four = ShardCount::try_from(4).unwrap();
        assert_eq!(u64::from(shard_of("item-1", four)), xxh3_64(b"item-1") % 4);
        assert_eq!(shard_of("anything", ShardCount::try_from(1).unwrap()), 0);
    }

    #[test]
    fn version_zero_is_refused() {
        assert!(Version::try_from(0).is_err());
        assert!(serde_json_like("0").is_err());
    }

    fn serde_json_like(text: &str) -> Result<Version, IdError> {
        text.parse()
    }
}
