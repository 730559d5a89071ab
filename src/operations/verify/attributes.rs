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
        if self.only.is_none() && self.scans == 0 && self.rows.len() > ROWS_MAX {
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
