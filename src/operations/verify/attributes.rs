//! Compares attributes of shared rows with what is contributed to them, by scans of the read model that may stop and go on. Pure.
//!
//! A shared row and the contributions to it are many items and never stand still. So each attribute is read between two scans of the
//! home rows, and what can be told is told:
//!
//! - **A maximum or a set** holds at least what was contributed before it was read, and at most what is contributed after it was read.
//!   What is contributed only grows, except where it is taken back, and then the attribute is marked.
//! - **A sum** is the sum of its contributions if none of its contributors has moved between the scans. A number tells whether one has:
//!   the sum of hashes of all contributors with their states. Each transaction adds the same to a sum and to its contributions, so a
//!   difference never changes. One that is not zero must show twice: a contributor may have come and gone unseen.
//!
//! A sum that cannot be told after some scans, since its contributors keep moving, is left to a comparison in one go (`sums`).
//!
//! What is known between two scans is bounded: if it becomes too much, the rows at the end are left to another pass.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use projection_vocabulary::{Cell, Contribution, Decimal, Kind, RowKey, Value};
use serde::{Deserialize, Serialize};

use super::{SharedFinding, sums::Difference};
use crate::store::{
    home::{Row, SharedCell},
    item::typed,
};

/// How often the attributes are compared before sums are left to a comparison in one go.
const COMPARED_MAX: u8 = 3;
/// How many rows a pass has in memory.
const ROWS_MAX: usize = 100_000;

/// A pass over the shared rows of a range of keys.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Pass {
    /// The range is after this row; `None` from the first.
    after: Option<RowKey>,
    /// Up to and with this row; `None` to the last.
    up_to: Option<RowKey>,
    /// These rows only, if it is not saved.
    #[serde(skip)]
    only: Option<BTreeSet<RowKey>>,
    /// How many scans are complete. The first finds the attributes, and each further one compares them.
    scans: u8,
    /// What is known of the attributes of each row, until they are judged.
    rows: BTreeMap<RowKey, BTreeMap<String, Known>>,
    /// Rows of which too much would have to be saved. They are compared in one go.
    large: BTreeSet<RowKey>,
}

/// What a pass needs next.
pub(super) enum Next {
    /// These rows.
    Rows(BTreeSet<RowKey>),
    /// A scan.
    Scan,
    /// A comparison of the rest in one go.
    InOneGo,
    /// Nothing.
    Done,
}

/// What is known of an attribute.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Known {
    /// What the scan before the read found that it is given.
    before: Given,
    /// What the scan after the read has found so far. The first scan is before the read.
    now: Given,
    /// What it was when it was read; `None` until it is read.
    held: Option<SharedCell>,
    /// The id of the last correction of its row, when it was read.
    corrected: Arc<str>,
    /// How much higher than its contributions the sum was, the last time that this could be told.
    surplus: Option<Decimal>,
}

/// What home rows contribute to an attribute, in each of the ways of combining it: while a rule changes, there may be two.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Given {
    sum: Option<Decimal>,
    #[serde(with = "typed")]
    max: Option<Value>,
    set: Option<BTreeSet<Arc<str>>>,
    /// Tells the contributors to the sum, each with its state.
    contributors: u64,
}

/// An attribute that is judged.
pub(super) struct Judged {
    pub(super) cell: Cell,
    pub(super) is_sum: bool,
    /// How much more it holds than is contributed to it, if it is a sum and that is not zero.
    pub(super) difference: Option<Difference>,
    /// What else is wrong with it, and how it is combined.
    pub(super) other: Option<(SharedFinding, Kind)>,
}

impl Given {
    fn add(&mut self, contribution: &Contribution, state: u64) {
        match contribution {
            Contribution::Sum(amount) => {
                *self.sum.get_or_insert_default() += amount;
                self.contributors = self.contributors.wrapping_add(hashed(&(state, amount.to_string())));
            }
            Contribution::Max(value) if self.max.as_ref().is_none_or(|highest| highest < value) => self.max = Some(value.clone()),
            Contribution::Max(_) => {}
            Contribution::Set(members) => self.set.get_or_insert_default().extend(members.iter().cloned()),
        }
    }

    /// What is given to an attribute in the way in which it is combined, or in one that nobody has written down.
    fn to(&self, held: &SharedCell) -> Option<Contribution> {
        let max = || self.max.clone().map(Contribution::Max);
        let set = || self.set.clone().map(Contribution::Set);
        match held.mark.map(|mark| mark.kind) {
            Some(Kind::Sum) => self.sum.clone().map(Contribution::Sum),
            Some(Kind::Max) => max(),
            Some(Kind::Set) => set(),
            None => max().or_else(set),
        }
    }
}

impl Known {
    /// Whether it is a sum. Without a mark it is one only if somebody says so.
    fn is_sum(&self) -> bool {
        let marked = self.held.as_ref().is_some_and(|held| held.mark.is_some_and(|mark| mark.kind == Kind::Sum) && number(held).is_some());
        marked || self.now.sum.is_some()
    }

    /// After a scan: judges it, unless it is a sum that cannot be told yet.
    fn judge(&mut self, cell: Cell) -> Option<Judged> {
        let is_sum = self.is_sum();
        let mut difference = None;
        if is_sum {
            if self.before.contributors != self.now.contributors {
                return None;
            }
            let mut amount = self.held.as_ref().and_then(number).cloned().unwrap_or_default();
            amount -= &self.now.sum.clone().unwrap_or_default();
            if !amount.is_zero() {
                if self.surplus.as_ref() != Some(&amount) {
                    self.surplus = Some(amount);
                    return None;
                }
                difference = Some(Difference { amount, corrected: self.corrected.clone() });
            }
        }
        Some(Judged { cell, is_sum, difference, other: self.other() })
    }

    /// What is wrong with it other than its sum.
    fn other(&self) -> Option<(SharedFinding, Kind)> {
        let held = self.held.as_ref()?;
        let after = self.now.to(held);
        let found = match finding(held, after.as_ref()) {
            // It may have been contributed after the attribute was read.
            Some(SharedFinding::Lower) => finding(held, self.before.to(held).as_ref()).filter(|finding| *finding == SharedFinding::Lower),
            found => found,
        };
        let kind = held.mark.map(|mark| mark.kind).or_else(|| after.map(|contribution| contribution.kind()));
        found.zip(kind)
    }

    /// Prepares the next scan.
    fn again(self) -> Self {
        Self { before: self.now, surplus: self.surplus, ..Self::default() }
    }
}

/// What is wrong with an attribute, given what is contributed to it. Does not tell wrong sums.
fn finding(held: &SharedCell, contributed: Option<&Contribution>) -> Option<SharedFinding> {
    if !held.unsettled.is_empty() {
        return Some(SharedFinding::TakenBack);
    }
    let kind = held.mark.map(|mark| mark.kind);
    match (&held.value, contributed) {
        (Some(Value::Number(sum)), None) if kind == Some(Kind::Sum) => sum.is_zero().then_some(SharedFinding::LeftOver),
        (Some(_), None) if kind.is_some() => Some(SharedFinding::Higher),
        (_, None | Some(Contribution::Sum(_))) => None,
        (Some(value), Some(Contribution::Max(highest))) if value >= highest => (value > highest).then_some(SharedFinding::Higher),
        (Some(Value::TextSet(held)), Some(Contribution::Set(members))) if members.is_subset(held) => {
            (members != held).then_some(SharedFinding::Higher)
        }
        (_, Some(_)) => Some(SharedFinding::Lower),
    }
}

fn number(held: &SharedCell) -> Option<&Decimal> {
    held.value.as_ref().and_then(Value::as_number)
}

impl Pass {
    /// Over these rows only, and never saved.
    pub(super) fn only(rows: BTreeSet<RowKey>) -> Self {
        Self { only: Some(rows), ..Self::default() }
    }

    /// Whether its scan is the first one of all passes.
    pub(super) fn is_first_scan(&self) -> bool {
        self.scans == 0 && self.after.is_none()
    }

    /// The pass over the rows after its range; `None` if there are none.
    pub(super) fn following(&self) -> Option<Self> {
        Some(Self { after: Some(self.up_to.clone()?), ..Self::default() })
    }

    /// Takes a row of a scan.
    pub(super) fn take(&mut self, Row { key, home, shared, .. }: &Row) {
        // Its contributions never change without these. The last one names its last re-projection.
        let state = hashed(&(key, home.version, home.revision, &home.rewritten));
        for ((row, attribute), contribution) in &home.contributions {
            if let Some(known) = self.known(row, attribute) {
                known.now.add(contribution, state);
            }
        }
        for (row, attribute) in &home.left {
            if let Some(known) = self.known(row, attribute) {
                known.now.sum.get_or_insert_default();
            }
        }
        for attribute in shared.keys() {
            self.known(key, attribute);
        }
        // Only the first scan adds rows.
        if self.only.is_none() && self.rows.len() > ROWS_MAX {
            let last = self.rows.keys().nth(ROWS_MAX / 2).cloned();
            self.end_at(last);
        }
    }

    /// What is known of an attribute; `None` if it is none of this pass's.
    fn known(&mut self, row: &RowKey, attribute: &str) -> Option<&mut Known> {
        if self.scans > 0 {
            return self.rows.get_mut(row)?.get_mut(attribute);
        }
        let in_range = self.after.as_ref().is_none_or(|after| row > after) && self.up_to.as_ref().is_none_or(|last| row <= last);
        let wanted = in_range && !self.large.contains(row) && self.only.as_ref().is_none_or(|only| only.contains(row));
        wanted.then(|| self.rows.entry(row.clone()).or_default().entry(attribute.to_owned()).or_default())
    }

    /// A scan is complete. Returns what is judged. What is not takes at most `bytes` when saved: if it would be more, the rows at the end
    /// are left to the next pass.
    pub(super) fn scanned(&mut self, bytes: usize) -> Vec<Judged> {
        self.scans += 1;
        let (mut judged, mut size, mut last) = (Vec::new(), 0, None);
        for (row, attributes) in std::mem::take(&mut self.rows) {
            let (mut of_row, mut open) = (Vec::new(), BTreeMap::new());
            for (attribute, mut known) in attributes {
                let done = (self.scans > 1).then(|| known.judge((row.clone(), attribute.clone()))).flatten();
                match done {
                    Some(done) => of_row.push(done),
                    None => _ = open.insert(attribute, known),
                }
            }
            let more = if self.scans > 1 && !open.is_empty() { saved_bytes(&(&row, &open)) } else { 0 };
            if more > bytes / 2 {
                self.large.insert(row.clone());
            } else if size + more > bytes {
                self.end_at(last);
                break;
            } else {
                judged.append(&mut of_row);
                // After the last scan, what was read is still needed.
                let again = |known: Known| if self.scans > COMPARED_MAX { known } else { known.again() };
                let open: BTreeMap<_, _> = open.into_iter().map(|(attribute, known)| (attribute, again(known))).collect();
                if !open.is_empty() {
                    self.rows.insert(row.clone(), open);
                }
            }
            (size, last) = (size + more, Some(row));
        }
        judged
    }

    /// What it needs next, if its scan is complete.
    pub(super) fn next(&self, rows_max: usize) -> Next {
        if self.rows.is_empty() || self.scans > COMPARED_MAX {
            return if self.rows.is_empty() && self.large.is_empty() { Next::Done } else { Next::InOneGo };
        }
        let unread = self.rows.iter().filter(|(_, attributes)| attributes.values().any(|known| known.held.is_none()));
        let unread: BTreeSet<_> = unread.map(|(row, _)| row.clone()).take(rows_max).collect();
        if unread.is_empty() { Next::Scan } else { Next::Rows(unread) }
    }

    /// Takes what these rows are; an absent row is not among `rows`.
    pub(super) fn learn(&mut self, keys: &BTreeSet<RowKey>, rows: &HashMap<RowKey, Row>) {
        for key in keys {
            let (row, Some(attributes)) = (rows.get(key), self.rows.get_mut(key)) else { continue };
            // Its row's own aggregate owns it: contributions of an older revision to it are void.
            attributes.retain(|attribute, _| row.is_none_or(|row| !row.home.owned.contains(attribute)));
            for (attribute, known) in attributes.iter_mut() {
                known.held = Some(row.and_then(|row| row.shared.get(attribute)).cloned().unwrap_or_default());
                known.corrected = row.map(|row| row.corrected.clone()).unwrap_or_default();
            }
            if attributes.is_empty() {
                self.rows.remove(key);
            }
        }
    }

    /// Gives away what is to be compared in one go: attributes, and large rows of which nothing is known.
    pub(super) fn rest(&mut self) -> (BTreeMap<Cell, Known>, BTreeSet<RowKey>) {
        let attributes = std::mem::take(&mut self.rows).into_iter();
        let cells = attributes.flat_map(|(row, attributes)| attributes.into_iter().map(move |(name, known)| ((row.clone(), name), known)));
        (cells.collect(), std::mem::take(&mut self.large))
    }

    /// Judges what is left without having compared it. Of a large row, which attributes it has is not known.
    pub(super) fn give_up(mut self) -> Vec<Judged> {
        let (cells, large) = self.rest();
        let large = large.into_iter().map(|row| ((row, "*".to_owned()), Known::default()));
        cells.into_iter().chain(large).map(|(cell, known)| known.judge_by(cell, None)).collect()
    }

    /// Makes what is known take at most this many bytes when saved. What is left out is left to the next pass, or to a comparison in one
    /// go.
    pub(super) fn shrink(&mut self, bytes: usize) {
        // Later it has been: what is judged must not be judged again.
        if self.scans > 1 {
            return;
        }
        let (mut size, mut last) = (0, None);
        for row in self.rows.keys().chain(&self.large).cloned().collect::<BTreeSet<_>>() {
            let mut more = self.rows.get(&row).map_or(0, |attributes| saved_bytes(&(&row, attributes)));
            if more > bytes / 2 {
                self.rows.remove(&row);
                self.large.insert(row.clone());
            }
            if self.large.contains(&row) {
                more = saved_bytes(&row);
            }
            if size + more > bytes {
                self.end_at(last);
                return;
            }
            (size, last) = (size + more, Some(row));
        }
    }

    /// Leaves the rows after this one to the next pass.
    fn end_at(&mut self, last: Option<RowKey>) {
        if let Some(last) = last {
            self.rows.retain(|row, _| *row <= last);
            self.large.retain(|row| *row <= last);
            self.up_to = Some(last);
        }
    }
}

impl Known {
    /// Judges it after a comparison in one go: by the difference of its sum, or `None` if it never stood still.
    pub(super) fn judge_by(&self, cell: Cell, difference: Option<Difference>) -> Judged {
        let unsettled = difference.is_none().then_some((SharedFinding::Unsettled, Kind::Sum));
        let difference = difference.filter(|difference| !difference.amount.is_zero());
        Judged { cell, is_sum: true, difference, other: self.other().or(unsettled) }
    }
}

/// How many bytes this takes when it is saved.
pub(super) fn saved_bytes(what: &impl Serialize) -> usize {
    serde_json::to_vec(what).map_or(usize::MAX / 2, |json| json.len())
}

/// Another version of the standard library may hash otherwise: then every contributor seems to have moved, once.
fn hashed(what: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    what.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use fastrand::Rng;
    use projection_vocabulary::{HomeRow, Mark, Version};

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

    #[test]
    fn an_attribute_is_a_sum_if_its_mark_says_so_or_if_somebody_contributes_an_amount() {
        let is_sum = |held: Option<SharedCell>, sum: Option<i32>| {
            let now = Given { sum: sum.map(Decimal::from), ..Given::default() };
            Known { now, held, ..Known::default() }.is_sum()
        };
        assert!(is_sum(Some(held(Kind::Sum, 1.into())), None));
        assert!(is_sum(Some(held(Kind::Max, 1.into())), Some(1)));
        assert!(is_sum(None, Some(1)));
        assert!(!is_sum(Some(held(Kind::Max, 1.into())), None) && !is_sum(Some(held(Kind::Sum, "x".into())), None) && !is_sum(None, None));
    }

    /// An attribute whose contributors have moved, so that it cannot be judged.
    fn moved() -> Known {
        let now = Given { sum: Some(1.into()), contributors: 1, ..Given::default() };
        Known { now, held: Some(held(Kind::Sum, 1.into())), ..Known::default() }
    }

    /// One that is judged after the next scan.
    fn right() -> Known {
        Known { before: moved().now, ..moved() }
    }

    /// A pass that has complete scans, and an attribute in each row.
    fn pass(scans: u8, known: &[Known]) -> Pass {
        let rows = known.iter().zip(0..).map(|(known, at)| {
            let (row, attribute) = cell(at, "sum");
            (row, [(attribute, known.clone())].into())
        });
        Pass { scans, rows: rows.collect(), ..Pass::default() }
    }

    /// How many bytes each of its rows takes when it is saved.
    fn bytes_of(pass: &Pass) -> usize {
        pass.rows.first_key_value().map(|row| saved_bytes(&row)).expect("it has rows")
    }

    #[test]
    fn the_first_scan_of_all_is_that_of_the_first_pass() {
        let following = Pass { up_to: Some("m".into()), ..Pass::default() }.following().expect("there are rows after it");
        assert!(Pass::default().is_first_scan());
        assert!(!following.is_first_scan() && !pass(1, &[]).is_first_scan() && !Pass { scans: 1, ..following }.is_first_scan());
    }

    #[test]
    fn a_pass_over_too_many_rows_ends_in_their_middle_unless_they_are_chosen() {
        let key = |at: usize| RowKey::from(format!("{at:06}").as_str());
        let take = |pass: &mut Pass, rows: std::ops::RangeInclusive<usize>| {
            let contributions = rows.map(|at| ((key(at), "sum".to_owned()), sum(1))).collect();
            let home = HomeRow { version: Version(1), contributions, ..HomeRow::default() };
            pass.take(&Row { key: "ann".into(), home, shared: BTreeMap::new(), corrected: "".into() });
        };
        let mut pass = Pass::default();
        take(&mut pass, 1..=ROWS_MAX);
        assert_eq!((pass.rows.len(), &pass.up_to), (ROWS_MAX, &None));
        take(&mut pass, 0..=0);
        assert_eq!((pass.rows.len(), pass.up_to), (ROWS_MAX / 2 + 1, Some(key(ROWS_MAX / 2))));
        let mut chosen = Pass::only((0..=ROWS_MAX).map(key).collect());
        take(&mut chosen, 0..=ROWS_MAX);
        assert_eq!((chosen.rows.len(), chosen.up_to), (ROWS_MAX + 1, None));
    }

    #[test]
    fn the_first_scan_judges_nothing_and_what_is_judged_takes_no_room() {
        let mut first = pass(0, &[moved(), right()]);
        assert_eq!((first.scanned(0).len(), first.rows.len(), first.large.len(), &first.up_to), (0, 2, 0, &None));
        let mut second = pass(1, &[right(), right()]);
        assert_eq!((second.scanned(0).len(), second.rows.len(), second.large.len(), &second.up_to), (2, 0, 0, &None));
    }

    /// What is left of some rows if there is room for so many bytes: how many rows, how many large ones, and where the pass ends.
    fn left(pass: &Pass) -> (usize, usize, Option<RowKey>) {
        (pass.rows.len(), pass.large.len(), pass.up_to.clone())
    }

    #[test]
    fn what_is_saved_after_a_scan_takes_no_more_bytes_than_it_may() {
        let scanned = |rows: usize, bytes: &dyn Fn(usize) -> usize| {
            let mut pass = pass(1, &vec![moved(); rows]);
            let of_row = bytes_of(&pass);
            assert_eq!(pass.scanned(bytes(of_row)).len(), 0);
            left(&pass)
        };
        assert_eq!(scanned(3, &|of_row| 3 * of_row), (3, 0, None));
        assert_eq!(scanned(3, &|of_row| 3 * of_row - 1), (2, 0, Some(cell(1, "").0)));
        // A row that takes more than half of it is large.
        assert_eq!(scanned(1, &|of_row| 2 * of_row), (1, 0, None));
        assert_eq!(scanned(1, &|of_row| 2 * of_row - 1), (0, 1, None));
    }

    #[test]
    fn what_is_saved_before_the_scan_is_complete_takes_no_more_bytes_than_it_may() {
        let shrunk = |rows: usize, bytes: &dyn Fn(usize) -> usize| {
            let mut pass = pass(0, &vec![moved(); rows]);
            pass.shrink(bytes(bytes_of(&pass)));
            left(&pass)
        };
        assert_eq!(shrunk(3, &|of_row| 3 * of_row), (3, 0, None));
        assert_eq!(shrunk(3, &|of_row| 3 * of_row - 1), (2, 0, Some(cell(1, "").0)));
        assert_eq!(shrunk(1, &|of_row| 2 * of_row), (1, 0, None));
        assert_eq!(shrunk(1, &|of_row| 2 * of_row - 1), (0, 1, None));
    }

    #[test]
    fn after_the_last_scan_what_was_read_is_compared_in_one_go() {
        let scanned = |complete: u8| {
            let mut pass = pass(complete - 1, &[moved()]);
            assert_eq!(pass.scanned(9_000).len(), 0);
            let is_known = pass.rows[&cell(0, "").0]["sum"].held.is_some();
            (is_known, matches!(pass.next(9), Next::Rows(_)), matches!(pass.next(9), Next::InOneGo))
        };
        assert_eq!(scanned(COMPARED_MAX), (false, true, false), "it is read once more");
        assert_eq!(scanned(COMPARED_MAX + 1), (true, false, true));
    }

    /// A read model: what home rows contribute, and what shared rows hold.
    #[derive(Clone, Default)]
    struct Model {
        given: BTreeMap<String, (u64, BTreeMap<Cell, Contribution>)>,
        held: BTreeMap<Cell, SharedCell>,
    }

    fn cell(at: usize, attribute: &str) -> Cell {
        (format!("row-{at:03}").into(), attribute.to_owned())
    }

    fn held(kind: Kind, value: Value) -> SharedCell {
        SharedCell { value: Some(value), mark: Some(Mark { kind, revision: 1 }), unsettled: "".into() }
    }

    impl Model {
        /// Gives something to an attribute, which shows it.
        fn give(&mut self, who: &str, cell: &Cell, contribution: &Contribution) {
            let (version, given) = self.given.entry(who.to_owned()).or_default();
            *version += 1;
            let kind = contribution.kind();
            match given.get_mut(cell) {
                Some(before) => before.combine(contribution).expect("one kind"),
                None => _ = given.insert(cell.clone(), contribution.clone()),
            }
            let shown = match self.held.get(cell).and_then(|held| held.value.clone()) {
                None => contribution.value(),
                Some(before) => {
                    let mut shown = match before {
                        Value::Number(sum) if kind == Kind::Sum => Contribution::Sum(sum),
                        Value::TextSet(members) => Contribution::Set(members),
                        highest => Contribution::Max(highest),
                    };
                    shown.combine(contribution).expect("one kind");
                    shown.value()
                }
            };
            self.held.insert(cell.clone(), held(kind, shown));
        }

        fn rows(&self) -> Vec<Row> {
            let homes = self.given.iter().map(|(who, (version, given))| {
                let home = HomeRow { version: Version(*version), contributions: given.clone(), ..HomeRow::default() };
                Row { key: who.into(), home, shared: BTreeMap::new(), corrected: "".into() }
            });
            let mut shared = BTreeMap::<RowKey, BTreeMap<String, SharedCell>>::new();
            for ((row, attribute), held) in &self.held {
                shared.entry(row.clone()).or_default().insert(attribute.clone(), held.clone());
            }
            let shared = shared.into_iter().map(|(key, shared)| Row { key, home: HomeRow::default(), shared, corrected: "".into() });
            homes.chain(shared).collect()
        }

        fn difference(&self, cell: &Cell) -> Difference {
            let mut amount = self.held.get(cell).and_then(number).cloned().unwrap_or_default();
            for (_, given) in self.given.values() {
                if let Some(Contribution::Sum(given)) = given.get(cell) {
                    amount -= given;
                }
            }
            Difference { amount, corrected: "".into() }
        }
    }

    /// Which part of a pass it is.
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Step {
        Survey,
        Read,
        Compare,
    }

    /// What a verification has found.
    #[derive(Debug, Default)]
    struct Verified {
        sums: u64,
        findings: Vec<(String, String)>,
        passes: u32,
        in_one_go: BTreeSet<String>,
    }

    impl Verified {
        fn add(&mut self, judged: Vec<Judged>) {
            for Judged { cell: (row, attribute), is_sum, difference, other } in judged {
                self.sums += u64::from(is_sum);
                let finding = difference.map(|_| "sum").or(other.as_ref().map(|(finding, _)| finding.text()));
                self.findings.extend(finding.map(|finding| (format!("{row}/{attribute}"), finding.to_owned())));
            }
            self.findings.sort();
        }
    }

    /// Verifies step by step, and saves after each. `meanwhile` gets the model after each row of a scan and after each read.
    fn verify(model: &mut Model, mut meanwhile: impl FnMut(&mut Model, Step), mut cut: impl FnMut(&mut Pass), bytes: usize) -> Verified {
        let (mut pass, mut verified, mut scan) = (Pass::default(), Verified { passes: 1, ..Verified::default() }, true);
        for steps in 0.. {
            assert!(steps < 10_000, "it ends");
            if scan {
                let step = if pass.scans == 0 { Step::Survey } else { Step::Compare };
                for at in 0..model.rows().len() {
                    if let Some(row) = model.rows().get(at) {
                        pass.take(row);
                    }
                    meanwhile(model, step);
                    cut(&mut pass);
                }
                verified.add(pass.scanned(bytes));
                scan = false;
            }
            match pass.next(2) {
                Next::Scan => scan = true,
                Next::Rows(keys) => {
                    let rows = model.rows().into_iter().filter(|row| keys.contains(&row.key)).map(|row| (row.key.clone(), row));
                    pass.learn(&keys, &rows.collect());
                    meanwhile(model, Step::Read);
                }
                Next::InOneGo => {
                    // Nothing moves meanwhile.
                    let (cells, large) = pass.rest();
                    let names = cells.keys().map(|(row, attribute)| format!("{row}/{attribute}"));
                    verified.in_one_go.extend(names.chain(large.iter().map(ToString::to_string)));
                    for (cell, known) in cells {
                        let difference = model.difference(&cell);
                        verified.add(vec![known.judge_by(cell, Some(difference))]);
                    }
                    let mut alone = Pass::only(large);
                    model.rows().iter().for_each(|row| alone.take(row));
                    verified.add(alone.scanned(usize::MAX));
                    while let Next::Rows(keys) = alone.next(9) {
                        alone.learn(&keys, &model.rows().into_iter().map(|row| (row.key.clone(), row)).collect());
                    }
                    model.rows().iter().for_each(|row| alone.take(row));
                    verified.add(alone.scanned(usize::MAX));
                    for (cell, known) in alone.rest().0 {
                        let difference = model.difference(&cell);
                        verified.add(vec![known.judge_by(cell, Some(difference))]);
                    }
                }
                Next::Done => {
                    let Some(following) = pass.following() else { return verified };
                    (pass, scan) = (following, true);
                    verified.passes += 1;
                }
            }
            cut(&mut pass);
            pass = serde_json::from_str(&serde_json::to_string(&pass).expect("JSON")).expect("the same");
        }
        unreachable!("it returns")
    }

    fn sum(amount: i64) -> Contribution {
        Contribution::Sum(amount.into())
    }

    /// A random model in which some attributes are wrong, and which.
    fn random(random: &mut Rng) -> (Model, u64, Vec<(String, String)>) {
        let (mut model, cells) = (Model::default(), random.usize(1..12));
        for _ in 0..random.usize(1..60) {
            let (who, at) = (format!("who-{}", random.u8(..15)), random.usize(..cells));
            match random.u8(..3) {
                0 => model.give(&who, &cell(at, "sum"), &sum(random.i64(-3..9))),
                1 => model.give(&who, &cell(at, "max"), &Contribution::Max(random.i64(..99).into())),
                _ => model.give(&who, &cell(at, "set"), &Contribution::Set([format!("m-{}", random.u8(..9)).as_str().into()].into())),
            }
        }
        let sums = model.held.keys().filter(|(_, attribute)| attribute == "sum").count() as u64;
        let mut wrong = Vec::new();
        for ((row, attribute), held) in &mut model.held {
            if random.u8(..4) > 0 {
                continue;
            }
            let more = random.bool();
            let (value, finding) = match (held.value.take().expect("a value"), attribute.as_str()) {
                (Value::Number(mut sum), "sum") => {
                    sum += &Decimal::from(if more { 1_i64 } else { -1 });
                    (Some(Value::Number(sum)), "sum")
                }
                (_, "max") => (more.then(|| 1_000_i64.into()), if more { "higher" } else { "lower" }),
                (Value::TextSet(mut members), _) => {
                    members.insert("nobody".into());
                    (more.then_some(Value::TextSet(members)), if more { "higher" } else { "lower" })
                }
                (value, _) => unreachable!("{value:?}"),
            };
            held.value = value;
            wrong.push((format!("{row}/{attribute}"), finding.to_owned()));
        }
        (model, sums, wrong)
    }

    #[test]
    fn each_wrong_attribute_is_found_once_wherever_a_pass_is_cut() {
        let mut rng = Rng::with_seed(1);
        let (mut passes, mut in_one_go) = (0, 0);
        for round in 0..200 {
            let (mut model, sums, wrong) = random(&mut rng);
            let mut cuts = rng.fork();
            let (bytes, first) = (cuts.usize(500..4_000), cuts.u8(..3));
            let verified = verify(
                &mut model,
                |_, _| {},
                |pass| {
                    if pass.scans >= first && cuts.u8(..8) == 0 {
                        pass.shrink(bytes / 2);
                    }
                },
                bytes,
            );
            assert_eq!((verified.findings, verified.sums), (wrong, sums), "{round}");
            passes += verified.passes;
            in_one_go += verified.in_one_go.len();
        }
        assert!(passes > 300 && in_one_go > 10, "they are cut: {passes}, and some are large: {in_one_go}");
    }

    #[test]
    fn attributes_that_move_are_not_reported_and_a_wrong_one_among_them_is() {
        let mut rng = Rng::with_seed(2);
        let mut in_one_go = 0;
        for _ in 0..100 {
            let mut model = Model::default();
            for at in 0..6 {
                (0..4).for_each(|who| model.give(&format!("who-{who}"), &cell(at, "sum"), &sum(5)));
            }
            model.held.insert(cell(3, "sum"), held(Kind::Sum, 21.into()));
            let mut moves = rng.fork();
            let rate = moves.u8(1..20);
            let one_moves = |model: &mut Model, _| {
                if moves.u8(..20) < rate {
                    let (who, at) = (format!("who-{}", moves.u8(..4)), moves.usize(..6));
                    model.give(&who, &cell(at, "sum"), &sum(moves.i64(-2..3)));
                }
            };
            let verified = verify(&mut model, one_moves, |_| {}, 9_000);
            assert_eq!(verified.findings, [("row-003/sum".to_owned(), "sum".to_owned())]);
            in_one_go += verified.in_one_go.len();
        }
        assert!(in_one_go > 0, "some never stood still");
    }

    #[test]
    fn a_contribution_that_is_read_late_hides_no_difference() {
        let mut model = Model::default();
        model.give("a", &cell(0, "sum"), &sum(5));
        model.give("b", &cell(0, "sum"), &sum(5));
        // It is too high by 1, and before the scan has read what b contributes, b contributes 1 less.
        model.held.insert(cell(0, "sum"), held(Kind::Sum, 11.into()));
        let mut once = false;
        let late = |model: &mut Model, step| {
            if step == Step::Survey && !std::mem::replace(&mut once, true) {
                model.give("b", &cell(0, "sum"), &sum(1));
            }
        };
        assert_eq!(verify(&mut model, late, |_| {}, 9_000).findings, [("row-000/sum".to_owned(), "sum".to_owned())]);
    }

    #[test]
    fn a_difference_that_shows_once_is_none() {
        let mut model = Model::default();
        model.give("a", &cell(0, "sum"), &sum(1));
        let mut reads = 0;
        let seen_once = |model: &mut Model, step| match step {
            // As if another contributor had come before the read and gone after it.
            Step::Survey => _ = model.held.insert(cell(0, "sum"), held(Kind::Sum, 9.into())),
            Step::Read => reads += 1,
            Step::Compare => _ = model.held.insert(cell(0, "sum"), held(Kind::Sum, 1.into())),
        };
        assert_eq!(verify(&mut model, seen_once, |_| {}, 9_000).findings, []);
        assert!(reads >= 2);
    }

    #[test]
    fn what_is_contributed_after_the_read_is_not_missing_and_what_came_before_it_is() {
        for (held_before, expected) in [(4, Some("lower")), (5, None), (7, Some("higher"))] {
            let mut model = Model::default();
            model.give("a", &cell(0, "max"), &Contribution::Max(5.into()));
            model.held.insert(cell(0, "max"), held(Kind::Max, held_before.into()));
            let mut given = false;
            let raise = |model: &mut Model, step| {
                if step == Step::Read && !given {
                    given = true;
                    model.give("a", &cell(0, "max"), &Contribution::Max(6.into()));
                }
            };
            let verified = verify(&mut model, raise, |_| {}, 9_000);
            assert_eq!(verified.findings.first().map(|(_, finding)| finding.as_str()), expected, "{held_before}");
        }
    }

    #[test]
    fn a_set_too_large_to_be_saved_is_compared_in_one_go() {
        let mut model = Model::default();
        let members: BTreeSet<Arc<str>> = (0..200).map(|at| format!("member-{at}").into()).collect();
        model.give("a", &cell(0, "set"), &Contribution::Set(members));
        model.give("a", &cell(1, "sum"), &sum(1));
        model.held.insert(cell(1, "sum"), held(Kind::Sum, 2.into()));
        let verified = verify(&mut model, |_, _| {}, |pass| pass.shrink(2_000), 2_000);
        assert_eq!(verified.in_one_go, ["row-000".to_owned()].into());
        assert_eq!(verified.findings, [("row-001/sum".to_owned(), "sum".to_owned())]);
    }

    #[test]
    fn values_of_every_type_are_saved_as_they_are() {
        let members: BTreeSet<Arc<str>> = ["a".into(), "b".into()].into();
        for value in [Value::Number("0.10".parse().expect("a number")), "x".into(), Value::Bytes(vec![0, 255]), Value::TextSet(members)] {
            let given = Given { max: Some(value.clone()), ..Given::default() };
            let known = Known { now: given, held: Some(held(Kind::Max, value)), ..Known::default() };
            let saved = serde_json::to_string(&known).expect("JSON");
            assert_eq!(serde_json::from_str::<Known>(&saved).expect("the same"), known);
        }
    }
}
