//! A lane that ends without applying all of its events.

use super::*;

#[test]
fn all_records_of_a_parked_aggregate_wait_with_it() {
    let mut lane = lane(&history([earned(1), refused(), earned(2), viewed(), earned(4)]));
    assert_eq!(commit(&mut lane), (0, 1));
    assert_eq!(state(&mut lane), stuck(1, 2, "refused by the rule"));
    lane.parked();
    assert_eq!(state(&mut lane), State::Parked(ParkedBy::ThisLane("refused by the rule".to_owned())));
    assert_eq!(lane.outcomes, [(0, Applied), (1, Parked), (2, Parked), (4, Parked)]);
    assert_eq!((lane.tally.applied, lane.tally.parked), (1, 3));
}

#[test]
fn a_parking_that_the_row_refuses_is_decided_by_the_row() {
    let mut lane = lane(&history([earned(1), refused(), earned(2)])[1..]);
    assert_eq!(state(&mut lane), stuck(1, 2, "refused by the rule"));
    assert_eq!(lane.refused(Some(row_at(2)), None), AfterRefusal::Continue, "a corrected event was applied meanwhile");
    assert_eq!((outcomes(&lane), state(&mut lane)), (vec![Duplicate], State::Writes(2, 3)));
}

#[test]
fn all_records_that_are_left_fail_together() {
    let mut lane = lane(&history([earned(1), refused(), earned(2)]));
    assert_eq!(commit(&mut lane), (0, 1));
    assert_eq!(state(&mut lane), stuck(1, 2, "refused by the rule"));
    lane.fail(AdvanceError::BreakerTripped);
    assert_eq!((outcomes(&lane), state(&mut lane)), (vec![Applied, Failed, Failed], State::Failed(AdvanceError::BreakerTripped)));
    assert_eq!((lane.tally.applied, lane.tally.failed), (1, 2));
}
