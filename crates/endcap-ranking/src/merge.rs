//! From shards' answers to one list. Ties everywhere: score descending, then item id ascending by bytes.

use std::{
    cmp::Ordering,
    collections::{HashMap, HashSet},
};

use endcap_types::ItemId;

/// An item with its scores, and whatever the caller wants to find again.
#[derive(Debug, Clone, PartialEq)]
pub struct Scored<T> {
    pub item_id: ItemId,
    pub score: f32,
    /// Vector similarity; 0 when there was none.
    pub retrieval_score: f32,
    pub tag: T,
}

/// Merges retrieval: each shard brings its own best `depth`, and as many more as it holds excluded items. Without the
/// excluded ones the global best `depth` by retrieval score stay, ordered by score: the answer is the same for every
/// number of shards, and as if the excluded items were not in the catalogue.
pub fn merge_retrieved<T>(
    shards: Vec<Vec<Scored<T>>>,
    depth: usize,
    exclude: &HashSet<ItemId>,
    limit: usize,
) -> Vec<Scored<T>> {
    let mut all: Vec<_> =
        shards.into_iter().flatten().filter(|item| !exclude.contains(&item.item_id)).collect();
    if all.len() > depth && depth > 0 {
        all.select_nth_unstable_by(depth - 1, by_retrieval);
        all.truncate(depth);
    }
    merge_ranked(all, exclude, limit)
}

/// Orders by score, without excluded items, at most `limit`.
pub fn merge_ranked<T>(mut items: Vec<Scored<T>>, exclude: &HashSet<ItemId>, limit: usize) -> Vec<Scored<T>> {
    items.retain(|item| !exclude.contains(&item.item_id));
    if items.len() > limit && limit > 0 {
        items.select_nth_unstable_by(limit - 1, by_score);
        items.truncate(limit);
    }
    items.sort_unstable_by(by_score);
    items
}

/// A version's popularity list, with the place of each item: many answers are made from it when least time is left.
#[derive(Debug, Clone, Default)]
pub struct Popular {
    items: Vec<ItemId>,
    places: HashMap<ItemId, usize>,
}

impl From<Vec<ItemId>> for Popular {
    fn from(items: Vec<ItemId>) -> Self {
        let places = items.iter().cloned().enumerate().map(|(place, item)| (item, place)).collect();
        Self { items, places }
    }
}

/// What is shown when nothing could be scored: the popularity list, or for a rerank the caller's candidates, popular
/// ones first and the others in the caller's order.
pub fn fallback(
    popular: &Popular,
    candidates: &[ItemId],
    exclude: &HashSet<ItemId>,
    limit: usize,
) -> Vec<ItemId> {
    let allowed = |item: &&ItemId| !exclude.contains(*item);
    if candidates.is_empty() {
        return popular.items.iter().filter(allowed).take(limit).cloned().collect();
    }
    let mut shown: Vec<&ItemId> = candidates.iter().filter(allowed).collect();
    // Stable, so that those without a place stay in their order.
    shown.sort_by_cached_key(|item| popular.places.get(*item).copied().unwrap_or(usize::MAX));
    shown.into_iter().take(limit).cloned().collect()
}

fn by_score<T>(left: &Scored<T>, right: &Scored<T>) -> Ordering {
    right.score.total_cmp(&left.score).then_with(|| left.item_id.cmp(&right.item_id))
}

fn by_retrieval<T>(left: &Scored<T>, right: &Scored<T>) -> Ordering {
    right.retrieval_score.total_cmp(&left.retrieval_score).then_with(|| left.item_id.cmp(&right.item_id))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn items() -> impl Strategy<Value = Vec<Scored<()>>> {
        // Few distinct scores, so that ties are frequent.
        prop::collection::vec((-3_i8..4, -3_i8..4), 0..120).prop_map(|scores| {
            let scored = |(i, (score, retrieval)): (usize, (i8, i8))| Scored {
                item_id: format!("item-{:03}", i * 7 % 128),
                score: f32::from(score),
                retrieval_score: f32::from(retrieval),
                tag: (),
            };
            scores.into_iter().enumerate().map(scored).collect()
        })
    }

    /// One process over the whole catalogue, by sorting everything.
    fn oracle(
        mut all: Vec<Scored<()>>,
        depth: usize,
        exclude: &HashSet<ItemId>,
        limit: usize,
    ) -> Vec<Scored<()>> {
        all.retain(|item| !exclude.contains(&item.item_id));
        all.sort_by(by_retrieval);
        all.truncate(depth);
        all.sort_by(by_score);
        all.truncate(limit);
        all
    }

    proptest! {
        #[test]
        fn merging_shards_equals_one_process(
            items in items(), n_shards in 1_usize..9, depth in 1_usize..60, limit in 1_usize..40,
        ) {
            let exclude: HashSet<ItemId> = items.iter().step_by(5).map(|item| item.item_id.clone()).collect();
            let mut shards = vec![Vec::new(); n_shards];
            for (i, item) in items.iter().enumerate() {
                shards[i * 31 % n_shards].push(item.clone());
            }
            for shard in &mut shards {
                let excluded = shard.iter().filter(|item| exclude.contains(&item.item_id)).count();
                shard.sort_by(by_retrieval);
                shard.truncate(depth + excluded);
            }
            let merged = merge_retrieved(shards, depth, &exclude, limit);
            prop_assert_eq!(merged, oracle(items, depth, &exclude, limit));
        }
    }

    #[test]
    fn the_fallback_of_a_rerank_is_the_callers_candidates() {
        let ids = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let exclude = HashSet::from(["c".to_owned()]);
        assert_eq!(fallback(&ids("p q b a").into(), &ids("x a c b y"), &exclude, 10), ids("b a x y"));
        assert_eq!(fallback(&ids("p q c b").into(), &[], &exclude, 2), ids("p q"));
    }
}
