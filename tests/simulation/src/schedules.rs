//! Many runs, on all cores.

use std::{
    ops::Range,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
};

use crate::{choices::Choices, faults::Counts, run::run};

/// The result of many runs.
pub struct Schedules {
    /// A run that violated an invariant, if any did. No further run begins after it.
    pub wrong: Option<Wrong>,
    /// The faults that were injected.
    pub counts: Counts,
    /// Requests that reached the databases.
    pub requests: u64,
}

/// A run that violated an invariant.
pub struct Wrong {
    /// Its seed.
    pub seed: u64,
    /// The invariant.
    pub failure: String,
    /// The choices that were made.
    pub made: Vec<u32>,
}

/// After how many schedules a long run says how far it is.
const SAID_EVERY: u64 = 100_000;

/// Runs the schedules of these seeds.
///
/// # Panics
/// If no runtime can be created.
#[must_use]
pub fn run_all(seeds: Range<u64>) -> Schedules {
    let next = AtomicU64::new(seeds.start);
    let (counts, requests, wrong) = (Mutex::new(Counts::default()), AtomicU64::new(0), Mutex::new(None));
    let lock = || wrong.lock().unwrap_or_else(PoisonError::into_inner);
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                let mut own = Counts::default();
                loop {
                    let seed = next.fetch_add(1, Relaxed);
                    if seed >= seeds.end || lock().is_some() {
                        break;
                    }
                    let begun = seed - seeds.start;
                    if begun > 0 && begun.is_multiple_of(SAID_EVERY) {
                        eprintln!("{begun} schedules begun, {} requests, 0 divergences so far", requests.load(Relaxed));
                    }
                    let finished = run(Choices::of_seed(seed), false);
                    own += &finished.counts;
                    requests.fetch_add(finished.requests, Relaxed);
                    if let Some(failure) = finished.failure {
                        lock().get_or_insert(Wrong { seed, failure, made: finished.made });
                    }
                }
                *counts.lock().unwrap_or_else(PoisonError::into_inner) += &own;
            });
        }
    });
    let wrong = lock().take();
    Schedules { wrong, counts: counts.into_inner().unwrap_or_else(PoisonError::into_inner), requests: requests.into_inner() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `cargo simulate` runs many more, optimised. These take two seconds, and find a worker that is plainly broken.
    #[test]
    fn no_fault_makes_a_row_wrong_in_the_first_schedules() {
        let schedules = std::env::var("TEST_SCHEDULES").map_or(100, |number| number.parse().expect("TEST_SCHEDULES is a number"));
        if let Some(Wrong { seed, failure, .. }) = run_all(0..schedules).wrong {
            panic!("seed {seed}: {failure}\nto see the run: cargo simulate --seed {seed} --trace");
        }
    }
}
