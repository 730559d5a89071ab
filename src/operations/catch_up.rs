//! Advancing aggregates to the head of their histories in the event store, whatever the stream has brought.

use std::sync::Arc;

use futures::{StreamExt as _, stream};
use projection_vocabulary::{AggregateId, DynProjection, HomeRow, Version, Watermark};

use crate::{
    engine::{
        content::concerns,
        error::AdvanceError,
        lane::{Lane, ParkedBy, UNEXPLAINED_MAX},
        reproject::{Trust, differing_children, fold_history, replaced_up_to},
        worker::{CONCURRENCY, IfStuck, Worker},
    },
    operations::error::{OperationError, refuse_newer_revision},
    progress::Counts,
    retry::Deadline,
    store::{
        StoreError,
        events::{PAGE_EVENTS, Stored},
    },
};

/// Where an aggregate stands after catching up, in one projection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Its row is the fold of everything that the event store has of it.
    Head,
    /// Parked. `Some(reason)` if this call parked it, `None` if it already was.
    Parked(Option<String>),
}

/// The result of catching up with one aggregate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaughtUp {
    /// Where the aggregate stands.
    pub standing: Standing,
    /// How many events were read from the event store and counted now.
    pub applied: u64,
    /// Whether its row was re-projected: its rule had changed, or it stood on another history than the event store's.
    pub reprojected: bool,
}

/// How the event store compares with a row.
enum Position {
    /// The row is behind: these items follow, and nothing between the row and this version concerns the projection.
    Behind(Version, Vec<Stored>),
    /// Nothing that concerns the projection follows the row.
    AtHead,
    /// The event store has another event at the row's version, or none.
    OtherHistory,
}

/// Advances an aggregate to the head of its history by consistent reads. It may run while the worker runs.
///
/// A row that an older revision wrote, or whose last event is not the event store's (which was restored to an earlier point, say), is
/// re-projected; with [`Trust::Store`] any row is, even one that is ahead of the event store. A parked aggregate stays parked.
///
/// # Errors
/// [`OperationError`]: nothing is known to be wrong with the aggregate, so it can be tried again.
pub async fn catch_up(
    worker: &Worker,
    rule: &'static dyn DynProjection,
    id: &AggregateId,
    trust: Trust,
    deadline: Deadline,
) -> Result<CaughtUp, OperationError> {
    // No breaker: somebody asked for this one aggregate.
    CatchUp { worker, rule, trust, if_stuck: IfStuck::Park, deadline }.run(id).await
}

/// Catches up with many aggregates that nobody has looked at, and counts the results.
pub(crate) async fn catch_up_all(
    worker: &Worker,
    rule: &'static dyn DynProjection,
    behind: &[AggregateId],
    if_stuck: IfStuck,
    counts: &mut Counts,
    deadline: Deadline,
) -> Result<(), OperationError> {
    let catch_up = CatchUp { worker, rule, trust: Trust::Row, if_stuck, deadline };
    // Collected first: a stream with a closure of references in it could not be awaited in a spawned task.
    let each: Vec<_> = behind.iter().map(|id| catch_up.run(id)).collect();
    let results: Vec<_> = stream::iter(each).buffer_unordered(CONCURRENCY).collect().await;
    let mut failure = None;
    for result in results {
        match result {
            // Another worker may have been quicker.
            Ok(CaughtUp { standing: Standing::Head, applied, reprojected }) => counts.caught_up += u64::from(applied > 0 || reprojected),
            Ok(_) if if_stuck == IfStuck::Leave => counts.stopped += 1,
            Ok(_) => counts.parked += 1,
            Err(error) => failure = Some(error),
        }
    }
    failure.map_or(Ok(()), Err)
}

struct CatchUp<'a> {
    worker: &'a Worker,
    rule: &'static dyn DynProjection,
    trust: Trust,
    if_stuck: IfStuck,
    deadline: Deadline,
}

impl CatchUp<'_> {
    async fn run(&self, id: &AggregateId) -> Result<CaughtUp, OperationError> {
        let Self { worker, rule, trust, deadline, .. } = *self;
        let mut caught_up = CaughtUp { standing: Standing::Parked(None), applied: 0, reprojected: false };
        let mut standstill = Standstill::default();
        loop {
            deadline.check()?;
            let row = worker.store().home_row(rule, id, deadline).await?;
            if row.parked_at.is_some() {
                return Ok(caught_up);
            }
            refuse_newer_revision(rule, &row)?;
            // Other workers move the row; a row that something else wrote may take no write at all.
            if standstill.is_too_long(&row) {
                return Err(AdvanceError::Unexplained.into());
            }
            let mut lane = Lane::new(rule, id.clone());
            // A home row that is lost may have left child rows behind.
            let may_differ = row.version > Version::NONE || rule.children().is_some();
            let doubted = trust == Trust::Store && may_differ && !caught_up.reprojected;
            let position = if doubted { Position::OtherHistory } else { compare(worker, rule, id, &row, deadline).await? };
            match position {
                Position::AtHead => {
                    caught_up.standing = Standing::Head;
                    return Ok(caught_up);
                }
                Position::Behind(from, stored) => {
                    lane.push_stored(row.version, from, stored);
                    lane.prepare();
                }
                Position::OtherHistory => {
                    let folded = fold_history(worker.store(), rule, id, replaced_up_to(rule, &row), deadline).await?;
                    let children = differing_children(worker.store(), rule, id, folded.children(), deadline).await?;
                    lane.replace(&row, &folded, children, trust);
                }
            }
            let lanes = worker.advance(vec![lane], self.if_stuck, deadline).await;
            caught_up.standing = Standing::Parked(None);
            for lane in lanes {
                caught_up.applied += lane.tally.healed;
                caught_up.reprojected |= lane.tally.reprojected > 0;
                if let Some(park) = lane.stuck() {
                    caught_up.standing = Standing::Parked(Some(park.blocked.reason.clone()));
                    return Ok(caught_up);
                }
                if let Some(ParkedBy::ThisLane(reason)) = lane.parked {
                    caught_up.standing = Standing::Parked(Some(reason));
                }
                if let Some(error) = lane.failure {
                    return Err(error.into());
                }
            }
        }
    }
}

/// Where a row stands, and how often it was read again and had not moved.
#[derive(Default)]
struct Standstill {
    at: Option<(Watermark, Option<Arc<str>>)>,
    unmoved: u32,
}

impl Standstill {
    /// Takes note of where a row stands now. Whether it has stood there too often.
    fn is_too_long(&mut self, row: &HomeRow) -> bool {
        let at = Some((row.watermark(), row.last_event_id.clone()));
        self.unmoved = if at == self.at { self.unmoved + 1 } else { 0 };
        self.at = at;
        self.unmoved > UNEXPLAINED_MAX
    }
}

/// Whether events that concern the projection follow a row.
pub(crate) async fn is_behind(
    worker: &Worker,
    rule: &'static dyn DynProjection,
    id: &AggregateId,
    row: &HomeRow,
    deadline: Deadline,
) -> Result<bool, StoreError> {
    Ok(matches!(compare(worker, rule, id, row, deadline).await?, Position::Behind(..)))
}

/// Reads what follows a row in the event store, up to the first page that has something for the projection.
async fn compare(
    worker: &Worker,
    rule: &'static dyn DynProjection,
    id: &AggregateId,
    row: &HomeRow,
    deadline: Deadline,
) -> Result<Position, StoreError> {
    if row.is_outdated(rule.revision()) {
        return Ok(Position::OtherHistory);
    }
    // Beginning with the event that the row stands on.
    let mut from = row.version.max(Version::NONE.next());
    // Up to here without a hole: a hole among events that do not concern the projection is a hole all the same.
    let mut contiguous = from.previous();
    loop {
        let mut page = worker.store().load_page(id, from..=Version(u64::MAX), PAGE_EVENTS, deadline).await?;
        let next = (page.len() == PAGE_EVENTS).then(|| page[PAGE_EVENTS - 1].version().next());
        if from == row.version {
            if !page.first().is_some_and(|stored| stands_on(row, stored)) {
                return Ok(Position::OtherHistory);
            }
            page.remove(0);
            contiguous = from;
        }
        if page.iter().any(|stored| concerns(rule, stored)) {
            return Ok(Position::Behind(contiguous.next(), page));
        }
        for stored in page {
            if stored.version() == contiguous.next() {
                contiguous = stored.version();
            }
        }
        let Some(next) = next else { return Ok(Position::AtHead) };
        from = next;
    }
}

fn stands_on(row: &HomeRow, stored: &Stored) -> bool {
    matches!(stored, Stored::Event(event) if event.version == row.version && Some(&event.event_id) == row.last_event_id.as_ref())
}

#[cfg(test)]
mod tests {
    use aws_sdk_dynamodb::types::{AttributeValue, ReturnValue};
    use projection_vocabulary::RecordedEvent;

    use super::*;
    use crate::{
        operations::fixture::{Guests, append, applied, happened, rang, refused, stayed, worker, worker_of},
        store::{
            append::APPEND_EVENTS_MAX,
            item::{partition_key, sort_key},
        },
    };

    const AT_HEAD: CaughtUp = CaughtUp { standing: Standing::Head, applied: 0, reprojected: false };
    const REPROJECTED: CaughtUp = CaughtUp { reprojected: true, ..AT_HEAD };

    async fn caught_up(worker: &Worker, id: &str, trust: Trust) -> CaughtUp {
        catch_up(worker, &Guests, &id.into(), trust, Deadline::NONE).await.expect("the store answers")
    }

    /// Another event of the same version.
    fn another(event: &RecordedEvent) -> RecordedEvent {
        RecordedEvent { event_id: "another".into(), ..event.clone() }
    }

    #[test]
    fn a_row_that_does_not_move_is_read_again_a_few_times() {
        let mut standstill = Standstill::default();
        let mut is_too_long = |version, id: &str| {
            standstill.is_too_long(&HomeRow { version: Version(version), last_event_id: Some(id.into()), ..HomeRow::default() })
        };
        assert!((0..=2 * UNEXPLAINED_MAX).all(|at| !is_too_long(at.into(), "ann")), "it moves");
        for id in ["ann", "ben"] {
            assert!((0..=UNEXPLAINED_MAX).all(|_| !is_too_long(1, id)), "{id}");
        }
        assert!(is_too_long(1, "ben"));
        assert!(!is_too_long(2, "ben"), "it moves again");
    }

    #[tokio::test]
    async fn a_row_is_at_the_head_behind_or_on_another_history() {
        let worker = worker().await;
        happened(&worker, "ann", [stayed(1), rang(), stayed(1)]).await;
        assert_eq!(caught_up(&worker, "ann", Trust::Row).await, CaughtUp { applied: 1, ..AT_HEAD });
        assert_eq!(caught_up(&worker, "ann", Trust::Row).await, AT_HEAD);
        // It stands on an event, and the event store has another one of that version.
        let event = append(&worker, "ben", [stayed(1)]).await.remove(0);
        applied(&worker, &another(&event)).await;
        assert_eq!(caught_up(&worker, "ben", Trust::Row).await, REPROJECTED);
        assert_eq!(caught_up(&worker, "ben", Trust::Row).await, AT_HEAD);
        // Nothing, or nothing for the projection.
        append(&worker, "cid", [rang()]).await;
        for id in ["cid", "eve"] {
            assert_eq!(caught_up(&worker, id, Trust::Row).await, AT_HEAD, "{id}");
        }
    }

    #[tokio::test]
    async fn if_the_event_store_is_trusted_each_row_is_made_anew_once() {
        let worker = worker().await;
        happened(&worker, "ann", [stayed(1)]).await;
        assert_eq!(caught_up(&worker, "ann", Trust::Store).await, REPROJECTED);
        // Where there is no row, there is none to doubt.
        append(&worker, "ben", [stayed(1)]).await;
        assert_eq!(caught_up(&worker, "ben", Trust::Store).await, CaughtUp { applied: 1, ..REPROJECTED });
        assert_eq!(caught_up(&worker, "eve", Trust::Store).await, AT_HEAD);
    }

    #[tokio::test]
    async fn a_page_of_events_that_do_not_concern_the_projection_is_no_hole_and_one_among_them_is() {
        let (worker, client) = worker_of(&[&Guests]).await;
        let first = append(&worker, "ann", [stayed(1)]).await.remove(0);
        applied(&worker, &first).await;
        let (event_type, data) = rang();
        let rang = RecordedEvent { event_type: event_type.into(), data, ..first.clone() };
        let event = |version: u64, of: &RecordedEvent| RecordedEvent {
            version: Version(version),
            event_id: format!("event-{version}").into(),
            ..of.clone()
        };
        let last = PAGE_EVENTS as u64 + 2;
        let mut events: Vec<_> = (2..last).map(|version| event(version, &rang)).collect();
        events.push(event(last, &first));
        for events in events.chunks(APPEND_EVENTS_MAX) {
            worker.store().append(events[0].version.previous(), events).await.expect("appended");
        }
        let row = worker.store().home_row(&Guests, &"ann".into(), Deadline::NONE).await.expect("read");
        let is_behind = is_behind(&worker, &Guests, &"ann".into(), &row, Deadline::NONE).await;
        let key = |name: &str, text: String| (name.to_owned(), AttributeValue::S(text));
        let fourth = [key("PK", partition_key(&"ann".into())), key("SK", sort_key(Version(4)))];
        let held = client.delete_item().table_name("event-store").set_key(Some(fourth.into()));
        let held = held.return_values(ReturnValue::AllOld).send().await.expect("deleted").attributes;
        let parked = caught_up(&worker, "ann", Trust::Row).await;
        assert!(is_behind == Ok(true) && matches!(parked.standing, Standing::Parked(Some(_))), "{parked:?}");
        client.put_item().table_name("event-store").set_item(held).send().await.expect("put");
        client.delete_item().table_name("guests").key("id", AttributeValue::S("ann".to_owned())).send().await.expect("deleted");
        applied(&worker, &first).await;
        assert_eq!(caught_up(&worker, "ann", Trust::Row).await, CaughtUp { applied: 1, ..AT_HEAD });
    }

    #[tokio::test]
    async fn of_many_those_are_counted_that_were_advanced_made_anew_or_stopped() {
        for (if_stuck, parked, stopped) in [(IfStuck::Park, 1, 0), (IfStuck::Leave, 0, 1)] {
            let worker = worker().await;
            happened(&worker, "ann", [stayed(1), stayed(1)]).await;
            happened(&worker, "ben", [stayed(1)]).await;
            let event = append(&worker, "cid", [stayed(1)]).await.remove(0);
            applied(&worker, &another(&event)).await;
            happened(&worker, "dan", [stayed(1), refused()]).await;
            let mut counts = Counts::default();
            let ids = ["ann", "ben", "cid", "dan"].map(AggregateId::from);
            catch_up_all(&worker, &Guests, &ids, if_stuck, &mut counts, Deadline::NONE).await.expect("the store answers");
            assert_eq!(counts, Counts { caught_up: 2, parked, stopped, ..Counts::default() }, "{if_stuck:?}");
        }
    }
}
