//! The [`Projection`] trait, which authors implement, and the registry of projections.

use std::panic::{AssertUnwindSafe, catch_unwind};

use serde::de::DeserializeOwned;

use crate::{
    Attributes, Change, Misfit, Recorded, RecordedEvent, Value,
    change::{KEY_BYTES_MAX, RESERVED, SORT_KEY_BYTES_MAX, Written},
    de,
};

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

    /// The partition key attribute of its table. The key of a home row is the aggregate's id.
    const KEY: &'static str;

    /// The sort key attribute of its table, if the rule writes child rows with [`crate::child`]; `None` for a table without a sort key.
    /// Home rows and shared rows then stand at the sort key [`crate::HOME_SORT`]. It cannot change: a table keeps its keys.
    const CHILDREN: Option<&'static str> = None;

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
/// Its two keys are strings that are not empty, so no `add` or `insert` may write to them. A row that lacks one of them is not in the
/// index. Choose attributes that counters do not change. Otherwise every update of a counter also rewrites an index entry.
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
    /// The rule writes to the key of its rows.
    #[error("the rule writes the attribute `{0}`, which is the key of its rows: choose another name")]
    Key(&'static str),
    /// The rule gives an index a key that DynamoDB refuses.
    #[error("the attribute `{attribute}` is a key of the index `{index}`, which is a string that is not empty: the rule {fault}")]
    IndexKey {
        /// The attribute.
        attribute: &'static str,
        /// The index.
        index: &'static str,
        /// What the rule does to the attribute.
        fault: &'static str,
    },
    /// The rule writes child rows without having declared them.
    #[error(
        "the rule writes child rows and does not declare them: add `const CHILDREN: Option<&str> = Some(..)` with the name of their sort \
         key to the projection, whose table must have it"
    )]
    ChildrenNotDeclared,
    /// The rule reads its row without having asked for it.
    #[error("the rule calls `row()` and does not declare it: add `const READS_ROW: bool = true` to the projection")]
    RowNotDeclared,
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
    /// See [`Projection::CHILDREN`].
    fn children(&self) -> Option<&'static str> {
        None
    }
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

    fn children(&self) -> Option<&'static str> {
        P::CHILDREN
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
            check_keys(&change, P::KEY, P::CHILDREN, P::INDEXES)?;
            Ok(change)
        }))
        .unwrap_or_else(|panic| Err(panic.downcast::<Refusal>().map_or(Refusal::Panicked, |refusal| *refusal)))
    }
}

/// Refuses what DynamoDB would refuse of the keys of rows and indexes. DynamoDB's message names neither attribute nor index, and the
/// worker could not repeat it, because it may quote event data.
fn check_keys(change: &Change, key: &'static str, children: Option<&'static str>, indexes: &'static [Index]) -> Result<(), Refusal> {
    if children.is_none() && !change.children().is_empty() {
        return Err(Refusal::ChildrenNotDeclared);
    }
    let of_child = |name: &str| change.children().values().any(|op| op.attributes().is_some_and(|row| row.contains_key(name)));
    let written = |name: &str| change.own().contains_key(name) || change.cells().any(|(_, attribute)| attribute == name) || of_child(name);
    if let Some(name) = [Some(key), children].into_iter().flatten().find(|name| written(name)) {
        return Err(Refusal::Key(name));
    }
    for Index { name: index, partition, sort, .. } in indexes {
        for (attribute, bytes_max) in [(partition, KEY_BYTES_MAX), (sort, SORT_KEY_BYTES_MAX)] {
            let fault = change.writes(attribute).find_map(|written| match written {
                Written::Value(Value::Text(text)) if text.is_empty() => Some("writes an empty string: remove the attribute instead"),
                Written::Value(Value::Text(text)) if text.len() > bytes_max => {
                    Some("writes a string that is too long: a partition key has at most 2,048 bytes, a sort key 1,024")
                }
                Written::Value(Value::Text(_)) => None,
                Written::Value(Value::Number(_)) => Some("writes a number"),
                Written::Value(_) => Some("writes a value of another type"),
                Written::Sum => Some("uses `add`, which makes it a number"),
                Written::Set => Some("uses `insert`, which makes it a set"),
            });
            if let Some(fault) = fault {
                return Err(Refusal::IndexKey { attribute, index, fault });
            }
        }
    }
    Ok(())
}

/// Asserts that the constants of a projection are valid.
///
/// # Panics
/// If they are not.
pub(crate) fn assert_valid(rule: &dyn DynProjection) {
    let name = rule.name();
    let kebab = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    assert!(kebab && name.len() >= 3, "`{name}` is not a valid name: use kebab-case, with at least three characters");
    assert!(!RESERVED.contains(&rule.key()), "`{}` cannot be the key of `{name}`: the worker reserves that attribute", rule.key());
    assert!(is_attribute(rule.key()), "`{}` cannot be the key of `{name}`: a name must not be empty or contain `#`", rule.key());
    if let Some(sort) = rule.children() {
        assert!(
            !RESERVED.contains(&sort) && is_attribute(sort) && sort != rule.key(),
            "`{sort}` cannot be the sort key of `{name}`: the worker reserves it, it is the key, or its name is empty or has a `#`"
        );
    }
    assert!(!rule.event_types().is_empty(), "`{name}` handles no event: its `Event` must be an enum with one variant per event type");
    assert!(rule.revision() > 0, "the revision of `{name}` is 0: revisions start at 1");
    for (at, Index { name: index, partition, sort, .. }) in rule.indexes().iter().enumerate() {
        let valid = (3..=255).contains(&index.len()) && index.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
        assert!(valid, "`{index}` of `{name}` is not a valid name of an index: use 3 to 255 letters, digits, `_`, `.` and `-`");
        assert!(rule.indexes()[..at].iter().all(|other| other.name != *index), "two indexes of `{name}` are named `{index}`");
        assert!(partition != sort, "the index `{index}` of `{name}` has `{sort}` as both its partition key and its sort key");
        for attribute in [partition, sort] {
            assert!(
                !RESERVED.contains(attribute) && is_attribute(attribute),
                "`{attribute}` cannot be a key of the index `{index}` of `{name}`: the worker reserves it, or its name is empty or has a `#`"
            );
        }
    }
}

fn is_attribute(name: &str) -> bool {
    !name.is_empty() && !name.contains('#')
}

/// The projections that a worker runs, in the order in which it reports them.
#[derive(Clone, Copy)]
pub struct Registry(&'static [&'static dyn DynProjection]);

impl Registry {
    /// Makes a registry of a list of projections.
    ///
    /// # Panics
    /// If the list is wrong: two projections of the same name, an invalid name, key, revision or index, or an `Event` type that is
    /// not an enum with variants.
    #[must_use]
    pub fn new(rules: &'static [&'static dyn DynProjection]) -> Self {
        for (at, rule) in rules.iter().enumerate() {
            assert_valid(*rule);
            assert!(rules[..at].iter().all(|other| other.name() != rule.name()), "two projections are named `{}`", rule.name());
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
