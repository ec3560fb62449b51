//! A parallel map whose results come in order and whose memory is bounded.

use crate::app::WORKER;
use crate::error::{Error, Result};
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// The results of a function of many items, in the order of the items.
///
/// The items are read on one thread and the function runs on `workers` others, at most `window` items ahead of whoever
/// takes the results. Dropping it ends the threads at their next item; nobody waits for them, because the reader may
/// be waiting for standard input.
#[derive(Debug)]
pub(super) struct Ordered<U> {
    /// For each item, in order, where its result will arrive.
    places: Receiver<Receiver<U>>,
    next: Option<Receiver<U>>,
}

/// What came within a given time.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next<U> {
    /// The next result.
    Ready(U),
    /// Nothing yet.
    Late,
    /// There are no more items.
    End,
}

impl<U: Send + 'static> Ordered<U> {
    /// Starts the threads.
    pub(super) fn new<T: Send + 'static>(
        items: impl Iterator<Item = T> + Send + 'static,
        workers: usize,
        window: usize,
        work: impl Fn(T) -> U + Send + Sync + 'static,
    ) -> Result<Self> {
        let work = Arc::new(work);
        let (place, places) = bounded(window);
        let (job, jobs) = bounded::<(T, Sender<U>)>(window);
        for index in 0..workers {
            let (work, jobs) = (work.clone(), jobs.clone());
            spawn(format!("{WORKER}{index}"), move || {
                for (item, result) in jobs {
                    // Whoever asked may be gone; then the queue ends, too.
                    let _ = result.send(work(item));
                }
            })?;
        }
        spawn("read".to_owned(), move || {
            for item in items {
                let (result, arrival) = bounded(1);
                if place.send(arrival).is_err() || job.send((item, result)).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { places, next: None })
    }

    /// The next result, if it arrives in time.
    pub(super) fn next(&mut self, wait: Duration) -> Result<Next<U>> {
        let deadline = Instant::now() + wait;
        let arrival = match self.next.take() {
            Some(arrival) => arrival,
            None => match self.places.recv_deadline(deadline) {
                Ok(arrival) => arrival,
                Err(RecvTimeoutError::Timeout) => return Ok(Next::Late),
                Err(RecvTimeoutError::Disconnected) => return Ok(Next::End),
            },
        };
        match arrival.recv_deadline(deadline) {
            Ok(result) => Ok(Next::Ready(result)),
            Err(RecvTimeoutError::Timeout) => {
                self.next = Some(arrival);
                Ok(Next::Late)
            }
            Err(RecvTimeoutError::Disconnected) => Err(Error::run("a thread that decodes images has died")),
        }
    }
}

fn spawn(name: String, body: impl FnOnce() + Send + 'static) -> Result<()> {
    match thread::Builder::new().name(name).spawn(body) {
        Ok(_) => Ok(()),
        Err(error) => Err(Error::run(format!("cannot start a thread: {error}")).hint("try fewer with --workers")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn results_come_in_order() {
        let work = |n: u64| {
            thread::sleep(Duration::from_micros(n * 7919 % 500));
            n * n
        };
        for workers in [1, 4] {
            let mut ordered = Ordered::new(0..200, workers, 8, work).unwrap();
            for n in 0..200 {
                assert_eq!(ordered.next(LONG).unwrap(), Next::Ready(n * n));
            }
            assert_eq!(ordered.next(LONG).unwrap(), Next::End);
        }
    }

    #[test]
    fn it_reads_no_further_ahead_than_the_window() {
        let read = Arc::new(AtomicUsize::new(0));
        let counter = read.clone();
        let items = std::iter::repeat_with(move || counter.fetch_add(1, Ordering::SeqCst)).take(1000);
        let mut ordered = Ordered::new(items, 2, 4, |n| n).unwrap();
        assert_eq!(ordered.next(LONG).unwrap(), Next::Ready(0));
        thread::sleep(Duration::from_millis(50));
        assert!(read.load(Ordering::SeqCst) <= 8, "{read:?}");
    }

    #[test]
    fn a_late_result_is_not_lost() {
        let (start, started) = bounded(1);
        let mut ordered = Ordered::new(0..1, 1, 1, move |n| (started.recv(), n).1).unwrap();
        assert_eq!(ordered.next(Duration::from_millis(5)).unwrap(), Next::Late);
        start.send(()).unwrap();
        assert_eq!(ordered.next(LONG).unwrap(), Next::Ready(0));
    }
}
