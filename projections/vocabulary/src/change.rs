//! The algebra of changes: what an event may do to rows, and how the changes of many events merge into one.
//!
//! A home row belongs to one aggregate, whose events are applied in order, so a rule may `add`, `set` and `remove` there. Many
//! aggregates write to a shared row, in no particular order, so a rule may only use operations that commute: `add` (the
//! contributing aggregate's home row makes it exact) and the monotone `max` and `insert` (idempotent). The builders [`own`] and
//! [`shared`] offer exactly these operations; nothing else compiles.
//!
//! The amounts that an aggregate has added to shared rows so far are its *contributions*: a vector with one number for each
//! attribute of each shared row. Every change acts on that vector as an affine map: [`transfer`] and [`retract`] move or drop
//! coordinates, and `add` adds. Affine maps compose associatively. [`Change::then`] is therefore associative, and the events of
//! a span cost one write.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    mem::discriminant,
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use crate::{
    AggregateId, DEPTH_MAX, Decimal, Value,
    absent::{CompareOnOwnRow, InsertIntoOwnRow, MinOnSharedRow, RemoveFromSharedRow, SetOnSharedRow},
};

/// Names of row attributes that belong to the worker. A rule cannot use them.
pub const RESERVED: [&str; 9] = ["version", "revision", "lastEventId", "parkedAt", "owned", "rewritten", "unfinished", "left", "corrected"];

/// The sort key of home rows and shared rows in a table of child rows. It sorts before every child.
pub const HOME_SORT: &str = "!";

/// The partition key of one row of a read model.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RowKey(Arc<str>);

impl RowKey {
    /// The key as a string.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for RowKey {
    fn from(key: &str) -> Self {
        Self(key.into())
    }
}

impl From<&String> for RowKey {
    fn from(key: &String) -> Self {
        Self(key.as_str().into())
    }
}

impl From<String> for RowKey {
    fn from(key: String) -> Self {
        Self(key.into())
    }
}

impl From<&AggregateId> for RowKey {
    fn from(id: &AggregateId) -> Self {
        Self(id.as_str().into())
    }
}

impl fmt::Display for RowKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for RowKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

/// Which row of a read model: by its key, and a child row also by its sort key. It is shown as `alice` or `alice/0000000001`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RowId {
    /// The key of the row, or of the child's home row.
    pub key: RowKey,
    /// The sort key of a child row; `None` for home rows and shared rows.
    pub child: Option<Arc<str>>,
}

impl<K: Into<RowKey>> From<K> for RowId {
    fn from(key: K) -> Self {
        Self { key: key.into(), child: None }
    }
}

impl fmt::Display for RowId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.key.fmt(f)?;
        self.child.iter().try_for_each(|sort| write!(f, "/{sort}"))
    }
}

/// One attribute of one shared row.
pub type Cell = (RowKey, String);
/// Amounts by shared row and attribute.
pub type Sums = BTreeMap<Cell, Decimal>;
/// A row's attributes by name.
pub type Attributes = BTreeMap<String, Value>;
/// The child rows of one aggregate, by sort key.
pub type Children = BTreeMap<Arc<str>, Attributes>;
/// What one aggregate has written to shared rows so far, by row and attribute.
pub type Contributions = BTreeMap<Cell, Contribution>;

/// What one aggregate has written to one attribute of a shared row. The attribute combines what all aggregates have written to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Contribution {
    /// The amount added; the attribute is the sum.
    Sum(Decimal),
    /// The highest value; the attribute is the highest of all.
    Max(Value),
    /// The members inserted; the attribute is the union.
    Set(BTreeSet<Arc<str>>),
}

/// How an attribute of a shared row combines what the aggregates write to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Kind {
    /// By `add`.
    Sum,
    /// By `max`.
    Max,
    /// By `insert`.
    Set,
}

impl Contribution {
    /// How it combines with others.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Sum(_) => Kind::Sum,
            Self::Max(_) => Kind::Max,
            Self::Set(_) => Kind::Set,
        }
    }

    /// The amount, if it is a sum.
    pub(crate) fn sum(&self) -> Option<&Decimal> {
        if let Self::Sum(amount) = self { Some(amount) } else { None }
    }

    /// What the attribute shows if nobody else writes to it.
    #[must_use]
    pub fn value(&self) -> Value {
        match self {
            Self::Sum(amount) => Value::Number(amount.clone()),
            Self::Max(value) => value.clone(),
            Self::Set(members) => Value::TextSet(members.clone()),
        }
    }

    /// Whether [`Contribution::combine`] takes the other one.
    pub(crate) fn combines_with(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Max(highest), Self::Max(value)) => discriminant(highest) == discriminant(value),
            _ => self.kind() == other.kind(),
        }
    }

    /// Combines it with another one.
    ///
    /// # Errors
    /// [`Inapplicable::TwoKinds`].
    pub fn combine(&mut self, other: &Self) -> Result<(), Inapplicable> {
        if !self.combines_with(other) {
            return Err(Inapplicable::TwoKinds);
        }
        match (self, other) {
            (Self::Sum(sum), Self::Sum(amount)) => *sum += amount,
            (Self::Max(highest), Self::Max(value)) if *highest < *value => highest.clone_from(value),
            (Self::Set(all), Self::Set(members)) => all.extend(members.iter().cloned()),
            // A maximum that is no higher.
            _ => {}
        }
        Ok(())
    }
}

/// The row's values do not allow the change. The worker parks the aggregate at the event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Inapplicable {
    /// An amount was added to an attribute that is not a number.
    #[error("an amount was added to an attribute that is not a number")]
    AddToNonNumber,
    /// DynamoDB cannot hold the sum.
    #[error("the sum is {0}")]
    Sum(#[from] crate::DecimalError),
    /// One attribute of a shared row is written by different operations, or by `max` of values of different types.
    #[error(
        "the rule writes to one attribute of a shared row by two of `add`, `max` and `insert`, or by `max` of different types, which do \
         not commute: use two attributes"
    )]
    TwoKinds,
    /// A row is shared with the aggregate whose home row it is.
    #[error("the rule shares the aggregate's own row with itself: use `own()` for it")]
    SharesItself,
    /// DynamoDB does not compare the value of a `max`.
    #[error("the rule uses `max` with a value that is neither a number nor a string: DynamoDB does not compare others")]
    NotComparable,
    /// One of the [`RESERVED`] attributes is written.
    #[error("the rule writes the attribute `{0}`, which the worker reserves: choose another name")]
    Reserved(&'static str),
    /// An attribute's name is not allowed.
    #[error("the rule writes an attribute whose name is empty or contains `#`: choose another name")]
    Name,
    /// The key of a shared row is not allowed.
    #[error("the rule writes to a shared row whose key is empty or longer than DynamoDB's 2,048 bytes")]
    Key,
    /// The sort key of a child row is not allowed.
    #[error(
        "the rule writes a child row whose sort key is empty, longer than DynamoDB's 1,024 bytes, or does not sort after `!`, where home \
         rows stand"
    )]
    ChildSort,
    /// A value has a set without members.
    #[error("the rule writes a set without members, which DynamoDB does not hold: remove the attribute instead")]
    EmptySet,
    /// A value is nested too deeply.
    #[error("the rule writes a value that is nested deeper than DynamoDB's 32 levels")]
    TooDeep,
}

/// What one event, or a span of events, does to rows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Change {
    own: BTreeMap<String, OwnOp>,
    route: Route,
    /// Added to contributions after `route` has moved the earlier ones.
    adds: Sums,
    /// Every cell that any event of the span added to, even if the sum is zero. The shared row then shows a zero, whether the
    /// events are applied one by one or at once.
    touched: BTreeSet<Cell>,
    max: BTreeMap<Cell, Value>,
    insert: BTreeMap<Cell, BTreeSet<Arc<str>>>,
    children: BTreeMap<Arc<str>, ChildOp>,
}

/// The change of one child row.
#[derive(Clone, Debug, PartialEq)]
pub enum ChildOp {
    /// Sets these attributes, and keeps the others.
    Set(Attributes),
    /// The row has these attributes and no others.
    Replace(Attributes),
    /// There is no such row.
    Remove,
}

impl ChildOp {
    /// Makes this change what it and then `later` do.
    fn go_on(&mut self, later: &Self) {
        match (&mut *self, later) {
            (Self::Set(attributes) | Self::Replace(attributes), Self::Set(more)) => {
                attributes.extend(more.iter().map(|(name, value)| (name.clone(), value.clone())));
            }
            (Self::Remove, Self::Set(attributes)) => *self = Self::Replace(attributes.clone()),
            (_, later) => self.clone_from(later),
        }
    }

    /// The attributes that it writes; none if it removes the row.
    #[must_use]
    pub fn attributes(&self) -> Option<&Attributes> {
        match self {
            Self::Set(attributes) | Self::Replace(attributes) => Some(attributes),
            Self::Remove => None,
        }
    }

    /// About how many bytes it writes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let of = |(name, value): (&String, &Value)| name.len() + value.bytes();
        KEY_BYTES + self.attributes().into_iter().flatten().map(of).sum::<usize>()
    }
}

/// About what the keys of an item take, and what DynamoDB adds to an item.
const KEY_BYTES: usize = 200;

/// The change of one attribute of the home row: first `base`, then `add`.
#[derive(Clone, Debug, PartialEq)]
pub struct OwnOp {
    /// The value to start from.
    pub base: Base,
    /// The amount to add to it.
    pub add: Option<Decimal>,
}

impl OwnOp {
    /// A sum whose parts are all known is itself a value. Adding to a string stays a separate operation, so that DynamoDB refuses it.
    fn work_out(&mut self) {
        let Some(add) = &self.add else { return };
        let sum = match &self.base {
            Base::Set(Value::Number(number)) => {
                let mut sum = add.clone();
                sum += number;
                sum
            }
            Base::Remove => add.clone(),
            Base::Set(_) | Base::Keep => return,
        };
        *self = Self { base: Base::Set(Value::Number(sum)), add: None };
    }
}

/// The value that an [`OwnOp`] starts from.
#[derive(Clone, Debug, PartialEq)]
pub enum Base {
    /// The row's present value.
    Keep,
    /// This value.
    Set(Value),
    /// None: the attribute is removed.
    Remove,
}

/// Where contributions to each shared row count from now on.
#[derive(Clone, Debug, Default, PartialEq)]
struct Route {
    moved: BTreeMap<RowKey, Way>,
    /// Whether every row that is not in `moved` loses its contributions.
    retracted: bool,
}

/// Where the contributions to one row move.
#[derive(Clone, Debug, PartialEq)]
struct Way {
    /// `None` if they are taken back.
    to: Option<RowKey>,
    /// The rows that they moved through. Applied one by one, the events leave a zero there, so the merged change must too.
    through: BTreeSet<RowKey>,
}

impl Way {
    /// Goes on from `stop`, where it ended so far, as `later` does. It begins at `from`.
    fn go_on(&mut self, from: &RowKey, stop: RowKey, later: &Route) {
        self.to = later.of(&stop);
        self.through.extend(later.through(&stop).cloned());
        self.through.insert(stop);
        // A canonical form, so that equal changes compare as equal.
        self.through.remove(from);
        if let Some(to) = &self.to {
            self.through.remove(to);
        }
    }
}

impl Route {
    fn is_identity(&self) -> bool {
        self.moved.is_empty() && !self.retracted
    }

    /// Whether contributions to this row move, are taken back or come back.
    fn affects(&self, key: &RowKey) -> bool {
        self.retracted || self.moved.contains_key(key)
    }

    fn of(&self, key: &RowKey) -> Option<RowKey> {
        match self.moved.get(key) {
            Some(way) => way.to.clone(),
            None => (!self.retracted).then(|| key.clone()),
        }
    }

    fn through(&self, key: &RowKey) -> impl Iterator<Item = &RowKey> {
        self.moved.get(key).into_iter().flat_map(|way| &way.through)
    }

    /// The entries of a map whose contributions it affects. Visits no others, unless it takes all contributions back.
    fn affected<'a, V>(&'a self, all: &'a BTreeMap<Cell, V>) -> impl Iterator<Item = (&'a Cell, &'a V)> {
        let taken_back = self.retracted.then(|| all.iter()).into_iter().flatten();
        let moved = self.moved.keys().filter(|_| !self.retracted).flat_map(|row| cells_of(all, row));
        taken_back.chain(moved)
    }

    /// Adds the steps of `later` at the end. Visits only the ways that it changes, because a span may have a thousand moves.
    fn go_on(&mut self, later: &Self) {
        for (from, way) in &mut self.moved {
            if let Some(stop) = way.to.take_if(|stop| later.affects(stop)) {
                way.go_on(from, stop, later);
            }
        }
        if !self.retracted {
            for (from, way) in &later.moved {
                self.moved.entry(from.clone()).or_insert_with(|| way.clone());
            }
        }
        self.retracted |= later.retracted;
        let retracted = self.retracted;
        self.moved.retain(|from, way| !way.through.is_empty() || if retracted { way.to.is_some() } else { way.to.as_ref() != Some(from) });
    }
}

/// The attributes of one row, in a map of attributes of all rows.
fn cells_of<'a, V>(all: &'a BTreeMap<Cell, V>, row: &'a RowKey) -> impl Iterator<Item = (&'a Cell, &'a V)> {
    all.range((row.clone(), String::new())..).take_while(move |((of, _), _)| of == row)
}

impl Change {
    /// This change and then `later`, as one. Associative; [`nothing`] is neutral.
    #[must_use]
    pub fn then(mut self, later: Self) -> Self {
        if self == Self::default() {
            return later;
        }
        self.go_on(&later);
        self
    }

    /// Makes this change `self.then(later)`. Takes time in proportion to `later`, and to what `later` moves or takes back.
    pub(crate) fn go_on(&mut self, later: &Self) {
        for (name, op) in &later.own {
            match self.own.get_mut(name) {
                Some(first) => merge_own(first, op),
                None => _ = self.own.insert(name.clone(), op.clone()),
            }
        }
        if !later.route.is_identity() {
            self.move_adds(&later.route);
            self.route.go_on(&later.route);
        }
        for (cell, amount) in &later.adds {
            match self.adds.get_mut(cell) {
                Some(sum) => *sum += amount,
                None => _ = self.adds.insert(cell.clone(), amount.clone()),
            }
        }
        for cell in &later.touched {
            if !self.touched.contains(cell) {
                self.touched.insert(cell.clone());
            }
        }
        for (cell, value) in &later.max {
            match self.max.get_mut(cell) {
                Some(highest) if *highest < *value => highest.clone_from(value),
                Some(_) => {}
                None => _ = self.max.insert(cell.clone(), value.clone()),
            }
        }
        for (cell, texts) in &later.insert {
            match self.insert.get_mut(cell) {
                Some(all) => all.extend(texts.iter().cloned()),
                None => _ = self.insert.insert(cell.clone(), texts.clone()),
            }
        }
        for (sort, op) in &later.children {
            match self.children.get_mut(sort) {
                Some(first) => first.go_on(op),
                None => _ = self.children.insert(sort.clone(), op.clone()),
            }
        }
    }

    /// Moves the amounts that it adds to where they count from now on.
    fn move_adds(&mut self, route: &Route) {
        let affected: Vec<Cell> = route.affected(&self.adds).map(|(cell, _)| cell.clone()).collect();
        let mut moved = Vec::new();
        for cell in affected {
            self.touched.extend(route.through(&cell.0).map(|stop| (stop.clone(), cell.1.clone())));
            let amount = self.adds.remove(&cell).expect("it is one of them");
            moved.extend(route.of(&cell.0).map(|to| ((to, cell.1), amount)));
        }
        for (cell, amount) in moved {
            self.touched.insert(cell.clone());
            *self.adds.entry(cell).or_default() += &amount;
        }
    }

    /// Combines several changes of one event; the same as [`Change::then`].
    #[must_use]
    pub fn and(self, more: impl Into<Self>) -> Self {
        self.then(more.into())
    }

    /// The changes of the home row's attributes, by name.
    #[must_use]
    pub fn own(&self) -> &BTreeMap<String, OwnOp> {
        &self.own
    }

    /// The `max` operations on shared rows.
    #[must_use]
    pub fn max(&self) -> &BTreeMap<Cell, Value> {
        &self.max
    }

    /// The `insert` operations on shared rows.
    #[must_use]
    pub fn insert(&self) -> &BTreeMap<Cell, BTreeSet<Arc<str>>> {
        &self.insert
    }

    /// The changes of the aggregate's child rows, by sort key.
    #[must_use]
    pub fn children(&self) -> &BTreeMap<Arc<str>, ChildOp> {
        &self.children
    }

    /// Applies the changes of child rows.
    pub fn apply_to_children(&self, children: &mut Children) {
        for (sort, op) in &self.children {
            match op {
                ChildOp::Set(attributes) => children.entry(sort.clone()).or_default().extend(attributes.clone()),
                ChildOp::Replace(attributes) => _ = children.insert(sort.clone(), attributes.clone()),
                ChildOp::Remove => _ = children.remove(sort),
            }
        }
    }

    /// The shared rows that it names: it writes to their attributes, or moves contributions from, to or through them. Contributions that it
    /// takes back may be on others.
    #[must_use]
    pub fn shared_rows(&self) -> BTreeSet<&RowKey> {
        let moved = self.route.moved.iter().flat_map(|(from, way)| [from].into_iter().chain(&way.to).chain(&way.through));
        self.cells().map(|(row, _)| row).chain(moved).collect()
    }

    /// The change with other keys for all shared rows; different keys stay different.
    pub(crate) fn map_shared_rows(self, key: impl Fn(&RowKey) -> RowKey) -> Self {
        fn cells<V>(all: BTreeMap<Cell, V>, key: impl Fn(&RowKey) -> RowKey) -> BTreeMap<Cell, V> {
            all.into_iter().map(|((row, attribute), value)| ((key(&row), attribute), value)).collect()
        }
        let way = |Way { to, through }| Way { to: to.as_ref().map(&key), through: through.iter().map(&key).collect() };
        let moved = self.route.moved.into_iter().map(|(from, to)| (key(&from), way(to))).collect();
        Self {
            route: Route { moved, retracted: self.route.retracted },
            adds: cells(self.adds, &key),
            touched: self.touched.into_iter().map(|(row, attribute)| (key(&row), attribute)).collect(),
            max: cells(self.max, &key),
            insert: cells(self.insert, &key),
            own: self.own,
            children: self.children,
        }
    }

    /// How many attributes of shared rows it writes to, apart from those to which it moves contributions.
    #[must_use]
    pub fn shared_attributes(&self) -> usize {
        self.touched.len() + self.max.len() + self.insert.len()
    }

    /// Whether the effect of this change depends on the aggregate's earlier contributions.
    #[must_use]
    pub fn needs_contributions(&self) -> bool {
        !self.route.is_identity()
    }

    /// The effect of this change on shared rows and on the contributions of its aggregate, which were `before`; `None` if they are
    /// unknown, which is possible unless [`Change::needs_contributions`].
    #[must_use]
    pub fn resolve(&self, before: Option<&Contributions>) -> Resolved {
        let unknown = Contributions::new();
        let before = before.unwrap_or(&unknown);
        let mut resolved = Resolved { insert: self.insert.clone(), max: self.max.clone(), ..self.resolve_sums(before) };
        resolved.max.retain(|cell, value| !matches!(before.get(cell), Some(Contribution::Max(highest)) if *highest >= *value));
        for (cell, members) in &mut resolved.insert {
            if let Some(Contribution::Set(known)) = before.get(cell) {
                members.retain(|member| !known.contains(member));
            }
        }
        resolved.insert.retain(|_, members| !members.is_empty());
        resolved
    }

    fn resolve_sums(&self, before: &Contributions) -> Resolved {
        let mut resolved =
            Resolved { shared: self.touched.iter().map(|cell| (cell.clone(), Decimal::zero())).collect(), ..Resolved::default() };
        if self.route.is_identity() {
            resolved.shared.extend(self.adds.clone());
            resolved.adds.clone_from(&self.adds);
            return resolved;
        }
        // Only what the change moves, takes back or adds to is visited: an aggregate may contribute to thousands of other rows.
        let sum = |cell: &Cell| before.get(cell).and_then(Contribution::sum);
        let stays = |cell: &Cell| sum(cell).filter(|_| !self.route.affects(&cell.0));
        let mut after = Sums::new();
        let mut add = |cell: Cell, amount: &Decimal| {
            *after.entry(cell).or_insert_with_key(|cell| stays(cell).cloned().unwrap_or_default()) += amount;
        };
        let affected = || self.route.affected(before).filter_map(|(cell, contribution)| Some((cell, contribution.sum()?)));
        for (cell, amount) in affected() {
            let to = self.route.of(&cell.0);
            for stop in self.route.through(&cell.0) {
                resolved.shared.entry((stop.clone(), cell.1.clone())).or_default();
            }
            if to.as_ref() != Some(&cell.0) {
                *resolved.shared.entry(cell.clone()).or_default() -= amount;
                // The target cell becomes visible even if the amount that moves to it is zero.
                if let Some(to) = &to {
                    *resolved.shared.entry((to.clone(), cell.1.clone())).or_default() += amount;
                }
            }
            if let Some(to) = to {
                add((to, cell.1.clone()), amount);
            }
        }
        for (cell, amount) in &self.adds {
            *resolved.shared.entry(cell.clone()).or_default() += amount;
            add(cell.clone(), amount);
        }
        resolved.removes = affected().map(|(cell, _)| cell).filter(|cell| !after.contains_key(*cell)).cloned().collect();
        let left = resolved.shared.keys().filter(|cell| !after.contains_key(*cell) && stays(cell).is_none());
        resolved.left = left.cloned().collect();
        for (cell, mut delta) in after {
            let known = sum(&cell);
            if let Some(known) = known {
                delta -= known;
            }
            if known.is_none() || !delta.is_zero() {
                resolved.adds.insert(cell, delta);
            }
        }
        resolved
    }

    /// Whether it can be applied by this aggregate, as far as that can be told from the change alone.
    ///
    /// # Errors
    /// [`Inapplicable`]: write fewer events at once. If a single event fails, it can never be applied.
    pub fn check(&self, aggregate: &AggregateId) -> Result<(), Inapplicable> {
        let of_children = || self.children.values().filter_map(ChildOp::attributes);
        let attributes = self.own.keys().chain(self.cells().map(|(_, attribute)| attribute));
        attributes.chain(of_children().flat_map(Attributes::keys)).try_for_each(|attribute| check_name(attribute))?;
        let targets = || self.route.moved.values().filter_map(|way| way.to.as_ref());
        if self.cells().map(|(row, _)| row).chain(targets()).any(|row| row.0.is_empty() || row.0.len() > KEY_BYTES_MAX) {
            return Err(Inapplicable::Key);
        }
        for op in self.own.values() {
            op.add.as_ref().map_or(Ok(()), Decimal::check)?;
            if let Base::Set(value) = &op.base {
                check_value(value, 0)?;
            }
        }
        if self.children.keys().any(|sort| !is_child_sort(sort)) {
            return Err(Inapplicable::ChildSort);
        }
        of_children().flat_map(Attributes::values).try_for_each(|value| check_value(value, 0))?;
        self.adds.values().try_for_each(Decimal::check)?;
        for value in self.max.values() {
            match value {
                Value::Number(number) => number.check()?,
                Value::Text(_) | Value::Bytes(_) => {}
                _ => return Err(Inapplicable::NotComparable),
            }
        }
        if self.cells().any(|cell| self.is_of_two_kinds(cell)) {
            return Err(Inapplicable::TwoKinds);
        }
        if self.cells().map(|(row, _)| row).chain(targets()).any(|row| row.as_str() == aggregate.as_str()) {
            return Err(Inapplicable::SharesItself);
        }
        Ok(())
    }

    /// [`Change::check`] of a change that passed it, after it went on with `later`, which passed it too.
    pub(crate) fn check_after(&self, later: &Self, aggregate: &AggregateId) -> Result<(), Inapplicable> {
        if later.needs_contributions() {
            return self.check(aggregate);
        }
        for op in later.own.keys().filter_map(|name| self.own.get(name)) {
            match op {
                OwnOp { add: Some(sum), .. } | OwnOp { base: Base::Set(Value::Number(sum)), .. } => sum.check()?,
                _ => {}
            }
        }
        later.adds.keys().filter_map(|cell| self.adds.get(cell)).try_for_each(Decimal::check)?;
        if later.cells().any(|cell| self.is_of_two_kinds(cell)) { Err(Inapplicable::TwoKinds) } else { Ok(()) }
    }

    fn is_of_two_kinds(&self, cell: &Cell) -> bool {
        let kinds = [self.touched.contains(cell), self.max.contains_key(cell), self.insert.contains_key(cell)];
        kinds.into_iter().filter(|there| *there).count() > 1
    }

    /// The attributes of shared rows that it names; one that is written by two operations comes twice.
    pub(crate) fn cells(&self) -> impl Iterator<Item = &Cell> {
        self.touched.iter().chain(self.max.keys()).chain(self.insert.keys())
    }

    /// What it writes to attributes of this name, in whatever row.
    pub(crate) fn writes(&self, attribute: &str) -> impl Iterator<Item = Written<'_>> {
        let of = move |cell: &Cell| cell.1 == attribute;
        let own = self.own.get(attribute).and_then(|op| match &op.base {
            _ if op.add.is_some() => Some(Written::Sum),
            Base::Set(value) => Some(Written::Value(value)),
            Base::Keep | Base::Remove => None,
        });
        let maxima = self.max.iter().filter(move |(cell, _)| of(cell)).map(|(_, value)| Written::Value(value));
        let sums = self.touched.iter().filter(move |cell| of(cell)).map(|_| Written::Sum);
        let sets = self.insert.keys().filter(move |cell| of(cell)).map(|_| Written::Set);
        let children = self.children.values().filter_map(move |op| op.attributes()?.get(attribute)).map(Written::Value);
        own.into_iter().chain(maxima).chain(sums).chain(sets).chain(children)
    }
}

/// What a change writes to an attribute.
pub(crate) enum Written<'a> {
    /// `set` or `max`: this value.
    Value(&'a Value),
    /// `add`: a number.
    Sum,
    /// `insert`: a set of strings.
    Set,
}

/// The most bytes of a partition key.
/// <https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Constraints.html>
pub(crate) const KEY_BYTES_MAX: usize = 2_048;
/// The most bytes of a sort key.
/// <https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Constraints.html>
pub(crate) const SORT_KEY_BYTES_MAX: usize = 1_024;

pub(crate) fn is_child_sort(sort: &str) -> bool {
    sort > HOME_SORT && sort.len() <= SORT_KEY_BYTES_MAX
}

fn check_name(attribute: &str) -> Result<(), Inapplicable> {
    if let Some(reserved) = RESERVED.into_iter().find(|reserved| *reserved == attribute) {
        return Err(Inapplicable::Reserved(reserved));
    }
    if attribute.is_empty() || attribute.contains('#') { Err(Inapplicable::Name) } else { Ok(()) }
}

fn check_value(value: &Value, depth: usize) -> Result<(), Inapplicable> {
    match value {
        _ if depth > DEPTH_MAX => Err(Inapplicable::TooDeep),
        Value::Number(number) => Ok(number.check()?),
        Value::TextSet(members) if members.is_empty() => Err(Inapplicable::EmptySet),
        Value::List(elements) => elements.iter().try_for_each(|element| check_value(element, depth + 1)),
        Value::Map(members) => members.values().try_for_each(|member| check_value(member, depth + 1)),
        Value::Null | Value::Bool(_) | Value::Text(_) | Value::Bytes(_) | Value::TextSet(_) => Ok(()),
    }
}

fn merge_own(first: &mut OwnOp, later: &OwnOp) {
    if later.base != Base::Keep {
        first.clone_from(later);
    } else if let Some(more) = &later.add {
        *first.add.get_or_insert_default() += more;
    }
    first.work_out();
}

/// A change with its effect on shared rows and contributions worked out.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Resolved {
    /// The amounts to add to shared rows. A zero makes the attribute visible.
    pub shared: Sums,
    /// The amounts to add to the contributions on the home row.
    pub adds: Sums,
    /// The contributions to remove from the home row.
    pub removes: BTreeSet<Cell>,
    /// What the aggregate makes visible without contributing to it any longer.
    pub left: BTreeSet<Cell>,
    /// The values that may raise a maximum, of the contribution and of the shared row alike.
    pub max: BTreeMap<Cell, Value>,
    /// The members to insert, into the contribution and into the shared row alike.
    pub insert: BTreeMap<Cell, BTreeSet<Arc<str>>>,
}

impl Resolved {
    /// The shared rows that it writes to.
    #[must_use]
    pub fn rows(&self) -> BTreeSet<&RowKey> {
        self.shared.keys().chain(self.max.keys()).chain(self.insert.keys()).map(|(row, _)| row).collect()
    }
}

/// Changes of the aggregate's own row. Made by [`own`].
#[derive(Clone, Debug)]
pub struct Own(Change);

/// Changes of one shared row. Made by [`shared`].
#[derive(Clone, Debug)]
pub struct Shared(RowKey, Change);

/// One child row of the aggregate: made by [`child`]. It becomes a change with [`Child::set`] or [`Child::remove`].
#[derive(Clone, Debug)]
pub struct Child(Arc<str>);

/// Attributes of one child row. Made by [`Child::set`].
#[derive(Clone, Debug)]
pub struct ChildRow(Arc<str>, Attributes);

/// Changes nothing, but moves the watermark. For an event type that a rule declares without acting on it (see
/// [`Projection::Event`](crate::Projection::Event)).
#[must_use]
pub fn nothing() -> Change {
    Change::default()
}

/// Starts a change of the aggregate's own row, its home row.
///
/// ```
/// # use projection_vocabulary::{Change, Decimal, Projection, Recorded, Refusal, data, own, testkit::given};
/// # struct Orders;
/// #[derive(serde::Deserialize)]
/// enum Event {
///     Placed { note: String, total: Decimal },
///     Paid { amount: Decimal },
/// }
///
/// # impl Projection for Orders {
/// #     type Event = Event;
/// #     const NAME: &str = "orders";
/// #     const KEY: &str = "orderId";
/// fn project(&self, event: &Recorded<'_, Event>) -> Result<Change, Refusal> {
///     Ok(match &event.event {
///         Event::Placed { note, total } => own().set("status", "OPEN").set("note", note).add("due", total).into(),
///         Event::Paid { amount } => own().add("due", -amount).remove("note").into(),
///     })
/// }
/// # }
/// let rows = given(&Orders)
///     .event("order-1", "Placed", data! { note: "a gift", total: 30 })
///     .event("order-1", "Paid", data! { amount: 29.50 })
///     .rows();
/// assert_eq!(rows, "order-1: due=0.5 status=OPEN version=2\n");
/// ```
#[must_use]
pub fn own() -> Own {
    Own(Change::default())
}

/// Starts a change of a shared row: one that many aggregates write to. The row needs no creation.
///
/// ```
/// # use projection_vocabulary::{Change, Decimal, Projection, Recorded, Refusal, data, shared, testkit::given};
/// # struct Sales;
/// #[derive(serde::Deserialize)]
/// enum Event {
///     Sold { shop: String, price: Decimal },
/// }
///
/// # impl Projection for Sales {
/// #     type Event = Event;
/// #     const NAME: &str = "sales";
/// #     const KEY: &str = "id";
/// fn project(&self, event: &Recorded<'_, Event>) -> Result<Change, Refusal> {
///     let Event::Sold { shop, price } = &event.event;
///     Ok(shared(shop).add("taken", price).max("highestPrice", price).insert("articles", event.aggregate.as_str()).into())
/// }
/// # }
/// let rows = given(&Sales)
///     .event("hat", "Sold", data! { shop: "corner", price: 20 })
///     .event("scarf", "Sold", data! { shop: "corner", price: 9.99 })
///     .rows();
/// assert_eq!(rows, r#"
/// corner: articles=["hat","scarf"] highestPrice=20 taken=29.99
/// hat: version=1
/// scarf: version=1
/// "#.trim_start());
/// ```
pub fn shared(row: impl Into<RowKey>) -> Shared {
    Shared(row.into(), Change::default())
}

/// Starts a change of a child row of the aggregate: one line of a list under its home row, such as a movement of an account.
///
/// Child rows have the key of the home row and this sort key, by which readers get them in order. The projection names the attribute
/// with the sort key in [`CHILDREN`](crate::Projection::CHILDREN). A sort key has 1 to 1,024 bytes and sorts after `!`, where home rows
/// stand: it does not begin with a space or a control character.
///
/// ```
/// # use projection_vocabulary::{Change, Decimal, Projection, Recorded, Refusal, child, data, own, testkit::given};
/// # struct Carts;
/// #[derive(serde::Deserialize)]
/// enum Event {
///     Added { article: String, price: Decimal },
///     Repriced { article: String, price: Decimal },
///     Dropped { article: String },
/// }
///
/// # impl Projection for Carts {
/// #     type Event = Event;
/// #     const NAME: &str = "carts";
/// #     const KEY: &str = "cartId";
/// const CHILDREN: Option<&str> = Some("article");
///
/// fn project(&self, event: &Recorded<'_, Event>) -> Result<Change, Refusal> {
///     Ok(match &event.event {
///         Event::Added { article, price } => child(article).set("price", price).set("addedAt", event.timestamp).into(),
///         Event::Repriced { article, price } => child(article).set("price", price).into(),
///         Event::Dropped { article } => child(article).remove(),
///     })
/// }
/// # }
/// let rows = given(&Carts)
///     .event("cart-1", "Added", data! { article: "hat", price: 20 })
///     .event("cart-1", "Added", data! { article: "scarf", price: 9.99 })
///     .event("cart-1", "Repriced", data! { article: "hat", price: 15 })
///     .event("cart-1", "Dropped", data! { article: "scarf" })
///     .rows();
/// assert_eq!(rows, "\
/// cart-1: version=4
/// cart-1/hat: addedAt=2026-01-01T00:00:01.000Z price=15
/// ");
/// ```
pub fn child(sort: impl AsRef<str>) -> Child {
    Child(sort.as_ref().into())
}

/// Moves this aggregate's contributions: all that it has added to the shared row `from` counts for the row `to` instead.
///
/// It moves sums only. `max` and `insert` leave their values on the row `from`.
///
/// ```
/// # use projection_vocabulary::{Change, Projection, Recorded, Refusal, data, own, shared, testkit::given, transfer};
/// # struct Headcount;
/// #[derive(serde::Deserialize)]
/// enum Event {
///     Joined { team: String },
///     Moved { from: String, to: String },
/// }
///
/// # impl Projection for Headcount {
/// #     type Event = Event;
/// #     const NAME: &str = "headcount";
/// #     const KEY: &str = "id";
/// fn project(&self, event: &Recorded<'_, Event>) -> Result<Change, Refusal> {
///     Ok(match &event.event {
///         Event::Joined { team } => own().set("team", team).and(shared(team).add("people", 1)),
///         Event::Moved { from, to } => own().set("team", to).and(transfer(from, to)),
///     })
/// }
/// # }
/// let rows = given(&Headcount)
///     .event("ann", "Joined", data! { team: "search" })
///     .event("ben", "Joined", data! { team: "search" })
///     .event("ann", "Moved", data! { from: "search", to: "billing" })
///     .rows();
/// assert_eq!(rows, "\
/// ann: team=billing version=2
/// ben: team=search version=1
/// billing: people=1
/// search: people=1
/// ");
/// ```
pub fn transfer(from: impl Into<RowKey>, to: impl Into<RowKey>) -> Change {
    let (from, to) = (from.into(), to.into());
    let moved = if from == to { BTreeMap::new() } else { BTreeMap::from([(from, Way { to: Some(to), through: BTreeSet::new() })]) };
    Change { route: Route { moved, retracted: false }, ..Change::default() }
}

/// Takes back all that this aggregate has added to shared rows.
///
/// It takes back sums only. `max` and `insert` leave their values.
///
/// ```
/// # use projection_vocabulary::{Change, Decimal, Projection, Recorded, Refusal, data, own, retract, shared, testkit::given};
/// # struct Orders;
/// #[derive(serde::Deserialize)]
/// enum Event {
///     Placed { customer: String, total: Decimal },
///     Cancelled {},
/// }
///
/// # impl Projection for Orders {
/// #     type Event = Event;
/// #     const NAME: &str = "orders";
/// #     const KEY: &str = "id";
/// fn project(&self, event: &Recorded<'_, Event>) -> Result<Change, Refusal> {
///     Ok(match &event.event {
///         Event::Placed { customer, total } => own().set("total", total).and(shared(customer).add("orders", 1).add("ordered", total)),
///         Event::Cancelled {} => own().remove("total").and(retract()),
///     })
/// }
/// # }
/// let rows = given(&Orders)
///     .event("order-1", "Placed", data! { customer: "ann", total: 30 })
///     .event("order-2", "Placed", data! { customer: "ann", total: 12 })
///     .event("order-1", "Cancelled", data! {})
///     .rows();
/// assert_eq!(rows, "\
/// ann: ordered=12 orders=1
/// order-1: version=2
/// order-2: total=12 version=1
/// ");
/// ```
#[must_use]
pub fn retract() -> Change {
    Change { route: Route { moved: BTreeMap::new(), retracted: true }, ..Change::default() }
}

impl Child {
    /// Sets an attribute of the child row to a value. A row that does not exist is made; other attributes of an existing one stay.
    #[must_use]
    pub fn set(self, attribute: &str, value: impl Into<Value>) -> ChildRow {
        ChildRow(self.0, Attributes::from([(attribute.to_owned(), value.into())]))
    }

    /// Removes the child row, if it exists.
    #[must_use]
    pub fn remove(self) -> Change {
        Change { children: BTreeMap::from([(self.0, ChildOp::Remove)]), ..Change::default() }
    }
}

impl ChildRow {
    /// Sets another attribute of the same child row.
    #[must_use]
    pub fn set(mut self, attribute: &str, value: impl Into<Value>) -> Self {
        self.1.insert(attribute.to_owned(), value.into());
        self
    }

    /// Combines this with another change of the same event.
    #[must_use]
    pub fn and(self, more: impl Into<Change>) -> Change {
        Change::from(self).and(more)
    }
}

impl From<ChildRow> for Change {
    fn from(ChildRow(sort, attributes): ChildRow) -> Self {
        Self { children: BTreeMap::from([(sort, ChildOp::Set(attributes))]), ..Self::default() }
    }
}

impl Own {
    /// Adds an amount; a negative one subtracts. An absent attribute counts as zero.
    #[must_use]
    pub fn add(self, attribute: &str, amount: impl Into<Decimal>) -> Self {
        self.op(attribute, OwnOp { base: Base::Keep, add: Some(amount.into()) })
    }

    /// Sets the attribute to a value.
    #[must_use]
    pub fn set(self, attribute: &str, value: impl Into<Value>) -> Self {
        self.op(attribute, OwnOp { base: Base::Set(value.into()), add: None })
    }

    /// Removes the attribute.
    #[must_use]
    pub fn remove(self, attribute: &str) -> Self {
        self.op(attribute, OwnOp { base: Base::Remove, add: None })
    }

    /// Does not compile: compare with [`Recorded::row`](crate::Recorded::row) and [`set`](Own::set).
    #[must_use]
    pub fn max(self, _attribute: &str, _value: impl CompareOnOwnRow) -> Self {
        self
    }

    /// Does not compile: compare with [`Recorded::row`](crate::Recorded::row) and [`set`](Own::set).
    #[must_use]
    pub fn min(self, _attribute: &str, _value: impl CompareOnOwnRow) -> Self {
        self
    }

    /// Does not compile: [`set`](Own::set) the whole set.
    #[must_use]
    pub fn insert(self, _attribute: &str, _member: impl InsertIntoOwnRow) -> Self {
        self
    }

    /// Combines this with another change of the same event.
    #[must_use]
    pub fn and(self, more: impl Into<Change>) -> Change {
        self.0.and(more)
    }

    fn op(mut self, attribute: &str, op: OwnOp) -> Self {
        match self.0.own.get_mut(attribute) {
            Some(first) => merge_own(first, &op),
            None => _ = self.0.own.insert(attribute.to_owned(), op),
        }
        self
    }
}

impl Shared {
    /// Adds an amount; a negative one subtracts. It counts exactly once, however often the event is delivered.
    #[must_use]
    pub fn add(mut self, attribute: &str, amount: impl Into<Decimal>) -> Self {
        let cell = self.cell(attribute);
        *self.1.adds.entry(cell.clone()).or_default() += &amount.into();
        self.1.touched.insert(cell);
        self
    }

    /// Sets the attribute to the value if it is absent or lower. Numbers compare as numbers, strings by their bytes.
    #[must_use]
    pub fn max(mut self, attribute: &str, value: impl Into<Value>) -> Self {
        let raise = Change { max: BTreeMap::from([(self.cell(attribute), value.into())]), ..Change::default() };
        self.1 = self.1.then(raise);
        self
    }

    /// Inserts a string into a set of strings.
    #[must_use]
    pub fn insert(mut self, attribute: &str, member: impl Into<Arc<str>>) -> Self {
        let cell = self.cell(attribute);
        self.1.insert.entry(cell).or_default().insert(member.into());
        self
    }

    /// Does not compile: events of different aggregates arrive in no particular order, so the last to arrive would win.
    #[must_use]
    pub fn set(self, _attribute: &str, _value: impl SetOnSharedRow) -> Self {
        self
    }

    /// Does not compile: use [`retract`].
    #[must_use]
    pub fn remove(self, _attribute: impl RemoveFromSharedRow) -> Self {
        self
    }

    /// Does not compile: use [`max`](Shared::max) with a value that sorts the other way.
    #[must_use]
    pub fn min(self, _attribute: &str, _value: impl MinOnSharedRow) -> Self {
        self
    }

    /// Combines this with another change of the same event.
    #[must_use]
    pub fn and(self, more: impl Into<Change>) -> Change {
        self.1.and(more)
    }

    fn cell(&self, attribute: &str) -> Cell {
        (self.0.clone(), attribute.to_owned())
    }
}

impl From<Own> for Change {
    fn from(own: Own) -> Self {
        own.0
    }
}

impl From<Shared> for Change {
    fn from(shared: Shared) -> Self {
        shared.1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contributed(cells: &[(&str, &str, i32)]) -> Contributions {
        sums(cells).into_iter().map(|(cell, amount)| (cell, Contribution::Sum(amount))).collect()
    }

    fn sums(cells: &[(&str, &str, i32)]) -> Sums {
        cells.iter().map(|(row, attribute, amount)| (((*row).into(), (*attribute).into()), (*amount).into())).collect()
    }

    #[test]
    fn adds_merge_to_their_sum_and_a_later_set_wins() {
        let change: Change = own().add("n", 2).add("n", 3).into();
        assert_eq!(change.own["n"], OwnOp { base: Base::Keep, add: Some(5.into()) });
        let change = change.and(own().set("n", 7)).and(own().add("n", -1));
        assert_eq!(change.own["n"], OwnOp { base: Base::Set(6.into()), add: None });
        let change = change.and(own().remove("n")).and(own().add("n", 1));
        assert_eq!(change.own["n"], OwnOp { base: Base::Set(1.into()), add: None });
    }

    #[test]
    fn a_transfer_moves_earlier_contributions_and_not_later_ones() {
        let change = shared("a").add("posts", 3).and(transfer("a", "b")).and(shared("a").add("posts", 1));
        let resolved = change.resolve(Some(&contributed(&[("a", "posts", 10)])));
        assert_eq!(resolved.shared, sums(&[("a", "posts", -9), ("b", "posts", 13)]));
        assert_eq!(resolved.adds, sums(&[("a", "posts", -9), ("b", "posts", 13)]));
        assert!(resolved.removes.is_empty());
    }

    #[test]
    fn a_retraction_takes_back_all_contributions_wherever_they_moved() {
        let change = transfer("a", "b").and(retract());
        let resolved = change.resolve(Some(&contributed(&[("a", "posts", 10), ("c", "posts", 1)])));
        assert_eq!(resolved.shared, sums(&[("a", "posts", -10), ("b", "posts", 0), ("c", "posts", -1)]));
        assert_eq!(resolved.adds, Sums::new());
        assert_eq!(resolved.removes.len(), 2);
    }

    #[test]
    fn contributions_that_move_away_and_back_leave_a_zero_in_between() {
        let there_and_back = transfer("a", "b").and(transfer("b", "a"));
        let resolved = there_and_back.resolve(Some(&contributed(&[("a", "posts", 10)])));
        assert_eq!((resolved.shared, resolved.adds), (sums(&[("b", "posts", 0)]), Sums::new()));
        let resolved = shared("a").add("posts", 3).and(there_and_back).resolve(None);
        assert_eq!(resolved.shared, sums(&[("a", "posts", 3), ("b", "posts", 0)]));
    }

    /// At least one of each operation, and some that interact.
    fn steps() -> Vec<Change> {
        vec![
            nothing(),
            own().add("n", 2).into(),
            own().set("n", 5).set("t", "text").into(),
            own().remove("n").into(),
            shared("a").add("posts", 3).max("at", 7).into(),
            shared("b").add("posts", -1).add("topics", 1).max("at", 4).insert("authors", "ann").into(),
            shared("a").add("topics", 0).insert("authors", "ben").into(),
            transfer("a", "b"),
            transfer("b", "c"),
            transfer("c", "a"),
            transfer("b", "b"),
            transfer("a", "c").and(shared("a").add("posts", 1)),
            retract(),
            own().set("gone", true).and(retract()).and(shared("c").add("posts", 1)),
            child("1").set("n", 1).set("t", "text").into(),
            child("1").set("n", 2).and(child("2").set("n", 1)),
            child("1").remove(),
            child("1").remove().and(child("1").set("u", 3)).and(child("2").remove()),
        ]
    }

    /// The first law, for every sequence of three steps.
    #[test]
    fn merging_is_associative_and_nothing_is_neutral() {
        let steps = steps();
        for one in &steps {
            assert_eq!((&nothing().then(one.clone()), &one.clone().then(nothing())), (one, one));
            for two in &steps {
                for three in &steps {
                    let left = one.clone().then(two.clone()).then(three.clone());
                    assert_eq!(left, one.clone().then(two.clone().then(three.clone())), "{one:?}\n{two:?}\n{three:?}");
                }
            }
        }
    }

    /// The second law, for every sequence of four steps: applied at once, events give the same rows as one by one.
    #[test]
    fn a_merged_change_has_the_effect_of_its_parts_in_order() {
        let steps = steps();
        let apply = |rows: &mut crate::Rows, change: &Change| {
            rows.apply(&"x".into(), change, crate::Watermark { version: crate::Version(1), revision: 1 }, "e".into())
                .expect("these steps apply");
        };
        for first in &steps {
            for (one, two) in steps.iter().flat_map(|one| steps.iter().map(move |two| (one, two))) {
                for three in &steps {
                    let (mut one_by_one, mut at_once) = (crate::Rows::default(), crate::Rows::default());
                    for change in [first, one, two, three] {
                        apply(&mut one_by_one, change);
                    }
                    apply(&mut at_once, first);
                    apply(&mut at_once, &one.clone().then(two.clone()).then(three.clone()));
                    assert_eq!(at_once, one_by_one, "{first:?}\n{one:?}\n{two:?}\n{three:?}");
                }
            }
        }
    }

    #[test]
    fn a_child_row_that_is_removed_forgets_what_was_set_and_one_that_is_set_again_is_another() {
        let merged = |changes: Vec<Change>| changes.into_iter().fold(nothing(), Change::then).children()["1"].clone();
        let set = |name: &str, value: i32| Change::from(child("1").set(name, value));
        let attributes = |pairs: &[(&str, i32)]| pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).into())).collect();
        assert_eq!(merged(vec![set("a", 1), set("b", 2), set("a", 3)]), ChildOp::Set(attributes(&[("a", 3), ("b", 2)])));
        assert_eq!(merged(vec![set("a", 1), child("1").remove()]), ChildOp::Remove);
        assert_eq!(merged(vec![set("a", 1), child("1").remove(), set("b", 2)]), ChildOp::Replace(attributes(&[("b", 2)])));
        assert_eq!(merged(vec![child("1").remove(), set("a", 1), set("b", 2)]), ChildOp::Replace(attributes(&[("a", 1), ("b", 2)])));
    }

    #[test]
    fn only_a_transfer_or_a_retraction_needs_contributions() {
        assert!(!Change::from(shared("a").add("posts", 1)).needs_contributions());
        assert!(!transfer("a", "a").needs_contributions());
        assert!(transfer("a", "b").needs_contributions());
        assert!(retract().needs_contributions());
    }

    #[test]
    fn a_sum_of_too_many_digits_for_dynamodb_fails_the_check() {
        let wide: Decimal = "99999999999999999999999999999999999999".parse().expect("valid");
        let change = own().add("n", &wide).and(own().add("n", 2));
        assert!(change.check(&"x".into()).is_err());
        assert_eq!(change.and(own().add("n", -2)).check(&"x".into()), Ok(()));
    }

    #[test]
    fn a_change_that_no_row_can_hold_fails_the_check_with_its_reason() {
        use Inapplicable::{ChildSort, EmptySet, Key, Name, NotComparable, Reserved, SharesItself, TooDeep, TwoKinds};
        let nested = |depth| (0..depth).fold(Value::Null, |inner, _| Value::List(vec![inner]));
        let cases: Vec<(Change, Result<(), Inapplicable>)> = vec![
            (own().set("version", 1).into(), Err(Reserved("version"))),
            (own().remove("owned").into(), Err(Reserved("owned"))),
            (shared("a").add("revision", 1).into(), Err(Reserved("revision"))),
            (shared("a").max("left", 1).into(), Err(Reserved("left"))),
            (shared("a").insert("corrected", "b").into(), Err(Reserved("corrected"))),
            (own().add("", 1).into(), Err(Name)),
            (shared("a").add("contributed#n", 1).into(), Err(Name)),
            (shared("").add("n", 1).into(), Err(Key)),
            (shared("a".repeat(2_049)).insert("n", "b").into(), Err(Key)),
            (shared("a".repeat(2_048)).insert("n", "b").into(), Ok(())),
            (transfer("a", ""), Err(Key)),
            (own().set("n", Value::TextSet(BTreeSet::new())).into(), Err(EmptySet)),
            (own().set("n", Value::List(vec![Value::TextSet(BTreeSet::new())])).into(), Err(EmptySet)),
            (shared("a").max("n", Value::TextSet(BTreeSet::new())).into(), Err(NotComparable)),
            (shared("a").max("n", true).into(), Err(NotComparable)),
            (shared("a").max("n", Value::Bytes(vec![1])).into(), Ok(())),
            (own().set("n", nested(DEPTH_MAX)).into(), Ok(())),
            (own().set("n", nested(DEPTH_MAX + 1)).into(), Err(TooDeep)),
            (shared("a").add("n", 1).max("n", 2).into(), Err(TwoKinds)),
            (shared("x").add("n", 1).into(), Err(SharesItself)),
            (transfer("a", "x"), Err(SharesItself)),
            (child("").set("n", 1).into(), Err(ChildSort)),
            (child("!").set("n", 1).into(), Err(ChildSort)),
            (child(" 1").remove(), Err(ChildSort)),
            (child("!1").set("n", 1).into(), Ok(())),
            (child("a".repeat(1_024)).remove(), Ok(())),
            (child("a".repeat(1_025)).set("n", 1).into(), Err(ChildSort)),
            (child("1").set("version", 1).into(), Err(Reserved("version"))),
            (child("1").set("n#m", 1).into(), Err(Name)),
            (child("1").set("n", nested(DEPTH_MAX + 1)).into(), Err(TooDeep)),
            // What is removed again has no attributes.
            (child("1").set("n#m", 1).and(child("1").remove()), Ok(())),
        ];
        for (change, expected) in cases {
            assert_eq!(change.check(&"x".into()), expected, "{change:?}");
        }
    }
}
