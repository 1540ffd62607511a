//! From shards' answers to one page, as the gateway does it once per request.

use std::{collections::HashSet, hint::black_box};

use criterion::{BatchSize, BenchmarkId, Criterion, criterion_group, criterion_main};
use endcap_ranking::{Scored, merge_retrieved};

const DEPTH: usize = 200;
const LIMIT: usize = 10;

/// Every shard's best `DEPTH`, by a similarity that differs from the score.
fn shards(count: usize) -> Vec<Vec<Scored<usize>>> {
    let item = |shard: usize, i: usize| {
        let mixed = (shard * DEPTH + i).wrapping_mul(2_654_435_761) % 1_000_003;
        Scored {
            item_id: format!("item-{mixed:07}"),
            score: (mixed % 9973) as f32,
            retrieval_score: 1.0 / (1.0 + i as f32),
            tag: i,
        }
    };
    (0..count).map(|shard| (0..DEPTH).map(|i| item(shard, i)).collect()).collect()
}

fn merge(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("merge");
    for count in [1, 4, 16, 64] {
        let input = shards(count);
        group.bench_function(BenchmarkId::new("shards", count), |bencher| {
            let run = |shards| merge_retrieved(black_box(shards), DEPTH, &HashSet::new(), LIMIT);
            bencher.iter_batched(|| input.clone(), run, BatchSize::SmallInput);
        });
    }
    group.finish();
}

criterion_group!(benches, merge);
criterion_main!(benches);
