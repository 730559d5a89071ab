//! The [`Projection`] trait, which authors implement, and the registry of projections.

use std::panic::{AssertUnwindSafe, catch_unwind};

use serde::de::DeserializeOwned;

use crate::{Attributes, Change, Misfit, Recorded, RecordedEvent, change::RESERVED, de};

/// A rule that turns each event into changes of rows.
///
/// It is pure: no clock, no I/O, no randomness. The same history therefore gives the same rows whether it is processed live,
/// replayed, rebuilt or verified. The crate's front page has an example.
pub trait Projection: Send + Sync + 'static {
    /// An `enum` with one variant for each event type that this projection handles; the fields are the event's data.
    ///
    /// Events of other types are skipped, and the watermark does not move past them on its own. When the next handled event
    /// arrives in a later batch, the worker reads the skipped versions from the event store. If a type is frequent, declare
    /// it even though it changes nothing, and return [`crate::nothing`] for it: that avoids the read.
    type Event: DeserializeOwned;

    /// The name, in `kebab-case`. The environment variable for its table follows from it: `account-summary` keeps its rows in
    /// the table that `ACCOUNT_SUMMARY_TABLE` names.
    const NAME: &'static str;

    /// The partition key attribute of its table, which has no sort key. The key of a home row is the aggregate's id.
    const KEY: &'static str;

    /// Raise this when the rule gives different rows for the same history. Rows of an older revision are then re-projected
    /// from the event store. Never lower it.
    const REVISION: u32 = 1;

    /// The global secondary indexes that readers query.
    const INDEXES: &'static [Index] = &[];

    /// Whether the rule reads the aggregate's row ([`Recorded::row`]). That costs one read per span of events.
    const READS_ROW: bool = false;

    /// Returns the changes that one event makes.
    ///
    /// # Errors
    /// [`Refusal`] for an event that must not be applied. Its aggregate is parked in this projection; all others continue.
    fn project(&self, event: &Recorded<'_, Self::Event>) -> Result<Change, Refusal>;
}

/// A global secondary index of a projection's table.
///
/// Choose attributes that counters do not change. Otherwise every update of a counter also rewrites an index entry.
#[derive(Clone, Copy, Debug)]
pub struct Index {
    /// The index's name.
    pub name: &'static str,
    /// The string attribute that readers query by.
    pub partition: &'static str,
    /// The string attribute that entries are sorted by. The table's key is a good choice.
    pub sort: &'static str,
    /// Attributes to copy into the index in addition to the keys.
    pub include: &'static [&'static str],
}

/// Why a rule cannot apply an event. The worker parks the aggregate. Messages never contain event data.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The data does not match the rule's type for the event.
    #[error("cannot read the event's data: {0}")]
    Misfit(#[from] Misfit),
    /// The rule refuses the event, for this reason.
    #[error("{0}")]
    Rule(&'static str),
    /// The rule's change cannot be applied to any row: this event exposes a bug in it.
    #[error(transparent)]
    Inapplicable(#[from] crate::Inapplicable),
    /// The rule panicked: this event exposes a bug in it.
    #[error("the rule panicked on this event type: fix the rule, then redrive")]
    Panicked,
}

/// A [`Projection`] behind `dyn`, for the worker. Every projection implements it; authors only name it in their list.
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
    /// The event types that the projection handles.
    fn event_types(&self) -> &'static [&'static str];
    /// Returns the changes that one event makes. `row` holds the present attributes of the aggregate's own row; a rule without
    /// `READS_ROW` does not see it.
    ///
    /// # Errors
    /// [`Refusal`]: park the aggregate.
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
        // A panic in a rule must not fail the other aggregates of the batch.
        catch_unwind(AssertUnwindSafe(|| {
            let typed = de::event::<P::Event>(&event.event_type, &event.data)?;
            let row = P::READS_ROW.then_some(row);
            let change = self.project(&Recorded::new(event, typed, row))?;
            assert!(!change.own().contains_key(P::KEY), "a rule cannot change `{}`, the key of its rows", P::KEY);
            Ok(change)
        }))
        .unwrap_or(Err(Refusal::Panicked))
    }
}

/// The projections that a worker runs, in the order in which it reports them.
#[derive(Clone, Copy)]
pub struct Registry(&'static [&'static dyn DynProjection]);

impl Registry {
    /// Makes a registry of a list of projections.
    ///
    /// # Panics
    /// If the list is wrong: two projections of the same name, an invalid name, key or revision, or an `Event` type that is not
    /// an enum with variants.
    #[must_use]
    pub fn new(rules: &'static [&'static dyn DynProjection]) -> Self {
        for (at, rule) in rules.iter().enumerate() {
            let name = rule.name();
            let kebab = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
            assert!(kebab && name.len() >= 3, "`{name}` is not a valid name: use kebab-case, with at least three characters");
            assert!(rules[..at].iter().all(|other| other.name() != name), "two projections are named `{name}`");
            assert!(!RESERVED.contains(&rule.key()), "`{}` cannot be the key of `{name}`: the worker reserves that attribute", rule.key());
            assert!(
                !rule.event_types().is_empty(),
                "`{name}` handles no event: its `Event` must be an enum with one variant per event type"
            );
            assert!(rule.revision() > 0, "the revision of `{name}` is 0: revisions start at 1");
        }
        Self(rules)
    }

    /// The projections.
    #[must_use]
    pub fn projections(&self) -> &'static [&'static dyn DynProjection] {
        self.0
    }

    /// The projection with this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&'static dyn DynProjection> {
        self.0.iter().copied().find(|rule| rule.name() == name)
    }
}
