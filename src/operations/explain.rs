//! Why a row is what it is: what each event of its aggregate did to it, and which aggregates made an attribute that they share.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use projection_vocabulary::{
    AggregateId, Attributes, Cell, Change, Children, Contribution, DynProjection, HomeRow, RecordedEvent, Timestamp, Value, Version,
};

use super::{
    differs::{Differs, of_attributes, of_content},
    error::OperationError,
};
use crate::{
    engine::{
        content::concerns,
        reproject::{FoldStop, HOLE_REASON, HistoryFold},
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
    /// It waits behind an event that cannot be applied.
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
    let mut telling = Telling { rule, folded: HistoryFold::new(rule, aggregate.clone()), last: Version::NONE };
    'pages: while telling.last < until.version() {
        deadline.check()?;
        let page = store.load_page(aggregate, telling.last.next()..=until.version(), PAGE_EVENTS, deadline).await?;
        let full = page.len() == PAGE_EVENTS;
        for stored in page {
            if until.ends_before(&stored) {
                break 'pages;
            }
            // Copies of the row are for those steps that are told.
            if stored.version() < from {
                telling.last = stored.version();
                telling.folded.push(stored);
            } else {
                each(telling.step(stored));
            }
        }
        if !full {
            break;
        }
    }
    Ok(telling.end())
}

struct Telling {
    rule: &'static dyn DynProjection,
    folded: HistoryFold,
    last: Version,
}

impl Telling {
    fn step(&mut self, stored: Stored) -> Step {
        let version = stored.version();
        self.last = version;
        let event = if let Stored::Event(event) = &stored { Some(Arc::new(event.clone())) } else { None };
        let (concerned, had_stopped) = (concerns(self.rule, &stored), self.folded.stop.is_some());
        let before = self.folded.row();
        let children_before = self.folded.children().clone();
        let change = self.folded.push(stored);
        let did = match &self.folded.stop {
            _ if had_stopped => Did::Waits,
            Some(stop) => Did::Stopped(reason(stop)),
            None if concerned => Did::Applied,
            None => Did::Irrelevant,
        };
        let changes = of_content(&before, &self.folded.row());
        let children = children_of(&change, &children_before, self.folded.children());
        Step { version, event, did, changes, children }
    }

    fn end(self) -> Told {
        let stopped = self.folded.stop.as_ref().map(|stop| (self.folded.due, reason(stop)));
        Told { row: self.folded.row(), children: self.folded.children().clone(), last: self.last, stopped }
    }
}

fn reason(stop: &FoldStop) -> String {
    match stop {
        FoldStop::Hole => HOLE_REASON.to_owned(),
        FoldStop::Poison { reason, .. } => reason.clone(),
    }
}

fn children_of(change: &Change, before: &Children, after: &Children) -> Vec<(Arc<str>, Vec<Differs>)> {
    let none = Attributes::new();
    let of = |rows: &Children, sort: &Arc<str>| rows.get(sort).unwrap_or(&none).clone();
    change.children().keys().map(|sort| (sort.clone(), of_attributes(&of(before, sort), &of(after, sort)))).collect()
}

/// What aggregates contribute to an attribute of a shared row.
#[derive(Debug, Default)]
pub struct Contributors {
    /// What the row shows; `None` if it has no such attribute.
    pub shows: Option<Value>,
    /// The first ones, by aggregate.
    pub named: Vec<(AggregateId, Contribution)>,
    /// How many more there are.
    pub others: u64,
    /// What all of them make together; `None` if there are none, or if they combine it in different ways while a rule changes.
    pub together: Option<Contribution>,
}

/// What aggregates contribute to an attribute of a shared row, by a scan of the projection's rows: at most `most` are named.
///
/// # Errors
/// [`OperationError`].
pub async fn contributors(
    store: &Store,
    rule: &'static dyn DynProjection,
    cell: &Cell,
    most: usize,
    deadline: Deadline,
) -> Result<Contributors, OperationError> {
    let rows = store.rows(rule, BTreeSet::from([cell.0.clone()]), deadline).await?;
    let shows = rows.get(&cell.0).and_then(|row| row.shared.get(&cell.1)).and_then(|held| held.value.clone());
    let (mut found, mut others) = (BTreeMap::new(), 0);
    let (mut together, mut mixed): (Option<Contribution>, bool) = (None, false);
    let scan = store.each_row(rule, deadline, |row| {
        let Some(contribution) = row.home.contributions.get(cell) else { return };
        match &mut together {
            Some(together) => mixed |= together.combine(contribution).is_err(),
            None => together = Some(contribution.clone()),
        }
        found.insert(AggregateId::from(row.key.as_str()), contribution.clone());
        if found.len() > most {
            found.pop_last();
            others += 1;
        }
    });
    scan.await?;
    Ok(Contributors { shows, named: found.into_iter().collect(), others, together: together.filter(|_| !mixed) })
}
