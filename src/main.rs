//! Allocator, parse, run, exit code.

use std::process::ExitCode;

// Decoding and preprocessing take and free large buffers on many threads, where the system's allocator is slow.
#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    keep_freed_memory();
    clip_cli::commands::main()
}

/// Has the allocator keep what is freed. A training step takes and frees gigabytes of activations: given back to the system in
/// between, they cost a tenth of the step in page faults, and the most that is resident is nearly the same.
fn keep_freed_memory() {
    #[cfg(feature = "mimalloc")]
    {
        /// `mi_option_purge_delay` of mimalloc.h, which the crate has no name for; -1 is never.
        const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;
        // SAFETY: it sets a number, before any other thread runs.
        unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, -1) };
    }
}
