//! Which of a batch's events a lane holds.

use super::*;

#[test]
fn records_in_any_order_become_one_write() {
    let events = earnings(4);
    let mut lane = lane(&[2, 0, 3, 1].map(|at: usize| events[at].clone()));
    let write = next_write(&mut lane);
    assert_eq!((write.home.after.version, write.home.to.version), (Version::NONE, Version(4)));
    assert_eq!((points(&write), write.home.event_id()), (15.into(), Some("ann-4")));
}

#[test]
fn an_event_that_two_records_brought_counts_once() {
    let events = earnings(2);
    let mut lane = lane(&[1, 0, 1].map(|at: usize| events[at].clone()));
    assert_eq!(points(&next_write(&mut lane)), 3.into());
    assert_eq!(commit(&mut lane), (0, 2));
    assert_eq!((outcomes(&lane), state(&mut lane)), (vec![Applied, Applied, Duplicate], State::Finished));
}

#[test]
fn of_two_events_with_one_version_the_first_is_written_and_the_row_decides_on_the_other() {
    let events = earnings(2);
    let mut lane = lane(&[events[0].clone(), events[1].clone(), impostor(&events[1])]);
    assert_eq!(commit(&mut lane), (0, 2));
    assert_eq!(lane.refused(Some(row_at(2)), None), AfterRefusal::Continue);
    assert_eq!(state(&mut lane), stuck(2, 2, DIVERGED_REASON));
}

#[test]
fn an_unreadable_event_that_two_records_brought_is_one_event() {
    let mut lane = Lane::new(&Cards, "ann".into());
    for (record, payload) in ["one", "one", "another"].into_iter().enumerate() {
        lane.push_poison(Version(1), "unreadable".to_owned(), payload.to_owned(), record);
    }
    assert!(lane.prepare());
    assert_eq!(lane.entries.iter().map(|entry| entry.records().collect::<Vec<_>>()).collect::<Vec<_>>(), [vec![0, 1], vec![2]]);
}

#[test]
fn irrelevant_events_are_passed_with_the_next_relevant_one_and_have_no_outcome() {
    let mut lane = lane(&history([viewed(), earned(1), viewed(), viewed(), earned(2)]));
    assert_eq!((points(&next_write(&mut lane)), commit(&mut lane)), (3.into(), (0, 5)));
    assert_eq!(lane.outcomes, [(1, Applied), (4, Applied)]);
}

#[test]
fn irrelevant_events_at_the_end_are_left_to_the_next_batch() {
    let mut lane = lane(&history([earned(1), viewed(), viewed()]));
    assert_eq!((commit(&mut lane), state(&mut lane)), ((0, 1), State::Finished));
}

#[test]
fn a_lane_of_irrelevant_events_can_be_dropped() {
    let mut lane = Lane::new(&Cards, "ann".into());
    lane.push_event(&history([viewed()])[0], 0);
    assert!(!lane.prepare());
}

#[test]
fn stored_events_follow_irrelevant_versions_that_were_not_read() {
    let mut lane = Lane::new(&Cards, "ann".into());
    lane.push_stored(Version(1), Version(4), stored(&earnings(5)[3..]));
    assert!(lane.prepare());
    assert_eq!((points(&next_write(&mut lane)), commit(&mut lane)), (24.into(), (1, 5)));
    assert_eq!((lane.tally.healed, lane.tally.applied, lane.outcomes.len()), (2, 0, 0));
}

#[test]
fn the_event_that_ended_a_fold_parks_where_the_row_is() {
    let mut lane = Lane::new(&Cards, "ann".into());
    lane.push_poison_after(Version(1), Version(4), "unreadable".to_owned(), "as stored".to_owned());
    assert!(lane.prepare());
    assert_eq!(state(&mut lane), stuck(1, 4, "unreadable"));
}

#[test]
fn an_irrelevant_event_that_two_records_brought_does_not_cut_the_span() {
    let events = history([earned(1), viewed(), earned(2)]);
    let mut lane = lane(&[events[0].clone(), events[1].clone(), events[1].clone(), events[2].clone()]);
    assert_eq!((commit(&mut lane), state(&mut lane)), ((0, 3), State::Finished));
}
