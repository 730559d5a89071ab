//! What a rebuild plans for one row, by its task.

use std::collections::BTreeSet;

use projection_vocabulary::ChildOp;

use super::{
    Task::{CatchUp, DryRun, IntoTable},
    *,
};
use crate::{
    engine::{lane::Step, reproject::HistoryFold},
    operations::fixture::{Guests, fold, fold_without, parked, rang, refused, row, stayed, unfinished, worker},
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
