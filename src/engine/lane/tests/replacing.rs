//! A row that is replaced by the fold of its history.

use super::*;

fn folded(events: &[Arc<RecordedEvent>]) -> HistoryFold {
    let mut fold = HistoryFold::new(&Cards, "ann".into());
    for stored in stored(events) {
        fold.push(stored);
    }
    fold
}

/// A lane of versions 2 to 4 whose row is at version 2 and of an older revision, with the first `count` events folded.
fn replacing(count: usize) -> Lane {
    let (events, row) = (earnings(4), of_revision(1, row_at(2)));
    let mut lane = lane(&events[1..]);
    assert_eq!(lane.refused(Some(row.clone()), None), reproject(row.clone()));
    lane.replace(&row, &folded(&events[..count]), ChildWrites::new(), Trust::Row);
    lane
}

#[test]
fn a_re_projected_row_counts_the_records_that_it_had_not_applied() {
    let mut lane = replacing(4);
    let write = next_write(&mut lane);
    let watermark = |version, revision| Watermark { version: Version(version), revision };
    assert_eq!((write.home.after, write.home.to), (watermark(2, 1), watermark(4, 2)));
    assert_eq!(commit(&mut lane), (2, 4));
    assert_eq!((outcomes(&lane), state(&mut lane)), (vec![Duplicate, Applied, Applied], State::Finished));
    assert_eq!((lane.tally.reprojected, lane.tally.duplicate, lane.tally.applied, lane.tally.healed), (1, 1, 2, 0));
    assert_eq!(lane.tally.oldest_ms, Some(earnings(4)[2].timestamp.epoch_ms()));
}

#[test]
fn events_beyond_a_re_projected_row_follow_it() {
    let mut lane = replacing(3);
    assert_eq!((commit(&mut lane), state(&mut lane)), ((2, 3), State::Writes(3, 4)));
    assert_eq!(outcomes(&lane), [Duplicate, Applied]);
}

#[test]
fn a_refused_replacement_is_dropped_and_the_row_decides() {
    let mut lane = replacing(4);
    assert_eq!(lane.refused(Some(row_at(3)), None), AfterRefusal::Continue);
    assert_eq!((outcomes(&lane), state(&mut lane)), (vec![Duplicate, Duplicate], State::Writes(3, 4)));
    assert_eq!(lane.tally.reprojected, 0);
}

#[test]
fn a_replacement_whose_answer_was_lost_counts_if_the_row_is_what_it_made() {
    for (is_ours, expected) in [(true, vec![Duplicate, Applied, Applied]), (false, vec![Duplicate; 3])] {
        let mut lane = replacing(4);
        let write = next_write(&mut lane);
        let row = HomeRow { rewritten: write.home.rewritten().filter(|_| is_ours).unwrap_or("by another").into(), ..row_at(4) };
        assert_eq!(lane.refused(Some(row), Some(&write)), AfterRefusal::Continue);
        assert_eq!((outcomes(&lane), state(&mut lane)), (expected, State::Finished));
        assert_eq!(lane.tally.reprojected, u64::from(is_ours));
    }
}

/// A lost answer to one of several steps.
#[test]
fn a_step_whose_answer_was_lost_is_followed_by_the_next() {
    let events = history([spread(0, 250)]);
    let mut lane = lane(&events);
    let mut folded = HistoryFold::new(&Cards, "ann".into());
    folded.push(stored(&events).remove(0));
    lane.in_steps(&HomeRow::default(), &folded, ChildWrites::new(), Version(1));
    let write = next_write(&mut lane);
    let unfinished = HomeRow { rewritten: write.home.rewritten().expect("a step").into(), unfinished: Some(2), ..HomeRow::default() };
    assert_eq!(lane.refused(Some(unfinished.clone()), Some(&write)), AfterRefusal::Continue);
    assert_ne!(next_write(&mut lane).shares, write.shares, "it is the next step");
    let another = HomeRow { rewritten: "by another".into(), ..unfinished };
    assert_eq!(lane.refused(Some(another.clone()), None), reproject(another), "whoever finds an unfinished row continues it");
}

#[test]
fn an_aggregate_that_cannot_be_re_projected_parks_with_the_row_that_it_has() {
    let (events, row) = (earnings(4), of_revision(1, row_at(2)));
    let mut lane = lane(&events[2..]);
    lane.replace(&row, &folded(&[events[0].clone(), events[2].clone()]), ChildWrites::new(), Trust::Row);
    assert_eq!(state(&mut lane), stuck(2, 2, &format!("re-projection stopped: {HOLE_REASON}")));
    assert_eq!(lane.stuck().expect("it is stuck").after, row.watermark());
}

#[test]
fn a_replacement_that_the_store_refuses_parks_with_the_row_that_it_has() {
    let mut lane = replacing(4);
    let write = next_write(&mut lane);
    lane.invalid(&write, "too large");
    assert_eq!(state(&mut lane), stuck(2, 2, "re-projection is refused: too large"));
    assert_eq!(lane.stuck().expect("it is stuck").after, Watermark { version: Version(2), revision: 1 });
}

/// The fold owns an attribute that the row did not, and that others add to.
#[test]
fn a_replacement_takes_over_an_attribute_of_an_older_revision_only() {
    let shared_by =
        |by| HomeRow { shared: [("points".to_owned(), Mark { kind: Kind::Sum, revision: by })].into(), ..of_revision(1, row_at(2)) };
    let fails = State::Failed(AdvanceError::newer_revision(&Cards, 3));
    let table = [(1, State::Writes(2, 4)), (2, stuck(2, 2, &format!("re-projection is refused: {TWO_OWNERS}"))), (3, fails)];
    for (by, then) in table {
        let mut lane = lane(&earnings(4)[1..]);
        lane.replace(&shared_by(by), &folded(&earnings(4)), ChildWrites::new(), Trust::Row);
        assert_eq!(state(&mut lane), then, "by revision {by}");
    }
}
