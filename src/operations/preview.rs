//! What the rule of this program would make of rows that are there, without writing anything.

use std::collections::{BTreeMap, BTreeSet};

use projection_vocabulary::{AggregateId, Cell, DynProjection, HomeRow, Version};

use super::{
    differs::{Differs, of_content},
    error::OperationError,
    histories::{Histories, Visit},
};
use crate::{
    engine::reproject::{FoldStop, HOLE_REASON, differing_children},
    retry::Deadline,
    store::{
        Store,
        events::Stored,
        segment::{Cursor, Segment},
    },
};

/// How many different reasons are counted.
const REASONS_MAX: usize = 20;

/// What would become of rows. Each is compared at the version that it counts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Preview {
    /// Events read.
    pub events: u64,
    /// Home rows compared.
    pub rows: u64,
    /// Rows that would be as they are.
    pub same: u64,
    /// Rows that would change, of an older revision than the rule's: by a rebuild.
    pub outdated: u64,
    /// Rows that would change although the rule's own revision wrote them: the rule has changed without its revision, or the row is wrong.
    pub unexplained: u64,
    /// Rows of a newer revision, which this program does not touch.
    pub newer: u64,
    /// Rows that could not be worked out, because an event cannot be applied under this rule, by reason.
    pub stopped: BTreeMap<String, u64>,
    /// How many rows would change in each attribute of their own.
    pub attributes: BTreeMap<String, u64>,
    /// How many rows would have other child rows.
    pub children: u64,
    /// The attributes of shared rows that would change.
    pub shared: BTreeSet<Cell>,
    /// The first rows that would change.
    pub examples: Vec<Example>,
}

/// A row that would change.
#[derive(Clone, Debug, PartialEq)]
pub struct Example {
    /// Its aggregate.
    pub aggregate: AggregateId,
    /// The revision that wrote it.
    pub revision: u32,
    /// From what to what.
    pub changes: Vec<Differs>,
    /// How many of its child rows would change.
    pub children: usize,
}

impl Preview {
    /// How many rows would change.
    #[must_use]
    pub fn changed(&self) -> u64 {
        self.outdated + self.unexplained
    }

    /// How many rows could not be worked out.
    #[must_use]
    pub fn stopped_total(&self) -> u64 {
        self.stopped.values().sum()
    }

    /// Adds what another part of the event store has shown.
    pub fn add(&mut self, other: Self, examples_max: usize) {
        let Self { events, rows, same, outdated, unexplained, newer, stopped, attributes, children, shared, examples } = other;
        for (sum, more) in [
            (&mut self.events, events),
            (&mut self.rows, rows),
            (&mut self.same, same),
            (&mut self.outdated, outdated),
            (&mut self.unexplained, unexplained),
            (&mut self.newer, newer),
            (&mut self.children, children),
        ] {
            *sum += more;
        }
        for (reason, rows) in stopped {
            self.stop(reason, rows);
        }
        for (name, rows) in attributes {
            *self.attributes.entry(name).or_default() += rows;
        }
        self.shared.extend(shared);
        self.examples.extend(examples);
        self.examples.truncate(examples_max);
    }

    fn stop(&mut self, reason: String, rows: u64) {
        // A reason names no event data, but a rule may make up as many as it likes.
        let reason =
            if self.stopped.len() < REASONS_MAX || self.stopped.contains_key(&reason) { reason } else { "other reasons".to_owned() };
        *self.stopped.entry(reason).or_default() += rows;
    }
}

/// A preview of the rows whose histories are in one segment of the event store, page by page.
pub struct SegmentPreview<'a> {
    store: &'a Store,
    rule: &'static dyn DynProjection,
    segment: Segment,
    next: Option<Cursor>,
    histories: Histories,
    examples_max: usize,
    /// What it has shown so far.
    pub preview: Preview,
}

impl<'a> SegmentPreview<'a> {
    /// One that has read nothing yet.
    #[must_use]
    pub fn new(store: &'a Store, rule: &'static dyn DynProjection, segment: Segment, examples_max: usize) -> Self {
        // What a row does not count yet is a matter of time and not of the rule.
        let histories = Histories::new(rule, |_, row| row.version);
        Self { store, rule, segment, next: None, histories, examples_max, preview: Preview::default() }
    }

    /// Reads the next page. Returns whether there is another.
    ///
    /// # Errors
    /// [`OperationError`].
    pub async fn step(&mut self, deadline: Deadline) -> Result<bool, OperationError> {
        let (page, next) = self.store.scan_events(self.segment, self.next.as_ref(), deadline).await?;
        self.next = next;
        self.take(page, deadline).await?;
        if self.next.is_some() {
            return Ok(true);
        }
        if let Some(last) = self.histories.end() {
            self.compare(last, deadline).await?;
        }
        Ok(false)
    }

    async fn take(&mut self, page: Vec<(AggregateId, Stored)>, deadline: Deadline) -> Result<(), OperationError> {
        self.preview.events += page.len() as u64;
        for visit in self.histories.page(self.store, page, deadline).await? {
            self.compare(visit, deadline).await?;
        }
        Ok(())
    }

    async fn compare(&mut self, Visit { aggregate, row, folded, .. }: Visit, deadline: Deadline) -> Result<(), OperationError> {
        let (preview, revision) = (&mut self.preview, self.rule.revision());
        if row.version == Version::NONE {
            return Ok(());
        }
        preview.rows += 1;
        if row.newest_revision() > revision {
            preview.newer += 1;
            return Ok(());
        }
        if let Some(stop) = folded.stop.as_ref().filter(|_| folded.due <= row.version) {
            preview.stop(if let FoldStop::Poison { reason, .. } = stop { reason.clone() } else { HOLE_REASON.to_owned() }, 1);
            return Ok(());
        }
        let children = differing_children(self.store, self.rule, &aggregate, folded.children(), deadline).await?;
        let changes = of_content(&row, &folded.row());
        if changes.is_empty() && children.is_empty() {
            preview.same += 1;
            return Ok(());
        }
        *(if is_outdated(&row, revision) { &mut preview.outdated } else { &mut preview.unexplained }) += 1;
        preview.children += u64::from(!children.is_empty());
        for differs in &changes {
            match &differs.contributed_to {
                Some(cell) => _ = preview.shared.insert(cell.clone()),
                None => *preview.attributes.entry(differs.attribute.clone()).or_default() += 1,
            }
        }
        if preview.examples.len() < self.examples_max {
            preview.examples.push(Example { aggregate, revision: row.revision, changes, children: children.len() });
        }
        Ok(())
    }
}

fn is_outdated(row: &HomeRow, revision: u32) -> bool {
    row.unfinished.is_some() || row.revision < revision
}
