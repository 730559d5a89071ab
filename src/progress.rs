//! The progress of a rebuild or a catch-up.

use std::ops::AddAssign;

use serde::{Deserialize, Serialize};

/// The counts of a rebuild or a catch-up so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Counts {
    /// Events read.
    pub events: u64,
    /// Aggregates checked.
    pub aggregates: u64,
    /// Rows of an older revision that were replaced.
    pub replaced: u64,
    /// Rows created for aggregates that had none.
    pub created: u64,
    /// Replaced and created rows that differ from what was there before.
    pub changed: u64,
    /// Aggregates that were behind and have caught up.
    pub caught_up: u64,
    /// Aggregates that are parked, whether before or by this operation.
    pub parked: u64,
    /// Aggregates that are not parked although their rows end before an event that cannot be applied.
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
    /// How many rows were replaced, created or caught up.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.replaced + self.created + self.caught_up
    }

    /// Whether no row was replaced, created or caught up.
    #[must_use]
    pub fn nothing_done(&self) -> bool {
        self.written() == 0
    }

    pub(crate) fn replaced(&mut self, existed: bool, changes: bool, written: bool) {
        let counted = if existed { &mut self.replaced } else { &mut self.created };
        *counted += u64::from(written);
        self.changed += u64::from(written && changes);
    }

    /// These counts, with the completed changes of `other`. A step that failed is repeated: it checks its aggregates again, but does not
    /// change their rows again.
    pub(crate) fn with_done_of(self, other: Self) -> Self {
        let Self { replaced, created, changed, caught_up, .. } = other;
        Self { replaced, created, changed, caught_up, ..self }
    }
}
