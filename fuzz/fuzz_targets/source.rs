#![no_main]

#[path = "../targets.rs"]
#[allow(dead_code, reason = "each binary runs one target")]
mod targets;

use std::sync::Once;

static QUIET: Once = Once::new();

// The reader catches panics of other people's code, and the fuzzer's hook would end it all the same. What nobody catches
// still ends the fuzzer.
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    QUIET.call_once(|| std::panic::set_hook(Box::new(|_| {})));
    targets::source(bytes);
});
