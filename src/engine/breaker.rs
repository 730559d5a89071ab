//! Tells a bad record from a bad deployment: if most of what a projection looks at would have to be parked, it is the projection that
//! is at fault, and nothing of it is parked. Pure.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// A projection's last so many looks at aggregates count, over batches: a small batch alone tells little.
const WINDOW: usize = 200;
/// Fewer would-be parked aggregates than this never trip it, or one bad record in a batch of one would stop the shard.
const PARKED_MIN: usize = 10;
/// It trips when more than one in so many of the aggregates looked at would be parked.
const SHARE: usize = 2;

/// The last looks by projection: the aggregate that would have had to be parked, or none.
#[derive(Default)]
pub struct Breaker(BTreeMap<&'static str, VecDeque<Option<String>>>);

impl Breaker {
    /// Looks at the aggregates of a batch, each with whether it would be parked, and says whether none may be.
    ///
    /// It takes many bad aggregates and not one that comes often: one that cannot be parked for the moment must not look like many.
    /// Once an aggregate is good it no longer counts as bad.
    pub fn trips<'a>(&mut self, projection: &'static str, aggregates: impl IntoIterator<Item = (&'a str, bool)>) -> bool {
        let window = self.0.entry(projection).or_default();
        // A batch holds an aggregate once, so a look to take back is from before it.
        let before = window.len();
        let mut any_bad = false;
        for (id, bad) in aggregates {
            any_bad |= bad;
            if !bad {
                window.iter_mut().take(before).filter(|look| look.as_deref() == Some(id)).for_each(|look| *look = None);
            }
            window.push_back(bad.then(|| id.to_owned()));
        }
        let parked = window.iter().flatten().count();
        let aggregates: BTreeSet<_> = window.iter().flatten().collect();
        let trips = any_bad && aggregates.len() >= PARKED_MIN && parked * SHARE > window.len();
        window.drain(..window.len().saturating_sub(WINDOW));
        trips
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks at so many aggregates, by number.
    fn trips(breaker: &mut Breaker, projection: &'static str, looks: &[(usize, usize, bool)]) -> bool {
        let looks: Vec<_> = looks.iter().flat_map(|(from, count, bad)| (*from..from + count).map(|at| (at.to_string(), *bad))).collect();
        breaker.trips(projection, looks.iter().map(|(id, bad)| (id.as_str(), *bad)))
    }

    #[test]
    fn one_aggregate_that_comes_again_and_again_counts_once() {
        let mut breaker = Breaker::default();
        assert!((0..100).all(|_| !trips(&mut breaker, "p", &[(0, 9, true)])));
        assert!(trips(&mut breaker, "p", &[(9, 1, true)]));
    }

    #[test]
    fn a_few_good_ones_that_come_often_outweigh_a_trickle_of_bad_ones() {
        let mut breaker = Breaker::default();
        assert!((0..100).all(|turn| !trips(&mut breaker, "p", &[(0, 5, false), (1_000 + 4 * turn, 4, true)])));
    }

    #[test]
    fn it_takes_more_than_half_over_batches() {
        let mut breaker = Breaker::default();
        assert!(!trips(&mut breaker, "p", &[(0, 12, false)]));
        assert!(!trips(&mut breaker, "p", &[(100, 12, true)]));
        assert!(trips(&mut breaker, "p", &[(200, 1, true)]));
        assert!(!trips(&mut breaker, "p", &[(300, 1, false)]), "nothing is to be parked");
    }

    #[test]
    fn what_is_good_now_no_longer_counts_as_bad() {
        let mut breaker = Breaker::default();
        assert!(trips(&mut breaker, "p", &[(0, 12, true)]));
        assert!(!trips(&mut breaker, "p", &[(0, 12, false)]));
        assert!(!trips(&mut breaker, "p", &[(50, 9, true)]));
    }

    #[test]
    fn a_projection_that_is_at_fault_does_not_hide_behind_others() {
        let mut breaker = Breaker::default();
        assert!(!trips(&mut breaker, "good", &[(0, 200, false)]));
        assert!(trips(&mut breaker, "bad", &[(0, 10, true)]));
    }

    #[test]
    fn what_was_long_ago_is_forgotten() {
        let mut breaker = Breaker::default();
        trips(&mut breaker, "p", &[(0, WINDOW, false)]);
        trips(&mut breaker, "p", &[(1_000, 101, true)]);
        assert!(trips(&mut breaker, "p", &[(2_000, 1, true)]), "102 of the last 200");
    }
}
