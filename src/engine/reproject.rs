//! Re-projecting an aggregate: because its rule has changed, or because its row stands on another history than the event store's.
//! Pure, except for reading a history.

use std::collections::BTreeSet;

use projection_vocabulary::{AggregateId, Change, ChildOp, Children, DynProjection, HomeRow, RowKey, Rows, Version};

use crate::{
    engine::content::{Blocked, Content, content, payload_of},
    retry::Deadline,
    store::{
        Store, StoreError,
        events::{PAGE_EVENTS, Stored},
        fresh_id,
        home::{CLAUSES_MAX, ChildWrites},
        limits::{TRANSACTION_ACTIONS_MAX, TRANSACTION_BYTES_MAX},
    },
};

/// Which of the two to trust where a row and the event store disagree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// The row, as long as its last event is the event store's. A row that is ahead of the event store is left alone: nothing takes
    /// a row back by itself.
    Row,
    /// The event store alone: the row is re-projected even if that takes it back. For use after a restore.
    Store,
}

/// The fold of an aggregate's history from its first event on, with the current rule, event by event: however long the history is, this
/// holds one row and its child rows.
pub struct HistoryFold {
    rule: &'static dyn DynProjection,
    aggregate: AggregateId,
    rows: Rows,
    /// The next version.
    pub due: Version,
    /// Why it cannot continue, if it cannot.
    pub stop: Option<FoldStop>,
}

/// Why a fold ends before its history does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FoldStop {
    /// The event store lacks the version and has a later one.
    Hole,
    /// The event cannot be read, or the rule refuses it.
    Poison {
        /// Why, without event data.
        reason: String,
        /// The event as JSON.
        payload: String,
    },
}

impl HistoryFold {
    /// The fold of no events.
    #[must_use]
    pub fn new(rule: &'static dyn DynProjection, aggregate: AggregateId) -> Self {
        Self { rule, aggregate, rows: Rows::default(), due: Version::NONE.next(), stop: None }
    }

    /// Adds the next item of the event store, unless the fold has stopped, and returns what it changes.
    pub fn push(&mut self, stored: Stored) -> Change {
        if self.stop.is_some() {
            return Change::default();
        }
        match if stored.version() == self.due { self.fold(stored) } else { Err(FoldStop::Hole) } {
            Ok(change) => {
                self.due = self.due.next();
                change
            }
            Err(stop) => {
                self.stop = Some(stop);
                Change::default()
            }
        }
    }

    fn fold(&mut self, stored: Stored) -> Result<Change, FoldStop> {
        match content(self.rule, stored) {
            Content::Irrelevant => Ok(Change::default()),
            Content::Poison { reason, payload } => Err(FoldStop::Poison { reason, payload }),
            Content::Event(event) => {
                let folded = self.rows.fold(self.rule, &event);
                folded.map_err(|unfolded| FoldStop::Poison { reason: unfolded.to_string(), payload: payload_of(&event) })
            }
        }
    }

    /// The resulting home row; one without a version if no event concerned the projection.
    #[must_use]
    pub fn row(&self) -> HomeRow {
        self.rows.home.get(&self.aggregate).cloned().unwrap_or_default()
    }

    /// The resulting child rows.
    #[must_use]
    pub fn children(&self) -> &Children {
        const NONE: &Children = &Children::new();
        self.rows.children.get(&self.aggregate).unwrap_or(NONE)
    }

    /// The row that replaces `stale`.
    ///
    /// # Errors
    /// Why the aggregate must be parked instead.
    pub fn in_place_of(&self, stale: &HomeRow, trust: Trust) -> Result<HomeRow, Blocked> {
        // What lies beyond the row is for the lane to find; what lies before it keeps the row unchanged.
        if self.due <= stale.version && (self.stop.is_some() || trust == Trust::Row) {
            let (reason, payload) = match &self.stop {
                Some(FoldStop::Poison { reason, payload }) => (reason.as_str(), Some(payload.clone())),
                Some(FoldStop::Hole) => (HOLE_REASON, None),
                None => (AHEAD_REASON, None),
            };
            return Err(Blocked { version: self.due, reason: format!("re-projection stopped: {reason}"), payload });
        }
        Ok(self.row())
    }
}

/// What must be written to an aggregate's child rows to make them those of a fold: only what differs, and what the fold does not have
/// is removed. Costs no request if the rule has no child rows.
///
/// Read the home row first. Every write of a child row changes its home row in the same transaction, so as long as the home row is the one
/// that was read, these are the writes.
///
/// # Errors
/// [`StoreError`].
pub async fn differing_children(
    store: &Store,
    rule: &dyn DynProjection,
    aggregate: &AggregateId,
    fresh: &Children,
    deadline: Deadline,
) -> Result<ChildWrites, StoreError> {
    let (mut writes, mut same) = (ChildWrites::new(), BTreeSet::new());
    let compare = |sort, present| match fresh.get(&sort) {
        Some(row) if *row == present => _ = same.insert(sort),
        Some(_) => {}
        None => _ = writes.insert(sort, ChildOp::Remove),
    };
    store.each_child(rule, &aggregate.into(), deadline, compare).await?;
    let differing = fresh.iter().filter(|(sort, _)| !same.contains(*sort));
    writes.extend(differing.map(|(sort, row)| (sort.clone(), ChildOp::Replace(row.clone()))));
    Ok(writes)
}

/// The most rows that one step of a re-projection changes: what a transaction holds besides the home row.
pub const STEP_ROWS_MAX: usize = TRANSACTION_ACTIONS_MAX - 1;

/// A step from a row to the one that replaces it.
pub struct NextStep {
    /// The home row after it.
    pub row: HomeRow,
    /// What it writes to child rows.
    pub children: ChildWrites,
}

/// The next step from a row to the one that replaces it, with what must be written to child rows: the whole way, if one transaction can go
/// it and changes at most `rows_max` rows besides the home row.
///
/// Otherwise the row gets the contributions to some shared rows, some child rows are written, the row gives up attributes that it will not
/// own, keeps everything else, and is unfinished. Such a row takes no write but a re-projection, which anybody can continue from what the
/// rows hold.
#[must_use]
pub fn next_step(stale: &HomeRow, fresh: &HomeRow, children: &ChildWrites, revision: u32, rows_max: usize) -> NextStep {
    let differing = |row: &HomeRow, other: &HomeRow| -> Vec<_> {
        let contributes = row.contributions.iter().filter(|(cell, value)| other.contributions.get(*cell) != Some(*value));
        contributes.map(|(cell, _)| cell.clone()).chain(row.left.difference(&other.left).cloned()).collect()
    };
    let mut cells: Vec<_> = differing(stale, fresh).into_iter().chain(differing(fresh, stale)).collect();
    cells.sort();
    cells.dedup();
    let mut rows: BTreeSet<&RowKey> = BTreeSet::new();
    let first = cells.iter().take(CLAUSES_MAX).take_while(|(row, _)| {
        let fits = rows.contains(row) || rows.len() < rows_max;
        if fits {
            rows.insert(row);
        }
        fits
    });
    let first: BTreeSet<_> = first.collect();
    let mut bytes = 0;
    let written = children.iter().take(rows_max - rows.len()).take_while(|(_, op)| {
        bytes += op.bytes();
        // One alone always goes, so that there is no step that changes nothing.
        bytes <= TRANSACTION_BYTES_MAX || bytes == op.bytes()
    });
    let written: ChildWrites = written.map(|(sort, op)| (sort.clone(), op.clone())).collect();
    if first.len() == cells.len() && written.len() == children.len() {
        let row =
            HomeRow { shared: stale.shared.clone(), parked_at: None, unfinished: None, rewritten: fresh_id().into(), ..fresh.clone() };
        return NextStep { row, children: written };
    }
    let mut step = give_up(stale, fresh, revision);
    for cell in first {
        step.contributions.remove(cell);
        step.left.remove(cell);
        step.contributions.extend(fresh.contributions.get_key_value(cell).map(|(cell, value)| (cell.clone(), value.clone())));
        step.left.extend(fresh.left.get(cell).cloned());
    }
    NextStep { row: step, children: written }
}

/// The step in which a row gives up the attributes that the one that replaces it will not own. It depends on no other row.
#[must_use]
pub fn give_up(stale: &HomeRow, fresh: &HomeRow, revision: u32) -> HomeRow {
    let mut step = HomeRow { revision: 0, unfinished: Some(revision), parked_at: None, rewritten: fresh_id().into(), ..stale.clone() };
    step.owned.retain(|name| fresh.owned.contains(name));
    step.own.retain(|name, _| fresh.owned.contains(name));
    step
}

impl FoldStop {
    /// Whether the event exists and cannot be folded, rather than being missing.
    #[must_use]
    pub fn is_poison(&self) -> bool {
        matches!(self, Self::Poison { .. })
    }
}

/// DynamoDB or a limit of it refuses the write that replaces a row at this version.
#[must_use]
pub fn replacement_refused(version: Version, reason: &str) -> Blocked {
    Blocked { version, reason: format!("re-projection is refused: {reason}"), payload: None }
}

/// Why an aggregate whose history has a hole is parked.
pub const HOLE_REASON: &str = "the event store does not have this version, although it has a later one";

/// Why a row that is ahead of the event store is left alone.
pub const AHEAD_REASON: &str = "the event store ends before the row does; was the event store restored?";

/// Up to which version a fold replaces a row: of a process no further than the row is, because what follows has not been acted on.
#[must_use]
pub fn replaced_up_to(rule: &'static dyn DynProjection, row: &HomeRow) -> Version {
    if rule.process().is_some() { row.version } else { Version(u64::MAX) }
}

/// Folds the event store's history of an aggregate up to a version, page by page.
///
/// # Errors
/// [`StoreError`].
pub async fn fold_history(
    store: &Store,
    rule: &'static dyn DynProjection,
    aggregate: &AggregateId,
    up_to: Version,
    deadline: Deadline,
) -> Result<HistoryFold, StoreError> {
    let mut folded = HistoryFold::new(rule, aggregate.clone());
    while folded.due <= up_to {
        deadline.check()?;
        let page = store.load_page(aggregate, folded.due..=up_to, PAGE_EVENTS, deadline).await?;
        let full = page.len() == PAGE_EVENTS;
        for stored in page {
            folded.push(stored);
        }
        if !full || folded.stop.is_some() {
            break;
        }
    }
    Ok(folded)
}

#[cfg(test)]
mod tests {
    use projection_vocabulary::{
        Cell, Change, Contribution, Contributions, Decimal, Projection, Recorded, RecordedEvent, Refusal, Value, Watermark, nothing, own,
        retract,
        sample::{Fact, record},
        shared, transfer,
    };
    use serde::Deserialize;

    use super::*;
    use crate::store::item::Malformed;

    /// Nights by guest and by room. Its revision is 2.
    struct Guests;

    #[derive(Deserialize)]
    enum Event {
        Stayed {
            room: String,
            nights: Decimal,
        },
        Moved {
            from: String,
            to: String,
        },
        Left {},
        /// Adds to two attributes of this number of shared rows.
        Toured {
            rooms: u32,
        },
        /// The rule refuses it.
        Refused {},
    }

    impl Projection for Guests {
        type Event = Event;
        const NAME: &str = "guests";
        const KEY: &str = "id";
        const REVISION: u32 = 2;

        fn project(&self, event: &Recorded<'_, Event>) -> Result<Change, Refusal> {
            Ok(match &event.event {
                Event::Stayed { room, nights } => {
                    own().add("nights", nights).and(shared(room).add("nights", nights).max("longest", nights).insert("guests", "ann"))
                }
                Event::Moved { from, to } => transfer(from, to),
                Event::Left {} => retract(),
                Event::Toured { rooms } => (0..*rooms)
                    .fold(nothing(), |all, room| all.and(shared(format!("room-{room}").as_str()).add("nights", 1).add("tours", 1))),
                Event::Refused {} => return Err(Refusal::Rule("refused by the rule")),
            })
        }
    }

    /// An event's type and data.
    type Happened = (&'static str, Value);

    fn stayed(room: &str, nights: i32) -> Happened {
        ("Stayed", data([("room", room.into()), ("nights", nights.into())]))
    }

    fn moved(from: &str, to: &str) -> Happened {
        ("Moved", data([("from", from.into()), ("to", to.into())]))
    }

    fn left() -> Happened {
        ("Left", data([]))
    }

    fn toured(rooms: u64) -> Happened {
        ("Toured", data([("rooms", rooms.into())]))
    }

    fn refused() -> Happened {
        ("Refused", data([]))
    }

    /// An event of a type that the projection does not handle.
    fn rang() -> Happened {
        ("Rang", data([]))
    }

    fn data<const N: usize>(fields: [(&str, Value); N]) -> Value {
        Value::Map(fields.map(|(name, value)| (name.to_owned(), value)).into())
    }

    fn history<const N: usize>(happened: [Happened; N]) -> [RecordedEvent; N] {
        let facts = happened.map(|(event_type, data)| Fact { aggregate: "ann".into(), event_type, data });
        let events: Vec<_> = record(facts).collect();
        events.try_into().expect("each fact is recorded")
    }

    fn fold_of(stored: impl IntoIterator<Item = Stored>) -> HistoryFold {
        let mut fold = HistoryFold::new(&Guests, "ann".into());
        for stored in stored {
            fold.push(stored);
        }
        fold
    }

    fn fold<const N: usize>(happened: [Happened; N]) -> HistoryFold {
        fold_of(history(happened).map(Stored::Event))
    }

    fn malformed(version: u64, event_type: Option<&str>) -> Stored {
        let (version, event_type) = (Version(version), event_type.map(str::to_owned));
        Stored::Malformed { version, event_type, reason: Malformed::Timestamp, payload: "as stored".into() }
    }

    /// Three stays, of which the third is missing, or cannot be folded.
    fn fold_that_stops(at_three: &FoldStop) -> HistoryFold {
        let [one, two, _, four] = history([stayed("a", 1), stayed("a", 2), stayed("a", 4), stayed("a", 8)]).map(Stored::Event);
        match at_three {
            FoldStop::Hole => fold_of([one, two, four]),
            FoldStop::Poison { .. } => fold_of([one, two, malformed(3, Some("Stayed")), four]),
        }
    }

    fn poison() -> FoldStop {
        FoldStop::Poison { reason: Malformed::Timestamp.to_string(), payload: "as stored".into() }
    }

    fn watermark(version: u64, revision: u32) -> Watermark {
        Watermark { version: Version(version), revision }
    }

    /// A row of the rule's first revision.
    fn older_row(version: u64) -> HomeRow {
        HomeRow { version: Version(version), revision: 1, last_event_id: Some(format!("ann-{version}").into()), ..HomeRow::default() }
    }

    fn cell(row: &str) -> Cell {
        (row.into(), "nights".into())
    }

    fn nights<const N: usize>(amounts: [(&str, i32); N]) -> Contributions {
        amounts.map(|(row, amount)| (cell(row), Contribution::Sum(amount.into()))).into()
    }

    /// The sums among contributions.
    fn sums(row: &HomeRow) -> Contributions {
        let sums = row.contributions.iter().filter(|(_, contribution)| matches!(contribution, Contribution::Sum(_)));
        sums.map(|(cell, contribution)| (cell.clone(), contribution.clone())).collect()
    }

    fn replacement(fold: &HistoryFold, stale: &HomeRow, trust: Trust) -> HomeRow {
        fold.in_place_of(stale, trust).unwrap_or_else(|blocked| panic!("{blocked:?}"))
    }

    fn blocked(fold: &HistoryFold, stale: &HomeRow, trust: Trust) -> Blocked {
        match fold.in_place_of(stale, trust) {
            Err(blocked) => blocked,
            Ok(_) => panic!("the aggregate is parked"),
        }
    }

    // Folding a history.

    #[test]
    fn a_fold_is_the_merged_change_and_the_row_of_all_events() {
        let fold = fold([stayed("a", 1), rang(), stayed("a", 2), moved("a", "b")]);
        assert_eq!((fold.due, fold.stop.clone()), (Version(5), None));
        let row = fold.row();
        assert_eq!((row.watermark(), row.last_event_id.as_deref()), (watermark(4, 2), Some("ann-4")));
        assert_eq!((&row.own, sums(&row), &row.left), (&[("nights".to_owned(), 3.into())].into(), nights([("b", 3)]), &[cell("a")].into()));
    }

    #[test]
    fn the_watermark_of_a_fold_is_its_last_relevant_event() {
        let some = fold([rang(), stayed("a", 1), rang(), rang()]);
        assert_eq!((some.due, some.row().version), (Version(5), Version(2)));
        let none = fold([rang(), rang()]);
        assert_eq!((none.due, none.row()), (Version(3), HomeRow::default()));
    }

    #[test]
    fn a_fold_stops_at_a_hole_and_takes_nothing_after_it() {
        let fold = fold_that_stops(&FoldStop::Hole);
        assert_eq!((fold.due, fold.stop.clone(), fold.row().version), (Version(3), Some(FoldStop::Hole), Version(2)));
        assert!(!FoldStop::Hole.is_poison());
        let [_, two] = history([stayed("a", 1), stayed("a", 2)]).map(Stored::Event);
        let without_first = fold_of([two]);
        assert_eq!((without_first.due, without_first.stop), (Version(1), Some(FoldStop::Hole)));
    }

    #[test]
    fn a_fold_stops_at_an_event_that_cannot_be_read_and_takes_nothing_after_it() {
        let fold = fold_that_stops(&poison());
        assert_eq!((fold.due, fold.stop.clone(), fold.row().version), (Version(3), Some(poison()), Version(2)));
        assert!(poison().is_poison());
    }

    #[test]
    fn a_fold_stops_at_an_event_that_the_rule_refuses_and_keeps_it() {
        let events = history([stayed("a", 1), refused(), stayed("a", 2)]);
        let fold = fold_of(events.map(Stored::Event));
        let Some(FoldStop::Poison { reason, payload }) = &fold.stop else { panic!("it stops at the event") };
        assert_eq!((fold.due, reason.as_str()), (Version(2), "refused by the rule"));
        assert!(payload.contains(r#""ann-2""#), "{payload}");
        assert_eq!(fold.row().version, Version(1));
    }

    #[test]
    fn an_unreadable_event_of_a_type_that_does_not_concern_the_projection_is_irrelevant() {
        let fold = fold_of([malformed(1, Some("Rang")), malformed(2, None)]);
        assert_eq!((fold.due, fold.stop), (Version(2), Some(poison())), "one of an unknown type may concern it");
    }

    // Replacing a row.

    #[test]
    fn a_row_of_an_older_revision_is_replaced_by_the_fold() {
        let fold = fold([stayed("a", 1), rang(), stayed("a", 2)]);
        for version in 1..=3 {
            let row = replacement(&fold, &older_row(version), Trust::Row);
            assert_eq!((row.watermark(), row.last_event_id.as_deref()), (watermark(3, 2), Some("ann-3")));
        }
    }

    #[test]
    fn a_row_that_no_event_concerns_any_more_is_replaced_by_none() {
        assert_eq!(replacement(&fold([rang(), rang()]), &older_row(2), Trust::Row), HomeRow::default());
    }

    #[test]
    fn a_hole_parks_unless_it_lies_beyond_the_row() {
        let fold = fold_that_stops(&FoldStop::Hole);
        for trust in [Trust::Row, Trust::Store] {
            for version in [3, 4] {
                let reason = format!("re-projection stopped: {HOLE_REASON}");
                assert_eq!(blocked(&fold, &older_row(version), trust), Blocked { version: Version(3), reason, payload: None });
            }
            assert_eq!(replacement(&fold, &older_row(2), trust).watermark(), watermark(2, 2), "what follows is for the lane");
        }
    }

    #[test]
    fn an_event_that_cannot_be_folded_parks_unless_it_lies_beyond_the_row() {
        let fold = fold_that_stops(&poison());
        for trust in [Trust::Row, Trust::Store] {
            for version in [3, 4] {
                let reason = format!("re-projection stopped: {}", Malformed::Timestamp);
                let payload = Some("as stored".to_owned());
                assert_eq!(blocked(&fold, &older_row(version), trust), Blocked { version: Version(3), reason, payload });
            }
            assert_eq!(replacement(&fold, &older_row(2), trust).watermark(), watermark(2, 2));
        }
    }

    #[test]
    fn a_row_that_is_ahead_of_the_event_store_is_replaced_only_if_the_store_is_trusted() {
        let fold = fold([stayed("a", 1), stayed("a", 2)]);
        let reason = format!("re-projection stopped: {AHEAD_REASON}");
        assert_eq!(blocked(&fold, &older_row(3), Trust::Row), Blocked { version: Version(3), reason, payload: None });
        assert_eq!(replacement(&fold, &older_row(3), Trust::Store).watermark(), watermark(2, 2));
        assert!(fold.in_place_of(&older_row(2), Trust::Row).is_ok(), "it is not ahead");
    }

    // Steps.

    /// The steps from a row to the one that replaces it.
    fn steps(stale: &HomeRow, fresh: &HomeRow) -> Vec<HomeRow> {
        let next = |row: &HomeRow| next_step(row, fresh, &ChildWrites::new(), 2, STEP_ROWS_MAX).row;
        let mut steps = vec![next(stale)];
        while let Some(last) = steps.last().filter(|step| step.unfinished.is_some()) {
            steps.push(next(last));
        }
        steps
    }

    #[test]
    fn a_replacement_is_one_step_if_a_transaction_holds_it() {
        let stale = HomeRow { contributions: nights([("a", 1), ("lost", 1)]), ..older_row(1) };
        let fresh = replacement(&fold([stayed("a", 3)]), &stale, Trust::Row);
        let [step] = &*steps(&stale, &fresh) else { panic!("one step") };
        assert!(!step.rewritten.is_empty(), "each step has an id of its own");
        assert_eq!(*step, HomeRow { rewritten: step.rewritten.clone(), ..fresh });
    }

    #[test]
    fn rows_that_keep_their_contribution_take_no_step() {
        let fresh = replacement(&fold([toured(450)]), &older_row(1), Trust::Row);
        let stale = HomeRow { contributions: fresh.contributions.clone(), ..older_row(1) };
        assert_eq!(steps(&stale, &fresh).len(), 1);
    }

    #[test]
    fn a_wide_replacement_takes_several_steps_and_keeps_version_and_attributes_until_the_last() {
        let stale = HomeRow {
            contributions: (0..120).map(|at| (cell(&format!("lost-{at}")), Contribution::Sum(1.into()))).collect(),
            own: [("nights".to_owned(), 120.into()), ("gone".to_owned(), 1.into())].into(),
            owned: ["nights".to_owned(), "gone".to_owned()].into(),
            ..older_row(1)
        };
        let fresh = replacement(&fold([stayed("same", 1), toured(90)]), &stale, Trust::Row);
        let steps = steps(&stale, &fresh);
        let differing = |one: &HomeRow, other: &HomeRow| {
            let rows = |row: &HomeRow, other: &HomeRow| -> BTreeSet<RowKey> {
                let contributions = row.contributions.iter().filter(|(cell, value)| other.contributions.get(*cell) != Some(*value));
                contributions.map(|(cell, _)| cell.0.clone()).collect()
            };
            rows(one, other).union(&rows(other, one)).count()
        };
        let mut before = &stale;
        for step in &steps {
            assert!(differing(before, step) <= STEP_ROWS_MAX);
            before = step;
        }
        assert!(steps.len() >= 3);
        let (last, partial) = steps.split_last().expect("there are steps");
        assert_eq!(last.contributions, fresh.contributions);
        for step in partial {
            assert_eq!((step.version, step.revision, step.unfinished), (Version(1), 0, Some(2)));
            // What the row will not own any more is given up at once; the rest stays until the last step.
            assert_eq!(step.own, [("nights".to_owned(), 120.into())].into());
        }
    }

    /// Whoever continues, from whatever step, arrives at the same row.
    #[test]
    fn a_replacement_can_be_continued_after_any_step_towards_another_row() {
        let first = replacement(&fold([toured(300)]), &older_row(1), Trust::Row);
        let second = replacement(&fold([toured(120), left(), stayed("a", 1)]), &older_row(1), Trust::Row);
        for step in steps(&older_row(1), &first) {
            let last = steps(&step, &second).pop().expect("there is a step");
            assert_eq!((last.contributions, last.left, last.unfinished), (second.contributions.clone(), second.left.clone(), None));
        }
    }
}
