//! Guesses which lanes have nothing left to do, because what they hold was delivered before. A guess decides only what is asked first:
//! a write that is refused costs a request for each aggregate, and as much as a write; reading the row costs a fifth of that, and one
//! request for a hundred rows.

use std::{
    collections::VecDeque,
    hash::{BuildHasher as _, RandomState},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use crate::engine::decode::SequenceNumber;

/// How many batches are remembered: what fails is delivered again within a few.
const BATCHES_MAX: usize = 4;
/// So many lanes must have been duplicates before the others are taken for such.
const DUPLICATES_MIN: u64 = 4;

/// The records of the latest batches of this process.
#[derive(Default)]
pub struct Delivered {
    hasher: RandomState,
    batches: Mutex<VecDeque<Vec<u64>>>,
}

impl Delivered {
    /// Whether the first of these records was in one of the latest batches. They are the latest now.
    pub fn again<'a>(&self, positions: impl IntoIterator<Item = &'a SequenceNumber>) -> bool {
        let positions: Vec<u64> = positions.into_iter().map(|position| self.hasher.hash_one(position.as_str())).collect();
        let Some(first) = positions.first() else { return false };
        let mut batches = self.batches.lock().unwrap_or_else(PoisonError::into_inner);
        let again = batches.iter().any(|batch| batch.contains(first));
        if batches.len() == BATCHES_MAX {
            batches.pop_front();
        }
        batches.push_back(positions);
        again
    }
}

/// What became of the lanes so far that were written to without reading their rows.
#[derive(Default)]
pub struct Hunch {
    duplicates: AtomicU64,
    others: AtomicU64,
}

impl Hunch {
    /// A guess about a batch before any of it is written.
    #[must_use]
    pub fn from(delivered_before: bool) -> Self {
        let hunch = Self::default();
        if delivered_before {
            hunch.duplicates.store(DUPLICATES_MIN, Relaxed);
        }
        hunch
    }

    /// Learns what became of a lane.
    pub fn learn(&self, was_duplicate: bool) {
        let counter = if was_duplicate { &self.duplicates } else { &self.others };
        counter.fetch_add(1, Relaxed);
    }

    /// Whether the next lane is more probably a duplicate than not.
    pub fn expects_duplicates(&self) -> bool {
        let duplicates = self.duplicates.load(Relaxed);
        duplicates >= DUPLICATES_MIN && duplicates > self.others.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn positions(numbers: &[&str]) -> Vec<SequenceNumber> {
        numbers.iter().map(|number| SequenceNumber::from(*number)).collect()
    }

    #[test]
    fn a_batch_that_begins_within_one_of_the_latest_is_delivered_again() {
        let delivered = Delivered::default();
        let again = |numbers: &[&str]| delivered.again(&positions(numbers));
        assert_eq!([again(&["1", "2", "3"]), again(&["2", "3"]), again(&["4", "3"]), again(&[])], [false, true, false, false]);
        for other in ["10", "11", "12"] {
            assert!(!again(&[other]));
        }
        assert!(again(&["4"]), "the fourth before");
        assert!(!again(&["2"]), "too long ago");
    }

    #[test]
    fn duplicates_are_expected_when_they_are_most_of_several() {
        let hunch = Hunch::default();
        let mut expected = Vec::new();
        for was_duplicate in [true, true, true, true, false, false, false, false, true] {
            hunch.learn(was_duplicate);
            expected.push(hunch.expects_duplicates());
        }
        assert_eq!(expected, [false, false, false, true, true, true, true, false, true]);
        assert_eq!([true, false].map(|before| Hunch::from(before).expects_duplicates()), [true, false]);
    }
}
