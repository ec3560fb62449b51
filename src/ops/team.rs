//! The threads behind [`super::pool`]: they wait for work a moment before they sleep.
//!
//! A forward pass hands out hundreds of jobs, each well below a millisecond. Waking a sleeping thread costs 15 to 90 µs, a
//! thread that still looks for work takes less than one.

use std::any::Any;
use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

/// How long a thread without work looks for more before it sleeps.
const PATIENCE: Duration = Duration::from_micros(500);

/// The part of a job: called with numbers from 0 on, by several threads.
type Work<'a> = &'a (dyn Fn(usize) + Sync);

struct Team {
    /// Held by whoever hands out a job.
    taken: AtomicBool,
    /// Whether there is a job that may be joined.
    open: AtomicBool,
    /// How many helpers are looking at the job or working at it.
    inside: AtomicUsize,
    /// How many jobs there have been.
    jobs: AtomicUsize,
    job: UnsafeCell<Option<Job>>,
    asleep: Mutex<usize>,
    wake: Condvar,
}

struct Job {
    /// In truth borrowed for the time that the job is open or someone is inside.
    work: Work<'static>,
    parts: usize,
    next: AtomicUsize,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

// SAFETY: `job` is written by the holder of `taken`, while it is not open and nobody is inside; others read it, and only
// after they have counted themselves in and then found it open.
unsafe impl Sync for Team {}

static TEAM: OnceLock<Team> = OnceLock::new();

impl Team {
    /// The team, whose helpers are started when it is first asked for: one less than the threads that may compute.
    fn get() -> &'static Self {
        let mut first = false;
        let team = TEAM.get_or_init(|| {
            first = true;
            Self {
                taken: AtomicBool::new(false),
                open: AtomicBool::new(false),
                inside: AtomicUsize::new(0),
                jobs: AtomicUsize::new(0),
                job: UnsafeCell::new(None),
                asleep: Mutex::new(0),
                wake: Condvar::new(),
            }
        });
        if first {
            for index in 1..rayon::current_num_threads() {
                // Without a helper the others do its share.
                let _ = std::thread::Builder::new().name(format!("kernel-{index}")).spawn(move || team.help());
            }
        }
        team
    }

    /// What a helper does all its life.
    fn help(&self) {
        let mut seen = 0;
        loop {
            self.wait(seen);
            seen = self.jobs.load(SeqCst);
            self.inside.fetch_add(1, SeqCst);
            if self.open.load(SeqCst) {
                // SAFETY: counted in and open, so that whoever wrote it waits for us before it goes.
                if let Some(job) = unsafe { &*self.job.get() } {
                    job.work();
                }
            }
            self.inside.fetch_sub(1, SeqCst);
        }
    }

    /// Waits until there has been another job than the first `seen`.
    fn wait(&self, seen: usize) {
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            for _ in 0..32 {
                if self.jobs.load(SeqCst) != seen {
                    return;
                }
                std::hint::spin_loop();
            }
        }
        let Ok(mut asleep) = self.asleep.lock() else { return };
        while self.jobs.load(SeqCst) == seen {
            *asleep += 1;
            let Ok(awake) = self.wake.wait(asleep) else { return };
            asleep = awake;
            *asleep -= 1;
        }
    }

    /// Hands out a job and works at it; returns when all of it is done. The caller holds `taken`.
    fn lead(&self, work: Work<'_>, parts: usize) {
        // SAFETY: the borrow is longer than the time in which anyone looks at it: this function does not return before
        // nobody is inside and nobody can come in.
        let work = unsafe { std::mem::transmute::<Work<'_>, Work<'static>>(work) };
        let job = Job { work, parts, next: AtomicUsize::new(0), panic: Mutex::new(None) };
        // SAFETY: not open, and whoever held `taken` before has waited until nobody was inside.
        unsafe { *self.job.get() = Some(job) };
        self.open.store(true, SeqCst);
        self.jobs.fetch_add(1, SeqCst);
        if self.asleep.lock().is_ok_and(|asleep| *asleep > 0) {
            self.wake.notify_all();
        }
        // SAFETY: nobody writes it before this function ends.
        let job = unsafe { &*self.job.get() };
        if let Some(job) = job {
            job.work();
        }
        self.open.store(false, SeqCst);
        let mut turns = 0_u32;
        while self.inside.load(SeqCst) > 0 {
            turns += 1;
            // The other may have lost its processor.
            if turns.is_multiple_of(1 << 12) { std::thread::yield_now() } else { std::hint::spin_loop() }
        }
        let panic = job.as_ref().and_then(|job| job.panic.lock().ok()?.take());
        self.taken.store(false, SeqCst);
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }
}

impl Job {
    /// Takes parts until there are none.
    fn work(&self) {
        let run = || loop {
            let part = self.next.fetch_add(1, SeqCst);
            if part >= self.parts {
                return;
            }
            (self.work)(part);
        };
        if let Err(panic) = catch_unwind(AssertUnwindSafe(run)) {
            self.next.store(self.parts, SeqCst);
            if let Ok(mut first) = self.panic.lock() {
                first.get_or_insert(panic);
            }
        }
    }
}

/// Calls `work(0)`, …, `work(parts - 1)` on the team's threads. If they are at another job, as within one of its parts, the
/// calling thread does all of it.
pub(super) fn run(parts: usize, work: Work<'_>) {
    let team = Team::get();
    if team.taken.swap(true, SeqCst) {
        (0..parts).for_each(work);
    } else {
        team.lead(work, parts);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_is_done_once() {
        for round in 0..500 {
            let parts = round % 7 + 1;
            let counts: Vec<_> = (0..parts).map(|_| AtomicUsize::new(0)).collect();
            run(parts, &|part| {
                counts[part].fetch_add(1, SeqCst);
            });
            assert!(counts.iter().all(|count| count.load(SeqCst) == 1), "round {round}");
            if round % 100 == 0 {
                std::thread::sleep(2 * PATIENCE);
            }
        }
    }

    #[test]
    fn callers_do_not_wait_for_each_other() {
        let sum = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        run(3, &|_| {
                            run(2, &|_| {
                                sum.fetch_add(1, SeqCst);
                            });
                        });
                    }
                });
            }
        });
        assert_eq!(sum.into_inner(), 4 * 200 * 3 * 2);
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_team_lives_on() {
        let result = catch_unwind(|| run(8, &|part| assert!(part != 5, "part five")));
        assert!(result.is_err());
        let sum = AtomicUsize::new(0);
        run(8, &|part| {
            sum.fetch_add(part, SeqCst);
        });
        assert_eq!(sum.into_inner(), 28);
    }
}
