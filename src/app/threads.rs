//! One pool of threads for everything that computes.

use crate::error::{Error, Result};
use std::num::NonZeroUsize;

/// The start of the name of threads that run decoders.
pub(crate) const WORKER: &str = "decode-";

/// Sets up the pool and returns how many threads it has. Called before any other thread runs.
pub(super) fn set_up(asked: Option<NonZeroUsize>) -> Result<usize> {
    let threads = asked.or_else(from_environment).or_else(|| std::thread::available_parallelism().ok());
    let threads = threads.map_or(1, NonZeroUsize::get);
    // candle and gemm read these when they first compute, so that all pools agree on the number.
    for name in ["RAYON_NUM_THREADS", "CANDLE_NUM_THREADS"] {
        // SAFETY: the process has one thread yet, so nobody reads the environment meanwhile.
        unsafe { std::env::set_var(name, threads.to_string()) };
    }
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).thread_name(|index| format!("compute-{index}"));
    match pool.build_global() {
        // Whoever uses the library may have started the pool before.
        Err(_) if rayon::current_num_threads() == threads => Ok(threads),
        Err(error) => {
            Err(Error::run(format!("cannot start {threads} threads: {error}")).hint("try fewer with --threads"))
        }
        Ok(()) => Ok(threads),
    }
}

fn from_environment() -> Option<NonZeroUsize> {
    #[expect(clippy::disallowed_methods, reason = "this is the app, which may")]
    std::env::var("RAYON_NUM_THREADS").ok()?.parse().ok()
}

/// Keeps panics of decoders off standard error: they are caught, and become records of their items.
pub(super) fn silence_workers() {
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let thread = std::thread::current();
        if !thread.name().is_some_and(|name| name.starts_with(WORKER)) {
            default(panic);
        }
    }));
}
