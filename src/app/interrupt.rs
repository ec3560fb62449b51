//! Ctrl-C and SIGTERM: the first one ends the job at the next batch, the second one ends the process.

use crate::error::{Error, Result};
use std::sync::atomic::{AtomicBool, Ordering};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Whether somebody asked the job to stop.
#[derive(Clone, Copy, Debug)]
pub struct Interrupt(());

impl Interrupt {
    /// Listens for signals from now on.
    pub fn install() -> Self {
        #[cfg(unix)]
        for signal in [libc::SIGINT, libc::SIGTERM] {
            listen(signal);
        }
        // A file that may not grow any more is an error like a full disk, and does not end the process.
        #[cfg(unix)]
        // SAFETY: ignoring a signal has no conditions.
        unsafe {
            libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
        }
        Self(())
    }

    /// Whether the job should stop.
    pub fn is_set(self) -> bool {
        INTERRUPTED.load(Ordering::Relaxed)
    }

    /// An error if the job should stop.
    pub fn check(self) -> Result<()> {
        if self.is_set() { Err(Error::interrupted()) } else { Ok(()) }
    }
}

#[cfg(unix)]
fn listen(signal: libc::c_int) {
    extern "C" fn on_signal(_: libc::c_int) {
        INTERRUPTED.store(true, Ordering::Relaxed);
    }
    let handler: extern "C" fn(libc::c_int) = on_signal;
    // SAFETY: both structs are valid for the calls, all zeros is a valid `sigaction`, and storing to an atomic is all
    // that the handler does, which is allowed in a handler.
    unsafe {
        let mut old: libc::sigaction = std::mem::zeroed();
        if libc::sigaction(signal, std::ptr::null(), &raw mut old) != 0 || old.sa_sigaction == libc::SIG_IGN {
            // Whoever started us (`nohup`, a shell's background job) wants the signal ignored.
            return;
        }
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as *const () as usize;
        // After the first signal the system's own handling is back: the second one ends the process at once.
        action.sa_flags = libc::SA_RESETHAND | libc::SA_RESTART;
        libc::sigemptyset(&raw mut action.sa_mask);
        libc::sigaction(signal, &raw const action, std::ptr::null_mut());
    }
}
