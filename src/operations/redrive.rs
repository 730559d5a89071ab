//! Taking up again what was parked, once its cause is mended.

use projection_vocabulary::{AggregateId, DynProjection, RecordedEvent, Registry, Version, fold};
use serde_json::value::RawValue;

use crate::{
    engine::{
        decode::{Body, Poison, decode},
        lane::newer_revision,
        worker::Worker,
    },
    operations::catch_up::{Failed, Standing, Trust},
    retry::Deadline,
    store::{
        events::Stored,
        parking::{NO_PROJECTION, Parked},
    },
};

/// What became of a parked aggregate or record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Redriven {
    /// It is parked no longer, and its row is the fold of what the event store has. So many events were counted now.
    Mended {
        /// Events counted now.
        applied: u64,
        /// Whether the row was projected anew, because its rule had changed or it stood on another history than the event
        /// store's.
        reprojected: bool,
    },
    /// It is still parked, or again, for this reason.
    Parked(String),
}

impl Worker {
    /// Takes up again what was parked. It may run while the stream is worked, and be repeated after any failure.
    ///
    /// The mark comes off first, and only then is the event store read: an event that the stream brings in between is either
    /// applied by its worker or read here. The entry in the parking table goes last, so that nothing is forgotten half-way.
    ///
    /// A row that is ahead of the event store is parked again unless `trust` says otherwise.
    ///
    /// # Errors
    /// [`Failed`]: the entry is still there.
    pub async fn redrive(&self, parked: &Parked, trust: Trust, deadline: Deadline) -> Result<Redriven, Failed> {
        if parked.projection == NO_PROJECTION {
            return self.redrive_record(parked, trust, deadline).await;
        }
        let rule = self.registry().get(&parked.projection).ok_or_else(|| self.unknown_projection(&parked.projection))?;
        let id = AggregateId::from(parked.aggregate.as_str());
        if trust == Trust::Row
            && let Some(missing) = self.missing_version(&id, parked, deadline).await?
        {
            return Ok(Redriven::Parked(missing));
        }
        self.take_mark_off(rule, &id, deadline).await?;
        let caught_up = self.catch_up(rule, &id, trust, deadline).await?;
        match caught_up.standing {
            Standing::Head => self.mended(parked, caught_up.applied, caught_up.reprojected, deadline).await,
            Standing::Parked(reason) => Ok(Redriven::Parked(reason.unwrap_or_else(|| PARKED_MEANWHILE.to_owned()))),
        }
    }

    /// Why a name is no projection's.
    #[must_use]
    pub fn unknown_projection(&self, name: &str) -> Failed {
        unknown_projection(self.registry(), name)
    }

    /// Whether the event store lacks the version that is parked: what is parked may then be all that is left of its event,
    /// and without it no row can be right.
    async fn missing_version(&self, id: &AggregateId, parked: &Parked, deadline: Deadline) -> Result<Option<String>, Failed> {
        let Some(version) = parked.version.map(Version) else { return Ok(None) };
        let stored = self.store().load_page(id, version..=version, 1, deadline).await?;
        Ok(stored.is_empty().then(|| format!("the event store does not have version {version} (parked for: {})", parked.reason)))
    }

    async fn take_mark_off(&self, rule: &dyn DynProjection, id: &AggregateId, deadline: Deadline) -> Result<(), Failed> {
        let row = self.store().read_rows(rule, std::slice::from_ref(id), deadline).await?.remove(id).unwrap_or_default();
        if row.revision > rule.revision() {
            return Err(Failed(newer_revision(rule, row.revision)));
        }
        if let Some(parked_at) = row.parked_at {
            self.store().unpark(rule, id, &parked_at, deadline).await?;
        }
        Ok(())
    }

    async fn mended(&self, parked: &Parked, applied: u64, reprojected: bool, deadline: Deadline) -> Result<Redriven, Failed> {
        let gone = self.store().forget_parked(parked, deadline).await?;
        Ok(if gone { Redriven::Mended { applied, reprojected } } else { Redriven::Parked(PARKED_MEANWHILE.to_owned()) })
    }

    /// A record that nobody could tell whom it concerns. It is worked as if the stream had brought it now, unless the event
    /// store has a readable event in its place.
    async fn redrive_record(&self, parked: &Parked, trust: Trust, deadline: Deadline) -> Result<Redriven, Failed> {
        let Some((_, payload)) = self.store().parked_entry(&parked.projection, &parked.aggregate, deadline).await? else {
            return Ok(Redriven::Mended { applied: 0, reprojected: false });
        };
        let record = RawValue::from_string(payload).map_err(|_| Failed("its payload is no JSON".to_owned()))?;
        let body = decode(&record).body;
        if let Some(event) = self.event_in_place_of(&body, deadline).await? {
            return self.redrive_event(&event, parked, trust, deadline).await;
        }
        if let Body::Poison(poison) = &body
            && (poison.event.is_none() || poison.event_type.is_none())
        {
            // No breaker: somebody asked for this one record.
            return Ok(Redriven::Parked(self.park_stray(poison, deadline).await?));
        }
        let report = self.process(&[record], deadline).await;
        match report.reasons.into_keys().next() {
            Some(reason) => Err(Failed(reason)),
            None if report.total.parked > 0 => Ok(Redriven::Parked("its aggregate is parked".to_owned())),
            None => self.mended(parked, report.total.applied, false, deadline).await,
        }
    }

    /// The aggregate of a record's event, in every projection that the event concerns. Where it is parked, the record stays
    /// parked with it.
    async fn redrive_event(&self, event: &RecordedEvent, parked: &Parked, trust: Trust, deadline: Deadline) -> Result<Redriven, Failed> {
        let (mut applied, mut reprojected, mut waits) = (0, false, None);
        for rule in self.registry().projections().iter().filter(|rule| fold::concerns(**rule, event)) {
            let caught_up = self.catch_up(*rule, &event.aggregate, trust, deadline).await?;
            applied += caught_up.applied;
            reprojected |= caught_up.reprojected;
            if caught_up.standing != Standing::Head {
                waits = Some(format!("its aggregate is parked in {}", rule.name()));
            }
        }
        match waits {
            Some(reason) => Ok(Redriven::Parked(reason)),
            None => self.mended(parked, applied, reprojected, deadline).await,
        }
    }

    /// What the event store has where a record says that it belongs.
    async fn event_in_place_of(&self, body: &Body, deadline: Deadline) -> Result<Option<RecordedEvent>, Failed> {
        let (aggregate, version) = match body {
            Body::Event(event) => (&event.aggregate, event.version),
            Body::Poison(Poison { event: Some((aggregate, version)), .. }) => (aggregate, *version),
            _ => return Ok(None),
        };
        let stored = self.store().load_page(aggregate, version..=version, 1, deadline).await?;
        Ok(stored.into_iter().find_map(|stored| if let Stored::Event(event) = stored { Some(event) } else { None }))
    }
}

/// Why a name is no projection's.
#[must_use]
pub fn unknown_projection(registry: Registry, name: &str) -> Failed {
    let known: Vec<_> = registry.projections().iter().map(|rule| rule.name()).collect();
    Failed(format!("no projection `{name}` is in this program, which has {}", known.join(", ")))
}

const PARKED_MEANWHILE: &str = "another worker parked it meanwhile: redrive it again";
