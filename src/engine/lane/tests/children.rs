//! Writes of child rows.

use super::*;

fn lane_of_pages(happened: impl IntoIterator<Item = Happened>) -> Lane {
    lane_of(&Pages, &history(happened))
}

fn folded(events: &[Arc<RecordedEvent>]) -> HistoryFold {
    let mut fold = HistoryFold::new(&Pages, "ann".into());
    for stored in stored(events) {
        fold.push(stored);
    }
    fold
}

/// All child rows of a fold, as if there were none yet.
fn all_of(folded: &HistoryFold) -> ChildWrites {
    folded.children().iter().map(|(sort, row)| (sort.clone(), ChildOp::Replace(row.clone()))).collect()
}

#[test]
fn a_span_is_cut_in_front_of_the_event_whose_child_rows_do_not_fit() {
    // 99 rows besides the home row: each write is as full as it can be.
    let mut lane = lane_of_pages((0..250).map(|page| wrote(page, 1, 0)));
    assert_eq!([commit(&mut lane), commit(&mut lane), commit(&mut lane)], [(0, 99), (99, 198), (198, 250)]);
    let mut lane = lane_of_pages([wrote(0, 60, 0), wrote(60, 39, 0), wrote(99, 1, 0)]);
    assert_eq!([commit(&mut lane), commit(&mut lane)], [(0, 2), (2, 3)]);
    let mut shared = lane_of_pages([wrote(0, 60, 39), wrote(60, 1, 0)]);
    assert_eq!([commit(&mut shared), commit(&mut shared)], [(0, 1), (1, 2)]);
    let mut same = lane_of_pages((0..250).map(|_| wrote(0, 99, 0)));
    assert_eq!(commit(&mut same), (0, 250), "they are the same rows");
}

#[test]
fn a_child_row_that_is_removed_within_the_span_is_removed_once() {
    let mut lane = lane_of_pages([wrote(0, 2, 0), tore(1), tore(0), wrote(0, 1, 0)]);
    let write = next_write(&mut lane);
    let kinds: Vec<_> = write.home.children().iter().map(|(sort, op)| (&**sort, op.attributes().is_some())).collect();
    assert_eq!(kinds, [("00000", true), ("00001", false)]);
}

/// A home row that was lost may have left child rows behind, so the first write of an aggregate replaces them.
#[test]
fn the_first_write_replaces_child_rows_and_later_ones_change_them() {
    let events = history([wrote(0, 1, 0), wrote(0, 1, 0)]);
    let replaces = |lane: &mut Lane| matches!(next_write(lane).home.children()["00000"], ChildOp::Replace(_));
    assert!(replaces(&mut lane_of(&Pages, &events)));
    assert!(!replaces(&mut lane_of(&Pages, &events[1..])));
}

#[test]
fn an_event_with_more_child_rows_than_a_transaction_holds_goes_in_steps() {
    let events = history([wrote(0, 60, 60)]);
    let mut lane = lane_of(&Pages, &events);
    assert_eq!(state(&mut lane), State::Folds(1));
    let folded = folded(&events);
    lane.in_steps(&HomeRow::default(), &folded, all_of(&folded), Version(1));
    let first = next_write(&mut lane);
    assert_eq!((first.rows(), first.home.children().len(), first.home.to.version), (99, 39, Version(0)));
    lane.written(&first);
    let last = next_write(&mut lane);
    assert_eq!((last.rows(), last.home.children().len(), last.home.to.version), (21, 21, Version(1)));
    assert!(first.home.children().keys().all(|sort| !last.home.children().contains_key(sort)), "no row is written twice");
    lane.written(&last);
    assert_eq!((outcomes(&lane), state(&mut lane)), (vec![Applied], State::Finished));
}

#[test]
fn a_step_that_the_store_refuses_is_halved_before_the_aggregate_parks() {
    let events = history([wrote(0, 250, 0)]);
    let mut lane = lane_of(&Pages, &events);
    assert_eq!(state(&mut lane), State::Folds(1));
    let folded = folded(&events);
    lane.in_steps(&HomeRow::default(), &folded, all_of(&folded), Version(1));
    let mut sizes = Vec::new();
    while let State::Writes(..) = state(&mut lane) {
        let write = next_write(&mut lane);
        sizes.push(write.rows());
        lane.invalid(&write, "too large");
    }
    assert_eq!(sizes, [99, 49, 24, 12, 6, 3, 1]);
    assert_eq!(state(&mut lane), stuck(0, 0, "re-projection is refused: too large"));
}

#[test]
fn a_step_and_a_span_end_before_they_hold_too_many_bytes() {
    let wide = |page: u64| ("Wrote", data([("first", page.into()), ("pages", 1.into()), ("shared", 0.into())]));
    // 99 rows of 100 bytes are far from the limit.
    assert_eq!(commit(&mut lane_of_pages((0..99).map(wide))), (0, 99));
    let large = |sort: u32| (Arc::from(format!("{sort:05}")), ChildOp::Replace([("text".to_owned(), "x".repeat(399_000).into())].into()));
    let children: ChildWrites = (0..20).map(large).collect();
    let fresh = folded(&history([wrote(0, 1, 0)])).row();
    let step = next_step(&HomeRow::default(), &fresh, &children, 2, STEP_ROWS_MAX);
    assert_eq!((step.children.len(), step.row.unfinished), (7, Some(2)));
}
