//! Taking up again what was parked, once its cause is mended.

use projection_vocabulary::{AggregateId, RecordedEvent, Rule, fold};
use serde_json::value::RawValue;

use crate::{
    catch_up::{Failed, Standing, Trust},
    decode::{Body, Poison, decode},
    retry::Deadline,
    store::{
        events::Stored,
        parking::{NO_PROJECTION, Parked},
    },
    worker::Worker,
};

/// What became of a parked aggregate or record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Redriven {
    /// It is parked no longer, and its row is the fold of what the event store has. So many events were counted now.
    Mended {
        /// Events counted now.
        applied: u64,
        /// Whether the row was projected anew, because it stood on another history than the event store's.
        reprojected: bool,
    },
    /// It is parked again, for this reason.
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
        let rule = self
            .registry()
            .get(&parked.projection)
            .ok_or_else(|| Failed(format!("no projection `{}` is in this program: use one that has it", parked.projection)))?;
        let id = AggregateId::from(parked.aggregate.as_str());
        self.take_mark_off(rule, &id, deadline).await?;
        let caught_up = self.catch_up(rule, &id, trust, deadline).await?;
        match caught_up.standing {
            Standing::Head => {
                self.store().forget_parked(parked, deadline).await?;
                Ok(Redriven::Mended { applied: caught_up.applied, reprojected: caught_up.reprojected })
            }
            Standing::Parked(reason) => Ok(Redriven::Parked(reason.unwrap_or_else(|| "another worker parked it meanwhile".to_owned()))),
        }
    }

    async fn take_mark_off(&self, rule: &dyn Rule, id: &AggregateId, deadline: Deadline) -> Result<(), Failed> {
        let row = self.store().read_rows(rule, std::slice::from_ref(id), deadline).await?.remove(id);
        if let Some(parked_at) = row.and_then(|row| row.parked_at) {
            self.store().unpark(rule, id, &parked_at, deadline).await?;
        }
        Ok(())
    }

    /// A record that nobody could tell whom it concerns. It is worked as if the stream had brought it now, unless the event
    /// store has a readable event in its place.
    async fn redrive_record(&self, parked: &Parked, trust: Trust, deadline: Deadline) -> Result<Redriven, Failed> {
        let mut mended = (0, false);
        let Some(payload) = self.store().parked_payload(parked, deadline).await? else {
            return Ok(Redriven::Mended { applied: 0, reprojected: false });
        };
        let record = RawValue::from_string(payload).map_err(|_| Failed("its payload is no JSON".to_owned()))?;
        if let Some(event) = self.event_in_place_of(&record, deadline).await? {
            for rule in self.registry().rules().iter().filter(|rule| fold::concerns(**rule, &event)) {
                let caught_up = self.catch_up(*rule, &event.aggregate, trust, deadline).await?;
                mended = (mended.0 + caught_up.applied, mended.1 | caught_up.reprojected);
            }
        } else {
            let report = self.process(&[record], deadline).await;
            if let Some(reason) = report.reasons.into_keys().next() {
                return Err(Failed(reason));
            }
            if report.total.parked > 0 {
                return Ok(Redriven::Parked(parked.reason.clone()));
            }
            mended.0 = report.total.applied;
        }
        self.store().forget_parked(parked, deadline).await?;
        Ok(Redriven::Mended { applied: mended.0, reprojected: mended.1 })
    }

    /// What the event store has where an unreadable record says that it belongs.
    async fn event_in_place_of(&self, record: &RawValue, deadline: Deadline) -> Result<Option<RecordedEvent>, Failed> {
        let Body::Poison(Poison { event: Some((aggregate, version)), .. }) = decode(record).body else { return Ok(None) };
        let stored = self.store().load_page(&aggregate, version..=version, 1, deadline).await?;
        Ok(stored.into_iter().find_map(|stored| if let Stored::Event(event) = stored { Some(event) } else { None }))
    }
}
