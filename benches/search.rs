//! Exact search and duplicates: how many bytes of embeddings are compared a second.
//!
//! cargo bench --bench search

#![allow(clippy::print_stdout)]

use clip_cli::app::{Interrupt, Progress};
use clip_cli::data::Kind;
use clip_cli::index::{Collection, Dtype, Metric, Question, Spill, duplicates, search};
use std::path::Path;
use std::time::Instant;

const DIM: usize = 512;

/// The median of several runs, in seconds, after one to warm up.
fn median(mut run: impl FnMut()) -> f64 {
    run();
    let time = |run: &mut dyn FnMut()| {
        let start = Instant::now();
        run();
        start.elapsed().as_secs_f64()
    };
    let mut times: Vec<f64> = (0..7).map(|_| time(&mut run)).collect();
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// Rows that point anywhere.
fn rows(count: usize) -> impl Iterator<Item = Vec<f32>> {
    let number = |i: u64| {
        // SplitMix64 (Steele, Lea and Flood 2014).
        let mut z = i.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count as u64).map(move |row| (0..DIM as u64).map(|i| number(1 + row * DIM as u64 + i)).collect())
}

fn collection(count: usize, dtype: Dtype) -> Collection {
    let mut spill = Spill::new(dtype).unwrap();
    for (row, numbers) in rows(count).enumerate() {
        spill.push(&row.to_string(), Kind::Image, None, None, &numbers).unwrap().unwrap();
    }
    Collection::new(vec![spill.finish(Path::new("rows")).unwrap()]).unwrap()
}

fn main() {
    let (interrupt, progress) = (Interrupt::install(), Progress::hidden());
    println!("threads {}", clip_cli::ops::pool::threads());
    for (name, dtype) in [("f32", Dtype::F32), ("f16", Dtype::F16)] {
        const ROWS: usize = 400_000;
        let collection = collection(ROWS, dtype);
        for count in [1, 4, 32, 256] {
            let queries: Vec<f32> = rows(count).flatten().map(|x| x / 13.0).collect();
            let question =
                Question { queries: &queries, top_k: 10, threshold: None, kind: None, metric: Metric::Cosine };
            let seconds = median(|| drop(search(&collection, &question, interrupt, &progress).unwrap()));
            let bytes = (ROWS * DIM * dtype.size()) as f64 / seconds / 1e9;
            let flops = 2.0 * (ROWS * DIM * count) as f64 / seconds / 1e9;
            println!(
                "{ROWS} x {DIM} {name}, {count} queries: {:.1} ms, {bytes:.1} GB/s, {flops:.0} GFLOP/s",
                seconds * 1e3
            );
        }
    }
    const ROWS: usize = 20_000;
    let collection = collection(ROWS, Dtype::F32);
    let seconds = median(|| drop(duplicates(&collection, 0.95, None, interrupt, &progress).unwrap()));
    let flops = (ROWS * ROWS * DIM) as f64 / seconds / 1e9;
    println!("duplicates among {ROWS} x {DIM}: {seconds:.2} s, {flops:.0} GFLOP/s");
}
