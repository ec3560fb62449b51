//! One tower's forward of random pixels or captions in this process, for `benches/peers.py`, whose other sides do the same
//! in Python; or, with `machine` for a tower, the most that this processor gives, for the floor.
//!
//! cargo bench --bench forward -- image 1,8,32 --model DIR [--threads N] [--seconds S] [--length TOKENS] [--end TOKEN]
//!
//! Prints one line of JSON: {"seconds": {batch: [of each call]}, "peak": bytes, "version": …}. Calls that warm up are
//! left out.

#![allow(clippy::print_stdout)]

mod machine;

use clap::{Parser, ValueEnum};
use clip_cli::app::{App, GlobalArgs, ModelArgs};
use clip_cli::error::Result;
use serde_json::json;
use std::collections::BTreeMap;
use std::time::Instant;

#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Time forwards.
#[derive(Parser)]
struct Arguments {
    /// What runs
    tower: What,
    /// How many items at a time, with commas between
    #[arg(value_delimiter = ',', default_value = "1")]
    batches: Vec<usize>,
    /// How long each batch size is repeated: three times at least, once if that takes longer
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// How long captions are, in tokens
    #[arg(long, default_value_t = 8)]
    length: usize,
    /// The token that ends captions
    #[arg(long, default_value_t = 49_407)]
    end: u32,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    global: GlobalArgs,
}

#[derive(Clone, Copy, ValueEnum)]
enum What {
    Image,
    Text,
    Machine,
}

fn main() {
    // `cargo bench` says so to every bench.
    let arguments = Arguments::parse_from(std::env::args().filter(|argument| argument != "--bench"));
    match run(&arguments) {
        Ok(line) => println!("{line}"),
        Err(error) => panic!("{error}"),
    }
}

fn run(arguments: &Arguments) -> Result<serde_json::Value> {
    let app = App::new(&arguments.global)?;
    if matches!(arguments.tower, What::Machine) {
        return Ok(machine::measure(app.threads));
    }
    let clip = app.open_model(&arguments.model)?;
    let mut seconds = BTreeMap::new();
    for &batch in &arguments.batches {
        let times = if matches!(arguments.tower, What::Image) {
            let [height, width] = clip.spec.preprocess.size;
            let pixels: Vec<f32> = noise().take(batch * 3 * height * width).map(|x| x as f32 / 1e9 - 2.1).collect();
            times(arguments.seconds, || pixels.clone(), |pixels| clip.embed_pixels(pixels))?
        } else {
            let mut ids: Vec<u32> = noise().take(batch * arguments.length).map(|x| 300 + x % 3700).collect();
            ids.chunks_mut(arguments.length).for_each(|row| row[arguments.length - 1] = arguments.end);
            times(arguments.seconds, || (), |()| clip.embed_ids(&ids, arguments.length))?
        };
        seconds.insert(batch.to_string(), times);
    }
    Ok(json!({ "seconds": seconds, "peak": peak(), "version": concat!("clip-cli ", env!("CARGO_PKG_VERSION")) }))
}

/// Seconds of each call, behind some that warm up.
fn times<T>(budget: f64, fresh: impl Fn() -> T, call: impl Fn(T) -> Result<Vec<f32>>) -> Result<Vec<f64>> {
    let timed = || {
        let input = fresh();
        let start = Instant::now();
        call(input).map(|_| start.elapsed().as_secs_f64())
    };
    // The first call may read weights where they lie; the second packs them then.
    timed()?;
    let first = timed()?;
    if first < budget / 4.0 {
        (0..3).try_for_each(|_| timed().map(drop))?;
    }
    let least = if first > budget { 1 } else { 3 };
    let (start, mut times) = (Instant::now(), Vec::new());
    while times.len() < least || (start.elapsed().as_secs_f64() < budget && times.len() < 200) {
        times.push(timed()?);
    }
    Ok(times)
}

/// Numbers that look random, the same at every call.
fn noise() -> impl Iterator<Item = u32> {
    (0u32..).map(|i| i.wrapping_mul(2_654_435_761).rotate_left(15).wrapping_mul(2_246_822_519))
}

/// The most memory that the process has had, in bytes.
fn peak() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<f64>().ok()).unwrap_or(f64::NAN) * 1024.0
}
