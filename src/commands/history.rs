//! An aggregate as its decider sees it, folded from its history.

use projection_vocabulary::{Aggregate, AggregateId, DynDecider, RecordedEvent, Version};

use super::error::Unhandled;
use crate::{
    retry::Deadline,
    store::{
        Store,
        commands::{Snapshot, Tail},
        events::{PAGE_EVENTS, Stored},
        item::SKIPPED_TYPE,
    },
};

/// What a tail has besides events: the VERSION item and the snapshot.
const OTHER_ITEMS: u64 = 2;

/// An aggregate at a version.
pub struct History {
    pub decider: &'static dyn DynDecider,
    pub aggregate: AggregateId,
    pub state: Box<dyn Aggregate>,
    pub version: Version,
    /// The version of the snapshot that the store has; none if it has no usable one.
    pub snapshot: Version,
    /// The mark of the aggregate's VERSION item, if it was read before the events.
    pub mark: Option<String>,
}

impl History {
    /// Reads an aggregate, by one query if its decider keeps snapshots or its history is short.
    pub async fn load(
        store: &Store,
        decider: &'static dyn DynDecider,
        aggregate: &AggregateId,
        deadline: Deadline,
    ) -> Result<Self, Unhandled> {
        let mut history = Self::new(decider, aggregate);
        if let Some(every) = decider.snapshot_every() {
            let limit = usize::try_from(every.saturating_add(OTHER_ITEMS)).unwrap_or(usize::MAX);
            let tail = store.load_tail(aggregate, limit, deadline).await?;
            if history.begin(tail)? {
                return Ok(history);
            }
        }
        history.advance(store, Version(u64::MAX), deadline).await?;
        Ok(history)
    }

    /// Reads an aggregate as it was at a version.
    pub async fn load_at(
        store: &Store,
        decider: &'static dyn DynDecider,
        aggregate: &AggregateId,
        version: Version,
        deadline: Deadline,
    ) -> Result<Self, Unhandled> {
        let mut history = Self::new(decider, aggregate);
        history.reach(store, version, deadline).await?;
        Ok(history)
    }

    /// Reads an aggregate with all of its events, which are held in memory.
    #[cfg(feature = "cli")]
    pub async fn load_with_events(
        store: &Store,
        decider: &'static dyn DynDecider,
        aggregate: &AggregateId,
        deadline: Deadline,
    ) -> Result<(Self, Vec<RecordedEvent>), Unhandled> {
        let (mut history, mut events) = (Self::new(decider, aggregate), Vec::new());
        loop {
            let (page, more) = history.page(store, Version(u64::MAX), deadline).await?;
            events.extend(page);
            if !more {
                return Ok((history, events));
            }
        }
    }

    fn new(decider: &'static dyn DynDecider, aggregate: &AggregateId) -> Self {
        let (aggregate, state) = (aggregate.clone(), decider.start());
        Self { decider, aggregate, state, version: Version::NONE, snapshot: Version::NONE, mark: None }
    }

    /// Starts from a usable snapshot. Returns whether the tail has all that follows.
    fn begin(&mut self, Tail { mark, snapshot, events, whole }: Tail) -> Result<bool, Unhandled> {
        self.mark = Some(mark);
        if let Some(snapshot) = snapshot
            && let Some(state) = resumed(self.decider, &snapshot)
        {
            (self.state, self.version, self.snapshot) = (state, snapshot.version, snapshot.version);
        }
        let from = self.version;
        let mut events = events.into_iter().skip_while(|stored| stored.version() <= from).peekable();
        let follows = events.peek().is_none_or(|first| first.version() == self.version.next());
        if !(follows && (whole || self.snapshot > Version::NONE)) {
            return Ok(false);
        }
        for stored in events {
            self.apply(stored)?;
        }
        Ok(true)
    }

    /// Reads the events that follow, up to a version. Returns the last page of them.
    pub async fn advance(&mut self, store: &Store, to: Version, deadline: Deadline) -> Result<Vec<RecordedEvent>, Unhandled> {
        while self.version < to {
            let (events, more) = self.page(store, to, deadline).await?;
            if !more {
                return Ok(events);
            }
        }
        Ok(Vec::new())
    }

    /// Reads the next events, and tells whether there may be more.
    async fn page(&mut self, store: &Store, to: Version, deadline: Deadline) -> Result<(Vec<RecordedEvent>, bool), Unhandled> {
        let page = store.load_page(&self.aggregate, self.version.next()..=to, PAGE_EVENTS, deadline).await?;
        let more = page.len() == PAGE_EVENTS;
        let events = page.into_iter().map(|stored| self.apply(stored)).collect::<Result<_, _>>()?;
        Ok((events, more))
    }

    /// Reads the events that follow, up to a version that the aggregate must have. Returns the last page of them.
    pub async fn reach(&mut self, store: &Store, version: Version, deadline: Deadline) -> Result<Vec<RecordedEvent>, Unhandled> {
        let events = self.advance(store, version, deadline).await?;
        if self.version < version {
            return Err(self.unreadable(self.version.next(), "the event is not in the event store"));
        }
        Ok(events)
    }

    fn apply(&mut self, stored: Stored) -> Result<RecordedEvent, Unhandled> {
        let next = self.version.next();
        let event = match stored {
            Stored::Event(event) if event.version == next => event,
            Stored::Malformed { version, reason, .. } if version == next => return Err(self.unreadable(next, &reason.to_string())),
            _ => return Err(self.unreadable(next, "the event is not in the event store")),
        };
        if &*event.event_type != SKIPPED_TYPE {
            self.state.evolve(&event).map_err(|misfit| self.unreadable(next, &misfit.to_string()))?;
        }
        self.version = next;
        Ok(event)
    }

    pub fn unreadable(&self, version: Version, reason: &str) -> Unhandled {
        let reason = format!("{reason} (read by the decider `{}`)", self.decider.kind());
        Unhandled::Unreadable { aggregate: self.aggregate.clone(), version, reason }
    }
}

/// The state of a snapshot; `None` if it is of no use: of another kind or revision, or not such a state.
pub fn resumed(decider: &'static dyn DynDecider, Snapshot { kind, revision, version: _, state }: &Snapshot) -> Option<Box<dyn Aggregate>> {
    let is_of_decider = kind == decider.kind() && *revision == u64::from(decider.revision());
    is_of_decider.then(|| decider.resume(state).ok()).flatten()
}
