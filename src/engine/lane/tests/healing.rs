//! Versions that are missing before a span, read from the event store.

use super::*;

#[test]
fn missing_versions_are_read_and_counted_with_the_span() {
    let events = earnings(6);
    let mut lane = lane(&events[4..]);
    assert_eq!(lane.refused(Some(row_at(1)), None), AfterRefusal::Heal(Version(2), Version(4)));
    assert_eq!(lane.heal(Version(2), Version(4), stored(&events[1..4])), AfterRefusal::Continue);
    assert_eq!((points(&next_write(&mut lane)), commit(&mut lane)), (62.into(), (1, 6)));
    let oldest_ms = Some(events[1].timestamp.epoch_ms());
    assert_eq!(lane.tally, Tally { applied: 2, healed: 3, gaps: 1, oldest_ms, ..Tally::default() });
    assert_eq!((outcomes(&lane), state(&mut lane)), (vec![Applied; 2], State::Finished));
}

#[test]
fn a_version_that_the_event_store_lacks_parks_the_aggregate_where_its_row_is() {
    let events = earnings(5);
    for (page, row) in [(&[][..], 1), (&events[2..4], 1), (&events[3..4], 1)] {
        let mut lane = lane(&events[4..]);
        assert_eq!(lane.heal(Version(row + 1), Version(4), stored(page)), AfterRefusal::Continue);
        assert_eq!(state(&mut lane), stuck(1, 2, HOLE_REASON));
    }
    let mut without_row = lane(&events[1..]);
    assert_eq!(without_row.refused(None, None), AfterRefusal::Heal(Version(1), Version(1)));
    assert_eq!(without_row.heal(Version(1), Version(1), Vec::new()), AfterRefusal::Continue);
    assert_eq!(state(&mut without_row), stuck(0, 1, HOLE_REASON));
}

#[test]
fn versions_before_a_hole_are_written_before_the_aggregate_is_parked() {
    let events = earnings(5);
    let mut lane = lane(&events[4..]);
    assert_eq!(lane.heal(Version(2), Version(4), stored(&[events[1].clone(), events[3].clone()])), AfterRefusal::Continue);
    assert_eq!((commit(&mut lane), state(&mut lane)), ((1, 2), State::Writes(4, 5)));
    assert_eq!(lane.refused(Some(row_at(2)), None), AfterRefusal::Heal(Version(3), Version(4)));
    assert_eq!(lane.heal(Version(3), Version(4), stored(&events[3..4])), AfterRefusal::Continue);
    assert_eq!(state(&mut lane), stuck(2, 3, HOLE_REASON));
}

#[test]
fn a_stored_event_that_cannot_be_read_parks_the_aggregate_after_those_before_it() {
    let events = earnings(5);
    let mut lane = lane(&events[4..]);
    let page = [stored(&events[1..2]), vec![malformed(3)], stored(&events[3..4])].into_iter().flatten().collect();
    assert_eq!(lane.heal(Version(2), Version(4), page), AfterRefusal::Continue);
    assert_eq!(commit(&mut lane), (1, 2));
    assert_eq!(state(&mut lane), stuck(2, 3, &Malformed::Timestamp.to_string()));
}

/// Two relevant events with eight irrelevant ones between them.
fn far_apart() -> Vec<Arc<RecordedEvent>> {
    history([earned(1)].into_iter().chain((0..8).map(|_| viewed())).chain([earned(2)]))
}

#[test]
fn a_page_of_irrelevant_events_asks_for_the_next_page() {
    let events = far_apart();
    let mut lane = lane(&events[9..]);
    assert_eq!(lane.refused(Some(row_at(1)), None), AfterRefusal::Heal(Version(2), Version(9)));
    assert_eq!(lane.heal(Version(2), Version(9), stored(&events[1..5])), AfterRefusal::Heal(Version(6), Version(9)));
    assert_eq!(lane.heal(Version(6), Version(9), stored(&events[5..9])), AfterRefusal::Continue);
    assert_eq!(commit(&mut lane), (1, 10));
    assert_eq!((lane.tally.applied, lane.tally.healed, lane.tally.gaps), (1, 0, 2));
}

#[test]
fn a_page_with_a_relevant_event_is_written_before_the_next_page_is_read() {
    let events = history([earned(1), viewed(), earned(2), earned(4), earned(8)]);
    let mut lane = lane(&events[4..]);
    assert_eq!(lane.heal(Version(2), Version(4), stored(&events[1..3])), AfterRefusal::Continue);
    assert_eq!((commit(&mut lane), state(&mut lane)), ((1, 3), State::Writes(4, 5)));
}

#[test]
fn a_hole_after_a_page_of_irrelevant_events_parks_where_the_row_is() {
    let events = far_apart();
    let mut lane = lane(&events[9..]);
    assert_eq!(lane.heal(Version(2), Version(9), stored(&events[1..5])), AfterRefusal::Heal(Version(6), Version(9)));
    assert_eq!(lane.heal(Version(6), Version(9), stored(&events[6..9])), AfterRefusal::Continue);
    assert_eq!(state(&mut lane), stuck(1, 6, HOLE_REASON));
}
