//! Compares maxima, sets and left-over attributes of shared rows with what is contributed to them.
//!
//! What is contributed only grows, except where it is taken back, and then the attribute is marked. So an attribute that is lower than
//! what was contributed before it was read is too low, and one that is higher than what is contributed after it was read is too high.

use std::collections::{BTreeMap, BTreeSet};

use projection_vocabulary::{Cell, Contribution, Kind, Value};

use super::{Cells, SharedFinding, Verification};
use crate::{
    operations::{
        contributions::{Contributed, contributed_to},
        error::OperationError,
    },
    store::home::SharedCell,
};

impl Verification<'_> {
    /// What is wrong with attributes of shared rows, and how they are combined. Does not tell wrong sums.
    pub(super) async fn check_monotone(&self, scanned: &Cells) -> Result<BTreeMap<Cell, (SharedFinding, Kind)>, OperationError> {
        let doubtful = |cell: &Cell, held: &SharedCell| {
            let kind = held.mark.map(|mark| mark.kind);
            finding(held, kind.and_then(|kind| scanned.contributed.to(cell, kind))).is_some()
        };
        let held = scanned.held.iter().filter(|(cell, held)| doubtful(cell, held)).map(|(cell, _)| cell);
        let absent = scanned.contributed.cells().filter(|(cell, contribution)| {
            contribution.kind() != Kind::Sum && scanned.held.get(*cell).is_none_or(|held| held.mark.is_none())
        });
        let doubtful: BTreeSet<_> = held.chain(absent.map(|(cell, _)| cell)).collect();
        let mut findings = BTreeMap::new();
        if doubtful.is_empty() {
            return Ok(findings);
        }
        let rows: BTreeSet<_> = doubtful.iter().map(|(row, _)| row).cloned().collect();
        let rows = self.store().rows(self.rule, rows, self.deadline).await?;
        let contributed = contributed_to(self.store(), self.rule, &doubtful, self.deadline).await?;
        for cell in doubtful {
            let row = rows.get(&cell.0);
            if row.is_some_and(|row| row.home.owned.contains(&cell.1)) {
                continue;
            }
            let absent = SharedCell::default();
            let held = row.and_then(|row| row.shared.get(&cell.1)).unwrap_or(&absent);
            let of = |contributed: &Contributed| match held.mark {
                Some(mark) => contributed.to(cell, mark.kind).cloned(),
                None => [Kind::Max, Kind::Set].into_iter().find_map(|kind| contributed.to(cell, kind).cloned()),
            };
            let (before, after) = (of(&scanned.contributed), of(&contributed));
            let found = match finding(held, after.as_ref()) {
                // It may have been contributed after the attribute was read.
                Some(SharedFinding::Lower) => finding(held, before.as_ref()).filter(|finding| *finding == SharedFinding::Lower),
                found => found,
            };
            let kind = held.mark.map(|mark| mark.kind).or_else(|| after.map(|contribution| contribution.kind()));
            if let (Some(found), Some(kind)) = (found, kind) {
                findings.insert(cell.clone(), (found, kind));
            }
        }
        Ok(findings)
    }
}

/// What is wrong with an attribute, given what is contributed to it.
fn finding(held: &SharedCell, contributed: Option<&Contribution>) -> Option<SharedFinding> {
    if !held.unsettled.is_empty() {
        return Some(SharedFinding::TakenBack);
    }
    let kind = held.mark.map(|mark| mark.kind);
    match (&held.value, contributed) {
        (Some(Value::Number(sum)), None) if kind == Some(Kind::Sum) => sum.is_zero().then_some(SharedFinding::LeftOver),
        (Some(_), None) if kind.is_some() => Some(SharedFinding::Higher),
        // Sums are compared elsewhere.
        (_, None | Some(Contribution::Sum(_))) => None,
        (Some(value), Some(Contribution::Max(highest))) if value >= highest => (value > highest).then_some(SharedFinding::Higher),
        (Some(Value::TextSet(held)), Some(Contribution::Set(members))) if members.is_subset(held) => {
            (members != held).then_some(SharedFinding::Higher)
        }
        (_, Some(_)) => Some(SharedFinding::Lower),
    }
}

#[cfg(test)]
mod tests {
    use projection_vocabulary::Mark;

    use super::*;

    #[test]
    fn what_an_attribute_holds_is_compared_with_what_is_contributed_to_it() {
        use SharedFinding::{Higher, LeftOver, Lower, TakenBack};
        let held = |kind: Option<Kind>, value: Option<Value>| SharedCell {
            value,
            mark: kind.map(|kind| Mark { kind, revision: 1 }),
            unsettled: "".into(),
        };
        let (sum, max, set) = (Some(Kind::Sum), Some(Kind::Max), Some(Kind::Set));
        let number = |number: i32| Some(Value::from(number));
        let members = |members: &[&str]| members.iter().map(|member| (*member).into()).collect::<BTreeSet<_>>();
        let texts = |all: &[&str]| Some(Value::TextSet(members(all)));
        let highest = |value: i32| Some(Contribution::Max(value.into()));
        let inserted = |all: &[&str]| Some(Contribution::Set(members(all)));
        let table = [
            (held(sum, number(0)), None, Some(LeftOver)),
            // Sums are compared elsewhere.
            (held(sum, number(5)), None, None),
            (held(sum, number(5)), Some(Contribution::Sum(4.into())), None),
            (held(None, number(5)), None, None),
            (held(None, None), None, None),
            (held(max, number(0)), None, Some(Higher)),
            (held(set, texts(&["a"])), None, Some(Higher)),
            (held(max, number(5)), highest(5), None),
            (held(max, number(6)), highest(5), Some(Higher)),
            (held(max, number(4)), highest(5), Some(Lower)),
            (held(None, None), highest(5), Some(Lower)),
            (held(set, texts(&["a", "b"])), inserted(&["a", "b"]), None),
            (held(set, texts(&["a", "b"])), inserted(&["a"]), Some(Higher)),
            (held(set, texts(&["a", "b"])), inserted(&["b", "c"]), Some(Lower)),
            (held(None, None), inserted(&["a"]), Some(Lower)),
            (SharedCell { unsettled: "since".into(), ..held(max, number(5)) }, highest(5), Some(TakenBack)),
        ];
        for (held, contributed, expected) in table {
            assert_eq!(finding(&held, contributed.as_ref()), expected, "{held:?} and {contributed:?}");
        }
    }
}
