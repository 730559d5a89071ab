//! What a verification makes of a row and of what it has found.

use aws_sdk_dynamodb::{Client, types::AttributeValue};
use projection_vocabulary::{HOME_SORT, RecordedEvent};

use super::*;
use crate::{
    operations::fixture::{
        Guests, Notes, append, applied, fold, fold_without, happened, parked, rang, refused, row, stayed, worker, worker_of,
    },
    store::item::{partition_key, sort_key},
};

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

#[tokio::test]
async fn what_is_right_is_looked_at_once() {
    let worker = worker().await;
    happened(&worker, "ann", [stayed(1)]).await;
    let mut requests = Vec::new();
    for repair in [Repair::Nothing, Repair::Findings] {
        let before = worker.store().usage();
        let verified = verify(&worker, &Guests, Options { segments: 1, sample: None, repair }, Deadline::NONE).await.expect("verified");
        assert!(verified.is_clean() && verified.home.is_empty());
        assert_eq!((verified.events, verified.aggregates, verified.rows), (1, 1, 2));
        requests.push((worker.store().usage() - before).requests);
    }
    assert_eq!(requests[0], requests[1]);
}

#[tokio::test]
async fn a_history_is_suspected_if_its_row_is_not_the_fold_of_all_of_it() {
    let worker = worker().await;
    let of = Visit::of;
    let right = || row(2, [stayed(1)]);
    let mut without_first = of(right(), fold([stayed(1)]), 0);
    without_first.first = Version(2);
    for (visit, expected) in [
        (of(right(), fold([stayed(1)]), 0), false),
        (of(row(1, [stayed(1)]), fold([stayed(1)]), 0), true),
        (without_first, true),
        (of(parked(right()), fold([stayed(1)]), 0), true),
        (of(right(), fold([stayed(1)]), 1), true),
        (of(right(), fold([stayed(2)]), 0), true),
    ] {
        let this = Verification { worker: &worker, rule: &Guests, deadline: Deadline::NONE };
        let case = format!("{:?}, {}, {} and a fold that is due {}", visit.row, visit.first, visit.beyond, visit.folded.due);
        assert_eq!(this.suspects(vec![visit]).await.expect("the store answers").len(), usize::from(expected), "{case}");
    }
}

/// What is wrong with a row, and with its child rows.
async fn checked(worker: &Worker, id: &str) -> (Option<RowFinding>, Vec<ChildFinding>) {
    let this = Verification { worker, rule: worker.registry().projections()[0], deadline: Deadline::NONE };
    let checked = this.check(&id.into()).await.expect("the store answers");
    (checked.finding, checked.children.into_values().collect())
}

fn text(text: &str) -> AttributeValue {
    AttributeValue::S(text.to_owned())
}

async fn lose(client: &Client, id: &str, version: u64) {
    let (partition, sort) = (partition_key(&id.into()), sort_key(Version(version)));
    client.delete_item().table_name("event-store").key("PK", text(&partition)).key("SK", text(&sort)).send().await.expect("deleted");
}

#[tokio::test]
async fn a_row_is_wrong_in_one_way() {
    let (worker, client) = worker_of(&[&Guests]).await;
    for id in ["fine", "behind", "ahead", "drifted", "parked", "both"] {
        let events = happened(&worker, id, [stayed(1), stayed(1)]).await;
        if id != "behind" {
            applied(&worker, &events[1]).await;
        }
        let update = client.update_item().table_name("guests").key("id", text(id));
        let update = match id {
            "ahead" => {
                lose(&client, id, 1).await;
                continue;
            }
            "parked" => update.update_expression("SET parkedAt = :at").expression_attribute_values(":at", text("then")),
            "drifted" => update.update_expression("REMOVE nights"),
            "both" => update.update_expression("SET parkedAt = :at REMOVE nights").expression_attribute_values(":at", text("then")),
            _ => continue,
        };
        update.send().await.expect("updated");
    }
    let events = append(&worker, "missing", [stayed(1)]).await;
    append(&worker, "irrelevant", [rang()]).await;
    applied(&worker, &RecordedEvent { aggregate: "orphaned".into(), ..events[0].clone() }).await;
    for (id, expected) in [
        ("fine", None),
        ("behind", Some(RowFinding::Behind)),
        // Its last event is there, its first one is not.
        ("ahead", Some(RowFinding::Ahead)),
        ("orphaned", Some(RowFinding::Orphaned)),
        ("drifted", Some(RowFinding::Drifted)),
        ("parked", Some(RowFinding::Parked)),
        ("both", Some(RowFinding::Drifted)),
        ("missing", Some(RowFinding::Missing)),
        ("irrelevant", None),
        ("unknown", None),
    ] {
        assert_eq!(checked(&worker, id).await, (expected, vec![]), "{id}");
    }
}

#[tokio::test]
async fn child_rows_without_a_home_row_are_orphaned_only_if_there_is_no_event() {
    let (worker, client) = worker_of(&[&Notes]).await;
    let event = happened(&worker, "missing", [stayed(1)]).await.remove(0);
    append(&worker, "irrelevant", [rang()]).await;
    for id in ["irrelevant", "orphaned"] {
        applied(&worker, &RecordedEvent { aggregate: id.into(), ..event.clone() }).await;
    }
    for id in ["missing", "irrelevant", "orphaned"] {
        client.delete_item().table_name("notes").key("id", text(id)).key("room", text(HOME_SORT)).send().await.expect("deleted");
    }
    happened(&worker, "extra", [stayed(1)]).await;
    client.put_item().table_name("notes").item("id", text("extra")).item("room", text("green")).send().await.expect("put");
    // It stands on a history of which the first event is missing, so nobody knows its child rows.
    let events = happened(&worker, "ahead", [stayed(1), stayed(2)]).await;
    applied(&worker, &events[1]).await;
    lose(&client, "ahead", 1).await;
    assert_eq!(checked(&worker, "ahead").await, (Some(RowFinding::Ahead), vec![]));
    // They are what they were when their home row was lost.
    assert_eq!(checked(&worker, "missing").await, (Some(RowFinding::Missing), vec![]));
    assert_eq!(checked(&worker, "irrelevant").await, (None, vec![ChildFinding::Extra]));
    assert_eq!(checked(&worker, "orphaned").await, (None, vec![ChildFinding::Orphaned]));
    assert_eq!(checked(&worker, "extra").await, (None, vec![ChildFinding::Extra]));
}
