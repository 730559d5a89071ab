//! How far a pass over the event store has come.

use std::ops::AddAssign;

use serde::{Deserialize, Serialize};

/// What a pass came to so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Counts {
    /// Events read.
    pub events: u64,
    /// Aggregates looked at.
    pub aggregates: u64,
    /// Rows of an older revision that were replaced.
    pub replaced: u64,
    /// Rows made for aggregates that had none.
    pub created: u64,
    /// Of the replaced and made, those that are not as they were.
    pub changed: u64,
    /// Aggregates that were behind and are no more.
    pub caught_up: u64,
    /// Aggregates that wait, found so or now.
    pub parked: u64,
    /// Aggregates whose rows end before an event that cannot be applied, without being parked.
    pub stopped: u64,
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.events += other.events;
        self.aggregates += other.aggregates;
        self.replaced += other.replaced;
        self.created += other.created;
        self.changed += other.changed;
        self.caught_up += other.caught_up;
        self.parked += other.parked;
        self.stopped += other.stopped;
    }
}

impl Counts {
    /// Whether there was nothing to do.
    #[must_use]
    pub fn nothing_done(&self) -> bool {
        self.replaced + self.created + self.caught_up == 0
    }

    pub(crate) fn replaced(&mut self, existed: bool, changes: bool, written: bool) {
        let counted = if existed { &mut self.replaced } else { &mut self.created };
        *counted += u64::from(written);
        self.changed += u64::from(written && changes);
    }

    /// These, with all that `other` has done for good: those at work may look again at what they have looked at, and do not do it again.
    pub(crate) fn with_done_of(self, other: Self) -> Self {
        let Self { replaced, created, changed, caught_up, .. } = other;
        Self { replaced, created, changed, caught_up, ..self }
    }
}
