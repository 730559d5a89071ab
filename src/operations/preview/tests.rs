//! What a preview counts, row by row.

use projection_vocabulary::{Kind, Mark};

use super::*;
use crate::operations::fixture::{Guests, fold, parked, rang, refused, row, stayed, unfinished};

fn visit(row: HomeRow, folded: HistoryFold, beyond: u64) -> Visit {
    Visit::of(row, folded, beyond)
}

/// A preview of one row.
fn preview_of(visit: Visit, children: usize) -> Preview {
    let mut preview = Preview::default();
    preview.take(&Guests, visit, children, 9);
    preview
}

/// What a preview has counted, in one line.
fn counted(preview: &Preview) -> String {
    let Preview { rows, older, newer, parked, freed, same, outdated, unexplained, emptied, appear, behind, children, .. } = preview;
    let counts = [
        ("rows", rows),
        ("older", older),
        ("newer", newer),
        ("parked", parked),
        ("freed", freed),
        ("same", same),
        ("outdated", outdated),
        ("unexplained", unexplained),
        ("emptied", emptied),
        ("appear", appear),
        ("behind", behind),
        ("children", children),
        ("stopped", &preview.stopped_total()),
    ];
    let counts = counts.iter().filter(|(_, count)| **count > 0).map(|(name, count)| format!("{name}={count}"));
    counts.collect::<Vec<_>>().join(" ")
}

#[test]
fn each_row_counts_once_as_what_would_become_of_it() {
    let none = HomeRow::default;
    let table = [
        // No row.
        ("", visit(none(), fold([rang()]), 0)),
        ("appear=1", visit(none(), fold([stayed(1)]), 1)),
        ("appear=1 stopped=1", visit(none(), fold([stayed(1), refused()]), 2)),
        ("stopped=1", visit(none(), fold([refused()]), 1)),
        // A row of the rule's own revision.
        ("rows=1 same=1", visit(row(2, [stayed(1)]), fold([stayed(1)]), 0)),
        ("rows=1 same=1 behind=1", visit(row(2, [stayed(1)]), fold([stayed(1)]), 1)),
        ("rows=1 unexplained=1", visit(row(2, [stayed(1)]), fold([stayed(2)]), 0)),
        ("rows=1 stopped=1", visit(row(2, [stayed(1), stayed(1)]), fold([stayed(1)]), 0)),
        ("rows=1 stopped=1", visit(row(2, [stayed(1), stayed(1)]), fold([stayed(1), refused()]), 0)),
        // A row of an older one. Events beyond it are in the fold.
        ("rows=1 older=1 same=1", visit(row(1, [stayed(1)]), fold([stayed(1)]), 0)),
        ("rows=1 older=1 same=1", visit(row(1, [stayed(1)]), fold([rang(), stayed(1)]), 1)),
        ("rows=1 older=1 outdated=1", visit(row(1, [stayed(1)]), fold([stayed(1), stayed(1)]), 1)),
        ("rows=1 older=1 outdated=1 emptied=1", visit(row(1, [stayed(1)]), fold([rang()]), 0)),
        ("rows=1 older=1 same=1", visit(unfinished(row(1, [stayed(1)]), 2), fold([stayed(1)]), 0)),
        ("rows=1 older=1 outdated=1", visit(unfinished(none(), 2), fold([stayed(1)]), 1)),
        ("rows=1 older=1 stopped=1", visit(row(1, [stayed(1), stayed(1)]), fold([stayed(1)]), 0)),
        ("rows=1 older=1 outdated=1 stopped=1", visit(row(1, [stayed(1)]), fold([stayed(2), refused()]), 0)),
        // A row of a newer one.
        ("rows=1 newer=1", visit(row(3, [stayed(1)]), fold([]), 0)),
        ("rows=1 newer=1", visit(unfinished(row(1, [stayed(1)]), 3), fold([]), 0)),
        // A parked row.
        ("rows=1 parked=1 freed=1", visit(parked(row(2, [stayed(1)])), fold([stayed(1), stayed(1)]), 1)),
        ("rows=1 parked=1 freed=1", visit(parked(row(1, [stayed(1)])), fold([stayed(2)]), 0)),
        ("rows=1 parked=1 freed=1", visit(parked(none()), fold([stayed(1)]), 1)),
        ("rows=1 parked=1", visit(parked(row(2, [stayed(1)])), fold([stayed(1), refused()]), 1)),
        ("rows=1 parked=1", visit(parked(row(2, [stayed(1), stayed(1)])), fold([stayed(1)]), 0)),
    ];
    for (expected, visit) in table {
        let case = format!("{:?} and a fold that is due {}", visit.row, visit.folded.due);
        assert_eq!(counted(&preview_of(visit, 0)), expected, "{case}");
    }
}

#[test]
fn a_row_whose_child_rows_alone_would_change_changes() {
    let same = |revision| visit(row(revision, [stayed(1)]), fold([stayed(1)]), 0);
    assert_eq!(counted(&preview_of(same(2), 3)), "rows=1 unexplained=1 children=1");
    assert_eq!(counted(&preview_of(same(1), 3)), "rows=1 older=1 outdated=1 children=1");
}

#[test]
fn attributes_of_its_own_are_counted_and_those_of_shared_rows_summed_up() {
    let preview = preview_of(visit(row(2, [stayed(1)]), fold([stayed(3)]), 0), 0);
    assert_eq!(preview.attributes, [("nights".to_owned(), 1)].into());
    let shared: Vec<_> = preview.shared.iter().map(|(cell, change)| (cell.clone(), change.clone())).collect();
    assert_eq!(shared, [(cell("longest"), SharedChange::Other), (cell("nights"), SharedChange::By(2.into()))]);
    let appears = preview_of(visit(HomeRow::default(), fold([stayed(3)]), 1), 0);
    assert_eq!(appears.shared.iter().count(), 2, "what would appear contributes as well");
}

#[test]
fn a_preview_keeps_as_many_examples_as_are_wanted() {
    let mut preview = Preview::default();
    for _ in 0..3 {
        preview.take(&Guests, visit(row(2, [stayed(1)]), fold([stayed(2)]), 0), 0, 2);
    }
    assert_eq!(preview.examples.len(), 2);
}

#[test]
fn it_changes_nothing_if_no_row_changes_appears_or_stops() {
    assert!(preview_of(visit(row(2, [stayed(1)]), fold([stayed(1)]), 0), 0).changes_nothing());
    for visit in [
        visit(row(2, [stayed(1)]), fold([stayed(2)]), 0),
        visit(HomeRow::default(), fold([stayed(1)]), 1),
        visit(HomeRow::default(), fold([refused()]), 1),
    ] {
        assert!(!preview_of(visit, 0).changes_nothing());
    }
}

// Attributes of shared rows.

/// An attribute of the only room.
fn cell(attribute: &str) -> Cell {
    ("red".into(), attribute.to_owned())
}

fn by(amount: i32) -> SharedChange {
    SharedChange::By(amount.into())
}

#[test]
fn what_moves_from_one_aggregate_to_another_changes_nothing() {
    let mut changes = SharedChanges::default();
    let contributes = |nights| row(2, [stayed(nights)]);
    changes.between(&contributes(3), &contributes(1));
    changes.between(&contributes(5), &contributes(5));
    assert_eq!(changes.by[&cell("nights")], by(-2));
    changes.between(&contributes(1), &contributes(3));
    let left: Vec<_> = changes.iter().map(|((_, attribute), change)| (attribute.as_str(), change)).collect();
    assert_eq!(left, [("longest", &SharedChange::Other)]);
}

#[test]
fn attributes_beyond_the_most_are_only_counted() {
    let mut changes = SharedChanges::default();
    let cell = |at: usize| -> Cell { (format!("row-{at}").into(), "nights".to_owned()) };
    for at in 0..=SHARED_MAX {
        changes.add(&cell(at), by(1));
    }
    changes.add(&cell(0), by(1));
    assert_eq!((changes.by.len(), changes.more, &changes.by[&cell(0)]), (SHARED_MAX, 1, &by(2)));
}

// Reasons.

fn stopped(aggregate: &str, version: u64) -> Stopped {
    Stopped { aggregates: 1, example: aggregate.into(), version: Version(version) }
}

#[test]
fn the_example_of_a_reason_is_the_first_aggregate_by_id_where_it_was_met_first() {
    let mut preview = Preview::default();
    for (aggregate, version) in [("ben", 4), ("cid", 1), ("ann", 7), ("ann", 9), ("dan", 1)] {
        preview.stop("a reason".to_owned(), stopped(aggregate, version));
    }
    assert_eq!(preview.stopped, [("a reason".to_owned(), Stopped { aggregates: 5, ..stopped("ann", 7) })].into());
}

#[test]
fn reasons_beyond_the_most_are_counted_together_and_those_before_apart() {
    let mut preview = Preview::default();
    for at in 0..REASONS_MAX + 2 {
        preview.stop(format!("reason {at:02}"), stopped("ann", 1));
    }
    preview.stop("reason 00".to_owned(), stopped("ann", 1));
    let all: Vec<_> = preview.stopped.iter().map(|(reason, stopped)| (reason.as_str(), stopped.aggregates)).collect();
    assert_eq!((all.len(), all[0], all[1]), (REASONS_MAX + 1, ("other reasons", 2), ("reason 00", 2)));
    assert_eq!(all.last(), Some(&("reason 19", 1)));
}

// Up to where a history is folded.

#[test]
fn a_row_of_the_rules_revision_is_compared_at_its_version_and_any_other_with_its_whole_history() {
    let all = Version(u64::MAX);
    for (row, expected) in [
        (row(2, [stayed(1), stayed(1)]), Version(2)),
        (row(1, [stayed(1)]), all),
        (unfinished(row(1, [stayed(1)]), 2), all),
        (parked(row(2, [stayed(1)])), all),
        (HomeRow::default(), all),
        (HomeRow { shared: [("nights".to_owned(), Mark { kind: Kind::Sum, revision: 2 })].into(), ..HomeRow::default() }, all),
        (row(3, [stayed(1)]), Version::NONE),
        (unfinished(row(1, [stayed(1)]), 3), Version::NONE),
    ] {
        assert_eq!(up_to(&Guests, &row), expected, "{row:?}");
    }
}
