//! Where kernels split their work, and nowhere else, so that how threads wait and wake is the business of one place
//! (`team`).

use super::team;
use rayon::prelude::*;

/// How many threads the kernels may use.
pub fn threads() -> usize {
    rayon::current_num_threads()
}

/// Calls `work(0)`, …, `work(parts - 1)` on the pool's threads; returns when all are done.
pub fn run(parts: usize, work: impl Fn(usize) + Sync + Send) {
    if parts <= 1 || threads() == 1 {
        (0..parts).for_each(work);
    } else {
        team::run(parts, &work);
    }
}

/// Splits `out` into chunks of `len` values and calls `work(index, chunk)` for each on the pool's threads.
pub fn chunks<T: Send>(out: &mut [T], len: usize, work: impl Fn(usize, &mut [T]) + Sync + Send) {
    let parts = Parts::of(out, len);
    run(parts.count(), |i| {
        // SAFETY: each part is asked for once, while `out` is borrowed.
        work(i, unsafe { parts.get(i) });
    });
}

/// The same with three slices at once, the parts of each with the same index; the last may be empty.
pub fn chunks3(out: [&mut [f32]; 3], len: usize, work: impl Fn(usize, [&mut [f32]; 3]) + Sync + Send) {
    let parts = out.map(|out| Parts::of(out, len));
    run(parts[0].count().min(parts[1].count()), |i| {
        // SAFETY: each part is asked for once, while all three are borrowed.
        work(i, [0, 1, 2].map(|which| unsafe { parts[which].get(i) }));
    });
}

/// What `work(0)`, …, `work(parts - 1)` return, in this order, computed on the pool's threads.
pub fn collect<T: Send>(parts: usize, work: impl Fn(usize) -> T + Sync + Send) -> Vec<T> {
    (0..parts).into_par_iter().map(work).collect()
}

/// A slice in parts that different threads may write.
struct Parts<T> {
    data: *mut T,
    total: usize,
    len: usize,
}

// SAFETY: whoever asks for a part has it alone, see `get`.
unsafe impl<T: Send> Sync for Parts<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Send for Parts<T> {}

impl<T> Parts<T> {
    fn of(out: &mut [T], len: usize) -> Self {
        assert!(len > 0 || out.is_empty(), "chunks of no values");
        Self { data: out.as_mut_ptr(), total: out.len(), len: len.max(1) }
    }

    fn count(&self) -> usize {
        self.total.div_ceil(self.len)
    }

    /// Part number `i`, which is empty past the end.
    ///
    /// # Safety
    /// The slice must be borrowed for `'a`, and no two callers may hold the same part.
    unsafe fn get<'a>(&self, i: usize) -> &'a mut [T] {
        let start = (i * self.len).min(self.total);
        let end = (start + self.len).min(self.total);
        // SAFETY: within the slice, and no one else's by the contract above.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(start), end - start) }
    }
}
