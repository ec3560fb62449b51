//! The matrix products of a ViT-B/32 block in 8-bit integers, for 1, 8 and 32 images of 50 tokens, in each set of
//! instructions that this machine has; twelve weights take turns, as in a tower. Inputs are quantised on the way.
//!
//! cargo bench --bench int8

#![allow(clippy::print_stdout)]

use clip_cli::ops::Activation;
use clip_cli::ops::gemm::Onto;
use clip_cli::ops::int8::{Path, Product, Weight};
use std::time::Instant;

fn draw(count: usize, scale: f32) -> Vec<f32> {
    let numbers = (0..count as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 8) as f32 / (1 << 23) as f32 - 1.0);
    numbers.map(|x| x * scale).collect()
}

/// Inputs, outputs, what follows, and whether the result is added to what is there.
const MAPS: [(usize, usize, Activation, bool); 4] = [
    (768, 2304, Activation::Identity, false),
    (768, 768, Activation::Identity, true),
    (768, 3072, Activation::QuickGelu, false),
    (3072, 768, Activation::Identity, true),
];

fn main() {
    println!("threads {}", clip_cli::ops::pool::threads());
    for path in Path::ALL.into_iter().filter(|path| path.is_available()) {
        for (items, turns) in [(1, 20), (8, 8), (32, 4)] {
            // Plain Rust would take minutes.
            if path == Path::Portable && items > 1 {
                continue;
            }
            let rows = 50 * items;
            let mut sum = 0.0;
            for (k, n, act, add) in MAPS {
                let onto = if add { Onto::Output } else { Onto::Nothing };
                let x = draw(rows * k, 1.0);
                let weights: Vec<Weight> = (0..12).filter_map(|_| Weight::new(&draw(n * k, 0.02), n, k)).collect();
                let mut out = vec![0.0; rows * n];
                let mut times: Vec<f64> = (0..=turns)
                    .map(|_| {
                        let start = Instant::now();
                        for weight in &weights {
                            Product { act, onto, ..Product::new(&x, weight) }.run_with(path, &mut out);
                        }
                        start.elapsed().as_secs_f64() / weights.len() as f64
                    })
                    .skip(1)
                    .collect();
                times.sort_by(f64::total_cmp);
                let gops = |seconds: f64| 2.0 * (rows * k * n) as f64 / seconds / 1e9;
                let median = times[times.len() / 2];
                sum += median * weights.len() as f64;
                println!("{path:?} {rows} x {k} x {n}: median {:.0} GOP/s, best {:.0}", gops(median), gops(times[0]));
            }
            println!("{path:?}, {items} images: {:.2} ms an image in all products", sum * 1e3 / items as f64);
        }
    }
}
