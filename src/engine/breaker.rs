//! Tells a bad record from a bad deployment. If most of the aggregates that a projection has checked would have to be parked, the
//! projection is at fault, and none of them is parked. Pure.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// The number of a projection's last checks of aggregates that count, across batches, because a small batch alone shows little.
const WINDOW: usize = 200;
/// With fewer aggregates to park, the breaker never trips. Otherwise one bad record in a batch of one would stop the shard.
const PARKED_MIN: usize = 10;
/// The breaker trips when more than one in this number of checks would park the aggregate.
const SHARE: usize = 2;

/// The last checks by projection: the aggregate if it would have to be parked, otherwise `None`.
#[derive(Default)]
pub struct Breaker(BTreeMap<&'static str, VecDeque<Option<String>>>);

impl Breaker {
    /// Checks the aggregates of a batch, each with whether it would have to be parked. Returns whether the breaker trips, so that none
    /// may be.
    ///
    /// It takes many bad aggregates: one that cannot be parked at the moment, and so returns in every batch, must not look like many.
    /// Once an aggregate is good, it no longer counts as bad.
    pub fn trips<'a>(&mut self, projection: &'static str, aggregates: impl IntoIterator<Item = (&'a str, bool)>) -> bool {
        let window = self.0.entry(projection).or_default();
        // A batch contains an aggregate only once, so only checks of earlier batches can be outdated.
        let before = window.len();
        let mut any_bad = false;
        for (id, bad) in aggregates {
            any_bad |= bad;
            if !bad {
                window.iter_mut().take(before).filter(|check| check.as_deref() == Some(id)).for_each(|check| *check = None);
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

/// The commonest of the reasons why aggregates would be parked, and of how many: most often the fault of the deployment itself.
pub fn commonest(reasons: impl IntoIterator<Item = String>) -> Option<(String, u64)> {
    let mut counts = BTreeMap::<String, u64>::new();
    for reason in reasons {
        *counts.entry(reason).or_default() += 1;
    }
    counts.into_iter().max_by_key(|(_, count)| *count)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks ranges of numbered aggregates: the first, how many, and whether they are bad.
    fn trips(breaker: &mut Breaker, projection: &'static str, checks: &[(usize, usize, bool)]) -> bool {
        let checks: Vec<_> = checks.iter().flat_map(|(from, count, bad)| (*from..from + count).map(|at| (at.to_string(), *bad))).collect();
        breaker.trips(projection, checks.iter().map(|(id, bad)| (id.as_str(), *bad)))
    }

    #[test]
    fn an_aggregate_that_is_delivered_repeatedly_counts_once() {
        let mut breaker = Breaker::default();
        assert!((0..100).all(|_| !trips(&mut breaker, "p", &[(0, 9, true)])));
        assert!(trips(&mut breaker, "p", &[(9, 1, true)]));
    }

    #[test]
    fn a_few_frequent_good_aggregates_outweigh_a_trickle_of_bad_ones() {
        let mut breaker = Breaker::default();
        assert!((0..100).all(|turn| !trips(&mut breaker, "p", &[(0, 5, false), (1_000 + 4 * turn, 4, true)])));
    }

    #[test]
    fn the_breaker_trips_when_more_than_half_are_bad_across_batches() {
        let mut breaker = Breaker::default();
        assert!(!trips(&mut breaker, "p", &[(0, 12, false)]));
        assert!(!trips(&mut breaker, "p", &[(100, 12, true)]));
        assert!(trips(&mut breaker, "p", &[(200, 1, true)]));
        assert!(!trips(&mut breaker, "p", &[(300, 1, false)]), "nothing would be parked");
    }

    #[test]
    fn an_aggregate_that_is_good_now_no_longer_counts_as_bad() {
        let mut breaker = Breaker::default();
        assert!(trips(&mut breaker, "p", &[(0, 12, true)]));
        assert!(!trips(&mut breaker, "p", &[(0, 12, false)]));
        assert!(!trips(&mut breaker, "p", &[(50, 9, true)]));
    }

    #[test]
    fn the_commonest_reason_is_named_with_its_number() {
        let reasons = ["index key", "no such type", "index key"].map(String::from);
        assert_eq!(commonest(reasons), Some(("index key".to_owned(), 2)));
        assert_eq!(commonest([]), None);
    }

    #[test]
    fn a_bad_projection_is_not_masked_by_good_ones() {
        let mut breaker = Breaker::default();
        assert!(!trips(&mut breaker, "good", &[(0, 200, false)]));
        assert!(trips(&mut breaker, "bad", &[(0, 10, true)]));
    }

    #[test]
    fn checks_outside_the_window_do_not_count() {
        let mut breaker = Breaker::default();
        trips(&mut breaker, "p", &[(0, WINDOW, false)]);
        trips(&mut breaker, "p", &[(1_000, 101, true)]);
        assert!(trips(&mut breaker, "p", &[(2_000, 1, true)]), "102 of the last 200");
    }

    #[test]
    fn an_aggregate_that_is_good_excuses_no_other() {
        let mut breaker = Breaker::default();
        assert!(trips(&mut breaker, "p", &[(0, 12, true)]));
        assert!(!trips(&mut breaker, "p", &[(100, 1, false)]));
        assert!(trips(&mut breaker, "p", &[(200, 1, true)]), "13 of 14");
    }
}
