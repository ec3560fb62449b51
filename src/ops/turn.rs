//! Whose the processor is: the kernels', on all threads, or everyone's.
//!
//! A product is split evenly among the threads, and ends when the last of them does. A decoder that runs meanwhile takes
//! one of them its processor for some milliseconds, for which all others wait, too.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

static TAKEN: Mutex<usize> = Mutex::new(0);
static FREE: Condvar = Condvar::new();

/// Held while kernels compute on all threads.
#[derive(Debug)]
pub struct Turn(());

impl Turn {
    /// Takes it. Others may hold one, too, and what others have begun goes on.
    pub fn take() -> Self {
        *lock() += 1;
        Self(())
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut taken = lock();
        *taken -= 1;
        if *taken == 0 {
            FREE.notify_all();
        }
    }
}

/// Waits until nobody holds a [`Turn`]: for what would compute beside the kernels. Whoever holds one may not wait for the
/// caller meanwhile.
pub fn wait() {
    let _free = FREE.wait_while(lock(), |taken| *taken > 0).unwrap_or_else(PoisonError::into_inner);
}

fn lock() -> MutexGuard<'static, usize> {
    TAKEN.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
    use std::time::Duration;

    #[test]
    fn others_wait_for_the_last_turn_to_end() {
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let (first, second) = (Turn::take(), Turn::take());
            scope.spawn(|| {
                wait();
                done.store(true, SeqCst);
            });
            std::thread::sleep(Duration::from_millis(5));
            drop(first);
            std::thread::sleep(Duration::from_millis(5));
            assert!(!done.load(SeqCst));
            drop(second);
        });
        assert!(done.load(SeqCst));
    }
}
