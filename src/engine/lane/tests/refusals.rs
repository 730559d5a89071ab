//! What a refusal means.

use super::*;

/// The table of the module's documentation, line by line. A batch brought versions 3, 4 and 5, and their write was refused.
#[test]
fn the_row_decides_what_a_refusal_means() {
    use AfterRefusal::{Continue, Heal};
    let older = |row| of_revision(1, row);
    let newer = |row| of_revision(3, row);
    let diverged_at = |version| HomeRow { last_event_id: Some("another".into()), ..row_at(version) };
    let waits = || State::Parked(ParkedBy::Another);
    let fails = || State::Failed(AdvanceError::newer_revision(&Cards, 3));
    let unchanged = || State::Writes(2, 5);
    // The row; what to do next, and the outcomes of the three records; the state of the lane then.
    let table = [
        // It is parked.
        (parked(row_at(2)), Continue, vec![Parked, Parked, Parked], waits()),
        (parked(row_at(3)), Continue, vec![Duplicate, Parked, Parked], waits()),
        (parked(HomeRow::default()), Continue, vec![Parked, Parked, Parked], waits()),
        (parked(older(row_at(2))), Continue, vec![Parked, Parked, Parked], waits()),
        (parked(newer(row_at(2))), Continue, vec![Parked, Parked, Parked], waits()),
        // It was written by an older revision.
        (older(row_at(1)), reproject(older(row_at(1))), vec![], unchanged()),
        (older(row_at(2)), reproject(older(row_at(2))), vec![], unchanged()),
        (older(diverged_at(4)), reproject(older(diverged_at(4))), vec![], unchanged()),
        (older(row_at(5)), reproject(older(row_at(5))), vec![], unchanged()),
        // It was written by a newer revision.
        (newer(row_at(1)), Continue, vec![Failed, Failed, Failed], fails()),
        (newer(diverged_at(4)), Continue, vec![Failed, Failed, Failed], fails()),
        (newer(row_at(5)), Continue, vec![Failed, Failed, Failed], fails()),
        // It is before the span.
        (HomeRow::default(), Heal(Version(1), Version(2)), vec![], unchanged()),
        (row_at(1), Heal(Version(2), Version(2)), vec![], unchanged()),
        // It is where the span begins, so it does not explain the refusal.
        (row_at(2), Continue, vec![], unchanged()),
        // It is at an event of the span that has another id.
        (diverged_at(3), Continue, vec![], stuck(3, 3, DIVERGED_REASON)),
        (diverged_at(5), Continue, vec![], stuck(5, 5, DIVERGED_REASON)),
        // It is within the span.
        (row_at(3), Continue, vec![Duplicate], State::Writes(3, 5)),
        (row_at(4), Continue, vec![Duplicate, Duplicate], State::Writes(4, 5)),
        // It is at the last event of the span or beyond.
        (row_at(5), Continue, vec![Duplicate, Duplicate, Duplicate], State::Finished),
        (row_at(9), Continue, vec![Duplicate, Duplicate, Duplicate], State::Finished),
    ];
    for (row, next, expected, then) in table {
        let mut lane = lane(&earnings(5)[2..]);
        assert_eq!(state(&mut lane), unchanged());
        let of_row = format!("{row:?}");
        assert_eq!((lane.refused(Some(row), None), outcomes(&lane)), (next, expected), "{of_row}");
        assert_eq!(state(&mut lane), then, "{of_row}");
    }
}

#[test]
fn an_absent_row_is_before_every_event() {
    let mut lane = lane(&earnings(5)[2..]);
    assert_eq!(lane.refused(None, None), AfterRefusal::Heal(Version(1), Version(2)));
}

#[test]
fn a_row_among_irrelevant_events_shortens_the_span() {
    let events = history([earned(1), viewed(), viewed(), earned(2)]);
    let mut lane = lane(&events[1..]);
    assert_eq!(lane.refused(Some(row_at(2)), None), AfterRefusal::Continue);
    assert_eq!((state(&mut lane), outcomes(&lane)), (State::Writes(2, 4), vec![]));
    let mut unread = Lane::new(&Cards, "ann".into());
    unread.push_stored(Version(1), Version(4), stored(&events[3..]));
    assert_eq!(unread.refused(Some(row_at(2)), None), AfterRefusal::Continue);
    assert_eq!(state(&mut unread), State::Writes(2, 4));
}

#[test]
fn a_row_that_keeps_refusing_without_a_reason_fails_the_lane_after_eight_tries() {
    for (row, of_older_revision) in [(row_at(2), false), (of_revision(1, row_at(2)), true)] {
        let mut lane = lane(&earnings(5)[2..]);
        for _ in 0..UNEXPLAINED_MAX {
            let next = if of_older_revision { reproject(row.clone()) } else { AfterRefusal::Continue };
            assert_eq!((lane.refused(Some(row.clone()), None), state(&mut lane)), (next, State::Writes(2, 5)));
        }
        assert_eq!(lane.refused(Some(row), None), AfterRefusal::Continue);
        assert_eq!((state(&mut lane), outcomes(&lane)), (State::Failed(AdvanceError::Unexplained), vec![Failed; 3]));
    }
}

#[test]
fn a_write_that_succeeds_ends_the_count_of_refusals_without_a_reason() {
    let mut lane = lane(&history([earned(1), spread(0, 60), spread(60, 60)])[1..]);
    for version in [1, 2] {
        for _ in 0..UNEXPLAINED_MAX {
            assert_eq!(lane.refused(Some(row_at(version)), None), AfterRefusal::Continue);
        }
        assert_eq!(commit(&mut lane), (version, version + 1));
    }
    assert_eq!((outcomes(&lane), state(&mut lane)), (vec![Applied; 2], State::Finished));
}

/// The answer to a write was lost and the store was asked again: the row shows whether the first attempt was applied.
#[test]
fn a_write_whose_answer_was_lost_counts_if_the_row_is_where_it_leads() {
    let diverged = HomeRow { last_event_id: Some("another".into()), ..row_at(5) };
    let table = [
        (row_at(2), vec![], State::Writes(2, 5)),
        (row_at(4), vec![Duplicate, Duplicate], State::Writes(4, 5)),
        (row_at(5), vec![Applied, Applied, Applied], State::Finished),
        (diverged, vec![], stuck(5, 5, DIVERGED_REASON)),
        // Others have continued from it or were here before: it is not known which.
        (row_at(6), vec![Duplicate, Duplicate, Duplicate], State::Finished),
    ];
    for (row, expected, then) in table {
        let mut lane = lane(&earnings(5)[2..]);
        let write = next_write(&mut lane);
        assert_eq!(lane.refused(Some(row), Some(&write)), AfterRefusal::Continue);
        assert_eq!((outcomes(&lane), state(&mut lane)), (expected, then));
    }
}
