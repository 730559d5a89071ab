//! Changes of the event store and its stream, and of rows behind the worker's back.

use std::{collections::BTreeMap, sync::Arc};

use aws_sdk_dynamodb::types::AttributeValue;
use projection_vocabulary::{AggregateId, HOME_SORT, RecordedEvent, Timestamp, Value, Version, data};
use projection_worker::internals::store::{
    append::AppendError,
    item::{encode_event, partition_key, sort_key},
};

use super::{
    Result, Run,
    processes::{Ended, Role, shared},
};
use crate::{
    database::{Database, ItemWritten, Key, Written},
    expression::Item,
    far,
    faults::Fault,
    network::lock,
    oracle::{EVENTS, SHELVES as SHARED, home_key},
    plan::{GIVERS, SHELVES, Subject},
    rules::{DEPLOYMENTS, FIRST},
    stream::{Delivered, StreamRecord},
};

impl Run {
    /// Puts the writes of one call to the event store into the stream, the records of one transaction in any order.
    pub(super) fn stream(&mut self, items: Vec<ItemWritten>) {
        let mut events: Vec<_> =
            items.into_iter().filter(|(table, ..)| table == EVENTS).filter_map(|(.., before, after)| Some((before, after?))).collect();
        while !events.is_empty() {
            let at = if self.plan.has(Fault::ReorderedInside) { self.choices.below(events.len()) } else { 0 };
            let (before, after) = events.remove(at);
            let (sequence, order) = (90 + self.streamed, self.streamed);
            let Some(record) = StreamRecord::of(before.as_ref(), &after, sequence, order) else { continue };
            self.streamed += 1;
            let last = self.streamed_versions.entry(record.aggregate.clone()).or_default();
            if record.version < *last {
                self.counts.add(Fault::ReorderedInside);
            }
            *last = record.version.max(*last);
            if record.event_type.as_deref() == Some("Flawed") {
                self.counts.add(Fault::Poison);
            }
            let shard = record.aggregate.bytes().map(usize::from).sum::<usize>() % self.shards.len();
            let item = format!("{}/{}", record.aggregate, record.version);
            self.shards[shard].push(sequence, &item, Delivered(Arc::new(record)));
        }
    }

    pub(super) fn fact(&mut self, aggregate: &str, first: bool) -> (&'static str, Value) {
        let amount = i64::try_from(self.choices.below(9)).expect("small") - 2;
        let number = |amount: i64| Value::Number(amount.to_string().parse().expect("a whole number"));
        let amount_of = |amount| Value::Map(BTreeMap::from([("amount".to_owned(), number(amount))]));
        let named = |which: usize| Value::from(SHELVES[which]);
        if first {
            return ("Opened", amount_of(amount));
        }
        if SHELVES.contains(&aggregate) {
            return if self.choices.per_mille(500) { ("Stamped", data! {}) } else { ("Added", amount_of(amount)) };
        }
        if self.plan.is_about(Subject::OneMaximum) {
            // One puts much, which the next rule does not count for the maximum, and the others put little: they find it high enough,
            // until it is not.
            let count = if aggregate == GIVERS[0] { 9 } else { amount };
            return ("Put", Value::Map(BTreeMap::from([("shelf".to_owned(), named(1)), ("count".to_owned(), number(count))])));
        }
        if self.plan.is_about(Subject::OneEntry) && self.choices.per_mille(700) {
            return ("Flawed", data! {});
        }
        let flawed = usize::from(self.plan.has(Fault::Poison));
        let spread = if self.plan.is_about(Subject::ManyRows) { 3 } else { 0 };
        match self.choices.weighted(&[(4, 0), (6, 1), (2, 2), (1, 3), (2, 4), (flawed, 5), (1, 6), (spread, 7), (1 + spread, 8), (1, 9)]) {
            0 => ("Added", amount_of(amount)),
            1 => {
                let which = self.choices.below(2);
                ("Put", Value::Map(BTreeMap::from([("shelf".to_owned(), named(which)), ("count".to_owned(), number(amount))])))
            }
            2 => {
                let from = self.choices.below(2);
                ("Moved", Value::Map(BTreeMap::from([("from".to_owned(), named(from)), ("to".to_owned(), named(1 - from))])))
            }
            3 => ("Cleared", data! {}),
            4 => ("Noted", data! {}),
            6 => ("Stamped", data! {}),
            7 => {
                let rows = [3, 99, 100, 101, 250][self.choices.below(5)];
                ("Spread", Value::Map(BTreeMap::from([("rows".to_owned(), number(rows)), ("count".to_owned(), number(amount))])))
            }
            8 => {
                let sizes: &[i64] = if self.plan.is_about(Subject::ManyRows) { &[3, 60, 99, 100, 101, 250] } else { &[3] };
                let pages = sizes[self.choices.below(sizes.len())];
                ("Filed", Value::Map(BTreeMap::from([("pages".to_owned(), number(pages))])))
            }
            9 => ("Shredded", data! {}),
            _ => ("Flawed", data! {}),
        }
    }

    /// Starts a writer: it appends a few events to one aggregate, and decides again if another writer was first.
    pub(super) fn append(&mut self) {
        let one = [Subject::OneMaximum, Subject::OneEntry].iter().any(|subject| self.plan.is_about(*subject));
        let (shelves, events_max) = if one { (0, 1) } else { (1, 3) };
        let aggregate = match self.choices.below(self.plan.givers + shelves) {
            at if at < self.plan.givers => GIVERS[at],
            _ => SHELVES[self.choices.below(2)],
        };
        let fresh = lock(&self.network).database.item(EVENTS, &version_key(aggregate)).is_none();
        let count = 1 + self.choices.below(events_max);
        let mut facts = Vec::new();
        for at in 0..count {
            let (event_type, data) = self.fact(aggregate, fresh && at == 0);
            self.facts += 1;
            facts.push((self.facts, event_type, data));
        }
        let name = self.name("writer");
        let store = self.store(&name);
        self.start(&name, Role::Writer, async move {
            for _ in 0..5 {
                let id = AggregateId::from(aggregate);
                let Ok(expected) = store.current_version(&id).await else { return Ended::Quiet };
                let event = |(at, (number, event_type, data)): (u64, &(u64, &'static str, Value))| RecordedEvent {
                    aggregate: id.clone(),
                    version: Version(expected.0 + 1 + at),
                    event_id: format!("event-{number}").into(),
                    event_type: (*event_type).into(),
                    data: data.clone(),
                    timestamp: instant(*number),
                    metadata: None,
                };
                let events: Vec<_> = (0..).zip(&facts).map(event).collect();
                match store.append(expected, &events).await {
                    Err(AppendError::Conflict { .. }) => {}
                    Ok(_) | Err(AppendError::Store(_)) => return Ended::Quiet,
                    Err(error) => return Ended::Failed(error.to_string()),
                }
            }
            Ended::Quiet
        });
    }

    /// Somebody else writes an event that cannot be read.
    pub(super) fn malform(&mut self) -> Result {
        let aggregate = GIVERS[self.choices.below(self.plan.givers)];
        let (_, data) = self.fact(aggregate, true);
        self.facts += 1;
        let version = self.version_of(aggregate) + 1;
        let event = RecordedEvent {
            aggregate: aggregate.into(),
            version: Version(version),
            event_id: format!("event-{}", self.facts).into(),
            event_type: "Added".into(),
            data,
            timestamp: instant(self.facts),
            metadata: None,
        };
        let mut item = encode_event(&event);
        if self.plan.fixes_all() && self.choices.per_mille(300) {
            item.remove("eventType");
        } else {
            item.insert("timestamp".to_owned(), AttributeValue::S("yesterday".to_owned()));
        }
        self.count(Fault::Malformed, || format!("** {aggregate}/{version} is written so that it cannot be read"));
        self.malformed.push((aggregate.to_owned(), version));
        let mut network = lock(&self.network);
        network.database.set(EVENTS, (partition_key(&aggregate.into()), sort_key(Version(version))), Some(item));
        network.database.set(EVENTS, version_key(aggregate), Some(version_item(aggregate, version)));
        drop(network);
        self.direct(false)
    }

    /// Somebody fixes it in the event store.
    pub(super) fn fix(&mut self, at: usize) -> Result {
        let (aggregate, version) = self.malformed.swap_remove(at);
        let key = (partition_key(&aggregate.as_str().into()), sort_key(Version(version)));
        let mut network = lock(&self.network);
        let Some(mut item) = network.database.item(EVENTS, &key).cloned() else { return Ok(()) };
        item.insert("eventType".to_owned(), AttributeValue::S("Added".to_owned()));
        item.insert("timestamp".to_owned(), AttributeValue::S(instant(version).to_string()));
        network.database.set(EVENTS, key, Some(item));
        drop(network);
        self.note(|| format!("** {aggregate}/{version} is fixed"));
        self.direct(false)
    }

    /// Writes that bypassed the worker.
    pub(super) fn direct(&mut self, lost: bool) -> Result {
        let network = self.network.clone();
        let mut network = lock(&network);
        let changes = std::mem::take(&mut network.database.changes);
        self.look_at(&network.database, changes, lost)
    }

    /// Shows all writes to the oracle, and those to the event store to the stream.
    pub(super) fn look_at(&mut self, database: &Database, changes: Vec<Written>, lost: bool) -> Result {
        for written in changes {
            self.oracle.written(&written, lost)?;
            self.check_purses(database, &written)?;
            if self.plan.is_about(Subject::Transfers) {
                self.books.written(&written, &far::lock(&self.far).effects)?;
            }
            self.stream(written.items);
        }
        Ok(())
    }

    pub(super) fn version_of(&self, aggregate: &str) -> u64 {
        let network = lock(&self.network);
        let version = network.database.item(EVENTS, &version_key(aggregate)).and_then(|item| item.get("version")?.as_n().ok());
        version.map_or(0, |version| version.parse().expect("a version"))
    }

    pub(super) fn restore(&mut self) -> Result {
        let aggregate = GIVERS[self.choices.below(self.plan.givers)];
        let version = self.version_of(aggregate);
        if version < 2 {
            return Ok(());
        }
        let to = version - 1 - self.choices.below(2).min(usize::try_from(version).expect("small") - 2) as u64;
        self.count(Fault::Restored, || format!("** {aggregate} is set back from version {version} to {to}"));
        self.oracle.disturbed.insert(aggregate.to_owned());
        self.oracle.restored = true;
        self.malformed.retain(|(id, version)| id != aggregate || *version <= to);
        let mut network = lock(&self.network);
        for gone in to + 1..=version {
            network.database.set(EVENTS, (partition_key(&aggregate.into()), sort_key(Version(gone))), None);
        }
        network.database.set(EVENTS, version_key(aggregate), Some(version_item(aggregate, to)));
        drop(network);
        self.direct(false)
    }

    /// Another event takes the place of one that rows may count already.
    pub(super) fn overwrite(&mut self) -> Result {
        let aggregate = GIVERS[self.choices.below(self.plan.givers)];
        let last = self.version_of(aggregate);
        if last == 0 {
            return Ok(());
        }
        let version = 1 + self.choices.below(usize::try_from(last).expect("few")) as u64;
        let (event_type, data) = self.fact(aggregate, version == 1);
        self.facts += 1;
        let event = RecordedEvent {
            aggregate: aggregate.into(),
            version: Version(version),
            event_id: format!("event-{}", self.facts).into(),
            event_type: event_type.into(),
            data,
            timestamp: instant(self.facts),
            metadata: None,
        };
        self.count(Fault::Overwritten, || format!("** {aggregate}/{version} is overwritten by {event_type}"));
        self.oracle.disturbed.insert(aggregate.to_owned());
        self.oracle.restored = true;
        self.malformed.retain(|(id, at)| id != aggregate || *at != version);
        let key = (partition_key(&aggregate.into()), sort_key(Version(version)));
        lock(&self.network).database.set(EVENTS, key, Some(encode_event(&event)));
        self.direct(false)
    }

    pub(super) fn lose_row(&mut self) -> Result {
        let aggregate = GIVERS[self.choices.below(self.plan.givers)];
        if self.plan.is_about(Subject::Transfers) && self.choices.per_mille(700) {
            return self.lose_process_row();
        }
        let which = self.choices.below(3);
        let rule = if self.plan.is_about(Subject::OneSum) { shared(FIRST) } else { DEPLOYMENTS[FIRST][which] };
        self.delete_row(rule.name(), aggregate, &home_key(rule, aggregate))
    }

    pub(super) fn lose_child(&mut self) -> Result {
        let aggregate = GIVERS[self.choices.below(self.plan.givers)];
        let is_child = |(key, _): &(&Key, &Item)| key.0 == aggregate && key.1 != HOME_SORT;
        let children: Vec<_> = lock(&self.network).database.items(SHARED).filter(is_child).map(|(key, _)| key.clone()).collect();
        if children.is_empty() {
            return Ok(());
        }
        let key = children[self.choices.below(children.len())].clone();
        self.delete_row(SHARED, aggregate, &key)
    }

    pub(super) fn delete_row(&mut self, table: &str, aggregate: &str, key: &Key) -> Result {
        let mut network = lock(&self.network);
        if network.database.item(table, key).is_none() {
            return Ok(());
        }
        network.database.set(table, key.clone(), None);
        drop(network);
        self.count(Fault::RowLost, || format!("** {table}/{aggregate} {} is deleted", key.1));
        self.oracle.disturbed.insert(aggregate.to_owned());
        self.direct(true)
    }

    pub(super) fn expire(&mut self) {
        let shard = self.choices.below(self.shards.len());
        let below = 90 + self.choices.below(usize::try_from(self.streamed).expect("few") + 1) as u64;
        self.note(|| format!("** records of shard {shard} below {below} are too old"));
        self.shards[shard].expire(below);
        self.take_discarded(shard);
    }

    pub(super) fn take_discarded(&mut self, shard: usize) {
        for object in self.shards[shard].take_discarded() {
            let records: Vec<_> = object.records.into_iter().map(|(_, record)| record).collect();
            for record in &records {
                self.count(Fault::Discarded, || format!("** {} is discarded", record.0.name));
            }
            self.given_up.push(records);
        }
    }
}

fn version_key(aggregate: &str) -> (String, String) {
    (partition_key(&aggregate.into()), "VERSION".to_owned())
}

fn version_item(aggregate: &str, version: u64) -> Item {
    Item::from([
        ("PK".to_owned(), AttributeValue::S(partition_key(&aggregate.into()))),
        ("SK".to_owned(), AttributeValue::S("VERSION".to_owned())),
        ("version".to_owned(), AttributeValue::N(version.to_string())),
    ])
}

pub(super) fn instant(number: u64) -> Timestamp {
    Timestamp::from_epoch_ms(1_767_225_600_000 + 1_000 * i64::try_from(number).expect("few")).expect("in range")
}
