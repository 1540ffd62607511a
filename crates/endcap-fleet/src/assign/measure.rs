//! Sizes and hashes of a placement.

use super::plan::Shard;

/// What lies together: bytes of a shard in all versions of one shard count, and on how many hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Piece {
    pub(super) bytes: u64,
    pub(super) replicas: usize,
}

/// The pieces, largest first.
pub(super) fn pieces(shards: &[Shard]) -> Vec<Piece> {
    let mut pieces: Vec<Piece> = Vec::with_capacity(shards.len());
    for shard in shards {
        let before = shard.sibling.map_or(0, |sibling| std::mem::take(&mut pieces[sibling].bytes));
        pieces.push(Piece { bytes: shard.bytes + before, replicas: shard.replicas });
    }
    pieces.retain(|piece| piece.bytes > 0);
    pieces.sort_unstable_by(|a, b| b.cmp(a));
    pieces
}

/// How far hosts can be evened out: the share of each host, and the largest piece, but for the pieces that are larger
/// than a share and the hosts that those fill.
pub(super) fn evened(mut budgets: Vec<u64>, pieces: &[Piece]) -> (u64, u64) {
    budgets.sort_unstable();
    let bytes = |piece: &Piece| piece.bytes.saturating_mul(piece.replicas as u64);
    let mut total = pieces.iter().fold(0_u64, |sum, piece| sum.saturating_add(bytes(piece)));
    let mut share = level(budgets.clone(), total);
    for piece in pieces {
        if piece.bytes <= share {
            return (share, piece.bytes);
        }
        // A piece that every host holds is part of each one's share.
        if piece.replicas < budgets.len() {
            budgets.truncate(budgets.len() - piece.replicas);
            total = total.saturating_sub(bytes(piece));
            share = level(budgets.clone(), total);
        }
    }
    (0, 0)
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
