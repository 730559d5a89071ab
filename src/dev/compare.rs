//! The naive handler's rows beside ours.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use projection_vocabulary::{AggregateId, Attributes, DynProjection, Registry, RowId, RowKey, Value};

use super::naive::OURS;
use crate::{
    queries::{Queries, QueryError},
    retry::Deadline,
    store::Store,
};

/// How many rows one look compares. The others wait for the next.
const ROWS_MAX: usize = 2_000;

/// A row that the naive handler has got wrong.
#[derive(Clone, Debug, PartialEq)]
pub struct Wrong {
    /// The projection.
    pub projection: &'static str,
    /// The row.
    pub id: RowId,
    /// The attributes that differ: ours and the naive one's.
    pub attributes: Vec<(String, Option<Value>, Option<Value>)>,
}

/// What is to be compared, and what was found.
#[derive(Default)]
pub struct Comparison {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Rows to compare.
    touched: BTreeSet<(&'static str, RowId)>,
    /// Aggregates whose shared rows are to be compared as well.
    aggregates: BTreeSet<(&'static str, AggregateId)>,
    wrong: BTreeMap<(&'static str, RowId), Wrong>,
}

impl Comparison {
    /// Notes that the row of an aggregate may have changed.
    pub fn touch(&self, projection: &'static str, aggregate: &AggregateId) {
        let mut state = self.lock();
        state.touched.insert((projection, RowId::from(aggregate.as_str())));
        state.aggregates.insert((projection, aggregate.clone()));
    }

    /// The wrong rows: how many, and the first of them.
    pub fn wrong(&self, most: usize) -> (usize, Vec<Wrong>) {
        let state = self.lock();
        (state.wrong.len(), state.wrong.values().take(most).cloned().collect())
    }

    /// Compares the rows that were touched, and `written` besides. Returns whether there were any.
    ///
    /// # Errors
    /// [`QueryError`]; what was not compared is compared the next time.
    pub async fn look(
        &self,
        registry: Registry,
        ours: &Arc<Store>,
        naive: &Arc<Store>,
        written: BTreeSet<(&'static str, RowId)>,
    ) -> Result<bool, QueryError> {
        let any = {
            let mut state = self.lock();
            state.touched.extend(written);
            !state.touched.is_empty()
        };
        for rule in registry.read_models() {
            let aggregates = self.take_aggregates(rule.name());
            let homes = match ours.read_rows(rule, &aggregates, Deadline::NONE).await {
                Ok(homes) => homes,
                Err(error) => {
                    self.lock().aggregates.extend(aggregates.into_iter().map(|id| (rule.name(), id)));
                    return Err(error.into());
                }
            };
            let shared = homes.values().flat_map(|home| home.contributions.keys()).map(|(row, _)| (rule.name(), RowId::from(row.as_str())));
            self.lock().touched.extend(shared);
            loop {
                let ids = self.take(rule.name());
                if ids.is_empty() {
                    break;
                }
                if let Err(error) = self.compare(rule, &ids, ours, naive).await {
                    self.lock().touched.extend(ids.into_iter().map(|id| (rule.name(), id)));
                    return Err(error);
                }
            }
        }
        Ok(any)
    }

    fn take_aggregates(&self, projection: &'static str) -> Vec<AggregateId> {
        self.lock().aggregates.extract_if(.., |(of, _)| *of == projection).map(|(_, id)| id).collect()
    }

    fn take(&self, projection: &'static str) -> Vec<RowId> {
        let mut state = self.lock();
        let ids: Vec<_> = state.touched.iter().filter(|(of, _)| *of == projection).take(ROWS_MAX).map(|(_, id)| id.clone()).collect();
        for id in &ids {
            state.touched.remove(&(projection, id.clone()));
        }
        ids
    }

    async fn compare(
        &self,
        rule: &'static dyn DynProjection,
        ids: &[RowId],
        ours: &Arc<Store>,
        naive: &Arc<Store>,
    ) -> Result<(), QueryError> {
        let (right, wrong) = (rows(rule, ids, ours).await?, rows(rule, ids, naive).await?);
        let none = Attributes::new();
        let mut state = self.lock();
        for id in ids {
            let (right, naive) = (right.get(id).unwrap_or(&none), wrong.get(id).unwrap_or(&none));
            let names: BTreeSet<_> = right.keys().chain(naive.keys()).filter(|name| !OURS.contains(&name.as_str())).collect();
            let differ = names.into_iter().filter(|name| !is_same(right.get(*name), naive.get(*name)));
            let attributes: Vec<_> = differ.map(|name| (name.clone(), right.get(name).cloned(), naive.get(name).cloned())).collect();
            let key = (rule.name(), id.clone());
            if attributes.is_empty() {
                state.wrong.remove(&key);
            } else {
                state.wrong.insert(key, Wrong { projection: rule.name(), id: id.clone(), attributes });
            }
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A sum that is 0 in one and was never written in the other is no difference that a reader sees.
fn is_same(one: Option<&Value>, other: Option<&Value>) -> bool {
    let zero = |value: Option<&Value>| value.is_none_or(|value| value.as_number().is_some_and(projection_vocabulary::Decimal::is_zero));
    one == other || (zero(one) && zero(other))
}

async fn rows(rule: &'static dyn DynProjection, ids: &[RowId], store: &Arc<Store>) -> Result<BTreeMap<RowId, Attributes>, QueryError> {
    let queries = Queries::new(store.clone());
    let homes = ids.iter().filter(|id| id.child.is_none()).map(|id| id.key.clone());
    let mut found = BTreeMap::new();
    for (key, row) in queries.rows_of(rule).many_read(homes).await? {
        found.extend(row.map(|row| (RowId { key, child: None }, row.shown.attributes)));
    }
    // All child rows of a row, page by page: there is no read of one.
    let parents: BTreeSet<&RowKey> = ids.iter().filter(|id| id.child.is_some()).map(|id| &id.key).collect();
    for parent in parents {
        let mut token = None;
        loop {
            let page = queries.rows_of(rule).children(parent.clone()).page_read(1_000, token.as_ref()).await?;
            found.extend(page.rows.into_iter().map(|row| (row.id, row.shown.attributes)));
            token = page.next;
            if token.is_none() {
                break;
            }
        }
    }
    Ok(found)
}
