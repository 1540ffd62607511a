//! `bare-scan ITEMS DIM f32|f16|int8 SECONDS`: searches of one shard's vectors on one thread, nothing else: what a
//! request's retrieval costs by the size of the shard. Prints milliseconds a search for the best hundred.
#![expect(clippy::print_stdout, reason = "its output is its result")]

use std::{
    collections::HashSet,
    hint::black_box,
    time::{Duration, Instant},
};

use endcap_bundle::{Precision, Vectors};
use endcap_inference::{VectorIndex, VectorOptions};

const DEPTH: usize = 100;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [items, dim, precision, seconds] = arguments.as_slice() else {
        return Err("usage: bare-scan ITEMS DIM f32|f16|int8 SECONDS".into());
    };
    let (items, dim, seconds): (usize, usize, f64) = (items.parse()?, dim.parse()?, seconds.parse()?);
    let precision = match precision.as_str() {
        "f32" => Precision::F32,
        "f16" => Precision::F16,
        "int8" => Precision::Int8,
        other => return Err(format!("precision is {other:?}; expected f32, f16 or int8").into()),
    };
    let options = VectorOptions { precision, graph_min_items: usize::MAX };
    let index = VectorIndex::build(Vectors { dim, data: numbers(items * dim) }, options)?;
    let (query, nothing) = (numbers(dim), HashSet::new());
    let length = Duration::from_secs_f64(seconds);
    black_box(index.top(&query, DEPTH, &nothing));
    let (began, mut searches) = (Instant::now(), 0_u32);
    while began.elapsed() < length {
        black_box(index.top(black_box(&query), DEPTH, &nothing));
        searches += 1;
    }
    println!("{:.4}", began.elapsed().as_secs_f64() * 1e3 / f64::from(searches));
    Ok(())
}

/// The same ones each time, between -1 and 1.
fn numbers(count: usize) -> Vec<f32> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        // The upper bits are the random ones.
        (state >> 40) as f32 / 8_388_608.0 - 1.0
    };
    (0..count).map(|_| next()).collect()
}
