//! What an author writes: a projection.

use std::panic::{AssertUnwindSafe, catch_unwind};

use serde::de::DeserializeOwned;

use crate::{Attributes, Change, Misfit, Recorded, RecordedEvent, change::RESERVED, de};

/// From events to row changes. Pure: no clock, no I/O, no randomness, so that live, replay, rebuild and verify agree.
pub trait Projection: Send + Sync + 'static {
    /// An `enum` with one variant for each event type that concerns this projection; the fields are the event's data.
    ///
    /// An aggregate's events of other types are passed over. Name a type that occurs often on your aggregates even if nothing
    /// follows from it (and answer [`crate::nothing`]): the watermark then moves with it, and the next event needs no look
    /// into the event store.
    type Event: DeserializeOwned;

    /// The name, in `kebab-case`: `account-summary` has its rows in the table that `ACCOUNT_SUMMARY_TABLE` names.
    const NAME: &'static str;

    /// The partition key attribute of its table. A home row's key is its aggregate's id.
    const KEY: &'static str;

    /// Raise it when the rule changes: rows of an older revision are projected anew from the event store.
    const REVISION: u32 = 1;

    /// Indexes that readers of the rows need.
    const INDEXES: &'static [Index] = &[];

    /// Whether the rule looks at the row it changes ([`Recorded::row`]). It costs a read for each span of events.
    const READS_ROW: bool = false;

    /// What an event means for the rows.
    ///
    /// # Errors
    /// [`Refusal`] for an event that makes no sense: its aggregate is parked, all others go on.
    fn project(&self, event: &Recorded<'_, Self::Event>) -> Result<Change, Refusal>;
}

/// A global secondary index of a projection's table.
///
/// Take attributes that counters do not touch, or every counter update rewrites an index entry.
#[derive(Clone, Copy, Debug)]
pub struct Index {
    /// The index's name.
    pub name: &'static str,
    /// The text attribute that readers query by.
    pub partition: &'static str,
    /// The text attribute that entries are sorted by; the table's key is a good one.
    pub sort: &'static str,
    /// Attributes to copy into the index beside the keys.
    pub include: &'static [&'static str],
}

/// Why a rule cannot apply an event. The event's aggregate is parked; its message never carries the event's data.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The data does not fit the rule's type for the event.
    #[error("the event's data does not fit: {0}")]
    Misfit(#[from] Misfit),
    /// The rule says no.
    #[error("{0}")]
    Rule(&'static str),
    /// The rule panicked: a bug in it that this event brings out.
    #[error("the rule panicked on this event type: fix the rule, then redrive")]
    Panicked,
}

/// A [`Projection`] as the worker sees it. Implemented for every projection.
pub trait DynProjection: Send + Sync {
    /// See [`Projection::NAME`].
    fn name(&self) -> &'static str;
    /// See [`Projection::KEY`].
    fn key(&self) -> &'static str;
    /// See [`Projection::REVISION`].
    fn revision(&self) -> u32;
    /// See [`Projection::INDEXES`].
    fn indexes(&self) -> &'static [Index];
    /// See [`Projection::READS_ROW`].
    fn reads_row(&self) -> bool;
    /// The event types that concern the projection.
    fn event_types(&self) -> &'static [&'static str];
    /// What an event means, given the row's present attributes if the rule reads them.
    ///
    /// # Errors
    /// [`Refusal`]: the event is poison.
    fn change(&self, event: &RecordedEvent, row: &Attributes) -> Result<Change, Refusal>;
}

impl<P: Projection> DynProjection for P {
    fn name(&self) -> &'static str {
        P::NAME
    }

    fn key(&self) -> &'static str {
        P::KEY
    }

    fn revision(&self) -> u32 {
        P::REVISION
    }

    fn indexes(&self) -> &'static [Index] {
        P::INDEXES
    }

    fn reads_row(&self) -> bool {
        P::READS_ROW
    }

    fn event_types(&self) -> &'static [&'static str] {
        de::variants_of::<P::Event>()
    }

    fn change(&self, event: &RecordedEvent, row: &Attributes) -> Result<Change, Refusal> {
        // A rule that panics must not take the other aggregates of the batch with it.
        catch_unwind(AssertUnwindSafe(|| {
            let typed = de::event::<P::Event>(&event.event_type, &event.data)?;
            let row = P::READS_ROW.then_some(row);
            let change = self.project(&Recorded::new(event, typed, row))?;
            assert!(!change.own().contains_key(P::KEY), "`{}` is the key of the row and cannot be changed", P::KEY);
            Ok(change)
        }))
        .unwrap_or(Err(Refusal::Panicked))
    }
}

/// The projections that a worker runs, in the order in which they are reported.
#[derive(Clone, Copy)]
pub struct Registry(&'static [&'static dyn DynProjection]);

impl Registry {
    /// Takes the one visible list of projections.
    ///
    /// # Panics
    /// If two have one name, or a name or key would not work: a mistake in the list, which `const` evaluation cannot see.
    #[must_use]
    pub fn new(rules: &'static [&'static dyn DynProjection]) -> Self {
        for (at, rule) in rules.iter().enumerate() {
            let name = rule.name();
            let kebab = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
            assert!(kebab && name.len() >= 3, "`{name}` is no kebab-case name of three letters or more");
            assert!(rules[..at].iter().all(|other| other.name() != name), "two projections are named `{name}`");
            assert!(!RESERVED.contains(&rule.key()), "`{}` cannot be the key of `{name}`: it is the worker's", rule.key());
            assert!(!rule.event_types().is_empty(), "`{name}` handles no event: its `Event` must be an enum with a variant for each");
            assert!(rule.revision() > 0, "revisions start at 1: `{name}`");
        }
        Self(rules)
    }

    /// The projections.
    #[must_use]
    pub fn projections(&self) -> &'static [&'static dyn DynProjection] {
        self.0
    }

    /// The projection of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&'static dyn DynProjection> {
        self.0.iter().copied().find(|rule| rule.name() == name)
    }
}
