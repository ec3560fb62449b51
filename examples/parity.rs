//! Compares checkpoints with what their Python reference made of them: one row each for `docs/parity.md`.
//!
//! tests/golden/parity.py DIR writes the reference's numbers beside a checkpoint; then
//! cargo run --release --example parity -- DIR…

#![allow(clippy::print_stdout)]

#[path = "../tests/parity/golden.rs"]
#[allow(dead_code)]
mod golden;

use golden::{Golden, embed, largest_difference, unit};
use std::path::Path;
use std::process::ExitCode;

/// What the project promises for unit embeddings.
const PROMISE: f32 = 1e-4;

fn main() -> ExitCode {
    println!("| checkpoint | oracle | pixels | image | image from file | text |");
    println!("|---|---|---|---|---|---|");
    let mut kept = true;
    for directory in std::env::args().skip(1) {
        let golden = Golden::open(Path::new(&directory));
        let clip = golden.clip();
        let dim = clip.spec.embed_dim;
        let ours = golden.our_pixels(&clip);
        let theirs = golden.pixels("pixels");
        let same = ours.iter().zip(&theirs).map(|(ours, theirs)| largest_difference(&ours.values, &theirs.values));
        let pixels = same.fold(0.0, f32::max);
        let images = golden.numbers("image_embeds");
        let tower = unit(embed(&clip, theirs), dim);
        let file = unit(embed(&clip, ours), dim);
        let (ids, len) = golden.ids();
        let text = unit(clip.embed_ids(&ids, len).unwrap(), dim);
        let [tower, file] = [tower, file].map(|ours| largest_difference(&ours, &images));
        let text = largest_difference(&text, &golden.numbers("text_embeds"));
        let oracle = golden.about["oracle"].as_str().unwrap_or("?");
        println!("| {} | {oracle} | {pixels:.1e} | {tower:.1e} | {file:.1e} | {text:.1e} |", golden.name());
        kept &= [tower, file, text].iter().all(|difference| *difference <= PROMISE);
    }
    if kept { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
