//! Why a row is what it is: what each event of its aggregate did to it, and which aggregates made an attribute that they share.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use projection_vocabulary::{
    AggregateId, Attributes, Cell, Children, Contribution, DynProjection, HomeRow, RecordedEvent, Timestamp, Value, Version,
};

use super::{
    contributions::Contributed,
    differs::{Differs, between, of_attributes, of_content},
    error::OperationError,
};
use crate::{
    engine::{
        content::concerns,
        reproject::{FoldStop, HOLE_REASON, HistoryFold, differing_children, fold_history},
    },
    retry::Deadline,
    store::{
        Store,
        events::{PAGE_EVENTS, Stored},
    },
};

/// One item of an aggregate's history, and what it does to the rows of one projection.
#[derive(Debug)]
pub struct Step {
    /// Its version.
    pub version: Version,
    /// The event; `None` if it cannot be read.
    pub event: Option<Arc<RecordedEvent>>,
    /// What became of it.
    pub did: Did,
    /// How the home row changes, and what it contributes to shared rows.
    pub changes: Vec<Differs>,
    /// How child rows change. A row that is removed loses all of its attributes.
    pub children: Vec<(Arc<str>, Vec<Differs>)>,
}

/// What becomes of an event under a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Did {
    /// It is applied.
    Applied,
    /// It does not concern the projection.
    Irrelevant,
    /// It cannot be applied, for this reason: the aggregate waits before it.
    Stopped(String),
    /// It waits behind an event that cannot be applied, or that is missing.
    Waits,
}

/// Up to where a history is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Until {
    /// Its last event.
    Head,
    /// This version.
    Version(Version),
    /// The last event before the first one that is later than this.
    Time(Timestamp),
}

impl Until {
    fn version(&self) -> Version {
        if let Self::Version(version) = self { *version } else { Version(u64::MAX) }
    }

    fn ends_before(&self, stored: &Stored) -> bool {
        matches!((self, stored), (Self::Time(time), Stored::Event(event)) if event.timestamp.epoch_ms() > time.epoch_ms())
    }
}

/// Where a history has led to.
#[derive(Debug)]
pub struct Told {
    /// The home row: its own attributes, and what it contributes to shared rows.
    pub row: HomeRow,
    /// The child rows.
    pub children: Children,
    /// The last version that was told; [`Version::NONE`] if there is none.
    pub last: Version,
    /// The version that cannot be applied, and why, if there is one.
    pub stopped: Option<(Version, String)>,
}

/// Tells a history of one aggregate under a rule, from its first event on: what each event from version `from` on did. It holds one row
/// and its child rows, however long the history is.
///
/// # Errors
/// [`OperationError`].
pub async fn tell(
    store: &Store,
    rule: &'static dyn DynProjection,
    aggregate: &AggregateId,
    (from, until): (Version, &Until),
    deadline: Deadline,
    mut each: impl FnMut(Step),
) -> Result<Told, OperationError> {
    let mut telling = Telling::new(rule, aggregate, from, until);
    while telling.page(store, deadline, &mut each).await? {}
    Ok(telling.end())
}

/// A history that is told page by page, for those who may want no more of it.
pub struct Telling<'a> {
    rule: &'static dyn DynProjection,
    aggregate: &'a AggregateId,
    from: Version,
    until: &'a Until,
    folded: HistoryFold,
    /// The rows before the next event, once one is told.
    before: Option<(HomeRow, Children)>,
    last: Version,
}

impl<'a> Telling<'a> {
    /// One that has read nothing yet. It tells the events from version `from` on.
    #[must_use]
    pub fn new(rule: &'static dyn DynProjection, aggregate: &'a AggregateId, from: Version, until: &'a Until) -> Self {
        Self { rule, aggregate, from, until, folded: HistoryFold::new(rule, aggregate.clone()), before: None, last: Version::NONE }
    }

    /// Tells the next page of events. Returns whether there may be another.
    ///
    /// # Errors
    /// [`OperationError`].
    pub async fn page(&mut self, store: &Store, deadline: Deadline, mut each: impl FnMut(Step)) -> Result<bool, OperationError> {
        deadline.check()?;
        let (next, end) = (self.last.next(), self.until.version());
        if next > end {
            return Ok(false);
        }
        let page = store.load_page(self.aggregate, next..=end, PAGE_EVENTS, deadline).await?;
        let full = page.len() == PAGE_EVENTS;
        for stored in page {
            if self.until.ends_before(&stored) {
                return Ok(false);
            }
            self.last = stored.version();
            if stored.version() < self.from {
                self.folded.push(stored);
            } else {
                each(self.step(stored));
            }
        }
        Ok(full)
    }

    fn step(&mut self, stored: Stored) -> Step {
        let version = stored.version();
        let event = if let Stored::Event(event) = &stored { Some(Arc::new(event.clone())) } else { None };
        let (concerned, had_stopped) = (concerns(self.rule, &stored), self.folded.stop.is_some());
        let (row, children) = self.before.get_or_insert_with(|| (self.folded.row(), self.folded.children().clone()));
        let change = self.folded.push(stored);
        let did = match &self.folded.stop {
            _ if had_stopped => Did::Waits,
            // The version that is missing stands before this one.
            Some(FoldStop::Hole) => Did::Waits,
            Some(FoldStop::Poison { reason, .. }) => Did::Stopped(reason.clone()),
            None if concerned => Did::Applied,
            None => Did::Irrelevant,
        };
        if did != Did::Applied {
            return Step { version, event, did, changes: Vec::new(), children: Vec::new() };
        }
        let after = self.folded.row();
        let changes = of_content(row, &after);
        *row = after;
        // Of the child rows only those that the event names: there may be as many as events.
        let children = change.children().keys().filter_map(|sort| Some((sort.clone(), child_of(children, self.folded.children(), sort)?)));
        Step { version, event, did, changes, children: children.collect() }
    }

    /// Where the history has led to so far.
    #[must_use]
    pub fn end(self) -> Told {
        let stopped = self.folded.stop.as_ref().map(|stop| (self.folded.due, reason(stop)));
        Told { row: self.folded.row(), children: self.folded.children().clone(), last: self.last, stopped }
    }
}

/// In what a child row differs after an event from what it was, which becomes what it is; `None` if it is as it was.
fn child_of(before: &mut Children, after: &Children, sort: &Arc<str>) -> Option<Vec<Differs>> {
    const NONE: &Attributes = &Attributes::new();
    let row = after.get(sort);
    let changes = of_attributes(before.get(sort).unwrap_or(NONE), row.unwrap_or(NONE));
    match row {
        Some(row) => _ = before.insert(sort.clone(), row.clone()),
        None => _ = before.remove(sort),
    }
    Some(changes).filter(|changes| !changes.is_empty())
}

fn reason(stop: &FoldStop) -> String {
    match stop {
        FoldStop::Hole => HOLE_REASON.to_owned(),
        FoldStop::Poison { reason, .. } => reason.clone(),
    }
}

/// The row that is stored, compared with the fold of the events that it counts.
#[derive(Debug)]
pub struct Standing {
    /// The stored row; one without a version if there is none.
    pub stored: HomeRow,
    /// How it compares.
    pub is: Compared,
}

/// How a stored row compares with the fold of the events that it counts.
#[derive(Debug, PartialEq)]
pub enum Compared {
    /// There is none.
    Absent,
    /// It is the fold.
    Right,
    /// It is not.
    Wrong {
        /// From what the home row is to what it must be; nothing if only child rows are wrong.
        changes: Vec<Differs>,
        /// How many of its child rows are wrong.
        children: usize,
    },
    /// Another revision of the rule wrote it, or has begun to.
    OtherRevision,
    /// It moved whenever it was compared.
    Moving,
}

/// How often a row with child rows is read before it is said to move: the worker may write between two reads.
const READ_TIMES_MAX: usize = 5;

/// Compares the row that is stored with the fold of the events that it counts, child rows included. `told` is the same aggregate's, up to
/// whatever version.
///
/// # Errors
/// [`OperationError`].
pub async fn standing(
    store: &Store,
    rule: &'static dyn DynProjection,
    aggregate: &AggregateId,
    told: &Told,
    deadline: Deadline,
) -> Result<Standing, OperationError> {
    let mut stored = store.home_row(rule, aggregate, deadline).await?;
    for _ in 0..READ_TIMES_MAX {
        if stored.is_outdated(rule.revision()) || stored.newest_revision() > rule.revision() {
            return Ok(Standing { stored, is: Compared::OtherRevision });
        }
        let folded = match told {
            Told { row, .. } if row.version == stored.version => None,
            Told { .. } => Some(fold_history(store, rule, aggregate, stored.version, deadline).await?),
        };
        let (row, children) = match &folded {
            Some(folded) => (&folded.row(), folded.children()),
            None => (&told.row, &told.children),
        };
        let changes = if stored.version == Version::NONE { Vec::new() } else { between(&stored, row) };
        let children = differing_children(store, rule, aggregate, children, deadline).await?.len();
        let is = match (changes.is_empty(), children) {
            (true, 0) if stored.version == Version::NONE => Compared::Absent,
            (true, 0) => Compared::Right,
            _ => Compared::Wrong { changes, children },
        };
        // What is right was so at one time. What differs may have been read at two.
        if !matches!(is, Compared::Wrong { .. }) {
            return Ok(Standing { stored, is });
        }
        let again = store.home_row(rule, aggregate, deadline).await?;
        if (again.version, &again.rewritten) == (stored.version, &stored.rewritten) {
            return Ok(Standing { stored: again, is });
        }
        stored = again;
    }
    Ok(Standing { stored, is: Compared::Moving })
}

/// What aggregates contribute to an attribute of a shared row.
#[derive(Debug, Default)]
pub struct Contributors {
    /// What the row shows; `None` if it has no such attribute.
    pub shows: Option<Value>,
    /// The first ones that were asked for, by aggregate.
    pub named: Vec<(AggregateId, Contribution)>,
    /// How many more follow those.
    pub others: u64,
    /// What all aggregates make together; `None` if none has anything to do with it. While a rule changes, they may combine it in two
    /// ways: then it is what those of the newest revision make.
    pub together: Option<Contribution>,
}

impl Contributors {
    /// Whether the row shows what the contributions make. While the worker writes it may differ for a moment, as they are not read at once.
    #[must_use]
    pub fn agree(&self) -> bool {
        self.shows == self.together.as_ref().map(Contribution::value)
    }
}

/// What aggregates contribute to an attribute of a shared row, by a scan of the projection's rows: at most `most` are named, of those
/// whose ids come after `after`.
///
/// # Errors
/// [`OperationError`].
pub async fn contributors(
    store: &Store,
    rule: &'static dyn DynProjection,
    cell: &Cell,
    (after, most): (Option<&AggregateId>, usize),
    deadline: Deadline,
) -> Result<Contributors, OperationError> {
    let rows = store.rows(rule, BTreeSet::from([cell.0.clone()]), deadline).await?;
    let shows = rows.get(&cell.0).and_then(|row| row.shared.get(&cell.1)).and_then(|held| held.value.clone());
    let (mut all, mut found, mut others) = (Contributed::default(), BTreeMap::new(), 0);
    let scan = store.each_row(rule, deadline, |row| {
        all.add(&row.home, |of| of == cell);
        let aggregate = AggregateId::from(row.key.as_str());
        let Some(contribution) = row.home.contributions.get(cell).filter(|_| after.is_none_or(|after| aggregate > *after)) else { return };
        found.insert(aggregate, contribution.clone());
        if found.len() > most {
            found.pop_last();
            others += 1;
        }
    });
    scan.await?;
    let together = all.by_newest(cell).map(|(contribution, _)| contribution.clone());
    Ok(Contributors { shows, named: found.into_iter().collect(), others, together })
}

#[cfg(test)]
mod tests {
    use aws_sdk_dynamodb::types::AttributeValue;

    use super::*;
    use crate::operations::fixture::{Guests, Happened, append, happened, malformed, rang, refused, stayed, stored, worker, worker_of};

    /// What became of each item of a history.
    fn did(stored: impl IntoIterator<Item = Stored>) -> Vec<Did> {
        let (aggregate, until) = (AggregateId::from("ann"), Until::Head);
        let mut telling = Telling::new(&Guests, &aggregate, Version(1), &until);
        stored.into_iter().map(|stored| telling.step(stored).did).collect()
    }

    fn history<const N: usize>(happened: [Happened; N]) -> Vec<Stored> {
        stored(happened).collect()
    }

    #[test]
    fn an_event_is_applied_unless_it_is_irrelevant_or_one_before_it_stopped_the_history() {
        use Did::{Applied, Irrelevant, Stopped, Waits};
        let refusal = Stopped("refused by the rule".to_owned());
        assert_eq!(did(history([stayed(1), rang(), stayed(1)])), [Applied, Irrelevant, Applied]);
        assert_eq!(did(history([stayed(1), refused(), rang(), stayed(1)])), [Applied, refusal, Waits, Waits]);
        let mut lost = history([stayed(1), stayed(1), stayed(1), rang()]);
        lost.remove(1);
        assert_eq!(did(lost), [Applied, Waits, Waits]);
        let unreadable = [history([stayed(1)]).remove(0), malformed(2)];
        assert!(matches!(&did(unreadable)[..], [Applied, Stopped(_)]));
    }

    #[test]
    fn only_what_is_applied_changes_something() {
        let (aggregate, until) = (AggregateId::from("ann"), Until::Head);
        let mut telling = Telling::new(&Guests, &aggregate, Version(1), &until);
        let changes: Vec<_> =
            history([stayed(1), rang(), refused()]).into_iter().map(|stored| telling.step(stored).changes.len()).collect();
        // Nights of its own, and two attributes of the room.
        assert_eq!(changes, [3, 0, 0]);
    }

    #[test]
    fn a_history_that_is_told_until_a_time_ends_before_the_first_later_event() {
        // Events are one second apart.
        let stored = history([stayed(1), stayed(1), stayed(1)]);
        let at = |at: usize| match &stored[at] {
            Stored::Event(event) => Until::Time(event.timestamp.clone()),
            Stored::Malformed { .. } => panic!("it can be read"),
        };
        let before: Vec<_> = stored.iter().map(|stored| at(1).ends_before(stored)).collect();
        assert_eq!(before, [false, false, true]);
        assert!(!at(0).ends_before(&malformed(2)), "nobody knows when it happened");
        for until in [Until::Head, Until::Version(Version(1))] {
            assert!(stored.iter().all(|stored| !until.ends_before(stored)));
        }
    }

    #[test]
    fn a_child_row_that_stays_as_it_was_is_not_told() {
        let children = |n: i32| Children::from([("1".into(), Attributes::from([("n".to_owned(), n.into())]))]);
        let sort = "1".into();
        let mut before = children(1);
        assert_eq!(child_of(&mut before, &children(1), &sort), None);
        assert_eq!(child_of(&mut before, &children(2), &sort).map(|changes| changes.len()), Some(1));
        assert_eq!(before, children(2));
        assert_eq!(child_of(&mut before, &Children::new(), &sort).map(|changes| changes.len()), Some(1));
        assert_eq!(before, Children::new());
    }

    #[test]
    fn contributors_agree_with_the_row_if_they_make_what_it_shows() {
        let agree = |shows: Option<i32>, together: Option<i32>| {
            let (shows, together) = (shows.map(Value::from), together.map(|sum| Contribution::Sum(sum.into())));
            Contributors { shows, together, ..Contributors::default() }.agree()
        };
        assert!(agree(Some(1), Some(1)) && agree(None, None));
        assert!(!agree(Some(1), Some(2)) && !agree(Some(1), None) && !agree(None, Some(1)));
    }

    #[tokio::test]
    async fn a_history_is_told_from_one_version_to_another() {
        let worker = worker().await;
        append(&worker, "ann", [stayed(1), rang(), stayed(1)]).await;
        for (from, until, expected) in [
            (1, Until::Version(Version(0)), vec![]),
            (1, Until::Version(Version(1)), vec![1]),
            (1, Until::Version(Version(2)), vec![1, 2]),
            (2, Until::Version(Version(9)), vec![2, 3]),
            (3, Until::Head, vec![3]),
            (4, Until::Head, vec![]),
        ] {
            let mut versions = Vec::new();
            let tells = (Version(from), &until);
            let told = tell(worker.store(), &Guests, &"ann".into(), tells, Deadline::NONE, |step| versions.push(step.version.0)).await;
            assert_eq!(versions, expected, "{from} to {until:?}");
            let last = if let Until::Version(last) = until { last.min(Version(3)) } else { Version(3) };
            assert_eq!(told.expect("read").last, last);
        }
    }

    #[tokio::test]
    async fn a_stored_row_is_absent_right_wrong_or_of_another_revision() {
        let (worker, client) = worker_of(&[&Guests]).await;
        let store = worker.store();
        happened(&worker, "ann", [stayed(1), stayed(1)]).await;
        let compared = async |id: &str, told_until: u64| {
            let (id, until) = (AggregateId::from(id), Until::Version(Version(told_until)));
            let told = tell(store, &Guests, &id, (Version(1), &until), Deadline::NONE, drop).await.expect("read");
            let before = store.usage().requests;
            let is = standing(store, &Guests, &id, &told, Deadline::NONE).await.expect("read").is;
            (is, store.usage().requests - before)
        };
        // The row, and its history where another part of it was told.
        assert_eq!(compared("ann", 1).await, (Compared::Right, 1));
        assert_eq!(compared("ann", 2).await, (Compared::Right, 2));
        assert_eq!(compared("eve", 9).await, (Compared::Absent, 1));
        let set = async |attribute: &str, number: &str| {
            let update = client.update_item().table_name("guests").key("id", AttributeValue::S("ann".to_owned()));
            let update = update.update_expression("SET #name = :number").expression_attribute_names("#name", attribute);
            update.expression_attribute_values(":number", AttributeValue::N(number.to_owned())).send().await.expect("updated");
        };
        set("nights", "7").await;
        let nights = Differs { attribute: "nights".to_owned(), contributed_to: None, from: Some(7.into()), to: Some(1.into()) };
        assert_eq!(compared("ann", 1).await, (Compared::Wrong { changes: vec![nights], children: 0 }, 2));
        for revision in ["1", "3"] {
            set("revision", revision).await;
            assert_eq!(compared("ann", 1).await, (Compared::OtherRevision, 1), "{revision}");
        }
    }
}
