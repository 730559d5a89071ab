//! Imports into the event store: captured items of events are put unchanged, whatever they are and in whatever order they come.
//!
//! An import overwrites nothing. What the store has already under an event's key is compared with what would have been put: the same
//! event is known, unless it differs; and the event as it was before a correction is known, too.

use std::collections::BTreeMap;

use aws_sdk_dynamodb::types::{AttributeValue, CancellationReason, TransactWriteItem, Update};
use projection_vocabulary::{AggregateId, Decimal, Version};

use super::{
    Store, StoreError,
    expression::Expression,
    item::{SdkItem, VERSION_SK, partition_key},
    transaction::Transacted,
};
use crate::retry::Deadline;

const OPERATION: &str = "TransactWriteItems of an import";

/// Items of one aggregate to import.
#[derive(Debug)]
pub struct Import {
    /// The aggregate.
    pub aggregate: AggregateId,
    /// Versions, each once, and the items under their keys.
    pub events: Vec<(Version, SdkItem)>,
}

/// What came of importing an item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Imported {
    /// The item was added.
    New,
    /// The store already had it, or has what corrected it.
    Known,
    /// The store has another event of this version.
    Conflict,
    /// DynamoDB refuses the item, so no real stream can have carried it.
    Refused(&'static str),
}

/// The place of an item: of which import, and which of its events.
type Place = (usize, usize);

/// What one transaction writes.
struct Group {
    /// The items to put.
    puts: Vec<Place>,
    /// The versions that VERSION items are moved up to, by import.
    versions: BTreeMap<usize, Version>,
}

/// What is known of imports so far.
struct Outcomes<'a> {
    imports: &'a [Import],
    of: Vec<Vec<Option<Imported>>>,
}

impl Store {
    /// Puts captured items of events into the store unchanged, by one transaction if possible; each aggregate may come once. Moves their
    /// VERSION items up to the highest version imported, so that appends continue from there. What a transaction holds is the caller's
    /// concern. Returns what came of each item, in the order given.
    ///
    /// # Errors
    /// [`StoreError`]: some of the items may have been imported. The same import may be repeated.
    pub async fn import(&self, imports: &[Import]) -> Result<Vec<Vec<Imported>>, StoreError> {
        let mut outcomes = Outcomes::new(imports);
        let puts = imports.iter().enumerate().flat_map(|(import, of)| (0..of.events.len()).map(move |at| (import, at)));
        let mut groups = vec![outcomes.group(puts.collect())];
        while let Some(mut group) = groups.pop() {
            while !(group.puts.is_empty() && group.versions.is_empty()) {
                let actions = || self.actions_of_import(imports, &group);
                match self.transact_all(OPERATION, actions, Deadline::NONE).await? {
                    Transacted::Done => {
                        outcomes.set(&group.puts, Imported::New);
                        break;
                    }
                    Transacted::Refused(reasons) => self.leave_out_refused(&mut group, reasons, &mut outcomes).await?,
                    // Which item it is, DynamoDB does not always say.
                    Transacted::Invalid(reason) => {
                        groups.extend(outcomes.without_invalid(group, reason)?);
                        break;
                    }
                }
            }
        }
        Ok(outcomes.into_known())
    }

    fn actions_of_import(&self, imports: &[Import], Group { puts, versions }: &Group) -> Vec<TransactWriteItem> {
        let versions = versions.iter().map(|(import, version)| self.raise_version(&imports[*import].aggregate, *version));
        versions.chain(puts.iter().map(|(import, at)| self.put_new(imports[*import].events[*at].1.clone()))).collect()
    }

    /// The action that moves an aggregate's VERSION item up. It is refused if the item is there already.
    fn raise_version(&self, aggregate: &AggregateId, to: Version) -> TransactWriteItem {
        let mut expression = Expression::default();
        expression.set("version", AttributeValue::N(to.to_string()));
        let (name, value) = (expression.name("version"), expression.value(AttributeValue::N(to.to_string())));
        let update = Update::builder()
            .table_name(&self.names.event_store)
            .key("PK", AttributeValue::S(partition_key(aggregate)))
            .key("SK", AttributeValue::S(VERSION_SK.into()))
            .update_expression(expression.update())
            .condition_expression(format!("attribute_not_exists({name}) OR {name} < {value}"))
            .set_expression_attribute_names(expression.names())
            .set_expression_attribute_values(expression.values());
        TransactWriteItem::builder().update(update.build().expect("table, key and expression are given")).build()
    }

    /// Takes out of a refused group what need not or cannot be written: each time at least one action, so it ends.
    async fn leave_out_refused(
        &self,
        group: &mut Group,
        reasons: Vec<CancellationReason>,
        outcomes: &mut Outcomes<'_>,
    ) -> Result<(), StoreError> {
        let mut reasons = reasons.into_iter();
        let mut is_refused = |reason: &CancellationReason| reason.code() == Some("ConditionalCheckFailed");
        group.versions.retain(|_, _| !reasons.next().is_some_and(|reason| is_refused(&reason)));
        let mut left = Vec::with_capacity(group.puts.len());
        for place in std::mem::take(&mut group.puts) {
            match reasons.next().filter(&mut is_refused) {
                Some(refused) => {
                    let there = refused.item.unwrap_or_default();
                    let outcome = self.compare(outcomes.imports, place, &there).await?;
                    outcomes.set(&[place], outcome);
                }
                None => left.push(place),
            }
        }
        group.puts = left;
        Ok(())
    }

    /// What an item is in comparison with the one that the store has under its key.
    async fn compare(&self, imports: &[Import], (import, at): Place, there: &SdkItem) -> Result<Imported, StoreError> {
        let Import { aggregate, events } = &imports[import];
        let (version, item) = &events[at];
        if is_same_item(item, there) {
            return Ok(Imported::Known);
        }
        let kept = self.kept_by_corrections(aggregate, *version).await?;
        Ok(if kept.iter().any(|kept| is_same_item(item, kept)) { Imported::Known } else { Imported::Conflict })
    }
}

impl<'a> Outcomes<'a> {
    fn new(imports: &'a [Import]) -> Self {
        Self { imports, of: imports.iter().map(|import| vec![None; import.events.len()]).collect() }
    }

    /// A group with these items, and with the VERSION items that follow from them.
    fn group(&self, puts: Vec<Place>) -> Group {
        let mut versions = BTreeMap::new();
        for (import, at) in &puts {
            let highest: &mut Version = versions.entry(*import).or_default();
            *highest = self.imports[*import].events[*at].0.max(*highest);
        }
        Group { puts, versions }
    }

    fn set(&mut self, puts: &[Place], outcome: Imported) {
        for (import, at) in puts {
            self.of[*import][*at] = Some(outcome);
        }
    }

    /// The groups to try instead of one in which DynamoDB refuses the content of an item.
    fn without_invalid(&mut self, Group { puts, versions }: Group, reason: &'static str) -> Result<Vec<Group>, StoreError> {
        // What the store turned out to have already still moves its VERSION item.
        let known = |import: usize| {
            let events = self.imports[import].events.iter().zip(&self.of[import]);
            let there = events.filter(|(_, outcome)| matches!(outcome, Some(Imported::Known | Imported::Conflict)));
            there.map(|((version, _), _)| *version).max()
        };
        let of_known: BTreeMap<_, _> = versions.into_keys().filter_map(|import| Some((import, known(import)?))).collect();
        let mut groups = vec![Group { puts: Vec::new(), versions: of_known }];
        match puts.as_slice() {
            [] => return Err(StoreError::Permanent { operation: OPERATION, class: reason.to_owned() }),
            [only] => self.set(&[*only], Imported::Refused(reason)),
            _ => {
                let (first, second) = puts.split_at(puts.len() / 2);
                // The last one is tried next.
                groups.extend([second, first].map(|half| self.group(half.to_vec())));
            }
        }
        Ok(groups)
    }

    fn into_known(self) -> Vec<Vec<Imported>> {
        let known = |outcome: Option<Imported>| outcome.expect("each item is written, known or refused");
        self.of.into_iter().map(|of_import| of_import.into_iter().map(known).collect()).collect()
    }
}

/// Whether two items are the same to a reader. What replication between regions writes is no part of an item.
fn is_same_item(one: &SdkItem, other: &SdkItem) -> bool {
    let counts = |name: &String| !name.starts_with("aws:rep:");
    let covered = |one: &SdkItem, other: &SdkItem| {
        one.iter().filter(|(name, _)| counts(name)).all(|(name, value)| other.get(name).is_some_and(|there| is_same(value, there)))
    };
    covered(one, other) && covered(other, one)
}

/// Whether two attributes have one value: numbers may be spelt, and sets ordered, in different ways.
fn is_same(one: &AttributeValue, other: &AttributeValue) -> bool {
    use AttributeValue::{Bs, L, M, N, Ns, Ss};
    let number = |text: &String| text.parse::<Decimal>().ok();
    match (one, other) {
        (N(one), N(other)) => one == other || (number(one).is_some() && number(one) == number(other)),
        (L(one), L(other)) => one.len() == other.len() && one.iter().zip(other).all(|(one, other)| is_same(one, other)),
        (M(one), M(other)) => {
            one.len() == other.len() && one.iter().all(|(name, value)| other.get(name).is_some_and(|there| is_same(value, there)))
        }
        (Ss(one), Ss(other)) => sorted(one) == sorted(other),
        (Ns(one), Ns(other)) => {
            one == other || sorted(&one.iter().map(number).collect::<Vec<_>>()) == sorted(&other.iter().map(number).collect::<Vec<_>>())
        }
        (Bs(one), Bs(other)) => {
            let bytes = |set: &[aws_sdk_dynamodb::primitives::Blob]| set.iter().map(|bytes| bytes.as_ref().to_vec()).collect::<Vec<_>>();
            sorted(&bytes(one)) == sorted(&bytes(other))
        }
        _ => one == other,
    }
}

fn sorted<T: Ord + Clone>(members: &[T]) -> Vec<T> {
    let mut members = members.to_vec();
    members.sort();
    members
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(attributes: &[(&str, AttributeValue)]) -> SdkItem {
        attributes.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
    }

    #[test]
    fn one_value_in_two_spellings_is_the_same_and_another_is_not() {
        use AttributeValue::{Bool, Bs, L, M, N, Ns, S, Ss};
        let n = |text: &str| N(text.to_owned());
        let texts = |texts: &[&str]| texts.iter().map(ToString::to_string).collect::<Vec<_>>();
        let blobs = |blobs: &[&str]| Bs(blobs.iter().map(|bytes| bytes.as_bytes().to_vec().into()).collect());
        let long = "0.10000000000000000000000000000000000001";
        for (one, same, other) in [
            (n("1"), n("1.0"), n("1.1")),
            (n("100"), n("1E+2"), n("1E+3")),
            (n(long), n(long), n("0.1")),
            (L(vec![n("1"), n("2")]), L(vec![n("1.0"), n("2")]), L(vec![n("2"), n("1")])),
            (L(vec![n("1")]), L(vec![n("1")]), L(vec![n("1"), n("1")])),
            (Ss(texts(&["a", "b"])), Ss(texts(&["b", "a"])), Ss(texts(&["a", "c"]))),
            (Ns(texts(&["1", "2"])), Ns(texts(&["2.0", "1"])), Ns(texts(&["1", "3"]))),
            (blobs(&["a", "b"]), blobs(&["b", "a"]), blobs(&["a"])),
            (M(item(&[("x", n("1"))])), M(item(&[("x", n("1.0"))])), M(item(&[("y", n("1"))]))),
            (M(item(&[("x", n("1"))])), M(item(&[("x", n("1"))])), M(item(&[("x", n("1")), ("y", n("1"))]))),
            (S("1".to_owned()), S("1".to_owned()), n("1")),
            (Bool(true), Bool(true), Bool(false)),
        ] {
            assert!(is_same(&one, &same), "{one:?} {same:?}");
            assert!(!is_same(&one, &other) && !is_same(&other, &one), "{one:?} {other:?}");
        }
    }

    #[test]
    fn an_item_with_one_attribute_more_is_another_unless_replication_wrote_it() {
        let one = item(&[("a", AttributeValue::Null(true))]);
        let more = |name: &str| item(&[("a", AttributeValue::Null(true)), (name, AttributeValue::Bool(true))]);
        assert!(is_same_item(&one, &more("aws:rep:updatetime")) && is_same_item(&more("aws:rep:updatetime"), &one));
        assert!(!is_same_item(&one, &more("b")) && !is_same_item(&more("b"), &one));
    }

    #[test]
    fn a_group_that_is_refused_is_halved_until_the_item_is_alone_and_without_items_it_is_an_error() {
        let events = (1..=3).map(|version| (Version(version), SdkItem::new())).collect();
        let imports = [Import { aggregate: "ann".into(), events }];
        let mut outcomes = Outcomes::new(&imports);
        let puts = |groups: Vec<Group>| groups.into_iter().map(|group| group.puts).collect::<Vec<_>>();
        let groups = outcomes.without_invalid(outcomes.group(vec![(0, 0), (0, 1), (0, 2)]), "why").expect("it is halved");
        assert_eq!(puts(groups), [vec![], vec![(0, 1), (0, 2)], vec![(0, 0)]]);
        let groups = outcomes.without_invalid(outcomes.group(vec![(0, 1)]), "why").expect("it is refused");
        assert_eq!((puts(groups), &outcomes.of[0]), (vec![vec![]], &vec![None, Some(Imported::Refused("why")), None]));
        let versions = Group { puts: Vec::new(), versions: [(0, Version(1))].into() };
        assert!(outcomes.without_invalid(versions, "why").is_err());
    }
}
