//! Downloads seen by the user: a progress bar, and Ctrl-C.

use super::{App, Interrupt, Progress};
use crate::hub::Watch;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

struct Download {
    progress: Progress,
    interrupt: Interrupt,
    expected: AtomicU64,
}

impl App {
    /// Somebody who watches a download for the user.
    pub fn watch_download(&self) -> Arc<dyn Watch> {
        Arc::new(Download { progress: self.progress("bytes"), interrupt: self.interrupt, expected: AtomicU64::new(0) })
    }
}

impl Watch for Download {
    fn expect(&self, bytes: u64) {
        self.progress.expect(self.expected.fetch_add(bytes, Ordering::Relaxed) + bytes);
    }

    fn advance(&self, bytes: u64) {
        self.progress.add(bytes);
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
