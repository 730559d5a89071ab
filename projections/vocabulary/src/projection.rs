//! The [`Projection`] trait, which authors implement, and the registry of projections.

use std::{
    collections::BTreeMap,
    fmt,
    marker::PhantomData,
    panic::{AssertUnwindSafe, catch_unwind},
};

use serde::de::DeserializeOwned;

use crate::{
    AggregateId, Attributes, Base, Change, Misfit, Recorded, RecordedEvent, Value,
    change::{KEY_BYTES_MAX, RESERVED, SORT_KEY_BYTES_MAX, Written},
    de,
    process::{DynProcess, ProcessStatus},
    shards::{SHARDS_MAX, sharded_row},
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

    /// The global secondary indexes that readers query. Give each a constant of type [`IndexOf`], which readers name.
    const INDEXES: &'static [Index] = &[];

    /// Over how many rows each shared row is spread (write sharding): 1, or up to [`SHARDS_MAX`]. An aggregate contributes to the shard
    /// that its id decides, `<key>#shard-<number>`, and `Queries` combines the shards of a row that it reads: one request, which costs
    /// as much as reading all of them.
    ///
    /// Use it for a row to which many workers write at the same moment, when conflicts of their transactions are what limits them; the
    /// guide has figures. Raise [`Projection::REVISION`] with each change of it, and rebuild.
    const SHARDS: u32 = 1;

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
/// A row that lacks one of its keys is not in the index. Choose attributes that counters do not change: otherwise every update of a
/// counter also rewrites an index entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Index {
    /// The index's name.
    pub name: &'static str,
    /// The attributes that readers query by, all at once: one to four.
    pub partition: &'static [IndexKey],
    /// The attributes that entries are sorted by, the first one first: four at most. The table's key is a good last one.
    pub sort: &'static [IndexKey],
    /// Attributes to copy into the index in addition to the keys.
    pub include: &'static [&'static str],
}

/// A key of an index: an attribute of rows, and its type. A rule that gives it anything else is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IndexKey {
    /// A string that is not empty, so no `add` or `insert` may write to it.
    Text(&'static str),
    /// A number. Each `add` to it rewrites the index entry.
    Number(&'static str),
}

impl IndexKey {
    /// The attribute's name.
    #[must_use]
    pub const fn attribute(&self) -> &'static str {
        match self {
            Self::Text(name) | Self::Number(name) => name,
        }
    }

    /// Its type, as messages name it.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Text(_) => "a string that is not empty",
            Self::Number(_) => "a number",
        }
    }
}

/// An index of the projection `P`, for readers. As a constant of the projection it has a name that the compiler checks, and no reader of
/// another projection can use it.
///
/// ```
/// # use projection_vocabulary::{Change, Index, IndexKey, IndexOf, Projection, Recorded, Refusal, own};
/// # struct Orders;
/// # #[derive(serde::Deserialize)]
/// # enum Event {
/// #     Placed { customer: String },
/// # }
/// impl Orders {
///     /// A customer's orders, by status and then by what is due.
///     pub const BY_CUSTOMER: IndexOf<Self> = IndexOf::new(Index {
///         name: "by-customer",
///         partition: &[IndexKey::Text("customer")],
///         sort: &[IndexKey::Text("status"), IndexKey::Number("due")],
///         include: &[],
///     });
/// }
///
/// impl Projection for Orders {
///     const INDEXES: &[Index] = &[Self::BY_CUSTOMER.index()];
///     // ...
/// #   type Event = Event;
/// #   const NAME: &str = "orders";
/// #   const KEY: &str = "id";
/// #   fn project(&self, event: &Recorded<'_, Event>) -> Result<Change, Refusal> {
/// #       let Event::Placed { customer } = &event.event;
/// #       Ok(own().set("customer", customer).set("status", "OPEN").add("due", 1).into())
/// #   }
/// }
/// ```
pub struct IndexOf<P: ?Sized> {
    index: Index,
    of: PhantomData<fn() -> P>,
}

impl<P: ?Sized> IndexOf<P> {
    /// The index that this describes. The projection must list it in [`Projection::INDEXES`], too.
    #[must_use]
    pub const fn new(index: Index) -> Self {
        Self { index, of: PhantomData }
    }

    /// Its description.
    #[must_use]
    pub const fn index(&self) -> Index {
        self.index
    }
}

// Not derived: a derive would ask the same of the projection.
impl<P: ?Sized> Clone for IndexOf<P> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<P: ?Sized> Copy for IndexOf<P> {}

impl<P: ?Sized> fmt::Debug for IndexOf<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.index.fmt(f)
    }
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
    #[error("the attribute `{attribute}` is a key of the index `{index}`, which is {kind}: the rule {fault}")]
    IndexKey {
        /// The attribute.
        attribute: &'static str,
        /// The index.
        index: &'static str,
        /// What the key must be.
        kind: &'static str,
        /// What the rule does to the attribute.
        fault: &'static str,
    },
    /// The rule writes an attribute of an index to a row that is spread over shards.
    #[error(
        "the rule writes the attribute `{attribute}`, which is in the index `{index}`, to a shared row, of which each shard has only a \
         part: leave the attribute out of the index, or set `SHARDS` to 1"
    )]
    IndexOfShards {
        /// The attribute.
        attribute: &'static str,
        /// The index.
        index: &'static str,
    },
    /// The aggregate's row would look like a shard of a shared row.
    #[error("the aggregate's id ends in `#shard-` and a number, like the key of a shard: set `SHARDS` of the projection to 1")]
    NamedAsShard,
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
    /// See [`Projection::SHARDS`].
    fn shards(&self) -> u32 {
        1
    }
    /// See [`Projection::READS_ROW`].
    fn reads_row(&self) -> bool;
    /// The event types that the projection handles.
    fn event_types(&self) -> &'static [&'static str];
    /// Whether an event of this type and aggregate concerns it.
    fn concerns(&self, _aggregate: &AggregateId, event_type: &str) -> bool {
        self.event_types().contains(&event_type)
    }
    /// The process, if it is one: it does not change rows, but sends commands.
    fn process(&'static self) -> Option<&'static dyn DynProcess> {
        None
    }
    /// Returns the changes that one event makes, those of shared rows in the aggregate's shards. `row` holds the present attributes of the
    /// aggregate's own row; a rule without `READS_ROW` does not see it.
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

    fn shards(&self) -> u32 {
        P::SHARDS
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
            if P::SHARDS == 1 {
                return Ok(change);
            }
            check_sharded(&change, &event.aggregate, P::INDEXES)?;
            Ok(change.in_shards(&event.aggregate, P::SHARDS))
        }))
        .unwrap_or_else(|panic| Err(panic.downcast::<Refusal>().map_or(Refusal::Panicked, |refusal| *refusal)))
    }
}

/// A projection with another function in place of [`DynProjection::change`], and all else as it is. It is no process.
pub struct WithChange<'a, F> {
    /// The projection.
    pub rule: &'a dyn DynProjection,
    /// What its change is.
    pub change: F,
}

impl<F> DynProjection for WithChange<'_, F>
where
    F: Fn(&RecordedEvent, &Attributes) -> Result<Change, Refusal> + Send + Sync,
{
    fn name(&self) -> &'static str {
        self.rule.name()
    }

    fn key(&self) -> &'static str {
        self.rule.key()
    }

    fn children(&self) -> Option<&'static str> {
        self.rule.children()
    }

    fn revision(&self) -> u32 {
        self.rule.revision()
    }

    fn indexes(&self) -> &'static [Index] {
        self.rule.indexes()
    }

    fn shards(&self) -> u32 {
        self.rule.shards()
    }

    fn reads_row(&self) -> bool {
        self.rule.reads_row()
    }

    fn event_types(&self) -> &'static [&'static str] {
        self.rule.event_types()
    }

    fn concerns(&self, aggregate: &AggregateId, event_type: &str) -> bool {
        self.rule.concerns(aggregate, event_type)
    }

    fn change(&self, event: &RecordedEvent, row: &Attributes) -> Result<Change, Refusal> {
        (self.change)(event, row)
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
        let partition = partition.iter().map(|key| (key, KEY_BYTES_MAX));
        for (key, bytes_max) in partition.chain(sort.iter().map(|key| (key, SORT_KEY_BYTES_MAX))) {
            let attribute = key.attribute();
            let written = change.writes(attribute).find_map(|written| fault(*key, bytes_max, &written));
            // Of an amount added to a string, `writes` shows the sum only.
            let set = change.own().get(attribute).and_then(|op| if let Base::Set(value) = &op.base { Some(value) } else { None });
            if let Some(fault) = written.or_else(|| fault(*key, bytes_max, &Written::Value(set?))) {
                return Err(Refusal::IndexKey { attribute, index, kind: key.kind(), fault });
            }
        }
    }
    Ok(())
}

/// Refuses what readers could not combine.
fn check_sharded(change: &Change, aggregate: &AggregateId, indexes: &'static [Index]) -> Result<(), Refusal> {
    if sharded_row(aggregate.as_str()).is_some() {
        return Err(Refusal::NamedAsShard);
    }
    for Index { name: index, partition, sort, include } in indexes {
        let attributes = partition.iter().chain(*sort).map(IndexKey::attribute).chain(include.iter().copied());
        for attribute in attributes {
            if change.cells().any(|(_, of_shared)| of_shared == attribute) {
                return Err(Refusal::IndexOfShards { attribute, index });
            }
        }
    }
    Ok(())
}

/// What is wrong with what a rule writes to a key of an index.
fn fault(key: IndexKey, bytes_max: usize, written: &Written<'_>) -> Option<&'static str> {
    match (key, written) {
        (IndexKey::Text(_), Written::Value(Value::Text(text))) if text.is_empty() => {
            Some("writes an empty string: remove the attribute instead")
        }
        (IndexKey::Text(_), Written::Value(Value::Text(text))) if text.len() > bytes_max => {
            Some("writes a string that is too long: a partition key has at most 2,048 bytes, a sort key 1,024")
        }
        // A sum that DynamoDB cannot hold is refused wherever it stands.
        (IndexKey::Text(_), Written::Value(Value::Text(_))) | (IndexKey::Number(_), Written::Value(Value::Number(_)) | Written::Sum) => {
            None
        }
        (IndexKey::Text(_), Written::Value(Value::Number(_))) => Some("writes a number"),
        (IndexKey::Number(_), Written::Value(Value::Text(_))) => Some("writes a string"),
        (IndexKey::Text(_), Written::Sum) => Some("uses `add`, which makes it a number"),
        (_, Written::Value(_)) => Some("writes a value of another type"),
        (_, Written::Set) => Some("uses `insert`, which makes it a set"),
    }
}

/// The most attributes in an index's partition key, and in its sort key.
/// <https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/GSI.DesignPattern.MultiAttributeKeys.html>
const INDEX_KEYS_MAX: usize = 4;
/// The most global secondary indexes of a table, unless AWS raises the quota.
/// <https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Constraints.html>
const INDEXES_MAX: usize = 20;

/// Asserts that the constants of a projection are valid.
///
/// # Panics
/// If they are not.
pub(crate) fn assert_valid(rule: &dyn DynProjection) {
    let name = rule.name();
    assert!(is_kebab_case(name) && name.len() >= 3, "`{name}` is not a valid name: use kebab-case, with at least three characters");
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
    let shards = rule.shards();
    assert!((1..=SHARDS_MAX).contains(&shards), "`{name}` has {shards} shards: a shared row has 1, or at most {SHARDS_MAX}");
    assert_indexes_valid(rule);
}

/// Asserts that the constants of a process are valid, and that whoever runs it lists its instances and timers.
fn assert_process_valid(process: &'static dyn DynProcess, rules: &[&'static dyn DynProjection]) {
    let name = process.name();
    assert!(process.process_revision() > 0, "the revision of `{name}` is 0: revisions start at 1");
    assert!(process.hops_max() > 0, "`{name}` has a limit of 0 hops, so that it could do nothing");
    for (at, decider) in process.commanded().iter().enumerate() {
        let kind = decider.kind();
        assert!(process.commanded()[..at].iter().all(|other| other.kind() != kind), "`{name}` commands two deciders of the kind `{kind}`");
    }
    for fact in process.fact_types() {
        assert!(!fact.starts_with("Process"), "`{name}` records `{fact}`: event types that begin with `Process` are reserved");
        assert!(!process.event_types().contains(fact), "`{name}` records `{fact}` and reacts to it: it would feed itself");
    }
    let sent = process.event_types().iter().filter(|event_type| **event_type == crate::process::SENT).count();
    assert!(sent == 1, "`{name}` reacts to `{}`, which is for the process that sent it alone", crate::process::SENT);
    assert!(
        rules.iter().any(|rule| rule.name() == ProcessStatus::NAME),
        "`{name}` is a process, and `{}` lists its instances and timers: add `&ProcessStatus` to the projections",
        ProcessStatus::NAME
    );
}

fn assert_indexes_valid(rule: &dyn DynProjection) {
    let (name, indexes) = (rule.name(), rule.indexes());
    assert!(indexes.len() <= INDEXES_MAX, "`{name}` has {} indexes: a table has at most {INDEXES_MAX}", indexes.len());
    // A table has one type for each attribute that is a key.
    let of_table = [Some(rule.key()), rule.children()].into_iter().flatten();
    let mut kinds: BTreeMap<_, _> = of_table.map(|name| (name, IndexKey::Text(name))).collect();
    for (at, Index { name: index, partition, sort, .. }) in indexes.iter().enumerate() {
        let valid = (3..=255).contains(&index.len()) && index.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
        assert!(valid, "`{index}` of `{name}` is not a valid name of an index: use 3 to 255 letters, digits, `_`, `.` and `-`");
        assert!(indexes[..at].iter().all(|other| other.name != *index), "two indexes of `{name}` are named `{index}`");
        assert!(!partition.is_empty(), "the index `{index}` of `{name}` has no partition key");
        for (keys, what) in [(partition, "partition"), (sort, "sort")] {
            let number = keys.len();
            assert!(
                number <= INDEX_KEYS_MAX,
                "the {what} key of the index `{index}` of `{name}` has {number} attributes: four are the most"
            );
        }
        let keys: Vec<_> = partition.iter().chain(*sort).collect();
        for (at, key) in keys.iter().enumerate() {
            let attribute = key.attribute();
            assert!(
                !RESERVED.contains(&attribute) && is_attribute(attribute),
                "`{attribute}` cannot be a key of the index `{index}` of `{name}`: the worker reserves it, or its name is empty or has a `#`"
            );
            let twice = keys[..at].iter().any(|other| other.attribute() == attribute);
            assert!(!twice, "the index `{index}` of `{name}` has `{attribute}` twice among its keys");
            let known = *kinds.entry(attribute).or_insert(**key);
            assert!(
                known == **key,
                "`{attribute}` of `{name}` is {} as one key and {} as another, in the index `{index}`",
                known.kind(),
                key.kind()
            );
        }
    }
}

/// Whether a name has only lower-case letters, digits and `-`.
pub(crate) fn is_kebab_case(name: &str) -> bool {
    name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
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
            if let Some(process) = rule.process() {
                assert_process_valid(process, rules);
            }
        }
        Self(rules)
    }

    /// The projections.
    #[must_use]
    pub fn projections(&self) -> &'static [&'static dyn DynProjection] {
        self.0
    }

    /// Those that make rows, which processes do not.
    pub fn read_models(&self) -> impl Iterator<Item = &'static dyn DynProjection> {
        self.0.iter().copied().filter(|rule| rule.process().is_none())
    }

    /// The processes among them.
    pub fn processes(&self) -> impl Iterator<Item = &'static dyn DynProcess> {
        self.0.iter().filter_map(|rule| rule.process())
    }

    /// The projection with this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&'static dyn DynProjection> {
        self.0.iter().copied().find(|rule| rule.name() == name)
    }
}
