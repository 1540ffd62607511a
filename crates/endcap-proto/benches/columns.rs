//! Columns on the wire: the rows of 200 candidates, 64 numbers and 8 ids each.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use endcap_proto::columns::{decode_f32, decode_i64, encode_f32, encode_i64};

const ROWS: usize = 200;

fn columns(criterion: &mut Criterion) {
    let floats: Vec<f32> = (0..ROWS * 64).map(|i| i as f32).collect();
    let ids: Vec<i64> = (0..ROWS as i64 * 8).collect();
    let (wire_floats, wire_ids) = (encode_f32(&floats), encode_i64(&ids));
    let mut group = criterion.benchmark_group("columns");
    group.throughput(Throughput::Bytes((wire_floats.len() + wire_ids.len()) as u64));
    group.bench_function("encode", |bencher| {
        bencher.iter(|| (encode_f32(black_box(&floats)), encode_i64(black_box(&ids))));
    });
    group.bench_function("decode", |bencher| {
        bencher.iter(|| (decode_f32(black_box(&wire_floats)), decode_i64(black_box(&wire_ids))));
    });
    group.finish();
}

criterion_group!(benches, columns);
criterion_main!(benches);
