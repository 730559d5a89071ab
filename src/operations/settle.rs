//! Settles attributes of shared rows whose contributions were taken back.
//!
//! A sum comes down with what is taken back. A maximum or a set cannot: only all contributions together tell what is left. Nor can one
//! aggregate tell whether an attribute that it no longer contributes to still has other contributors. So whoever takes such a
//! contribution back marks the attribute, in the same transaction, and this works out what it must be, while the worker runs:
//!
//! 1. A scan of all home rows tells what is contributed. The attribute becomes that, if it is still what it was.
//! 2. From then on, whoever contributes more raises the attribute. What was contributed between the scan and that write, and found the
//!    old value high enough, is found by a second scan, which raises the attribute for it.
//!
//! Each write is conditional on the mark that this process has set, so a contribution that is taken back meanwhile, also while the
//! attribute is gone, or another process that settles the same attribute, makes it void; the attribute is then settled in the next round.

use futures::{StreamExt as _, TryStreamExt as _, stream};
use projection_vocabulary::{Cell, Contribution, DynProjection, Kind, Mark, Value};

use crate::{
    engine::worker::CONCURRENCY,
    operations::{
        contributions::{Contributed, contributed_to, unsettled},
        error::OperationError,
    },
    retry::Deadline,
    store::{Store, fresh_id, home::SharedCell},
};

/// How often to begin again with what others have unsettled meanwhile.
const ROUNDS_MAX: usize = 5;

/// Settles every attribute that is marked, and returns how many were. If others keep taking contributions back, some may still be marked.
///
/// # Errors
/// [`OperationError`]: the rest is still marked. Settle again.
pub async fn settle(store: &Store, rule: &'static dyn DynProjection, deadline: Deadline) -> Result<u64, OperationError> {
    let mut settled = 0;
    for _ in 0..ROUNDS_MAX {
        let marked = unsettled(store, rule, deadline).await?;
        if marked.is_empty() {
            break;
        }
        settled += marked.len() as u64;
        let cells = marked.keys().collect();
        let mine = fresh_id();
        let contributed = contributed_to(store, rule, &cells, deadline).await?;
        // Both are collected first: a stream with a closure of references in it could not be awaited in a spawned task.
        let lowered = marked.iter().map(|(of, cell)| {
            let right = right(of, cell, &contributed);
            let mine = &mine;
            async move { store.lower(rule, of, cell, right.as_ref(), mine, deadline).await }
        });
        stream::iter(lowered.collect::<Vec<_>>()).buffer_unordered(CONCURRENCY).try_collect::<()>().await?;
        let contributed = contributed_to(store, rule, &cells, deadline).await?;
        let raised = marked.iter().map(|(of, cell)| {
            let (at_least, mine) = (at_least(of, cell, &contributed), &mine);
            async move { store.settle(rule, of, at_least, mine, deadline).await }
        });
        stream::iter(raised.collect::<Vec<_>>()).buffer_unordered(CONCURRENCY).try_collect::<()>().await?;
    }
    Ok(settled)
}

fn kind(cell: &SharedCell) -> Option<Kind> {
    cell.mark.map(|mark| mark.kind)
}

/// What the attribute must be. A sum is right already; if nobody has anything to do with it, it goes, unless it holds an amount that
/// nobody can account for.
fn right(of: &Cell, cell: &SharedCell, contributed: &Contributed) -> Option<Value> {
    let Some(kind) = kind(cell) else { return cell.value.clone() };
    let contribution = contributed.to(of, kind);
    match (kind, contribution) {
        (Kind::Sum, None) if !matches!(&cell.value, Some(Value::Number(sum)) if sum.is_zero()) => cell.value.clone(),
        (Kind::Sum, Some(_)) => cell.value.clone(),
        (_, contribution) => contribution.map(Contribution::value),
    }
}

/// What the attribute must hold at least, and its mark. If it is gone, another process that settles it has removed it, and what that
/// process has found out is now void: how it is combined is known from its contributions alone.
fn at_least<'a>(of: &Cell, cell: &SharedCell, contributed: &'a Contributed) -> Option<(&'a Contribution, Mark)> {
    match (cell.mark, &cell.value) {
        (Some(Mark { kind, .. }), _) => contributed.with_mark(of, kind),
        (None, None) => contributed.by_newest(of),
        (None, Some(_)) => None,
    }
}

#[cfg(test)]
mod tests {
    use projection_vocabulary::HomeRow;

    use super::*;

    #[test]
    fn a_maximum_and_a_set_become_what_is_contributed_and_a_sum_stays_unless_it_is_zero_and_nobodys() {
        let of = || -> Cell { ("shelf".into(), "n".to_owned()) };
        let by = |contribution| {
            let mut contributed = Contributed::default();
            contributed.add(&HomeRow { contributions: [(of(), contribution)].into(), ..HomeRow::default() }, |_| true);
            contributed
        };
        let nobody = Contributed::default;
        let (sum, max, set) = (Some(Kind::Sum), Some(Kind::Max), Some(Kind::Set));
        let number = |number: i32| Some(Value::from(number));
        let texts = |member: &str| Some(Value::TextSet([member.into()].into()));
        let table = [
            (max, number(9), by(Contribution::Max(5.into())), number(5)),
            (max, number(9), nobody(), None),
            (set, texts("a"), by(Contribution::Set(["b".into()].into())), texts("b")),
            (set, texts("a"), nobody(), None),
            (sum, number(9), by(Contribution::Sum(5.into())), number(9)),
            (sum, number(0), by(Contribution::Sum(0.into())), number(0)),
            (sum, number(0), nobody(), None),
            // An amount that nobody can account for.
            (sum, number(9), nobody(), number(9)),
            (sum, None, nobody(), None),
            (None, number(9), nobody(), number(9)),
            // It is combined in one way, and contributed to in another.
            (max, number(9), by(Contribution::Sum(5.into())), None),
        ];
        for (kind, value, contributed, expected) in table {
            let cell = SharedCell { value, mark: kind.map(|kind| Mark { kind, revision: 1 }), unsettled: "since".into() };
            assert_eq!(right(&of(), &cell, &contributed), expected, "{cell:?} of {contributed:?}");
        }
    }
}
