//! Waiting for a row to count a version.

use std::time::Duration;

use projection_vocabulary::{ConsistencyToken, RowKey, Version};
use tokio::time::{Instant, sleep_until};

use super::{error::QueryError, reader::Reader};
use crate::{
    engine::content::concerns,
    retry::{Attempt, Deadline, retry},
    store::{
        home::row_of,
        item::{SdkItem, VERSION_MAX, is_aggregate},
    },
};

/// How many events are read at once on the way back to the last one that concerns the projection. Nearly always it is the very last.
const WINDOW: u64 = 100;
/// The longest time to wait that a clock can add.
const WITHIN_MAX: Duration = Duration::from_hours(24);

/// Waits until the home row of the token's aggregate counts the token's version, and returns its item.
///
/// A row does not move for events that its projection does not handle, so of those up to the token's version only the last one that it
/// does handle must be counted.
pub async fn wait(reader: &Reader<'_>, token: &ConsistencyToken, within: Duration) -> Result<Option<SdkItem>, QueryError> {
    if !is_aggregate(&token.aggregate) {
        return Err(QueryError::NoSuchVersion { aggregate: token.aggregate.clone(), version: token.version });
    }
    let end = Instant::now() + within.min(WITHIN_MAX);
    let end = reader.deadline.instant().map_or(end, |deadline| end.min(Instant::from_std(deadline)));
    let waiting = Waiting { reader, token, key: RowKey::from(&token.aggregate), deadline: reader.deadline };
    let (item, found) = match waiting.look(token.version).await? {
        Look::Reached(item) => return Ok(item),
        Look::Behind { item, found } => (item, found),
    };
    let Some(wanted) = waiting.last_concerning(found).await? else { return Ok(item) };
    waiting.refuse_parked(item)?;
    if Instant::now() >= end {
        return Err(waiting.not_yet(wanted, found));
    }
    let deadline = Deadline::at(end.into_std());
    let waiting = Waiting { deadline, ..waiting };
    if let Ok(decided) = retry(deadline, || waiting.poll(wanted), |_| {}).await {
        return decided;
    }
    // The pauses end before the time does.
    sleep_until(end).await;
    match waiting.poll(wanted).await {
        Attempt::Decided(decided) => decided,
        Attempt::Again(not_yet) => Err(not_yet),
    }
}

struct Waiting<'a> {
    reader: &'a Reader<'a>,
    token: &'a ConsistencyToken,
    key: RowKey,
    deadline: Deadline,
}

enum Look {
    Reached(Option<SdkItem>),
    Behind { item: Option<SdkItem>, found: Version },
}

impl Waiting<'_> {
    async fn look(&self, wanted: Version) -> Result<Look, QueryError> {
        let item = self.reader.item(&self.key, self.deadline).await?;
        let found = match &item {
            Some(item) => row_of(self.reader.rule, item.clone())?.home.version,
            None => Version::NONE,
        };
        Ok(if found >= wanted { Look::Reached(item) } else { Look::Behind { item, found } })
    }

    async fn poll(&self, wanted: Version) -> Attempt<Result<Option<SdkItem>, QueryError>, QueryError> {
        match self.look(wanted).await {
            Ok(Look::Reached(item)) => Attempt::Decided(Ok(item)),
            Ok(Look::Behind { item, found }) => match self.refuse_parked(item) {
                Ok(()) => Attempt::Again(self.not_yet(wanted, found)),
                Err(parked) => Attempt::Decided(Err(parked)),
            },
            Err(error) => Attempt::Decided(Err(error)),
        }
    }

    fn not_yet(&self, wanted: Version, found: Version) -> QueryError {
        QueryError::NotYet { projection: self.reader.rule.name(), aggregate: self.token.aggregate.clone(), wanted, found }
    }

    fn refuse_parked(&self, item: Option<SdkItem>) -> Result<(), QueryError> {
        let Some(item) = item else { return Ok(()) };
        let home = row_of(self.reader.rule, item)?.home;
        if home.parked_at.is_none() {
            return Ok(());
        }
        let aggregate = self.token.aggregate.clone();
        Err(QueryError::Parked { projection: self.reader.rule.name(), aggregate, version: home.version })
    }

    /// The last version after `row`, and up to the token's, that concerns the projection; `None` if none does.
    async fn last_concerning(&self, row: Version) -> Result<Option<Version>, QueryError> {
        let ConsistencyToken { aggregate, version } = self.token;
        let missing = || QueryError::NoSuchVersion { aggregate: aggregate.clone(), version: *version };
        if *version > VERSION_MAX {
            return Err(missing());
        }
        let mut last = *version;
        while last > row {
            self.deadline.check()?;
            let first = Version(last.0.saturating_sub(WINDOW - 1).max(row.next().0));
            let limit = usize::try_from(WINDOW).expect("a window is small");
            let window = self.reader.store.load_page(aggregate, first..=last, limit, self.deadline).await?;
            if last == *version && window.last().is_none_or(|stored| stored.version() != last) {
                return Err(missing());
            }
            if let Some(stored) = window.iter().rev().find(|stored| concerns(self.reader.rule, stored)) {
                return Ok(Some(stored.version()));
            }
            last = first.previous();
        }
        Ok(None)
    }
}
