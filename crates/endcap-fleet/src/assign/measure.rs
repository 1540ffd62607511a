//! Sizes and hashes of a placement.

use super::plan::Shard;

/// The most bytes that one shard takes in all versions together.
pub(super) fn largest_piece(shards: &[Shard]) -> u64 {
    let mut pieces: Vec<u64> = Vec::with_capacity(shards.len());
    for shard in shards {
        pieces.push(shard.bytes + shard.sibling.map_or(0, |sibling| pieces[sibling]));
    }
    pieces.into_iter().max().unwrap_or(0)
}

/// How high `total` fills rooms of these sizes; without end if it does not fit.
pub(super) fn level(mut budgets: Vec<u64>, total: u64) -> u64 {
    budgets.sort_unstable();
    let mut rest = total;
    for (full, budget) in budgets.iter().enumerate() {
        let level = rest.div_ceil((budgets.len() - full) as u64);
        if level <= *budget {
            return level;
        }
        rest -= budget;
    }
    u64::MAX
}

/// The finaliser of SplitMix64 (Steele, Lea and Flood, 2014): cheap, and every bit depends on every bit.
pub(super) fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}
