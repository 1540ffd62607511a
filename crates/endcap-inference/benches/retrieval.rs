//! The nearest hundred of many vectors: each way to search beside the other, and beside just reading the memory.
//!
//! One core. With `--quick`, a tenth of the items. Building the graph over a million takes minutes.

#![expect(clippy::unwrap_used, reason = "a benchmark ends where it cannot go on")]
#![expect(clippy::print_stderr, reason = "recall is a result")]

use std::{cell::LazyCell, collections::HashSet, hint::black_box, time::Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use endcap_bundle::{Precision, Vectors};
use endcap_inference::{VectorIndex, VectorOptions};

const DEPTH: usize = 100;
/// The real catalogue's shape, and a large one's.
const SHAPES: [(usize, usize); 2] = [(43_000, 384), (1_000_000, 64)];
/// Items stand around centres, as those of a catalogue do: without, every item is as far as every other.
const CENTRES: usize = 2_000;
const QUERIES: usize = 20;

fn random(seed: u64) -> impl FnMut() -> f32 {
    let mut state = seed;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        f32::from(u16::try_from(state >> 48).unwrap()) / 32_768.0 - 1.0
    }
}

fn vectors(items: usize, dim: usize) -> Vectors {
    let mut next = random(0x9e37_79b9_7f4a_7c15);
    let centres: Vec<f32> = (0..CENTRES * dim).map(|_| next()).collect();
    let mut data = Vec::with_capacity(items * dim);
    for item in 0..items {
        let centre = &centres[item % CENTRES * dim..][..dim];
        let row: Vec<f32> = centre.iter().map(|value| value + next()).collect();
        let norm = row.iter().map(|value| value * value).sum::<f32>().sqrt();
        data.extend(row.iter().map(|value| value / norm));
    }
    Vectors { dim, data }
}

/// The floor: every number is read and added up, in so many sums that none waits for another.
fn read(values: &[f32]) -> f32 {
    let mut sums = [0.0_f32; 64];
    for chunk in values.as_chunks::<64>().0 {
        for (sum, value) in sums.iter_mut().zip(chunk) {
            *sum += value;
        }
    }
    sums.iter().sum()
}

fn retrieval(criterion: &mut Criterion) {
    let quick = std::env::args().any(|argument| argument == "--quick");
    for (items, dim) in SHAPES {
        let items = if quick { items / 10 } else { items };
        let Vectors { data, .. } = vectors(items, dim);
        let queries: Vec<&[f32]> = data.chunks_exact(dim).step_by(items / QUERIES).collect();
        let nothing = HashSet::new();
        let mut group = criterion.benchmark_group(format!("nearest {DEPTH} of {items} x {dim}"));
        group.sample_size(10).throughput(Throughput::Bytes(data.len() as u64 * 4));
        group.bench_function("memory", |bencher| bencher.iter(|| read(black_box(&data))));
        // Built when it is asked for, so that a filter on the command line leaves the others out.
        let build = |precision, graph_min_items| {
            let vectors = Vectors { dim, data: data.clone() };
            VectorIndex::build(vectors, VectorOptions { precision, graph_min_items }).unwrap()
        };
        let top = |index: &VectorIndex| -> Vec<Vec<(u32, f32)>> {
            queries.iter().map(|query| index.top(query, DEPTH, &nothing)).collect()
        };
        let exact = LazyCell::new(|| top(&build(Precision::F32, usize::MAX)));
        let ways = [
            ("f32", Precision::F32),
            ("f16", Precision::F16),
            ("int8", Precision::Int8),
            ("graph", Precision::F32),
        ];
        for (name, precision) in ways {
            let index = LazyCell::new(|| {
                let began = Instant::now();
                let index = build(precision, if name == "graph" { 1 } else { usize::MAX });
                let built = began.elapsed().as_secs_f64();
                let found = top(&index);
                let hits = found
                    .iter()
                    .zip(&*exact)
                    .flat_map(|(found, exact)| found.iter().filter(|item| exact.contains(item)));
                let recall = hits.count() as f64 / (DEPTH * found.len()) as f64;
                eprintln!("{name}: built in {built:.1} s, recall@{DEPTH} {recall:.4}");
                index
            });
            let mut turn = queries.iter().cycle();
            group.bench_function(BenchmarkId::new("search", name), |bencher| {
                let index = &*index;
                bencher.iter(|| index.top(black_box(turn.next().unwrap()), DEPTH, &nothing));
            });
        }
        group.finish();
    }
}

criterion_group!(benches, retrieval);
criterion_main!(benches);
