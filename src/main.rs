//! Allocator, parse, run, exit code.

use std::process::ExitCode;

// Decoding and preprocessing take and free large buffers on many threads, where the system's allocator is slow.
#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    clip_cli::commands::main()
}
