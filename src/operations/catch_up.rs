//! Advancing one aggregate to the head of its history in the event store, whatever the stream has brought.

use std::collections::BTreeSet;

use futures::{StreamExt as _, stream};

use projection_vocabulary::{AggregateId, DynProjection, HomeRow, Version};

use crate::{
    engine::worker::CONCURRENCY,
    engine::{
        content::concerns,
        lane::{Lane, Park, UNEXPLAINED_MAX, UNEXPLAINED_REASON, newer_revision},
        reproject::fold_history,
        worker::Worker,
    },
    progress::Counts,
    retry::Deadline,
    store::{
        StoreError,
        events::{PAGE_EVENTS, Stored},
    },
};

pub use crate::engine::reproject::Trust;

/// Where an aggregate stands after catching up, in one projection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Its row is the fold of all that the event store has of it.
    Head,
    /// It is parked, for this reason if it is since now.
    Parked(Option<String>),
}

/// What catching up came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaughtUp {
    /// Where the aggregate stands.
    pub standing: Standing,
    /// Events read from the event store and counted now.
    pub applied: u64,
    /// Whether its row was projected anew: its rule had changed, or it stood on another history than the event store's.
    pub reprojected: bool,
}

/// Why an aggregate could not be caught up. Nothing is known to be wrong with the aggregate: try again.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Failed(pub(crate) String);

impl From<StoreError> for Failed {
    fn from(error: StoreError) -> Self {
        Self(error.to_string())
    }
}

/// What becomes of an aggregate whose next event cannot be applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IfStuck {
    /// It is parked.
    Park,
    /// It is parked unless the breaker says that the deployment is at fault.
    AskBreaker,
    /// Its row stays where it is, without a mark: its table is not the live one.
    Leave,
}

/// What the event store says of a row.
enum Finding {
    /// These items follow; what lies between the row and this version does not concern the rule.
    Behind(Version, Vec<Stored>),
    /// Nothing that concerns the rule follows.
    AtHead,
    /// It has another event at the row's version, or none.
    OtherHistory,
}

impl Worker {
    /// Advances an aggregate to the head of its history by consistent reads. It may run while the stream is worked.
    ///
    /// A row that an older revision wrote, or whose last event is not the event store's (restored to an earlier point, say), is
    /// projected anew; by [`Trust::Store`] any row is, even one that is ahead of the event store. A parked aggregate stays parked.
    ///
    /// # Errors
    /// [`Failed`].
    pub async fn catch_up(
        &self,
        rule: &'static dyn DynProjection,
        id: &AggregateId,
        trust: Trust,
        deadline: Deadline,
    ) -> Result<CaughtUp, Failed> {
        // No breaker: somebody asked for this one aggregate.
        self.catch_up_one(rule, id, (trust, IfStuck::Park), deadline).await
    }

    /// The same for one of many that nobody has looked at.
    pub(crate) async fn sweep(
        &self,
        rule: &'static dyn DynProjection,
        id: &AggregateId,
        if_stuck: IfStuck,
        deadline: Deadline,
    ) -> Result<CaughtUp, Failed> {
        self.catch_up_one(rule, id, (Trust::Row, if_stuck), deadline).await
    }

    async fn catch_up_one(
        &self,
        rule: &'static dyn DynProjection,
        id: &AggregateId,
        (trust, if_stuck): (Trust, IfStuck),
        deadline: Deadline,
    ) -> Result<CaughtUp, Failed> {
        let mut caught_up = CaughtUp { standing: Standing::Parked(None), applied: 0, reprojected: false };
        let (mut before, mut unmoved) = (None, 0);
        loop {
            if deadline.passed() {
                return Err(StoreError::DeadlineExceeded.into());
            }
            let row = self.store().read_rows(rule, std::slice::from_ref(id), deadline).await?.remove(id).unwrap_or_default();
            if row.parked_at.is_some() {
                return Ok(caught_up);
            }
            if row.revision > rule.revision() {
                return Err(Failed(newer_revision(rule, row.revision)));
            }
            let found = Some((row.version, row.revision, row.last_event_id.clone()));
            unmoved = if found == before { unmoved + 1 } else { 0 };
            // What other workers do moves it; a row that something else wrote may take no write at all.
            if unmoved > UNEXPLAINED_MAX {
                return Err(Failed(UNEXPLAINED_REASON.to_owned()));
            }
            before = found;
            let mut lane = Lane::new(rule, id.clone());
            let doubted = trust == Trust::Store && row.version > Version::NONE && !caught_up.reprojected;
            let finding = if doubted { Finding::OtherHistory } else { self.compare(rule, id, &row, deadline).await? };
            match finding {
                Finding::AtHead => {
                    caught_up.standing = Standing::Head;
                    return Ok(caught_up);
                }
                Finding::Behind(from, stored) => {
                    lane.push_stored(row.version, from, stored);
                    lane.prepare();
                }
                Finding::OtherHistory => {
                    let folded = fold_history(self.store(), rule, id, Version(u64::MAX), deadline).await?;
                    lane.replace(&row, &folded, trust);
                }
            }
            let (mut lanes, to_park) = self.drive(vec![lane], deadline.into()).await;
            caught_up.standing = Standing::Parked(to_park.first().map(|(_, Park { reason, .. })| reason.clone()));
            if if_stuck == IfStuck::Leave && !to_park.is_empty() {
                caught_up.applied += to_park.iter().map(|(lane, _)| lane.tally.healed).sum::<u64>();
                return Ok(caught_up);
            }
            let tripped = if if_stuck == IfStuck::AskBreaker { self.tripped(&lanes, &to_park, &[]) } else { BTreeSet::new() };
            lanes.extend(self.park_all(to_park, &tripped, deadline.into()).await);
            for lane in lanes {
                caught_up.applied += lane.tally.healed;
                caught_up.reprojected |= lane.tally.reprojected > 0;
                if let Some(reason) = lane.failure {
                    return Err(Failed(reason));
                }
            }
        }
    }

    /// Whether events follow a row that concern the rule.
    pub(crate) async fn is_behind(
        &self,
        rule: &'static dyn DynProjection,
        id: &AggregateId,
        row: &HomeRow,
        deadline: Deadline,
    ) -> Result<bool, StoreError> {
        Ok(matches!(self.compare(rule, id, row, deadline).await?, Finding::Behind(..)))
    }

    /// Looks at what follows a row in the event store, up to the first page with something for the rule in it.
    async fn compare(
        &self,
        rule: &'static dyn DynProjection,
        id: &AggregateId,
        row: &HomeRow,
        deadline: Deadline,
    ) -> Result<Finding, StoreError> {
        if row.version > Version::NONE && row.revision < rule.revision() {
            return Ok(Finding::OtherHistory);
        }
        // Beginning with the event that the row stands on.
        let mut from = row.version.max(Version::NONE.next());
        // Up to here without a hole: one among events that do not concern the rule is a hole all the same.
        let mut passed = from.previous();
        loop {
            let mut page = self.store().load_page(id, from..=Version(u64::MAX), PAGE_EVENTS, deadline).await?;
            let next = (page.len() == PAGE_EVENTS).then(|| page[PAGE_EVENTS - 1].version().next());
            if from == row.version {
                if !page.first().is_some_and(|stored| stands_on(row, stored)) {
                    return Ok(Finding::OtherHistory);
                }
                page.remove(0);
                passed = from;
            }
            if page.iter().any(|stored| concerns(rule, stored)) {
                return Ok(Finding::Behind(passed.next(), page));
            }
            for stored in page {
                if stored.version() == passed.next() {
                    passed = stored.version();
                }
            }
            let Some(next) = next else { return Ok(Finding::AtHead) };
            from = next;
        }
    }
}

fn stands_on(row: &HomeRow, stored: &Stored) -> bool {
    matches!(stored, Stored::Event(event) if event.version == row.version && Some(&event.event_id) == row.last_event_id.as_ref())
}

/// Advances aggregates to the heads of their histories, and counts what came of it.
pub(crate) async fn sweep_all(
    worker: &Worker,
    rule: &'static dyn DynProjection,
    behind: &[AggregateId],
    if_stuck: IfStuck,
    counts: &mut Counts,
    deadline: Deadline,
) -> Result<(), Failed> {
    let each = behind.iter().map(|id| worker.sweep(rule, id, if_stuck, deadline));
    let swept: Vec<Result<CaughtUp, Failed>> = stream::iter(each).buffer_unordered(CONCURRENCY).collect().await;
    let mut failure = None;
    for swept in swept {
        match swept {
            // Another may have been quicker.
            Ok(CaughtUp { standing: Standing::Head, applied, reprojected }) => counts.caught_up += u64::from(applied > 0 || reprojected),
            Ok(_) if if_stuck == IfStuck::Leave => counts.stopped += 1,
            Ok(_) => counts.parked += 1,
            Err(failed) => failure = Some(failed),
        }
    }
    failure.map_or(Ok(()), Err)
}
