//! What a verification makes of a row and of what it has found.

use super::*;
use crate::operations::fixture::{Guests, fold, fold_without, rang, refused, row, stayed};

/// The worker writes the event's version and id with everything else, so a row of this revision has those of its last event.
#[test]
fn a_row_is_compared_with_the_fold_up_to_its_version() {
    let two = || row(2, [stayed(1), stayed(1)]);
    let other_event = HomeRow { last_event_id: Some("another".into()), ..two() };
    for (row, folded, expected) in [
        (two(), fold([stayed(1), stayed(1)]), None),
        (row(2, [stayed(1)]), fold([stayed(1), rang()]), None),
        (two(), fold([stayed(1), stayed(2)]), Some(RowFinding::Drifted)),
        (other_event, fold([stayed(1), stayed(1)]), Some(RowFinding::Drifted)),
        (two(), fold([stayed(1)]), Some(RowFinding::Ahead)),
        (two(), fold_without(1, [stayed(1), stayed(1)]), Some(RowFinding::Ahead)),
        (two(), fold([stayed(1), refused()]), Some(RowFinding::Drifted)),
        (HomeRow::default(), fold([rang()]), None),
    ] {
        let case = format!("{row:?} and a fold that is due {}", folded.due);
        assert_eq!(compared(&row, &folded), expected, "{case}");
    }
}

#[test]
fn a_row_of_another_revision_is_compared_with_nothing() {
    assert_eq!(up_to(&Guests, &row(2, [stayed(1), stayed(1)])), Version(2));
    for other in [row(1, [stayed(1)]), row(3, [stayed(1)]), HomeRow::default()] {
        assert_eq!(up_to(&Guests, &other), Version::NONE);
    }
}

fn cell(attribute: &str) -> Cell {
    ("red".into(), attribute.to_owned())
}

#[test]
fn a_drift_is_by_how_much_sums_exceed_the_right_ones() {
    let contributions = |row: HomeRow| row.contributions;
    let (three, five) = (contributions(row(2, [stayed(3)])), contributions(row(2, [stayed(5)])));
    assert_eq!(drift(&three, &three), Sums::new());
    assert_eq!(drift(&five, &three), [(cell("nights"), 2.into())].into());
    assert_eq!(drift(&three, &Contributions::new()), [(cell("nights"), 3.into())].into());
    assert_eq!(drift(&Contributions::new(), &three), [(cell("nights"), Decimal::from(-3))].into());
}

#[test]
fn only_what_a_worker_may_be_about_to_mend_waits() {
    let waits = |finding| Checked { finding, children: BTreeMap::new(), row: HomeRow::default(), contributions: None }.waits();
    let waiting: Vec<_> = RowFinding::ALL.into_iter().filter(|finding| waits(Some(*finding))).collect();
    assert_eq!((waiting, waits(None)), (vec![RowFinding::Missing, RowFinding::Behind], false));
}

#[test]
fn many_orphans_are_repaired_only_by_an_operators_word() {
    let doubt = Doubt { projection: "guests", event_store: "event-store".to_owned(), footing: Footing { rows: 1, without_event: 1 } };
    let may = |repair: Repair| [repair.may(None), repair.may(Some(&doubt))];
    assert_eq!([Repair::Nothing, Repair::Findings, Repair::AllOrphans].map(may), [[false, false], [true, false], [true, true]]);
}

fn found(home: &[(&str, RowFinding)], shared: &[&str], children: &[&str]) -> Verified {
    Verified {
        home: home.iter().map(|(id, finding)| ((*id).into(), *finding)).collect(),
        shared: shared.iter().map(|attribute| (cell(attribute), SharedFinding::Higher)).collect(),
        children: children.iter().map(|sort| (child(sort), ChildFinding::Extra)).collect(),
        ..Verified::default()
    }
}

fn child(sort: &str) -> RowId {
    RowId { key: "ann".into(), child: Some(sort.into()) }
}

#[test]
fn what_another_look_does_not_find_is_repaired() {
    use RowFinding::{Behind, Drifted};
    let first = found(&[("ann", Drifted), ("ben", Behind)], &["a", "b", "c"], &["1", "2", "3", "4"]);
    assert_eq!(first.gone_in(&first), 0);
    assert_eq!(first.gone_in(&Verified::default()), 9);
    assert_eq!(first.gone_in(&found(&[("ben", Behind)], &["a", "b"], &["4"])), 1 + 1 + 3);
    assert_eq!((first.found(), first.count(Drifted), first.count(Behind), first.count(RowFinding::Ahead)), (9, 1, 1, 0));
}

#[test]
fn it_is_clean_if_everything_that_was_found_is_repaired_and_every_aggregate_is_known() {
    let one = || found(&[("ann", RowFinding::Drifted)], &[], &[]);
    assert!(Verified::default().is_clean());
    assert!(!one().is_clean());
    assert!(Verified { repaired: 1, ..one() }.is_clean());
    assert!(!Verified { unknown: ["eve".into()].into(), ..Verified::default() }.is_clean());
    assert!(!Verified { unknown: ["eve".into()].into(), ..one() }.is_clean());
}

#[test]
fn of_what_is_found_the_amounts_are_kept_for_a_repair() {
    let (mut verified, mut amounts) = (Verified::default(), Amounts::default());
    let home = |id: &str, drift: Sums| Finding::Home { id: id.into(), finding: RowFinding::Drifted, drift };
    verified.add(home("ann", [(cell("nights"), 2.into())].into()), &mut amounts);
    verified.add(home("ben", Sums::new()), &mut amounts);
    verified.add(Finding::Child(child("1"), ChildFinding::Missing), &mut amounts);
    assert_eq!((verified.home.len(), verified.children.len()), (2, 1));
    assert_eq!(amounts.drifts.keys().map(AggregateId::as_str).collect::<Vec<_>>(), ["ann"]);
}
