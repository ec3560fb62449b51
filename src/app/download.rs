//! Downloads seen by the user: a progress bar, and Ctrl-C.

use super::{App, Interrupt, Progress, Verbosity};
use crate::hub::Watch;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

struct Download {
    progress: Progress,
    interrupt: Interrupt,
    expected: AtomicU64,
    quiet: bool,
}

impl App {
    /// Somebody who watches a download for the user.
    pub fn watch_download(&self) -> Arc<dyn Watch> {
        Arc::new(Download {
            progress: self.progress("bytes"),
            interrupt: self.interrupt,
            expected: AtomicU64::new(0),
            quiet: self.verbosity == Verbosity::Quiet,
        })
    }
}

impl Watch for Download {
    fn expect(&self, bytes: u64) {
        self.progress.expect(self.expected.fetch_add(bytes, Ordering::Relaxed) + bytes);
    }

    fn advance(&self, bytes: u64) {
        self.progress.add(bytes);
    }

    fn tell(&self, what: &str) {
        if !self.quiet {
            // Nobody may be listening, which is no reason to stop.
            self.progress.aside(|| drop(writeln!(std::io::stderr(), "{what}")));
        }
    }

    fn cancelled(&self) -> bool {
        self.interrupt.is_set()
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        self.progress.finish();
    }
}
