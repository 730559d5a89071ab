//! What writes do to shared rows, and what a refusal of these rows means. Pure.
//!
//! An attribute of a shared row may change hands from one revision of a rule to the next: it becomes the property of the row's own
//! aggregate, or is combined in another way. Rows of both revisions exist side by side until all are re-projected, so:
//!
//! | a write | finds | then |
//! |---|---|---|
//! | takes back a contribution | an attribute that has become something else, or is gone | there is nothing to take back |
//! | takes back a contribution | an attribute that is gone while it is settled | makes void what was found out: it may have been this |
//! | contributes | an attribute that the home row of an older revision owns | that row gives it up first |
//! | contributes | an attribute that an older revision combined in another way | replaces it |
//! | contributes | an attribute of a newer revision in another form | fails: this deployment is outdated |
//! | contributes | an attribute of the same revision in another form | the rule is at fault: its aggregate is parked |

use std::collections::{BTreeMap, BTreeSet};

use projection_vocabulary::{Cell, Contribution, Decimal, HomeRow, Kind, Mark, Resolved, RowKey, Value};

use crate::store::{
    home::{Row, SharedCell},
    shared::{CellOp, CellWrite, Intent, SharedWrite},
};

/// What a write does to attributes of shared rows.
pub type Shares = BTreeMap<Cell, Share>;
/// What is known of shared rows.
#[derive(Default)]
pub struct Known {
    /// Rows as a refusal returned them; `None` if one is absent.
    rows: BTreeMap<RowKey, Option<Row>>,
    /// How high maxima are at least, as far as earlier writes have shown. They may be lower again, so it is a condition of the write.
    maxima: BTreeMap<Cell, Value>,
}

impl Known {
    /// Takes what a refusal has returned.
    pub fn learn(&mut self, rows: BTreeMap<RowKey, Option<Row>>) {
        self.maxima.retain(|(row, _), _| !rows.contains_key(row));
        for (key, row) in &rows {
            let maxima = row.iter().flat_map(|row| &row.shared).filter(|(_, cell)| cell.mark.is_some_and(|mark| mark.kind == Kind::Max));
            self.maxima.extend(maxima.filter_map(|(name, cell)| Some(((key.clone(), name.clone()), cell.value.clone()?))));
        }
        self.rows.extend(rows);
    }

    /// Takes what was written.
    pub fn wrote(&mut self, writes: Vec<SharedWrite>) {
        for SharedWrite { row, cells } in writes {
            for (name, cell) in cells {
                if let CellOp::Raise(value) = cell.op {
                    self.maxima.insert((row.clone(), name), value);
                }
            }
        }
    }

    /// Forgets what a row was, but for its maxima.
    pub fn forget_row(&mut self, row: &RowKey) {
        self.rows.remove(row);
    }

    /// Forgets what rows were, but for their maxima.
    pub fn forget_rows(&mut self) {
        self.rows.clear();
    }
}

/// What a write does to one attribute of a shared row.
#[derive(Clone, Debug, PartialEq)]
pub struct Share {
    /// How the attribute is combined.
    pub kind: Kind,
    /// What is done to it.
    pub op: CellOp,
    /// Whether a contribution is lowered or taken back that may be the highest or the last one.
    pub unsettles: bool,
    /// Whether the attribute still shows something of the aggregate afterwards.
    pub stays: bool,
}

/// Why writes cannot go together with the shared rows as they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Clash {
    /// The home row of an older revision owns an attribute of this row. It must give it up.
    Owned(RowKey),
    /// A newer revision of the rule has written to the attribute.
    Newer(Cell, u32),
    /// The rule is at fault.
    Rule(Cell, &'static str),
}

/// The rule's own and shared changes meet in one attribute.
pub const TWO_OWNERS: &str = "an attribute of the row is written both by its own aggregate and by others that share the row: \
                              use two attributes";
/// The rule combines one attribute in two ways.
const TWO_KINDS: &str = "an attribute of a shared row is written by two of `add`, `max` and `insert`, or by `max` of different types: \
                         use two attributes";

impl Share {
    fn of(kind: Kind, op: CellOp) -> Self {
        Self { kind, op, unsettles: false, stays: true }
    }

    fn contributing(contribution: Contribution) -> Self {
        let kind = contribution.kind();
        Self::of(
            kind,
            match contribution {
                Contribution::Sum(amount) => CellOp::Add(amount),
                Contribution::Max(value) => CellOp::Raise(value),
                Contribution::Set(members) => CellOp::Insert(members),
            },
        )
    }

    fn taking_back(contribution: &Contribution) -> Self {
        let op = match contribution {
            Contribution::Sum(amount) if !amount.is_zero() => CellOp::Add(-amount),
            _ => CellOp::Keep,
        };
        Self { unsettles: true, stays: false, ..Self::of(contribution.kind(), op) }
    }

    fn write(self, revision: u32) -> CellWrite {
        let Self { kind, op, unsettles, stays } = self;
        let intent = if stays { Intent::Contributes } else { Intent::TakesBack };
        CellWrite { intent, unsettles, ..CellWrite::contributing(Mark { kind, revision }, op) }
    }

    /// Adds another write of the same kind.
    fn merge(&mut self, other: Self) {
        self.op = match (std::mem::replace(&mut self.op, CellOp::Keep), other.op) {
            (CellOp::Add(mut sum), CellOp::Add(amount)) => {
                sum += &amount;
                CellOp::Add(sum)
            }
            (CellOp::Raise(one), CellOp::Raise(two)) => CellOp::Raise(one.max(two)),
            (CellOp::Insert(mut all), CellOp::Insert(members)) => {
                all.extend(members);
                CellOp::Insert(all)
            }
            (CellOp::Keep, op) | (op, _) => op,
        };
        self.unsettles |= other.unsettles;
        self.stays |= other.stays;
    }
}

/// What a change of an aggregate does to shared rows.
#[must_use]
pub fn shares_of(resolved: &Resolved) -> Shares {
    let sums = resolved.shared.iter().map(|(cell, amount)| (cell.clone(), Share::of(Kind::Sum, CellOp::Add(amount.clone()))));
    let maxima = resolved.max.iter().map(|(cell, value)| (cell.clone(), Share::of(Kind::Max, CellOp::Raise(value.clone()))));
    let sets = resolved.insert.iter().map(|(cell, members)| (cell.clone(), Share::of(Kind::Set, CellOp::Insert(members.clone()))));
    sums.chain(maxima).chain(sets).collect()
}

/// What it does to shared rows if one row of an aggregate replaces another.
#[must_use]
pub fn shares_between(stale: &HomeRow, next: &HomeRow) -> Shares {
    let cells: BTreeSet<_> = [&stale.contributions, &next.contributions].into_iter().flat_map(BTreeMap::keys).collect();
    let cells = cells.into_iter().chain(stale.left.symmetric_difference(&next.left)).collect::<BTreeSet<_>>();
    cells.into_iter().filter_map(|cell| share_between(cell, stale, next).map(|share| (cell.clone(), share))).collect()
}

/// Whether something is taken back between the two that may have been the highest or the last contribution to an attribute.
#[cfg(feature = "cli")]
#[must_use]
pub fn unsettles(stale: &HomeRow, next: &HomeRow) -> bool {
    shares_between(stale, next).values().any(|share| share.unsettles)
}

fn share_between(cell: &Cell, stale: &HomeRow, next: &HomeRow) -> Option<Share> {
    let (was_left, is_left) = (stale.left.contains(cell), next.left.contains(cell));
    match (stale.contributions.get(cell), next.contributions.get(cell)) {
        (Some(before), Some(after)) if before == after => None,
        (Some(Contribution::Sum(before)), Some(Contribution::Sum(after))) => {
            let mut delta = after.clone();
            delta -= before;
            Some(Share::of(Kind::Sum, CellOp::Add(delta)))
        }
        (Some(Contribution::Max(before)), Some(Contribution::Max(after))) if after < before => {
            Some(Share { unsettles: true, ..Share::of(Kind::Max, CellOp::Keep) })
        }
        (Some(Contribution::Set(before)), Some(Contribution::Set(after))) => {
            let new: BTreeSet<_> = after.difference(before).cloned().collect();
            let op = if new.is_empty() { CellOp::Keep } else { CellOp::Insert(new) };
            Some(Share { unsettles: !before.is_subset(after), ..Share::of(Kind::Set, op) })
        }
        (None, Some(Contribution::Sum(amount))) if was_left && amount.is_zero() => None,
        // Of another kind than before: what this aggregate had written goes with everything else that was written in that way.
        (_, Some(after)) => Some(Share::contributing(after.clone())),
        (Some(Contribution::Sum(before)), None) if is_left => Some(Share::of(Kind::Sum, CellOp::Add(-before))),
        (_, None) if is_left && !was_left => Some(Share::of(Kind::Sum, CellOp::Add(Decimal::zero()))),
        (Some(before), None) => Some(Share::taking_back(before)),
        // It was left behind, and is no longer: else the two would not differ in it.
        (None, None) => Some(Share::taking_back(&Contribution::Sum(Decimal::zero()))),
    }
}

/// Whether writes to the same attributes can be merged.
#[must_use]
pub fn go_together(some: &BTreeMap<Cell, Kind>, more: &Shares) -> bool {
    more.iter().all(|(cell, share)| some.get(cell).is_none_or(|kind| *kind == share.kind))
}

/// The writes to shared rows, given what is known of these rows.
///
/// # Errors
/// The first [`Clash`].
pub fn shared_writes<'a>(revision: u32, shares: impl IntoIterator<Item = &'a Shares>, known: &Known) -> Result<Vec<SharedWrite>, Clash> {
    let mut merged = Shares::new();
    for (cell, share) in shares.into_iter().flatten() {
        match merged.get_mut(cell) {
            Some(before) => before.merge(share.clone()),
            None => _ = merged.insert(cell.clone(), share.clone()),
        }
    }
    let mut rows: BTreeMap<RowKey, BTreeMap<String, CellWrite>> = BTreeMap::new();
    for (cell, share) in merged {
        let write = match known.rows.get(&cell.0) {
            Some(row) => cell_write(revision, &cell, share, row.as_ref())?,
            None => Some(share.write(revision)),
        };
        if let Some(mut write) = write {
            if let (CellOp::Raise(value), Some(present)) = (&write.op, known.maxima.get(&cell))
                && write.instead_of.is_none()
                && value < present
            {
                write.op = CellOp::AtLeast(value.clone());
            }
            rows.entry(cell.0).or_default().insert(cell.1, write);
        }
    }
    Ok(rows.into_iter().map(|(row, cells)| SharedWrite { row, cells }).collect())
}

/// The write to one attribute of a row that is known, and may be known to be absent; `None` if there is nothing to do.
fn cell_write(revision: u32, cell: &Cell, share: Share, row: Option<&Row>) -> Result<Option<CellWrite>, Clash> {
    let stays = share.stays;
    if let Some(home) = row.map(|row| &row.home)
        && home.owned.contains(&cell.1)
    {
        return match home.newest_revision() {
            _ if !stays => Ok(None),
            newest if newest > revision => Err(Clash::Newer(cell.clone(), newest)),
            newest if newest < revision => Err(Clash::Owned(cell.0.clone())),
            _ => Err(Clash::Rule(cell.clone(), TWO_OWNERS)),
        };
    }
    let absent = SharedCell::default();
    let present = row.and_then(|row| row.shared.get(&cell.1)).unwrap_or(&absent);
    match present.mark {
        None if !stays && present.unsettled.is_empty() => return Ok(None),
        None if !stays => {
            let mark = Mark { kind: share.kind, revision };
            return Ok(Some(CellWrite { intent: Intent::Voids, unsettles: true, ..CellWrite::contributing(mark, CellOp::Keep) }));
        }
        Some(other) if other.kind != share.kind => {
            return match other.revision {
                _ if !stays => Ok(None),
                newer if newer > revision => Err(Clash::Newer(cell.clone(), newer)),
                older if older < revision => Ok(Some(CellWrite { instead_of: Some(other), ..share.write(revision) })),
                _ => Err(Clash::Rule(cell.clone(), TWO_KINDS)),
            };
        }
        _ => {}
    }
    match (&share.op, &present.value) {
        (CellOp::Raise(value), Some(present)) if !same_type(value, present) => Err(Clash::Rule(cell.clone(), TWO_KINDS)),
        _ => Ok(Some(share.write(revision))),
    }
}

fn same_type(one: &Value, other: &Value) -> bool {
    std::mem::discriminant(one) == std::mem::discriminant(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(contributions: &[(&str, Contribution)], left: &[&str]) -> HomeRow {
        let cell = |attribute: &str| (RowKey::from("shelf"), attribute.to_owned());
        HomeRow {
            contributions: contributions.iter().map(|(attribute, value)| (cell(attribute), value.clone())).collect(),
            left: left.iter().map(|attribute| cell(attribute)).collect(),
            ..HomeRow::default()
        }
    }

    fn sum(amount: i32) -> Contribution {
        Contribution::Sum(amount.into())
    }

    fn max(value: i32) -> Contribution {
        Contribution::Max(value.into())
    }

    fn set(members: &[&str]) -> Contribution {
        Contribution::Set(members.iter().map(|member| (*member).into()).collect())
    }

    /// What happens to the one attribute in which the two rows differ; `None` if nothing does.
    fn between(stale: &HomeRow, next: &HomeRow) -> Option<(CellOp, bool, bool)> {
        let mut shares: Vec<_> = shares_between(stale, next).into_values().collect();
        assert!(shares.len() <= 1);
        shares.pop().map(|Share { op, unsettles, stays, .. }| (op, unsettles, stays))
    }

    #[test]
    fn a_row_that_replaces_another_adds_what_is_new_and_takes_back_what_is_gone() {
        let (none, one) = (row(&[], &[]), |value| row(&[("n", value)], &[]));
        let left = row(&[], &["n"]);
        let insert = |members: &[&str]| CellOp::Insert(members.iter().map(|member| (*member).into()).collect());
        let table = [
            (none.clone(), one(sum(3)), Some((CellOp::Add(3.into()), false, true))),
            (one(sum(3)), one(sum(3)), None),
            (one(sum(3)), one(sum(1)), Some((CellOp::Add((-2).into()), false, true))),
            (one(sum(3)), none.clone(), Some((CellOp::Add((-3).into()), true, false))),
            (one(sum(0)), none.clone(), Some((CellOp::Keep, true, false))),
            // A sum of zero shows as long as somebody has to do with it.
            (one(sum(3)), left.clone(), Some((CellOp::Add((-3).into()), false, true))),
            (none.clone(), left.clone(), Some((CellOp::Add(0.into()), false, true))),
            (left.clone(), one(sum(0)), None),
            (left.clone(), none.clone(), Some((CellOp::Keep, true, false))),
            (none.clone(), one(max(5)), Some((CellOp::Raise(5.into()), false, true))),
            (one(max(5)), one(max(7)), Some((CellOp::Raise(7.into()), false, true))),
            (one(max(5)), one(max(4)), Some((CellOp::Keep, true, true))),
            (one(max(5)), none.clone(), Some((CellOp::Keep, true, false))),
            (one(set(&["a"])), one(set(&["a", "b"])), Some((insert(&["b"]), false, true))),
            (one(set(&["a", "b"])), one(set(&["b", "c"])), Some((insert(&["c"]), true, true))),
            (one(set(&["a"])), none.clone(), Some((CellOp::Keep, true, false))),
            // It is combined in another way: what was there before is replaced as a whole.
            (one(max(5)), one(sum(2)), Some((CellOp::Add(2.into()), false, true))),
        ];
        for (stale, next, expected) in table {
            assert_eq!(between(&stale, &next), expected, "{stale:?} to {next:?}");
        }
    }

    #[cfg(feature = "cli")]
    #[test]
    fn what_is_lowered_or_taken_back_unsettles() {
        let of = |value| row(&[("n", value)], &[]);
        let none = row(&[], &[]);
        assert!(unsettles(&of(max(5)), &of(max(4))) && unsettles(&of(sum(5)), &none));
        assert!(!unsettles(&of(max(5)), &of(max(6))) && !unsettles(&none, &of(sum(5))) && !unsettles(&none, &none));
    }

    /// A shared row of which one attribute is known.
    fn known(owned: bool, by: u32, mark: Option<Mark>, value: Option<Value>) -> Known {
        let cell = SharedCell { value, mark, unsettled: "".into() };
        let owned = if owned { ["n".to_owned()].into() } else { BTreeSet::new() };
        let home = HomeRow { revision: by, owned, ..HomeRow::default() };
        let row = Row { key: "shelf".into(), home, shared: [("n".to_owned(), cell)].into(), corrected: "".into() };
        known_rows([("shelf".into(), Some(row))].into())
    }

    fn known_rows(rows: BTreeMap<RowKey, Option<Row>>) -> Known {
        let mut known = Known::default();
        known.learn(rows);
        known
    }

    fn writes(share: Share, known: &Known) -> Result<Option<CellWrite>, Clash> {
        let shares: Shares = [(("shelf".into(), "n".to_owned()), share)].into();
        Ok(shared_writes(2, [&shares], known)?.pop().and_then(|mut write| write.cells.remove("n")))
    }

    fn raise(value: i32) -> Share {
        Share::contributing(max(value))
    }

    fn mark(kind: Kind, revision: u32) -> Mark {
        Mark { kind, revision }
    }

    #[test]
    fn a_maximum_is_raised_or_known_to_be_as_high() {
        let op = |held: i32| writes(raise(5), &known(false, 0, Some(mark(Kind::Max, 1)), Some(held.into()))).unwrap().expect("a write").op;
        assert_eq!([op(4), op(5), op(6)], [CellOp::Raise(5.into()), CellOp::Raise(5.into()), CellOp::AtLeast(5.into())]);
        let text = known(false, 0, Some(mark(Kind::Max, 1)), Some("5".into()));
        assert!(matches!(writes(raise(5), &text), Err(Clash::Rule(..))), "a number and a text have no order");
        // What was written before is known without a refusal.
        let mut known = Known::default();
        known.wrote(shared_writes(2, [&[(("shelf".into(), "n".to_owned()), raise(6))].into()], &known).expect("nothing clashes"));
        let op = |value| writes(raise(value), &known).unwrap().expect("a write").op;
        assert_eq!([op(5), op(7)], [CellOp::AtLeast(5.into()), CellOp::Raise(7.into())]);
    }

    /// A maximum that is settled comes down, and an attribute may go. Whoever remembers more is refused again and again.
    #[test]
    fn what_a_refusal_shows_of_a_row_replaces_what_was_known_of_its_maxima() {
        let mut known = Known::default();
        let raised = |row: &str| [((row.into(), "n".to_owned()), raise(6))].into();
        known.wrote(shared_writes(2, [&raised("shelf"), &raised("other")], &known).expect("nothing clashes"));
        known.learn([("shelf".into(), None)].into());
        let op = |row: &str| {
            let shares: Shares = [((row.into(), "n".to_owned()), raise(5))].into();
            shared_writes(2, [&shares], &known).expect("nothing clashes").remove(0).cells.remove("n").expect("a write").op
        };
        assert_eq!((op("shelf"), op("other")), (CellOp::Raise(5.into()), CellOp::AtLeast(5.into())));
    }

    #[test]
    fn writes_that_combine_an_attribute_in_two_ways_do_not_go_together() {
        let share = |attribute: &str, contribution| -> Shares {
            [(("shelf".into(), attribute.to_owned()), Share::contributing(contribution))].into()
        };
        let some = [(("shelf".into(), "n".to_owned()), Kind::Sum)].into();
        let table = [(share("n", sum(1)), true), (share("n", max(1)), false), (share("other", max(1)), true), (Shares::new(), true)];
        for (more, expected) in table {
            assert_eq!(go_together(&some, &more), expected, "{more:?}");
        }
    }

    #[test]
    fn an_attribute_that_changes_hands_is_taken_over_given_up_or_left_alone() {
        let taking_back = || Share::taking_back(&max(5));
        let of_another = |by| known(true, by, None, None);
        let as_sum = |by| known(false, 0, Some(mark(Kind::Sum, by)), Some(5.into()));
        // What is taken back is gone already.
        for known in [
            of_another(1),
            of_another(2),
            of_another(3),
            as_sum(1),
            as_sum(3),
            known(false, 0, None, None),
            known_rows([("shelf".into(), None)].into()),
        ] {
            assert_eq!(writes(taking_back(), &known), Ok(None));
        }
        // Or it is gone only while somebody settles it, who may have found what is taken back.
        let settled = SharedCell { unsettled: "mine".into(), ..SharedCell::default() };
        let shared = [("n".to_owned(), settled)].into();
        let row = Row { key: "shelf".into(), home: HomeRow::default(), shared, corrected: "".into() };
        let known = known_rows([("shelf".into(), Some(row))].into());
        let CellWrite { op, intent, unsettles, .. } = writes(taking_back(), &known).unwrap().expect("a write");
        assert_eq!((op, intent, unsettles), (CellOp::Keep, Intent::Voids, true));
        let cell = || (RowKey::from("shelf"), "n".to_owned());
        assert_eq!(writes(raise(5), &of_another(1)), Err(Clash::Owned("shelf".into())));
        assert_eq!(writes(raise(5), &of_another(2)), Err(Clash::Rule(cell(), TWO_OWNERS)));
        assert_eq!(writes(raise(5), &of_another(3)), Err(Clash::Newer(cell(), 3)));
        assert_eq!(writes(raise(5), &as_sum(1)).unwrap().expect("a write").instead_of, Some(mark(Kind::Sum, 1)));
        assert_eq!(writes(raise(5), &as_sum(2)), Err(Clash::Rule(cell(), TWO_KINDS)));
        assert_eq!(writes(raise(5), &as_sum(3)), Err(Clash::Newer(cell(), 3)));
    }

    #[test]
    fn writes_of_several_aggregates_to_one_attribute_are_one() {
        let cell = || (RowKey::from("shelf"), "n".to_owned());
        let merged = |shares: &[Share]| {
            let shares: Vec<Shares> = shares.iter().map(|share| [(cell(), share.clone())].into()).collect();
            let writes = shared_writes(2, &shares, &Known::default()).expect("nothing clashes");
            let [SharedWrite { cells, .. }] = &*writes else { panic!("one row") };
            cells["n"].clone()
        };
        let CellWrite { op, intent, unsettles, .. } =
            merged(&[Share::contributing(sum(5)), Share::taking_back(&sum(3)), Share::contributing(sum(1))]);
        assert_eq!((op, intent, unsettles), (CellOp::Add(3.into()), Intent::Contributes, true));
        assert_eq!(merged(&[raise(5), raise(7), raise(6)]).op, CellOp::Raise(7.into()));
        assert_eq!(merged(&[Share::taking_back(&max(5)), raise(2)]).op, CellOp::Raise(2.into()));
        let members = merged(&[Share::contributing(set(&["a"])), Share::contributing(set(&["b"]))]).op;
        assert_eq!(members, CellOp::Insert(["a".into(), "b".into()].into()));
    }
}
