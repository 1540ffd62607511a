//! From shards' unranked lists to one pool of candidates, each with its ranks in the whole catalogue.
//!
//! A shard knows its own best items, but not where they stand in the catalogue. It lists its best by either score, each
//! item with both; here the lists become global again, so that ranks, tops and the pool are the same for every number
//! of shards.

use std::collections::{HashMap, HashSet};

use endcap_types::{ItemId, RetrievalMode, Standing};

/// The constant of reciprocal rank fusion (Cormack, Clarke and Büttcher, 2009).
pub const RRF_K: u32 = 60;

/// An item that a shard lists.
#[derive(Debug, Clone, PartialEq)]
pub struct Listed {
    pub item_id: ItemId,
    /// Inner product with the query's vector.
    pub dense: f32,
    /// BM25; not in the lexical list unless positive.
    pub lexical: f32,
}

/// How candidates are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolOptions {
    pub mode: RetrievalMode,
    /// Items of each list that count.
    pub list_depth: usize,
    /// Items of the pool.
    pub depth: usize,
}

/// Both lists of the whole catalogue, best first.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct CatalogueLists {
    dense: Vec<ItemId>,
    lexical: Vec<ItemId>,
    dense_ranks: HashMap<ItemId, u32>,
    lexical_ranks: HashMap<ItemId, u32>,
    dense_top: f32,
    lexical_top: f32,
}

impl CatalogueLists {
    /// Merges what shards list. Each must bring its own best `depth` by either score, but for excluded items. Without a
    /// query vector there is no `dense` list.
    pub fn merge(shards: Vec<Vec<Listed>>, depth: usize, dense: bool, exclude: &HashSet<ItemId>) -> Self {
        let mut seen = HashSet::new();
        // Shards don't overlap; should they ever, a list must still be distinct.
        let all: Vec<Listed> = shards
            .into_iter()
            .flatten()
            .filter(|item| !exclude.contains(&item.item_id) && seen.insert(item.item_id.clone()))
            .collect();
        let by_dense = if dense { best(&all, depth, |item| item.dense) } else { Vec::new() };
        let mut by_lexical = best(&all, depth, |item| item.lexical);
        by_lexical.retain(|item| item.lexical > 0.0);
        Self {
            dense_top: by_dense.first().map_or(0.0, |item| item.dense),
            lexical_top: by_lexical.first().map_or(0.0, |item| item.lexical),
            dense_ranks: ranks(&by_dense),
            lexical_ranks: ranks(&by_lexical),
            dense: by_dense.into_iter().map(|item| item.item_id.clone()).collect(),
            lexical: by_lexical.into_iter().map(|item| item.item_id.clone()).collect(),
        }
    }

    /// The items to rank, best first.
    pub fn pool(&self, options: &PoolOptions) -> Vec<ItemId> {
        let cut = |list: &[ItemId], depth: usize| list[..depth.min(list.len())].to_vec();
        match options.mode {
            RetrievalMode::Dense => cut(&self.dense, options.depth),
            RetrievalMode::Lexical => cut(&self.lexical, options.depth),
            RetrievalMode::Fused => {
                let lists = [cut(&self.dense, options.list_depth), cut(&self.lexical, options.list_depth)];
                let mut pool = reciprocal_rank_fusion(&lists, RRF_K);
                pool.truncate(options.depth);
                pool.into_iter().map(|(item_id, _)| item_id).collect()
            }
        }
    }

    /// Where these items stand, in their order.
    pub fn standing(&self, item_ids: &[ItemId]) -> Standing {
        let places = |ranks: &HashMap<ItemId, u32>| {
            item_ids.iter().map(|id| ranks.get(id).copied().unwrap_or_default()).collect()
        };
        Standing {
            dense_top: self.dense_top,
            lexical_top: self.lexical_top,
            dense_ranks: places(&self.dense_ranks),
            lexical_ranks: places(&self.lexical_ranks),
        }
    }
}

/// Reciprocal rank fusion: each list gives an item 1 / (k + rank), from rank 1. Score descending, then item id
/// ascending.
pub fn reciprocal_rank_fusion(lists: &[Vec<ItemId>], k: u32) -> Vec<(ItemId, f64)> {
    let mut scores: HashMap<&ItemId, f64> = HashMap::new();
    for list in lists {
        for (rank, item_id) in (1_u32..).zip(list) {
            *scores.entry(item_id).or_default() += 1.0 / (f64::from(k) + f64::from(rank));
        }
    }
    let mut fused: Vec<_> = scores.into_iter().map(|(item_id, score)| (item_id.clone(), score)).collect();
    fused.sort_unstable_by(|(left, a), (right, b)| b.total_cmp(a).then_with(|| left.cmp(right)));
    fused
}

fn best(all: &[Listed], depth: usize, score: impl Fn(&Listed) -> f32) -> Vec<&Listed> {
    let better = |left: &&Listed, right: &&Listed| {
        score(right).total_cmp(&score(left)).then_with(|| left.item_id.cmp(&right.item_id))
    };
    let mut list: Vec<&Listed> = all.iter().collect();
    if list.len() > depth && depth > 0 {
        list.select_nth_unstable_by(depth - 1, better);
        list.truncate(depth);
    }
    list.sort_unstable_by(better);
    list
}

fn ranks(list: &[&Listed]) -> HashMap<ItemId, u32> {
    (1..).zip(list).map(|(rank, item)| (item.item_id.clone(), rank)).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn items() -> impl Strategy<Value = Vec<Listed>> {
        // Few distinct scores, so that ties are frequent, and many items without a word of the query.
        prop::collection::vec((-3_i8..4, 0_u8..4), 0..120).prop_map(|scores| {
            let listed = |(i, (dense, lexical)): (usize, (i8, u8))| Listed {
                item_id: format!("item-{:03}", i * 7 % 128),
                dense: f32::from(dense),
                lexical: f32::from(lexical),
            };
            scores.into_iter().enumerate().map(listed).collect()
        })
    }

    /// What a shard answers: its best by either score, without excluded items.
    fn lists(shard: &[Listed], depth: usize, exclude: &HashSet<ItemId>) -> Vec<Listed> {
        let allowed: Vec<Listed> =
            shard.iter().filter(|item| !exclude.contains(&item.item_id)).cloned().collect();
        let mut listed: Vec<Listed> = best(&allowed, depth, |item| item.dense).into_iter().cloned().collect();
        for item in best(&allowed, depth, |item| item.lexical) {
            if item.lexical > 0.0 && !listed.contains(item) {
                listed.push(item.clone());
            }
        }
        listed
    }

    fn mode() -> impl Strategy<Value = RetrievalMode> {
        prop::sample::select(vec![RetrievalMode::Dense, RetrievalMode::Lexical, RetrievalMode::Fused])
    }

    proptest! {
        #[test]
        fn ranks_tops_and_pool_are_the_same_for_every_number_of_shards(
            items in items(), n_shards in 1_usize..9, list_depth in 1_usize..40, depth in 1_usize..60,
            mode in mode(),
        ) {
            let exclude: HashSet<ItemId> = items.iter().step_by(5).map(|item| item.item_id.clone()).collect();
            let mut shards = vec![Vec::new(); n_shards];
            for (i, item) in items.iter().enumerate() {
                shards[i * 31 % n_shards].push(item.clone());
            }
            let deepest = list_depth.max(depth);
            let shards = shards.iter().map(|shard| lists(shard, deepest, &exclude)).collect();
            let merged = CatalogueLists::merge(shards, deepest, true, &exclude);
            // One process lists everything and is cut nowhere.
            let whole = CatalogueLists::merge(vec![items.clone()], deepest, true, &exclude);
            prop_assert_eq!(&merged, &whole);
            let options = PoolOptions { mode, list_depth, depth };
            let pool = merged.pool(&options);
            prop_assert_eq!(&pool, &whole.pool(&options));
            prop_assert!(pool.len() <= depth && pool.iter().all(|id| !exclude.contains(id)));
            let ids: Vec<ItemId> = items.iter().map(|item| item.item_id.clone()).collect();
            prop_assert_eq!(merged.standing(&ids), whole.standing(&ids));
        }
    }

    #[test]
    fn reciprocal_ranks_computed_by_hand() {
        let list = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<ItemId>>();
        let fused = reciprocal_rank_fusion(&[list("a b c"), list("c d a")], 60);
        let order: Vec<_> = fused.iter().map(|(id, _)| id.as_str()).collect();
        // a and c stand at 1 and 3 in either list: a tie, in order of ids; so are b and d, at 2 in one list.
        assert_eq!(order, ["a", "c", "b", "d"]);
        assert!((fused[0].1 - (1.0 / 61.0 + 1.0 / 63.0)).abs() < 1e-15);
    }

    #[test]
    fn without_a_vector_the_words_alone_decide() {
        let item = |id: &str, lexical| Listed { item_id: id.to_owned(), dense: 0.0, lexical };
        let shards = vec![vec![item("a", 0.0), item("b", 1.0)], vec![item("c", 2.0)]];
        let lists = CatalogueLists::merge(shards, 10, false, &HashSet::new());
        let options = PoolOptions { mode: RetrievalMode::Fused, list_depth: 10, depth: 10 };
        assert_eq!(lists.pool(&options), ["c", "b"]);
        let standing = lists.standing(&["a".to_owned(), "b".to_owned()]);
        assert_eq!((standing.dense_ranks, standing.lexical_ranks), (vec![0, 0], vec![0, 2]));
        assert_eq!((standing.dense_top, standing.lexical_top), (0.0, 2.0));
    }
}
