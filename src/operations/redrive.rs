//! Retrying what was parked, once its cause is fixed.

use projection_vocabulary::{AggregateId, DynProjection, RecordedEvent, fold};
use serde_json::value::RawValue;

use crate::{
    engine::{
        decode::{Body, Poison, decode},
        reproject::Trust,
        worker::Worker,
    },
    operations::{
        catch_up::{Standing, catch_up},
        error::{OperationError, find_projection, refuse_newer_revision},
        footing::{Doubt, sampled_doubt},
    },
    retry::Deadline,
    store::{
        Store,
        events::Stored,
        parking::{NO_PROJECTION, Parked},
    },
};

/// The outcome of redriving a parked aggregate or record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Redriven {
    /// It is no longer parked, and its row is the fold of what the event store has.
    Done {
        /// How many events were counted now.
        applied: u64,
        /// Whether the row was re-projected, because its rule had changed or it stood on another history than the event store's.
        reprojected: bool,
    },
    /// It is still parked, or parked again, for this reason.
    Parked(String),
}

/// Retries what was parked. It may run while the worker runs, and be repeated after any failure.
///
/// The mark comes off first, and only then is the event store read: an event that the stream brings in between is either
/// applied by its worker or read here. The entry in the parking table goes last, so that nothing is forgotten half-way.
///
/// A row that is ahead of the event store is parked again unless `trust` is [`Trust::Store`].
///
/// # Errors
/// [`OperationError`]: the entry is still there.
pub async fn redrive(worker: &Worker, parked: &Parked, trust: Trust, deadline: Deadline) -> Result<Redriven, OperationError> {
    let redrive = Redrive { worker, parked, trust, deadline };
    if parked.projection == NO_PROJECTION { redrive.record().await } else { redrive.aggregate().await }
}

/// Entries for rows that are marked as parked and have none among `entries`: it was deleted, expired, or is missing since a restore. Only
/// the row of `aggregate` is read, or by a scan every row of these projections. A redrive takes such an entry like any other.
///
/// # Errors
/// [`OperationError`].
#[cfg(feature = "cli")]
pub async fn marked(
    store: &Store,
    rules: &[&'static dyn DynProjection],
    aggregate: Option<&AggregateId>,
    entries: &[Parked],
    deadline: Deadline,
) -> Result<Vec<Parked>, OperationError> {
    let mut marked = Vec::new();
    for rule in rules {
        let mut take = |id: &str, parked_at: Option<String>| {
            let has_entry = entries.iter().any(|entry| entry.projection == rule.name() && entry.aggregate == id);
            marked.extend(parked_at.filter(|_| !has_entry).map(|at| Parked {
                projection: rule.name().to_owned(),
                aggregate: id.to_owned(),
                version: None,
                reason: NO_ENTRY.to_owned(),
                count: 1,
                first_seen: at.clone(),
                last_seen: at,
                id: String::new(),
            }));
        };
        if let Some(id) = aggregate {
            take(id.as_str(), store.home_row(*rule, id, deadline).await?.parked_at);
            continue;
        }
        store.each_row(*rule, deadline, |row| take(row.key.as_str(), row.home.parked_at)).await?;
    }
    Ok(marked)
}

/// Why not to redrive these entries with [`Trust::Store`], by a sample of their projections' rows: it may be the wrong event store.
///
/// # Errors
/// [`OperationError`].
pub async fn doubt(worker: &Worker, chosen: &[Parked], deadline: Deadline) -> Result<Option<Doubt>, OperationError> {
    for rule in worker.registry().projections() {
        // A record that names no projection concerns any of them.
        let concerned = chosen.iter().any(|entry| entry.projection == rule.name() || entry.projection == NO_PROJECTION);
        if concerned && let Some(doubt) = sampled_doubt(worker.store(), *rule, deadline).await? {
            return Ok(Some(doubt));
        }
    }
    Ok(None)
}

/// One entry of the parking table on its way back.
struct Redrive<'a> {
    worker: &'a Worker,
    parked: &'a Parked,
    trust: Trust,
    deadline: Deadline,
}

impl Redrive<'_> {
    fn store(&self) -> &Store {
        self.worker.store()
    }

    async fn aggregate(&self) -> Result<Redriven, OperationError> {
        let Self { worker, parked, trust, deadline } = *self;
        let rule = find_projection(worker.registry(), &parked.projection)?;
        let id = AggregateId::from(parked.aggregate.as_str());
        if trust == Trust::Row
            && let Some(missing) = self.missing_version(&id).await?
        {
            return Ok(Redriven::Parked(missing));
        }
        self.remove_mark(rule, &id).await?;
        let caught_up = catch_up(worker, rule, &id, trust, deadline).await?;
        match caught_up.standing {
            Standing::Head => self.forget(caught_up.applied, caught_up.reprojected).await,
            Standing::Parked(reason) => Ok(Redriven::Parked(reason.unwrap_or_else(|| PARKED_MEANWHILE.to_owned()))),
        }
    }

    /// Whether the event store lacks the version that is parked: the parked payload may then be all that is left of the event,
    /// and no row can be right without it.
    async fn missing_version(&self, id: &AggregateId) -> Result<Option<String>, OperationError> {
        let Some(version) = self.parked.version else { return Ok(None) };
        let stored = self.store().load_page(id, version..=version, 1, self.deadline).await?;
        Ok(stored.is_empty().then(|| format!("the event store does not have version {version} (parked for: {})", self.parked.reason)))
    }

    async fn remove_mark(&self, rule: &dyn DynProjection, id: &AggregateId) -> Result<(), OperationError> {
        let row = self.store().home_row(rule, id, self.deadline).await?;
        refuse_newer_revision(rule, &row)?;
        if let Some(parked_at) = row.parked_at {
            self.store().unpark(rule, id, &parked_at, self.deadline).await?;
        }
        Ok(())
    }

    /// Deletes the entry, unless it was parked again meanwhile.
    async fn forget(&self, applied: u64, reprojected: bool) -> Result<Redriven, OperationError> {
        let gone = self.store().forget_parked(self.parked, self.deadline).await?;
        Ok(if gone { Redriven::Done { applied, reprojected } } else { Redriven::Parked(PARKED_MEANWHILE.to_owned()) })
    }

    /// A record that named no event. It is processed as if the stream had brought it now, unless the event store has a readable
    /// event at its version.
    async fn record(&self) -> Result<Redriven, OperationError> {
        let Self { worker, parked, deadline, .. } = *self;
        let Some((_, payload)) = self.store().parked_entry(&parked.projection, &parked.aggregate, deadline).await? else {
            return Ok(Redriven::Done { applied: 0, reprojected: false });
        };
        let record = RawValue::from_string(payload.unwrap_or_default()).map_err(|_| OperationError::UnreadablePayload)?;
        let body = decode(&record).body;
        if let Some(event) = self.stored_event(&body).await? {
            return self.event(&event).await;
        }
        if let Body::Poison(poison) = &body
            && (poison.event.is_none() || poison.event_type.is_none())
        {
            // No breaker: somebody asked for this one record.
            return Ok(Redriven::Parked(worker.park_stray(poison, deadline).await?));
        }
        let report = worker.process(&[record], deadline).await;
        match report.reasons.into_keys().next() {
            Some(reason) => Err(OperationError::RecordFailed(reason)),
            None if report.total.parked > 0 => Ok(Redriven::Parked("its aggregate is parked".to_owned())),
            None => self.forget(report.total.applied, false).await,
        }
    }

    /// Catches up with the aggregate of a record's event, in every projection that the event concerns. Where the aggregate is parked,
    /// the record stays parked with it.
    async fn event(&self, event: &RecordedEvent) -> Result<Redriven, OperationError> {
        let Self { worker, trust, deadline, .. } = *self;
        let (mut applied, mut reprojected, mut waits) = (0, false, None);
        for rule in worker.registry().projections().iter().filter(|rule| fold::concerns(**rule, event)) {
            let caught_up = catch_up(worker, *rule, &event.aggregate, trust, deadline).await?;
            applied += caught_up.applied;
            reprojected |= caught_up.reprojected;
            if caught_up.standing != Standing::Head {
                waits = Some(format!("its aggregate is parked in {}", rule.name()));
            }
        }
        match waits {
            Some(reason) => Ok(Redriven::Parked(reason)),
            None => self.forget(applied, reprojected).await,
        }
    }

    /// The event that the event store has at the version that a record names.
    async fn stored_event(&self, body: &Body) -> Result<Option<RecordedEvent>, OperationError> {
        let (aggregate, version) = match body {
            Body::Event(event) => (&event.aggregate, event.version),
            Body::Poison(Poison { event: Some((aggregate, version)), .. }) => (aggregate, *version),
            _ => return Ok(None),
        };
        let stored = self.store().load_page(aggregate, version..=version, 1, self.deadline).await?;
        Ok(stored.into_iter().find_map(|stored| if let Stored::Event(event) = stored { Some(event) } else { None }))
    }
}

#[cfg(feature = "cli")]
const NO_ENTRY: &str = "its row is marked as parked, and the parking table has no entry for it";

const PARKED_MEANWHILE: &str = "another worker parked it meanwhile: redrive it again";

#[cfg(test)]
mod tests {
    use aws_sdk_dynamodb::types::AttributeValue;

    use super::*;
    use crate::operations::fixture::{Guests, Notes, append, applied, happened, stayed, worker_of};

    fn entry(projection: &str, aggregate: &str) -> Parked {
        Parked {
            projection: projection.to_owned(),
            aggregate: aggregate.to_owned(),
            version: None,
            reason: "why".to_owned(),
            count: 1,
            first_seen: "then".to_owned(),
            last_seen: "then".to_owned(),
            id: String::new(),
        }
    }

    #[tokio::test]
    async fn a_row_is_marked_if_its_projection_has_no_entry_for_its_aggregate() {
        let (worker, client) = worker_of(&[&Guests, &Notes]).await;
        for id in ["ann", "ben", "cid"] {
            happened(&worker, id, [stayed(1)]).await;
        }
        let text = |text: &str| AttributeValue::S(text.to_owned());
        for (table, id) in [("guests", "ann"), ("notes", "ann"), ("guests", "ben")] {
            let update = client.update_item().table_name(table).key("id", text(id)).update_expression("SET parkedAt = :at");
            let update = if table == "notes" { update.key("room", text("!")) } else { update };
            update.expression_attribute_values(":at", text("2026-01-01T00:00:00.000Z")).send().await.expect("updated");
        }
        let found = async |aggregate: Option<&str>, entries: &[Parked]| {
            let aggregate = aggregate.map(AggregateId::from);
            let marked = marked(worker.store(), &[&Guests, &Notes], aggregate.as_ref(), entries, Deadline::NONE).await.expect("read");
            let mut found: Vec<_> = marked.iter().map(|entry| format!("{} {}", entry.projection, entry.aggregate)).collect();
            found.sort();
            found
        };
        assert_eq!(found(None, &[]).await, ["guests ann", "guests ben", "notes ann"]);
        assert_eq!(found(None, &[entry("guests", "ann"), entry("notes", "ben")]).await, ["guests ben", "notes ann"]);
        assert_eq!(found(Some("ann"), &[entry("guests", "ann")]).await, ["notes ann"]);
        assert_eq!(found(Some("cid"), &[]).await, [""; 0]);
    }

    #[tokio::test]
    async fn a_redrive_is_doubted_by_the_rows_of_its_own_projection_or_of_any_if_it_names_none() {
        let (worker, client) = worker_of(&[&Notes, &Guests]).await;
        let event = append(&worker, "ann", [stayed(1)]).await.remove(0);
        applied(&worker, &RecordedEvent { aggregate: "lost".into(), ..event }).await;
        // Only the rows of one projection stand on what is lost.
        let home = client.delete_item().table_name("notes").key("id", AttributeValue::S("lost".to_owned()));
        home.key("room", AttributeValue::S("!".to_owned())).send().await.expect("deleted");
        let doubted = async |projection: &str| {
            let doubt = doubt(&worker, &[entry(projection, "ann")], Deadline::NONE).await.expect("read");
            doubt.map(|doubt| doubt.projection)
        };
        assert_eq!(doubted("guests").await, Some("guests"));
        assert_eq!(doubted("notes").await, None);
        assert_eq!(doubted(NO_PROJECTION).await, Some("guests"));
    }
}
