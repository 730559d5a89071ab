//! What a rebuild plans for one row, by its task.

use std::collections::BTreeSet;

use aws_sdk_dynamodb::types::AttributeValue;
use projection_vocabulary::ChildOp;

use super::{
    Task::{CatchUp, DryRun, IntoTable},
    *,
};
use crate::{
    engine::{lane::Step, reproject::HistoryFold},
    operations::fixture::{
        Guests, Happened, append, fold, fold_without, happened, parked, rang, refused, row, stayed, unfinished, worker, worker_of,
    },
};

/// What is planned and counted for a row, in one line.
fn planned(worker: &Worker, task: Task, row: HomeRow, folded: HistoryFold, children: usize) -> String {
    let mut rebuild = Rebuild::new(worker, &Guests, task);
    let children = (0..children).map(|at| (at.to_string().into(), ChildOp::Remove)).collect();
    let mut behind = Vec::new();
    let planned = rebuild.replacement(Visit::of(row, folded, 0), children, &mut behind);
    let Counts { replaced, created, changed, stopped, .. } = rebuild.counts();
    let counts = [("replaced", replaced), ("created", created), ("changed", changed), ("stopped", stopped)];
    let counts = counts.into_iter().filter(|(_, count)| *count > 0).map(|(name, _)| name);
    let planned = planned.map_or(Vec::new(), |Planned { mut lane, existed, writes, changes }| {
        lane.prepare();
        // A lane that replaces its row says so first. What follows is to be parked after that.
        let parks = !writes && matches!(lane.step(), Step::Idle) && lane.stuck().is_some();
        let said = [("plans", true), ("existed", existed), ("writes", writes), ("changes", changes), ("parks", parks)];
        said.into_iter().filter(|(_, is)| *is).map(|(name, _)| name).collect()
    });
    let behind = (!behind.is_empty()).then_some("behind");
    counts.chain(planned).chain(behind).collect::<Vec<_>>().join(" ")
}

#[tokio::test]
async fn a_dry_run_counts_what_a_rebuild_would_do_and_plans_nothing() {
    let worker = worker().await;
    let none = HomeRow::default;
    let table = [
        (row(1, [stayed(1)]), fold([stayed(1)]), 0, "replaced"),
        (row(1, [stayed(1)]), fold([stayed(2)]), 0, "replaced changed"),
        (row(1, [stayed(1)]), fold([stayed(1)]), 1, "replaced changed"),
        (row(1, [stayed(1)]), fold([rang()]), 0, "replaced changed"),
        (unfinished(none(), 2), fold([rang()]), 0, "replaced"),
        (none(), fold([stayed(1)]), 0, "created changed"),
        (none(), fold([rang()]), 0, ""),
        (none(), fold([refused()]), 0, "stopped"),
        (row(1, [stayed(1)]), fold([stayed(1), refused()]), 0, "replaced stopped"),
        // The history ends before the row, or stops there.
        (row(1, [stayed(1), stayed(1)]), fold([stayed(1)]), 0, "stopped"),
        (row(1, [stayed(1), stayed(1)]), fold([stayed(1), refused()]), 0, "stopped"),
    ];
    for (row, folded, children, expected) in table {
        let case = format!("{row:?} and a fold that is due {}", folded.due);
        assert_eq!(planned(&worker, DryRun, row, folded, children), expected, "{case}");
    }
}

#[tokio::test]
async fn a_row_changes_if_anything_of_it_does() {
    let worker = worker().await;
    let contributions = row(1, [stayed(1)]).contributions;
    let left: BTreeSet<_> = contributions.keys().cloned().collect();
    let own = HomeRow { contributions: contributions.clone(), ..row(1, [stayed(2)]) };
    let shared = HomeRow { contributions: row(1, [stayed(2)]).contributions, ..row(1, [stayed(1)]) };
    let behind = HomeRow { left, ..row(1, [stayed(1)]) };
    for stale in [own, shared, behind] {
        let case = format!("{stale:?}");
        assert_eq!(planned(&worker, DryRun, stale, fold([stayed(1)]), 0), "replaced changed", "{case}");
    }
}

#[tokio::test]
async fn only_a_rebuild_in_place_parks_and_only_beyond_the_row() {
    let worker = worker().await;
    let rebuild = Task::Rebuild;
    let (none, older) = (HomeRow::default, || row(1, [stayed(1), stayed(1)]));
    let poison = || fold([stayed(1), refused()]);
    let hole = || fold_without(2, [stayed(1), stayed(1), stayed(1)]);
    let table = [
        (rebuild, none(), fold([stayed(1)]), "plans writes changes"),
        (rebuild, none(), fold([rang()]), ""),
        (rebuild, older(), fold([stayed(1), stayed(1)]), "plans existed writes"),
        (rebuild, none(), fold([refused()]), "plans parks"),
        (IntoTable, none(), fold([refused()]), "stopped"),
        (CatchUp, none(), fold([refused()]), ""),
        // The lane finds out that its fold does not reach the row.
        (rebuild, older(), poison(), "plans existed writes changes"),
        (IntoTable, older(), poison(), "plans existed writes changes"),
        (IntoTable, older(), fold([stayed(1), stayed(1), refused()]), "stopped plans existed writes"),
        (IntoTable, none(), fold([stayed(1)]), "plans writes changes"),
        (rebuild, none(), hole(), "plans writes changes behind"),
    ];
    for (task, row, folded, expected) in table {
        let case = format!("{task:?}: {row:?} and a fold that is due {}", folded.due);
        assert_eq!(planned(&worker, task, row, folded, 0), expected, "{case}");
    }
}

#[test]
fn only_what_is_written_elsewhere_leaves_its_stuck_lanes() {
    for (task, expected) in
        [(Task::Rebuild, IfStuck::AskBreaker), (IntoTable, IfStuck::Leave), (DryRun, IfStuck::AskBreaker), (CatchUp, IfStuck::AskBreaker)]
    {
        assert_eq!(task.if_stuck(), expected, "{task:?}");
    }
}

#[test]
fn histories_are_folded_for_rows_that_may_be_replaced() {
    let all = Version(u64::MAX);
    for (row, expected) in [
        (HomeRow::default(), all),
        (row(1, [stayed(1)]), all),
        (unfinished(row(2, [stayed(1)]), 2), all),
        (row(2, [stayed(1)]), Version::NONE),
        (parked(HomeRow::default()), Version::NONE),
        (parked(row(1, [stayed(1)])), Version::NONE),
    ] {
        assert_eq!(up_to(&Guests, &row), expected, "{row:?}");
    }
}

/// What is counted when a history of `ann` was read with this row, and how many requests it takes.
async fn applied(worker: &Worker, task: Task, visits: Vec<Visit>) -> (String, u64) {
    let (mut rebuild, before) = (Rebuild::new(worker, &Guests, task), worker.store().usage());
    rebuild.apply(visits, Deadline::NONE).await.expect("the store answers");
    let Counts { replaced, created, changed, stopped, caught_up, parked, .. } = rebuild.counts();
    let counts = [("replaced", replaced), ("created", created), ("changed", changed)];
    let counts = counts.into_iter().chain([("stopped", stopped), ("caught up", caught_up), ("parked", parked)]);
    let counts: Vec<_> = counts.filter(|(_, count)| *count > 0).map(|(name, count)| format!("{count} {name}")).collect();
    (counts.join(", "), (worker.store().usage() - before).requests)
}

/// The row of `ann`, whose events these are, and which has applied the first of them by this revision of the rule.
async fn world<const N: usize>(revision: u32, events: [Happened; N]) -> (Worker, HomeRow) {
    let (worker, client) = worker_of(&[&Guests]).await;
    happened(&worker, "ann", events).await;
    if revision != 2 {
        let update = client.update_item().table_name("guests").key("id", AttributeValue::S("ann".to_owned()));
        let update = update.update_expression("SET revision = :revision");
        update.expression_attribute_values(":revision", AttributeValue::N(revision.to_string())).send().await.expect("updated");
    }
    let row = worker.store().home_row(&Guests, &"ann".into(), Deadline::NONE).await.expect("read");
    (worker, row)
}

#[tokio::test]
async fn a_row_that_is_outdated_or_missing_is_replaced_and_one_that_is_behind_is_caught_up() {
    let two = || [stayed(1), stayed(1)];
    for (task, expected) in [(Task::Rebuild, "1 replaced, 1 changed"), (DryRun, "1 replaced, 1 changed"), (CatchUp, "1 caught up")] {
        let (worker, outdated) = world(1, two()).await;
        assert_eq!(applied(&worker, task, vec![Visit::of(outdated, fold(two()), 1)]).await.0, expected, "{task:?}");
    }
    for task in [Task::Rebuild, DryRun, CatchUp] {
        let (worker, behind) = world(2, two()).await;
        assert_eq!(applied(&worker, task, vec![Visit::of(behind, fold(two()), 1)]).await.0, "1 caught up", "{task:?}");
        let (worker, at_head) = world(2, [stayed(1)]).await;
        assert_eq!(applied(&worker, task, vec![Visit::of(at_head, fold([stayed(1)]), 0)]).await, (String::new(), 0), "{task:?}");
    }
    for (task, expected) in [(Task::Rebuild, "1 created, 1 changed"), (DryRun, "1 created, 1 changed"), (CatchUp, "1 caught up")] {
        let worker = worker().await;
        let missing = || Visit::of(HomeRow::default(), fold([stayed(1)]), 1);
        append(&worker, "ann", [stayed(1)]).await;
        assert_eq!(applied(&worker, task, vec![missing()]).await.0, expected, "{task:?}");
    }
}

/// What is replaced is not read again: one transaction. Of nothing, nothing is made.
#[tokio::test]
async fn a_row_that_is_replaced_takes_one_request() {
    let worker = worker().await;
    append(&worker, "ann", [stayed(1)]).await;
    let created = applied(&worker, Task::Rebuild, vec![Visit::of(HomeRow::default(), fold([stayed(1)]), 1)]).await;
    assert_eq!(created, ("1 created, 1 changed".to_owned(), 1));
    let nothing = applied(&worker, Task::Rebuild, vec![Visit::of(HomeRow::default(), fold([rang()]), 0)]).await;
    assert_eq!(nothing, (String::new(), 0));
}

#[tokio::test]
async fn a_row_that_another_writer_has_made_meanwhile_is_caught_up() {
    let (worker, _) = world(2, [stayed(1), stayed(1)]).await;
    // It was read before there was one.
    let visit = Visit::of(HomeRow::default(), fold([stayed(1), stayed(1)]), 2);
    assert_eq!(applied(&worker, Task::Rebuild, vec![visit]).await.0, "1 caught up");
}

/// The second part finds the row as the first part found it.
#[tokio::test]
async fn a_history_in_parts_is_replaced_once_and_then_caught_up() {
    let events = || [stayed(1), stayed(1), stayed(1)];
    let (worker, outdated) = world(1, events()).await;
    let part = |folded, beyond| Visit::of(outdated.clone(), folded, beyond);
    let parts = vec![part(fold([stayed(1), stayed(1)]), 1), part(fold_without(1, events()), 2)];
    assert_eq!(applied(&worker, Task::Rebuild, parts).await.0, "1 replaced, 1 changed, 1 caught up");
    let row = worker.store().home_row(&Guests, &"ann".into(), Deadline::NONE).await.expect("read");
    assert_eq!((row.version, row.revision), (Version(3), 2));
}

#[tokio::test]
async fn an_aggregate_that_is_parked_is_counted_once() {
    let table = [(fold([stayed(1), refused()]), "1 created, 1 changed, 1 parked"), (fold([refused()]), "1 parked")];
    for (folded, expected) in table {
        let worker = worker().await;
        assert_eq!(applied(&worker, Task::Rebuild, vec![Visit::of(HomeRow::default(), folded, 1)]).await.0, expected);
    }
}
