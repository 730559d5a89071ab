//! What the next step is, and which events one write takes.

use super::*;

#[test]
fn contiguous_events_become_one_write() {
    let mut lane = lane(&earnings(5)[2..]);
    assert_eq!(state(&mut lane), State::Writes(2, 5));
    assert_eq!(state(&mut lane), State::Writes(2, 5), "asking again changes nothing");
    let write = next_write(&mut lane);
    assert_eq!((points(&write), write.home.event_id(), write.home.to.revision), (28.into(), Some("ann-5"), 2));
    assert_eq!(write.shares, Shares::new());
}

#[test]
fn a_write_ends_before_an_event_that_the_rule_refuses() {
    let events = history([earned(1), refused(), earned(4)]);
    let mut lane = lane(&events);
    assert_eq!(commit(&mut lane), (0, 1));
    assert_eq!(state(&mut lane), stuck(1, 2, "refused by the rule"));
    assert_eq!(kept_event(&lane), "ann-2");
}

#[test]
fn a_write_ends_before_an_event_that_cannot_be_read() {
    let events = earnings(4);
    let mut lane = Lane::new(&Cards, "ann".into());
    for at in [0, 1, 3] {
        lane.push_event(&events[at], at);
    }
    lane.push_poison(Version(3), "unreadable".to_owned(), "as delivered".to_owned(), 2);
    lane.prepare();
    assert_eq!(commit(&mut lane), (0, 2));
    assert_eq!(state(&mut lane), stuck(2, 3, "unreadable"));
    assert_eq!(lane.stuck().expect("it is stuck").blocked.payload.as_deref(), Some("as delivered"));
    assert_eq!(outcomes(&lane), [Applied; 2], "the rest waits until the aggregate is parked");
}

#[test]
fn a_write_ends_before_a_hole() {
    let events = earnings(5);
    let mut lane = lane(&[&events[..2], &events[3..]].concat());
    assert_eq!((commit(&mut lane), state(&mut lane)), ((0, 2), State::Writes(3, 5)));
}

#[test]
fn irrelevant_events_before_a_hole_are_left_to_healing() {
    let events = history([earned(1), viewed(), earned(2), earned(4)]);
    let mut lane = lane(&[events[1].clone(), events[3].clone()]);
    assert_eq!(state(&mut lane), State::Writes(3, 4));
    assert_eq!(lane.refused(Some(row_at(1)), None), AfterRefusal::Heal(Version(2), Version(3)));
}

#[test]
fn a_write_ends_before_a_sum_of_more_than_38_digits() {
    let nines = ("Earned", data([("points", Value::Number("9".repeat(38).parse().expect("38 digits")))]));
    let mut lane = lane(&history([earned(2), nines, earned(2), earned(1)]));
    assert_eq!([commit(&mut lane), commit(&mut lane), commit(&mut lane)], [(0, 1), (1, 2), (2, 4)]);
}

#[test]
fn a_write_changes_at_most_99_shared_rows() {
    let mut wide = lane(&history([spread(0, 99)]));
    assert_eq!((next_write(&mut wide).shares.len(), state(&mut wide)), (198, State::Writes(0, 1)), "two attributes of each row");
    let mut too_wide = lane(&history([spread(0, 100)]));
    assert_eq!(state(&mut too_wide), State::Folds(1), "it takes several steps");
    let mut together = lane(&history([spread(0, 99), spread(0, 99)]));
    assert_eq!(state(&mut together), State::Writes(0, 2), "they are the same rows");
    let mut halved = lane(&history([0, 40, 80, 120].map(|first| spread(first, 40))));
    assert_eq!([commit(&mut halved), commit(&mut halved)], [(0, 2), (2, 4)]);
}

#[test]
fn a_write_moves_at_most_100_contributions_between_two_rows() {
    for (held, next) in [(100, State::Writes(1, 2)), (101, State::Folds(2))] {
        let mut lane = lane(&history([joined("chess"), moved("chess", "go")])[1..]);
        assert_eq!(state(&mut lane), State::Reads);
        let names: Vec<_> = (0..held).map(|at| format!("sum-{at:03}")).collect();
        let row = HomeRow { contributions: sums(names.iter().map(|name| ("chess", name.as_str(), 1))), ..row_at(1) };
        assert_eq!((lane.read(Some(row)), state(&mut lane)), (AfterRefusal::Continue, next), "{held}: each is taken and given");
    }
}

#[test]
fn an_event_among_others_that_changes_too_many_shared_rows_goes_alone_and_in_steps() {
    let events = history([spread(0, 1), viewed(), spread(0, 250), earned(1)]);
    let mut lane = lane(&events);
    assert_eq!(commit(&mut lane), (0, 1));
    assert_eq!(state(&mut lane), State::Reads, "the steps begin at what the row holds");
    let row = HomeRow { contributions: sums([("row-0", "hits", 1), ("row-0", "points", 2)]), ..row_at(1) };
    assert_eq!(lane.read(Some(row.clone())), AfterRefusal::Continue);
    assert_eq!(state(&mut lane), State::Folds(3));
    let mut folded = HistoryFold::new(&Cards, "ann".into());
    for event in stored(&events[..3]) {
        folded.push(event);
    }
    lane.in_steps(&row, &folded, ChildWrites::new(), Version(3));
    let mut rows = Vec::new();
    while let State::Writes(1, to) = state(&mut lane) {
        let write = next_write(&mut lane);
        rows.push((to, write.shares.len()));
        lane.written(&write);
    }
    // Two attributes of each row. The steps stay at version 1.
    assert_eq!(rows, [(1, 198), (1, 198), (3, 104)]);
    assert_eq!((commit(&mut lane), state(&mut lane)), ((3, 4), State::Finished));
    assert_eq!((outcomes(&lane), lane.tally.reprojected), (vec![Applied, Applied, Applied], 1));
}

#[test]
fn an_event_that_takes_several_steps_parks_if_the_event_store_does_not_have_it() {
    let events = history([spread(0, 100)]);
    let mut lane = lane(&events);
    assert_eq!(state(&mut lane), State::Folds(1));
    lane.in_steps(&HomeRow::default(), &HistoryFold::new(&Cards, "ann".into()), ChildWrites::new(), Version(1));
    let reason = "the event changes more than 99 shared rows or child rows, so it is applied in steps, which need it and all before it in the event store";
    assert_eq!((state(&mut lane), kept_event(&lane).as_str()), (stuck(0, 1, reason), "ann-1"));
}

#[test]
fn an_event_that_takes_several_steps_parks_if_the_event_store_has_another_one() {
    let mut lane = lane(&history([spread(0, 100)]));
    assert_eq!(state(&mut lane), State::Folds(1));
    for other in [earned(1), viewed()] {
        let mut folded = HistoryFold::new(&Cards, "ann".into());
        folded.push(Stored::Event(RecordedEvent { event_id: "another".into(), ..RecordedEvent::clone(&history([other])[0]) }));
        lane.in_steps(&HomeRow::default(), &folded, ChildWrites::new(), Version(1));
        let reason = "the event store has another event with this version: was the event store restored?";
        assert_eq!((state(&mut lane), kept_event(&lane).as_str()), (stuck(0, 1, reason), "ann-1"));
    }
}

#[test]
fn a_rule_that_reads_its_row_gets_it_before_each_write_but_the_first() {
    let events = history([earned(5), earned(3), earned(7)]);
    assert_eq!(state(&mut lane_of(&Best, &events)), State::Writes(0, 3));
    let mut lane = lane_of(&Best, &events[1..]);
    assert_eq!(state(&mut lane), State::Reads);
    assert_eq!(state(&mut lane), State::Reads, "asking again changes nothing");
    let row = HomeRow { own: [("best".to_owned(), 7.into())].into(), ..row_at(1) };
    assert_eq!(lane.read(Some(row)), AfterRefusal::Continue);
    assert_eq!(next_write(&mut lane).home.added("owned"), None, "nothing exceeds the 7 of the row");
    assert_eq!((commit(&mut lane), state(&mut lane)), ((1, 3), State::Finished));
}

#[test]
fn a_row_that_was_read_counts_for_one_write_only() {
    let mut lane = lane_of(&Best, &earnings(4)[1..]);
    assert_eq!(lane.read(Some(row_at(1))), AfterRefusal::Continue);
    let write = next_write(&mut lane);
    lane.invalid(&write, "too large");
    assert_eq!((commit(&mut lane), state(&mut lane)), ((1, 2), State::Reads));
}

#[test]
fn a_row_that_was_read_before_a_hole_is_read_again_after_it() {
    let events = history([earned(1), viewed(), earned(2), earned(4)]);
    let mut lane = lane_of(&Best, &[events[1].clone(), events[3].clone()]);
    assert_eq!(lane.read(Some(row_at(1))), AfterRefusal::Continue);
    assert_eq!(state(&mut lane), State::Reads);
    assert_eq!(lane.read(Some(row_at(1))), AfterRefusal::Heal(Version(2), Version(3)));
}

#[test]
fn a_transfer_reads_the_contributions_that_it_moves() {
    let events = history([joined("chess"), moved("chess", "go")]);
    let mut lane_behind = lane(&events[1..]);
    assert_eq!(state(&mut lane_behind), State::Reads);
    let row = HomeRow { contributions: sums([("chess", "members", 1)]), ..row_at(1) };
    assert_eq!(lane_behind.read(Some(row)), AfterRefusal::Continue);
    assert_eq!(next_write(&mut lane_behind).shares, added([("chess", "members", -1), ("go", "members", 1)]));
    let mut whole = lane(&events);
    assert_eq!(
        next_write(&mut whole).shares,
        added([("chess", "members", 0), ("go", "members", 1)]),
        "before the first event there are none"
    );
}

#[test]
fn a_row_that_is_read_elsewhere_than_expected_is_judged_like_a_refusal() {
    let heal = |from| AfterRefusal::Heal(Version(from), Version(2));
    let older = of_revision(1, row_at(2));
    let table = [
        (None, heal(1), State::Reads),
        (Some(row_at(1)), heal(2), State::Reads),
        (Some(older.clone()), reproject(older), State::Reads),
        (Some(parked(row_at(2))), AfterRefusal::Continue, State::Parked(ParkedBy::Another)),
        (Some(row_at(3)), AfterRefusal::Continue, State::Reads),
        (Some(row_at(4)), AfterRefusal::Continue, State::Finished),
    ];
    for (row, next, then) in table {
        let mut lane = lane_of(&Best, &earnings(4)[2..]);
        assert_eq!(state(&mut lane), State::Reads);
        let of_row = format!("{row:?}");
        assert_eq!((lane.read(row), state(&mut lane)), (next, then), "{of_row}");
    }
}

#[test]
fn a_write_that_the_store_refuses_is_halved_down_to_the_event_at_fault() {
    let events = history([viewed()].into_iter().chain((0..8).map(earned)));
    let mut lane = lane(&events);
    for to in [9, 5, 3, 2] {
        assert_eq!(state(&mut lane), State::Writes(0, to));
        let write = next_write(&mut lane);
        lane.invalid(&write, "too large");
    }
    assert_eq!(state(&mut lane), stuck(0, 2, "too large"));
    assert_eq!(kept_event(&lane), "ann-2");
}

#[test]
fn later_writes_stay_as_small_as_the_store_accepted() {
    let mut lane = lane(&earnings(5));
    let write = next_write(&mut lane);
    lane.invalid(&write, "too large");
    assert_eq!([commit(&mut lane), commit(&mut lane), commit(&mut lane)], [(0, 2), (2, 4), (4, 5)]);
    assert_eq!((outcomes(&lane), state(&mut lane)), (vec![Applied; 5], State::Finished));
}

/// More would be refused by DynamoDB, which limits an expression to 4 KB.
#[test]
fn a_write_has_at_most_200_clauses() {
    let clubs = |count: u32| (0..count).map(|row| joined(&format!("row-{row}")));
    // 198 clauses on 99 rows, and one more on some of these.
    let mut fits = lane(&history([spread(0, 99)].into_iter().chain(clubs(2))));
    assert_eq!(state(&mut fits), State::Writes(0, 3), "200 clauses");
    let mut one_more = lane(&history([spread(0, 99)].into_iter().chain(clubs(3))));
    assert_eq!(state(&mut one_more), State::Writes(0, 3), "201 clauses");
    let mut far_more = lane(&history([spread(0, 99)].into_iter().chain(clubs(40))));
    assert_eq!([commit(&mut far_more), commit(&mut far_more)], [(0, 3), (3, 41)]);
}

#[test]
fn an_event_beyond_a_hole_that_cannot_be_read_does_not_park_the_aggregate_before_the_hole_is_healed() {
    let events = history([earned(1), viewed(), earned(2)]);
    let mut lane = Lane::new(&Cards, "ann".into());
    lane.push_event(&events[1], 0);
    lane.push_poison(Version(4), "unreadable".to_owned(), "as delivered".to_owned(), 1);
    lane.prepare();
    assert_eq!(state(&mut lane), stuck(3, 4, "unreadable"));
    assert_eq!(lane.refused(Some(row_at(1)), None), AfterRefusal::Heal(Version(2), Version(3)));
    assert_eq!(lane.heal(Version(2), Version(3), stored(&events[1..])), AfterRefusal::Continue);
    assert_eq!((commit(&mut lane), state(&mut lane)), ((1, 3), stuck(3, 4, "unreadable")));
}

#[test]
fn a_row_that_was_read_does_not_count_as_a_refusal_without_a_reason() {
    let mut lane = lane_of(&Best, &earnings(4)[1..]);
    assert_eq!(state(&mut lane), State::Reads);
    assert_eq!(lane.read(Some(row_at(1))), AfterRefusal::Continue);
    for _ in 0..UNEXPLAINED_MAX {
        assert_eq!((lane.refused(Some(row_at(1)), None), state(&mut lane)), (AfterRefusal::Continue, State::Writes(1, 4)));
    }
}

/// The row, which was read after a refusal, shows that others add to the attribute that these events write.
#[test]
fn an_attribute_with_two_owners_is_taken_over_parks_or_fails() {
    let shared_by = |revision| HomeRow { shared: [("points".to_owned(), Mark { kind: Kind::Sum, revision })].into(), ..row_at(2) };
    let fails = State::Failed(AdvanceError::newer_revision(&Cards, 3));
    let table = [(1, State::Writes(2, 5)), (2, stuck(2, 3, TWO_OWNERS)), (3, fails)];
    for (revision, then) in table {
        let mut lane = lane(&earnings(5)[2..]);
        assert_eq!(lane.refused(Some(shared_by(revision)), None), AfterRefusal::Continue);
        assert_eq!(state(&mut lane), then, "by revision {revision}");
    }
    // Events before the one at fault are written.
    let mut mixed = lane(&history([earned(1), joined("chess"), joined("go"), earned(2)])[1..]);
    let row = HomeRow { version: Version(1), last_event_id: Some("ann-1".into()), ..shared_by(2) };
    assert_eq!(mixed.refused(Some(row), None), AfterRefusal::Continue);
    assert_eq!(commit(&mut mixed), (1, 2));
}
