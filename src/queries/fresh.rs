//! A row with every event that the event store has: the stored row, and the events after it folded over it by the rule.
//!
//! The fold is the one that workers, rebuilds and verifications use, so a fresh row is what the row will be. Row and events are two
//! reads, the row first: an event that the row counts is in the event store, so the fold misses none and counts none twice.

use projection_vocabulary::{AggregateId, DynProjection, HomeRow, RowKey, Rows, Version};

use super::{error::QueryError, reader::Reader, shards::WholeRow};
use crate::{
    engine::{
        content::{Content, content},
        reproject::HOLE_REASON,
    },
    store::{
        events::{PAGE_EVENTS, Stored},
        item::{VERSION_MAX, is_aggregate},
        reads::ReadRow,
    },
};

/// How often a version that is missing before others is looked for again: a query beside a transaction may see its last event first.
const HOLE_TRIES: usize = 3;

/// A row, and the last version that the event store has of its aggregate.
pub struct Fresh {
    pub row: Option<ReadRow>,
    pub head: Version,
}

/// Reads the row, and folds the rest of its history over it.
pub async fn fresh(reader: &Reader<'_>, key: &RowKey) -> Result<Fresh, QueryError> {
    let Reader { rule, .. } = *reader;
    let WholeRow { home, shared } = reader.whole(key).await?;
    if home.newest_revision() > rule.revision() {
        return Err(QueryError::NewerRevision {
            projection: rule.name(),
            key: key.clone(),
            found: home.newest_revision(),
            own: rule.revision(),
        });
    }
    let (at, parked_at) = (home.version, home.parked_at.clone());
    let history = History { reader, id: AggregateId::from(key.as_str()) };
    let usable = home.version > Version::NONE && !home.is_outdated(rule.revision());
    let tail = if usable { history.after(home).await? } else { None };
    // Nothing of the row can be used: the rule has changed since it was written, or its last event is not the event store's.
    let fold = match tail {
        Some(fold) => fold,
        None => history.all(Fold::new(rule, key, HomeRow::default(), Version::NONE)).await?,
    };
    if fold.head < at {
        return Err(history.ahead(at));
    }
    let home = HomeRow { parked_at, ..fold.row() };
    let row = ReadRow::of(key.clone(), &home, &shared);
    Ok(Fresh { row: (!row.is_empty()).then_some(row), head: fold.head })
}

/// A row with the events folded over it so far.
struct Fold {
    rule: &'static dyn DynProjection,
    id: AggregateId,
    rows: Rows,
    /// The last version that was looked at.
    head: Version,
}

impl Fold {
    fn new(rule: &'static dyn DynProjection, key: &RowKey, row: HomeRow, head: Version) -> Self {
        let id = AggregateId::from(key.as_str());
        let home = [(id.clone(), row)].into();
        Self { rule, id, rows: Rows { home, ..Rows::default() }, head }
    }

    fn push(&mut self, stored: Stored) -> Result<(), String> {
        let version = stored.version();
        match content(self.rule, stored) {
            Content::Irrelevant => {}
            Content::Poison { reason, .. } => return Err(reason),
            Content::Event(event) => _ = self.rows.fold(self.rule, &event).map_err(|unfolded| unfolded.to_string())?,
        }
        self.head = version;
        Ok(())
    }

    fn row(&self) -> HomeRow {
        self.rows.home.get(&self.id).cloned().unwrap_or_default()
    }
}

/// The events of an aggregate in the event store.
struct History<'a> {
    reader: &'a Reader<'a>,
    id: AggregateId,
}

impl History<'_> {
    /// Folds what follows the row; `None` if the event store has another event than the row where the row ends.
    async fn after(&self, home: HomeRow) -> Result<Option<Fold>, QueryError> {
        let (at, last_event_id) = (home.version, home.last_event_id.clone());
        let mut page = self.load(at).await?.into_iter();
        let ends_alike = match page.next() {
            Some(Stored::Event(event)) => event.version == at && Some(event.event_id) == last_event_id,
            Some(Stored::Malformed { .. }) => false,
            None => return Err(self.ahead(at)),
        };
        if !ends_alike {
            return Ok(None);
        }
        let mut fold = Fold::new(self.reader.rule, &(&self.id).into(), home, at);
        let full = page.len() + 1 == PAGE_EVENTS;
        self.push(&mut fold, page.collect()).await?;
        Ok(Some(if full { self.all(fold).await? } else { fold }))
    }

    /// Folds everything that follows, page by page.
    async fn all(&self, mut fold: Fold) -> Result<Fold, QueryError> {
        loop {
            let page = self.load(fold.head.next()).await?;
            let full = page.len() == PAGE_EVENTS;
            self.push(&mut fold, page).await?;
            if !full {
                return Ok(fold);
            }
        }
    }

    async fn push(&self, fold: &mut Fold, page: Vec<Stored>) -> Result<(), QueryError> {
        for stored in page {
            for missing in self.between(fold.head.next(), stored.version()).await? {
                self.push_one(fold, missing)?;
            }
            self.push_one(fold, stored)?;
        }
        Ok(())
    }

    fn push_one(&self, fold: &mut Fold, stored: Stored) -> Result<(), QueryError> {
        let version = stored.version();
        fold.push(stored).map_err(|reason| self.blocked(version, reason))
    }

    /// The events from a version to another one, which is not included: those that a query beside a transaction did not see.
    async fn between(&self, first: Version, end: Version) -> Result<Vec<Stored>, QueryError> {
        if first >= end {
            return Ok(Vec::new());
        }
        let wanted = usize::try_from(end.0 - first.0).unwrap_or(usize::MAX);
        for _ in 0..HOLE_TRIES {
            self.reader.deadline.check()?;
            let found =
                self.reader.store.load_page(&self.id, first..=end.previous(), PAGE_EVENTS.min(wanted), self.reader.deadline).await?;
            if found.len() == wanted {
                return Ok(found);
            }
        }
        Err(self.blocked(first, HOLE_REASON.to_owned()))
    }

    async fn load(&self, first: Version) -> Result<Vec<Stored>, QueryError> {
        // The key of a shared row may be longer than the event store has room for.
        if !is_aggregate(&self.id) {
            return Ok(Vec::new());
        }
        self.reader.deadline.check()?;
        Ok(self.reader.store.load_page(&self.id, first..=VERSION_MAX, PAGE_EVENTS, self.reader.deadline).await?)
    }

    fn ahead(&self, row: Version) -> QueryError {
        QueryError::Ahead { projection: self.reader.rule.name(), key: (&self.id).into(), row }
    }

    fn blocked(&self, version: Version, reason: String) -> QueryError {
        QueryError::Blocked { projection: self.reader.rule.name(), aggregate: self.id.clone(), version, reason }
    }
}
