//! The handler that everybody copies: one `ADD` for each record, in tables of its own. It is here to be watched.
//!
//! It is given every advantage that its design leaves: the same rules, each change worked out by them; what an aggregate has contributed
//! to shared rows is known to it, as if it had read it; a request whose answer is lost is sent again, as every SDK does. What it lacks is
//! what this project is about: it does not know which events a row counts.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use aws_sdk_dynamodb::{
    Client,
    error::SdkError,
    types::{AttributeValue, ConsumedCapacity, ReturnConsumedCapacity},
};
use futures::{StreamExt as _, stream};
use projection_vocabulary::{AggregateId, Attributes, Base, ChildOp, DynProjection, HOME_SORT, HomeRow, RecordedEvent, Registry, RowId};

use super::{
    faults::Faults,
    mapping::{Delivery, Ended, Function},
};
use crate::{
    clients::class,
    embedded::{Embedded, EmbeddedError},
    queries::{PAGE_ROWS_MAX, Queries, QueryError},
    retry::Deadline,
    store::{
        Store, StoreError, TableNames,
        expression::Expression,
        home::item_key,
        item::{SdkItem, from_value},
    },
};

/// How many rows are copied at once.
const COPIED_AT_ONCE: usize = 64;

/// The attributes of our rows that it does not have.
pub const OURS: [&str; 2] = ["version", "parked"];

/// The naive handler.
pub struct Naive {
    client: Client,
    /// For what it begins with: without faults.
    copies: Client,
    names: TableNames,
    registry: Registry,
    /// What each aggregate has contributed to shared rows.
    contributed: Mutex<HashMap<(&'static str, AggregateId), HomeRow>>,
    /// The rows that it has written to since somebody asked.
    written: Mutex<BTreeSet<(&'static str, RowId)>>,
    pub faults: Arc<Faults>,
    requests: AtomicU64,
    write_halves: AtomicU64,
    /// Reads its tables, without faults.
    pub rows: Arc<Store>,
}

/// Why it failed. It tells nothing more, as is usual.
struct Failed;

impl Naive {
    /// With empty tables of the same names, in a database of their own.
    ///
    /// # Errors
    /// [`NaiveError`].
    pub async fn new(names: TableNames, registry: Registry) -> Result<Self, NaiveError> {
        let embedded = Embedded::memory()?;
        let rows = Arc::new(Store::new(embedded.client(), names.clone()));
        rows.create_tables(registry).await?;
        let faults = Arc::new(Faults::default());
        Ok(Self {
            client: faults.client(&embedded),
            copies: embedded.client(),
            names,
            registry,
            contributed: Mutex::default(),
            written: Mutex::default(),
            faults,
            requests: AtomicU64::new(0),
            write_halves: AtomicU64::new(0),
            rows,
        })
    }

    /// Begins with copies of rows that count all events so far.
    ///
    /// # Errors
    /// [`NaiveError`].
    pub async fn begin_with(&self, ours: &Arc<Store>) -> Result<(), NaiveError> {
        let queries = Queries::new(ours.clone());
        for rule in self.registry.read_models() {
            let mut token = None;
            loop {
                let page = queries.rows_of(rule).scan_read(PAGE_ROWS_MAX, token.as_ref()).await?;
                let rows = page.rows.into_iter().map(|row| self.copy(rule, row.id, row.shown.attributes));
                let mut put = stream::iter(rows).buffer_unordered(COPIED_AT_ONCE);
                while let Some(put) = put.next().await {
                    put?;
                }
                token = page.next;
                if token.is_none() {
                    break;
                }
            }
            let mut contributed = Vec::new();
            ours.each_row(rule, Deadline::NONE, |row| {
                if !row.home.contributions.is_empty() {
                    contributed.push(((rule.name(), AggregateId::from(row.key.as_str())), row.home));
                }
            })
            .await?;
            self.contributed().extend(contributed);
        }
        Ok(())
    }

    /// Takes a row as it is shown, without what only the worker needs.
    async fn copy(&self, rule: &'static dyn DynProjection, id: RowId, attributes: Attributes) -> Result<(), NaiveError> {
        let mut item = key_of(rule, &id);
        let shown = attributes.into_iter().filter(|(name, _)| !OURS.contains(&name.as_str()));
        item.extend(shown.map(|(name, value)| (name, from_value(&value))));
        let put = self.copies.put_item().table_name(self.table(rule)).set_item(Some(item));
        put.send().await.map(drop).map_err(|error| NaiveError::Copy(class(&error).to_owned()))
    }

    /// The rows that it has written to since the last call.
    pub fn take_written(&self) -> BTreeSet<(&'static str, RowId)> {
        std::mem::take(&mut self.written.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Its requests, and the write units that they took.
    pub fn usage(&self) -> (u64, f64) {
        #[allow(clippy::cast_precision_loss, reason = "a count of units, shown with one digit")]
        let units = self.write_halves.load(Relaxed) as f64 / 2.0;
        (self.requests.load(Relaxed), units)
    }

    async fn event(&self, rule: &'static dyn DynProjection, event: &RecordedEvent) -> Result<(), Failed> {
        let key = (rule.name(), event.aggregate.clone());
        let row = if rule.reads_row() { self.read(rule, &event.aggregate).await? } else { Attributes::new() };
        let change = rule.change(event, &row).map_err(|_| Failed)?;
        let mut home = self.contributed().get(&key).cloned().unwrap_or_default();
        home.own = row;
        // An attribute that it adds to is on its row only.
        let resolved = change.resolve(Some(&home.contributions));
        _ = home.apply(&change);
        let mut own = Expression::default();
        for (name, op) in change.own() {
            match &op.base {
                Base::Set(value) => own.set(name, from_value(value)),
                Base::Remove => own.remove(name),
                Base::Keep => {}
            }
            if let Some(amount) = &op.add {
                own.add(name, AttributeValue::N(amount.to_string()));
            }
        }
        self.update(rule, RowId::from(event.aggregate.as_str()), own).await?;
        for row in resolved.rows() {
            let mut shared = Expression::default();
            for ((of, name), amount) in &resolved.shared {
                if of == row {
                    shared.add(name, AttributeValue::N(amount.to_string()));
                }
            }
            for ((of, name), value) in &resolved.max {
                if of == row {
                    // Its events come in order, or so it believes.
                    shared.set(name, from_value(value));
                }
            }
            for ((of, name), members) in &resolved.insert {
                if of == row {
                    shared.add(name, AttributeValue::Ss(members.iter().map(ToString::to_string).collect()));
                }
            }
            self.update(rule, RowId::from(row.as_str()), shared).await?;
        }
        for (sort, op) in change.children() {
            let id = RowId { key: event.aggregate.as_str().into(), child: Some(sort.clone()) };
            self.child(rule, id, op).await?;
        }
        home.own.clear();
        if !home.contributions.is_empty() {
            self.contributed().insert(key, home);
        }
        Ok(())
    }

    async fn read(&self, rule: &'static dyn DynProjection, aggregate: &AggregateId) -> Result<Attributes, Failed> {
        self.requests.fetch_add(1, Relaxed);
        let key = item_key(rule, aggregate.as_str(), HOME_SORT);
        let request = self.client.get_item().table_name(self.table(rule)).set_key(Some(key)).consistent_read(true);
        let item = request.send().await.map_err(|_| Failed)?.item.unwrap_or_default();
        crate::store::item::attributes(item).map_err(|_| Failed)
    }

    async fn update(&self, rule: &'static dyn DynProjection, id: RowId, expression: Expression) -> Result<(), Failed> {
        let update = expression.update();
        if update.is_empty() {
            return Ok(());
        }
        let (names, values) = expression.into_names_and_values();
        let request = self
            .client
            .update_item()
            .table_name(self.table(rule))
            .set_key(Some(key_of(rule, &id)))
            .update_expression(update)
            .set_expression_attribute_names(names)
            .set_expression_attribute_values(values)
            .return_consumed_capacity(ReturnConsumedCapacity::Total);
        let answer = self.try_twice(|| request.clone().send()).await?;
        self.wrote(rule, id, answer.consumed_capacity.as_ref());
        Ok(())
    }

    async fn child(&self, rule: &'static dyn DynProjection, id: RowId, op: &ChildOp) -> Result<(), Failed> {
        let capacity = match op {
            ChildOp::Set(attributes) => {
                let mut expression = Expression::default();
                for (name, value) in attributes {
                    expression.set(name, from_value(value));
                }
                return self.update(rule, id, expression).await;
            }
            ChildOp::Replace(attributes) => {
                let mut item = key_of(rule, &id);
                item.extend(attributes.iter().map(|(name, value)| (name.clone(), from_value(value))));
                let request = self.client.put_item().table_name(self.table(rule)).set_item(Some(item));
                let request = request.return_consumed_capacity(ReturnConsumedCapacity::Total);
                self.try_twice(|| request.clone().send()).await?.consumed_capacity
            }
            ChildOp::Remove => {
                let request = self.client.delete_item().table_name(self.table(rule)).set_key(Some(key_of(rule, &id)));
                let request = request.return_consumed_capacity(ReturnConsumedCapacity::Total);
                self.try_twice(|| request.clone().send()).await?.consumed_capacity
            }
        };
        self.wrote(rule, id, capacity.as_ref());
        Ok(())
    }

    /// Sends a request again if there was no answer.
    async fn try_twice<T, E, R, F: Future<Output = Result<T, SdkError<E, R>>>>(&self, send: impl Fn() -> F) -> Result<T, Failed> {
        self.requests.fetch_add(1, Relaxed);
        match send().await {
            Err(SdkError::DispatchFailure(_) | SdkError::TimeoutError(_)) => {
                self.requests.fetch_add(1, Relaxed);
                send().await.map_err(|_| Failed)
            }
            answer => answer.map_err(|_| Failed),
        }
    }

    fn wrote(&self, rule: &'static dyn DynProjection, id: RowId, capacity: Option<&ConsumedCapacity>) {
        let units = capacity.and_then(ConsumedCapacity::capacity_units).unwrap_or_default();
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "units come in halves, and few")]
        self.write_halves.fetch_add((units * 2.0).round() as u64, Relaxed);
        self.written.lock().unwrap_or_else(PoisonError::into_inner).insert((rule.name(), id));
    }

    fn contributed(&self) -> MutexGuard<'_, HashMap<(&'static str, AggregateId), HomeRow>> {
        self.contributed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn table(&self, rule: &dyn DynProjection) -> &str {
        &self.names.projections[rule.name()]
    }
}

impl Function for Naive {
    async fn invoke(&self, delivery: &Delivery) -> Ended {
        for record in &delivery.records {
            let Some(event) = &record.event else {
                // It fails at what it cannot read, and with it the batch.
                if record.is_poison {
                    return Ended::Failed;
                }
                continue;
            };
            for rule in self.registry.read_models().filter(|rule| rule.concerns(&event.aggregate, &event.event_type)) {
                if self.event(rule, event).await.is_err() {
                    return Ended::Failed;
                }
            }
        }
        Ended::From(None)
    }

    fn died(&self, _: &Delivery) {}
}

fn key_of(rule: &dyn DynProjection, id: &RowId) -> SdkItem {
    item_key(rule, id.key.as_str(), id.child.as_deref().unwrap_or(HOME_SORT))
}

/// The naive handler could not begin.
#[derive(Debug, thiserror::Error)]
pub enum NaiveError {
    /// It has no database.
    #[error(transparent)]
    Embedded(#[from] EmbeddedError),
    /// Its tables cannot be written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A row cannot be copied.
    #[error("a row cannot be copied ({0})")]
    Copy(String),
    /// Our rows cannot be read.
    #[error(transparent)]
    Query(#[from] QueryError),
}
