//! Memory for weights.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

/// Numbers that begin on a cache line, so that no vector of a panel lies on two; large ones on large pages where the
/// system has them, which come faster and need fewer translations.
#[derive(Debug)]
pub(super) struct Lines<T: Plain> {
    start: NonNull<T>,
    len: usize,
    room: usize,
}

/// What zero bytes are a value of.
///
/// # Safety
/// They must be, and a line of memory must be a multiple of the type's alignment.
pub(super) unsafe trait Plain: Copy {}

// SAFETY: zero is a number, and four bytes divide a line.
unsafe impl Plain for f32 {}

// SAFETY: it owns its numbers, as a `Vec` does.
unsafe impl<T: Plain + Send> Send for Lines<T> {}
// SAFETY: as above; what is shared is only read.
unsafe impl<T: Plain + Sync> Sync for Lines<T> {}

/// The bytes of a cache line.
const LINE: usize = 64;
/// What large pages measure on most systems.
const LARGE_PAGE: usize = 2 << 20;

impl<T: Plain> Default for Lines<T> {
    fn default() -> Self {
        Self { start: NonNull::dangling(), len: 0, room: 0 }
    }
}

impl<T: Plain> Lines<T> {
    /// So many zeros.
    pub(super) fn zeros(len: usize) -> Self {
        let mut lines = Self::default();
        lines.resize(len);
        lines
    }

    /// Makes it so long, with numbers that are zero or were there before.
    pub(super) fn resize(&mut self, len: usize) {
        if len > self.room {
            *self = Self::default();
            let layout = Self::layout(len);
            // SAFETY: `len` is greater than `room`, hence not zero.
            let start = unsafe { alloc_zeroed(layout) }.cast::<T>();
            self.start = NonNull::new(start).unwrap_or_else(|| handle_alloc_error(layout));
            self.room = len;
            advise(self.start.as_ptr().cast(), layout.size());
        }
        self.len = len;
    }

    fn layout(room: usize) -> Layout {
        match Layout::array::<T>(room).and_then(|layout| layout.align_to(LINE)) {
            Ok(layout) => layout.pad_to_align(),
            // More than memory can hold.
            Err(_) => handle_alloc_error(Layout::new::<T>()),
        }
    }
}

impl<T: Plain> Drop for Lines<T> {
    fn drop(&mut self) {
        if self.room > 0 {
            // SAFETY: allocated with this layout.
            unsafe { dealloc(self.start.as_ptr().cast(), Self::layout(self.room)) };
        }
    }
}

/// Asks for large pages before these bytes are touched.
fn advise(start: *mut u8, len: usize) {
    #[cfg(target_os = "linux")]
    {
        let first = start.align_offset(LARGE_PAGE);
        if len >= first + LARGE_PAGE {
            let len = (len - first) / LARGE_PAGE * LARGE_PAGE;
            // SAFETY: whole pages within an allocation that is ours; it is advice and changes no content.
            unsafe { libc::madvise(start.add(first).cast(), len, libc::MADV_HUGEPAGE) };
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (start, len);
}

impl<T: Plain> Deref for Lines<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: `len` numbers are allocated and were written, with zeros at least.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl<T: Plain> DerefMut for Lines<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as above, and borrowed by us alone.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}
