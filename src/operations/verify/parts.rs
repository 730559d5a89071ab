//! A verification step by step, from which another process can go on.
//!
//! It reads the histories of the event store, each with its home row; then the rows, for those that no history leads to; and with the
//! same scan and further ones, the attributes of shared rows (`attributes`). Between two steps it is known where the scans continue, what
//! is in doubt, and how many findings there are, but not which: what is found is given away at once. Each wrong row and each wrong
//! attribute is given away once. That needs segments that keep the items of a partition key together, as DynamoDB's do:
//! <https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Scan.html>

use std::collections::{BTreeMap, BTreeSet};

use futures::{StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use projection_vocabulary::{AggregateId, Cell, Decimal, DynProjection, Kind, RowId, RowKey, Sums, Version};
use serde::{Deserialize, Serialize};

use super::{
    Checked, ChildFinding, RowFinding, SharedFinding, Verification,
    attributes::{Judged, Next, Pass, saved_bytes},
    drift,
    sums::Difference,
    up_to,
};
use crate::{
    engine::worker::Worker,
    operations::{error::OperationError, footing::Footing, histories::Histories, rebuild::segment::ScannedPage},
    retry::Deadline,
    store::{
        home::Row,
        segment::{Cursor, Segment},
        verification::RowPosition,
    },
};

/// How many bytes are saved of aggregates whose rows may only be late. If there are more, the verification waits for them.
const LATE_BYTES: usize = 60_000;
/// How many bytes are saved of sums that differ because home rows have drifted. Of others, the difference counts as well.
const DRIFTS_BYTES: usize = 60_000;
/// How many bytes are saved of what is known of attributes. All in all, an item holds 400 KB.
const ATTRIBUTES_BYTES: usize = 150_000;
/// How many shared rows are read at once.
const READ_MAX: usize = 500;
/// Into how many segments a table is cut for a sample.
pub(in crate::operations) const SAMPLED_SEGMENTS: u32 = 100;

/// How far a verification has come.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// The segments that are read, of so many.
    segments: (Vec<u32>, u32),
    /// How many segments are read at once. One page of each is in memory.
    at_once: usize,
    /// Whether shared rows are compared, too. A sample of rows does not tell what is contributed to them.
    whole: bool,
    /// What it has found.
    pub totals: Totals,
    /// Aggregates whose rows are missing or behind, which a running worker may be about to mend.
    late: BTreeSet<String>,
    drifts: Drifts,
    phase: Phase,
}

/// What a verification has found, in numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Events read.
    pub events: u64,
    /// Aggregates whose events were read.
    pub aggregates: u64,
    /// Rows read, shared ones and child rows included.
    pub rows: u64,
    /// Sums that were compared with the contributions to them.
    pub sums: u64,
    /// Home rows with each finding.
    pub home: BTreeMap<RowFinding, u64>,
    /// Child rows with a finding.
    pub children: u64,
    /// Attributes of shared rows with a finding.
    pub shared: u64,
    /// How many rows stand on events that the event store has.
    pub footing: Footing,
}

impl Totals {
    /// How many home rows have this finding.
    #[must_use]
    pub fn home_rows(&self, finding: RowFinding) -> u64 {
        self.home.get(&finding).copied().unwrap_or_default()
    }

    /// How many findings there are.
    #[must_use]
    pub fn found(&self) -> u64 {
        self.home.values().sum::<u64>() + self.children + self.shared
    }
}

/// Something that is wrong.
pub enum Finding {
    /// A home row.
    Home {
        /// Its aggregate.
        id: AggregateId,
        /// What is wrong.
        finding: RowFinding,
        /// By how much the sums among its contributions exceed the right ones.
        drift: Sums,
    },
    /// A child row.
    Child(RowId, ChildFinding),
    /// An attribute of a shared row.
    Shared(WrongCell),
}

/// A wrong attribute of a shared row.
pub struct WrongCell {
    /// Which one.
    pub cell: Cell,
    /// What is wrong; `None` if drifted home rows explain it all, so that it is right once they are.
    pub finding: Option<SharedFinding>,
    pub(super) difference: Option<Difference>,
    /// If it is to be settled: how it is combined.
    pub(super) unsettled: Option<Kind>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Phase {
    Histories { scan: Scan<Cursor> },
    Rows { scan: Scan<RowPosition>, pass: Pass },
    Done,
}

/// The segments of a scan that are not read to their ends.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Scan<C> {
    of: u32,
    left: Vec<Place<C>>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Place<C> {
    segment: u32,
    /// Where the scan continues; `None` at the beginning.
    after: Option<C>,
}

impl<C: Clone> Scan<C> {
    fn of((numbers, of): &(Vec<u32>, u32)) -> Self {
        Self { of: *of, left: numbers.iter().map(|segment| Place { segment: *segment, after: None }).collect() }
    }

    fn is_complete(&self) -> bool {
        self.left.is_empty()
    }

    /// Moves to where the segment continues.
    fn moved(&mut self, segment: Segment, to: Position<C>) {
        let is = |place: &Place<C>| place.segment == segment.number();
        match to {
            Position::After(after) => self.left.iter_mut().filter(|place| is(place)).for_each(|place| place.after.clone_from(&after)),
            Position::End => self.left.retain(|place| !is(place)),
        }
    }
}

/// Where another process would continue a segment.
enum Position<C> {
    After(Option<C>),
    End,
}

/// By how much more home rows say that they have contributed to sums than they must.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Drifts {
    by: BTreeMap<RowKey, BTreeMap<String, Decimal>>,
    /// Whether there are more.
    full: bool,
}

impl Drifts {
    fn add(&mut self, drift: &Sums) {
        for ((row, attribute), amount) in drift {
            let known = self.by.get(row).is_some_and(|row| row.contains_key(attribute));
            if known || !self.full {
                *self.by.entry(row.clone()).or_default().entry(attribute.clone()).or_default() += amount;
            }
        }
    }

    fn shrink(&mut self, bytes: usize) {
        while saved_bytes(&self.by) > bytes {
            self.full = true;
            // Halves, so that this takes no long time.
            let middle = self.by.keys().nth(self.by.len() / 2).cloned().expect("it is not empty");
            self.by.split_off(&middle);
        }
    }

    fn of(&self, (row, attribute): &Cell) -> Option<&Decimal> {
        self.by.get(row)?.get(attribute)
    }
}

impl Progress {
    /// A verification that has read nothing: of everything, or of about this percentage of home rows.
    #[must_use]
    pub fn start(segments: u32, sample: Option<u32>) -> Self {
        let at_once = segments.max(1);
        let segments = sample.map_or_else(|| ((0..at_once).collect(), at_once), |percent| (sampled(percent), SAMPLED_SEGMENTS));
        Self {
            phase: Phase::Histories { scan: Scan::of(&segments) },
            segments,
            at_once: at_once as usize,
            whole: sample.is_none(),
            totals: Totals::default(),
            late: BTreeSet::new(),
            drifts: Drifts::default(),
        }
    }

    /// Whether there is nothing left to do.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.phase == Phase::Done
    }

    /// Counts what is wrong with an aggregate's rows.
    fn judged(&mut self, id: AggregateId, Checked { finding, row, contributions, children }: Checked, found: &mut Vec<Finding>) {
        let Self { totals, drifts, .. } = self;
        totals.children += children.len() as u64;
        found.extend(children.into_iter().map(|(child, finding)| Finding::Child(child, finding)));
        let Some(finding) = finding else { return };
        *totals.home.entry(finding).or_default() += 1;
        let is_drifted = finding == RowFinding::Drifted;
        let drift = if is_drifted { drift(&row.contributions, &contributions.unwrap_or_default()) } else { Sums::new() };
        drifts.add(&drift);
        found.push(Finding::Home { id, finding, drift });
    }

    /// Counts what is wrong with attributes of shared rows.
    fn judged_cells(&mut self, judged: Vec<Judged>) -> Vec<Finding> {
        let Self { totals, drifts, .. } = self;
        let mut found = Vec::new();
        for Judged { cell, is_sum, difference, other } in judged {
            totals.sums += u64::from(is_sum);
            let surplus = difference.as_ref().map(|difference| {
                let mut amount = difference.amount.clone();
                drifts.of(&cell).into_iter().for_each(|drift| amount += drift);
                amount
            });
            let sum = surplus.filter(|amount| !amount.is_zero()).map(SharedFinding::Sum);
            let unsettled = other.as_ref().filter(|(finding, _)| *finding != SharedFinding::Unsettled).map(|(_, kind)| *kind);
            let finding = sum.or(other.map(|(finding, _)| finding));
            totals.shared += u64::from(finding.is_some());
            if finding.is_some() || difference.is_some() {
                found.push(Finding::Shared(WrongCell { cell, finding, difference, unsettled }));
            }
        }
        found
    }
}

/// About this percentage of a table's segments, at random.
pub(in crate::operations) fn sampled(percent: u32) -> Vec<u32> {
    let mut segments: Vec<_> = (0..SAMPLED_SEGMENTS).collect();
    fastrand::shuffle(&mut segments);
    segments.truncate(percent.clamp(1, SAMPLED_SEGMENTS) as usize);
    segments
}

/// A part of a verification, in one process.
pub struct Part<'a> {
    this: Verification<'a>,
    progress: Progress,
    /// The pages that are being read: of each segment one.
    reading: FuturesUnordered<BoxFuture<'a, Result<Page, OperationError>>>,
    /// Their segments.
    begun: BTreeSet<u32>,
    /// The histories that are open in the other segments.
    open: BTreeMap<u32, Box<OpenSegment>>,
    /// Whether it has done nothing yet.
    is_fresh: bool,
}

/// A page that was read, and what was found on it.
enum Page {
    Events {
        segment: Segment,
        open: Option<Box<OpenSegment>>,
        visits: u64,
        events: u64,
        checked: Vec<(AggregateId, Checked)>,
        /// Aggregates whose rows are missing or behind.
        late: BTreeSet<String>,
    },
    Rows {
        segment: Segment,
        next: Option<RowPosition>,
        rows: Vec<Row>,
        read: u64,
        footing: Footing,
        checked: Vec<(AggregateId, Checked)>,
    },
}

/// A segment of the event store that is read page by page.
struct OpenSegment {
    histories: Histories,
    next: Option<Cursor>,
    /// Where another process would have to continue: before the history that is open.
    resume: Option<Cursor>,
}

impl<'a> Part<'a> {
    /// A part that goes on from there.
    #[must_use]
    pub fn new(worker: &'a Worker, rule: &'static dyn DynProjection, progress: Progress, deadline: Deadline) -> Self {
        Self {
            this: Verification { worker, rule, deadline },
            progress,
            reading: FuturesUnordered::new(),
            begun: BTreeSet::new(),
            open: BTreeMap::new(),
            is_fresh: true,
        }
    }

    /// How far it has come.
    #[must_use]
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// How far it has come, small enough for one item.
    #[must_use]
    pub fn end(self) -> Progress {
        let mut progress = self.progress;
        progress.drifts.shrink(DRIFTS_BYTES);
        if let Phase::Rows { pass, .. } = &mut progress.phase {
            pass.shrink(ATTRIBUTES_BYTES);
        }
        progress
    }

    /// Does the next piece of work. Returns what it has found.
    ///
    /// # Errors
    /// [`OperationError`]: what was done before counts.
    pub async fn step(&mut self) -> Result<Vec<Finding>, OperationError> {
        self.this.deadline.check()?;
        let found = self.work().await;
        if found.is_err() {
            self.reading.clear();
            self.begun.clear();
            self.open.clear();
        } else {
            self.is_fresh = false;
        }
        found
    }

    async fn work(&mut self) -> Result<Vec<Finding>, OperationError> {
        let Progress { segments, late, phase, .. } = &mut self.progress;
        match phase {
            Phase::Histories { scan } if scan.is_complete() && !late.is_empty() => self.judge_late().await,
            Phase::Histories { scan } if scan.is_complete() => {
                *phase = Phase::Rows { scan: Scan::of(segments), pass: Pass::default() };
                Ok(Vec::new())
            }
            // Of a sample the pass has taken nothing, so nothing is left to do.
            Phase::Rows { scan, .. } if scan.is_complete() => self.go_on().await,
            Phase::Histories { .. } | Phase::Rows { .. } => self.next_page().await,
            Phase::Done => Ok(Vec::new()),
        }
    }

    /// Begins to read a page of each segment that is to be read now, and takes the first that is complete.
    async fn next_page(&mut self) -> Result<Vec<Finding>, OperationError> {
        let (this, Self { progress, reading, begun, open, .. }) = (self.this, &mut *self);
        let segment = |number: u32, of: u32| Segment::new(number, of).expect("it was one when the scan began");
        match &progress.phase {
            Phase::Histories { scan } => {
                for Place { segment: number, after } in scan.left.iter().take(progress.at_once) {
                    if begun.insert(*number) {
                        let of_segment = open.remove(number).unwrap_or_else(|| Box::new(OpenSegment::new(this.rule, after.clone())));
                        reading.push(Box::pin(this.read_events(segment(*number, scan.of), of_segment)));
                    }
                }
            }
            Phase::Rows { scan, pass } => {
                for Place { segment: number, after } in scan.left.iter().take(progress.at_once) {
                    if begun.insert(*number) {
                        reading.push(Box::pin(this.read_rows(segment(*number, scan.of), after.clone(), pass.is_first_scan())));
                    }
                }
            }
            Phase::Done => {}
        }
        let mut page = reading.next().await.expect("a segment is left")?;
        if let Page::Events { late, checked, .. } = &mut page
            && saved_bytes(&progress.late) + saved_bytes(late) > LATE_BYTES
        {
            let all = late.union(&progress.late).map(|id| AggregateId::from(id.as_str())).collect();
            checked.extend(this.check_until_they_move(all).await?);
            late.clear();
            progress.late.clear();
        }
        Ok(self.take(page))
    }

    fn take(&mut self, page: Page) -> Vec<Finding> {
        let totals = &mut self.progress.totals;
        let mut found = Vec::new();
        let checked = match page {
            Page::Events { segment, open, visits, events, checked, late } => {
                self.begun.remove(&segment.number());
                totals.events += events;
                totals.aggregates += visits;
                if let Phase::Histories { scan } = &mut self.progress.phase {
                    scan.moved(segment, open.as_ref().map_or(Position::End, |open| Position::After(open.resume.clone())));
                }
                self.open.extend(open.map(|open| (segment.number(), open)));
                self.progress.late.extend(late);
                checked
            }
            Page::Rows { segment, next, rows, read, footing, checked } => {
                self.begun.remove(&segment.number());
                totals.footing += footing;
                if let Phase::Rows { scan, pass } = &mut self.progress.phase {
                    totals.rows += if pass.is_first_scan() { read } else { 0 };
                    scan.moved(segment, next.map_or(Position::End, |next| Position::After(Some(next))));
                    if self.progress.whole {
                        for row in &rows {
                            pass.take(row);
                        }
                        if scan.is_complete() {
                            let judged = pass.scanned(ATTRIBUTES_BYTES);
                            found = self.progress.judged_cells(judged);
                        }
                    }
                }
                checked
            }
        };
        for (id, checked) in checked {
            self.progress.judged(id, checked, &mut found);
        }
        found
    }

    /// Checks rows again that were missing or behind, and waits for them.
    async fn judge_late(&mut self) -> Result<Vec<Finding>, OperationError> {
        let ids = self.progress.late.iter().map(|id| AggregateId::from(id.as_str())).collect();
        let (all, mut found) = (self.this.check_until_they_move(ids).await?, Vec::new());
        self.progress.late.clear();
        for (id, checked) in all {
            self.progress.judged(id, checked, &mut found);
        }
        Ok(found)
    }

    /// Does what the pass over shared rows needs next.
    async fn go_on(&mut self) -> Result<Vec<Finding>, OperationError> {
        let Progress { segments, phase, .. } = &mut self.progress;
        let Phase::Rows { scan, pass } = phase else { return Ok(Vec::new()) };
        let this = self.this;
        match pass.next(READ_MAX) {
            Next::Rows(keys) => {
                let rows = this.store().rows(this.rule, keys.clone(), this.deadline).await?;
                pass.learn(&keys, &rows);
            }
            Next::Scan => *scan = Scan::of(segments),
            Next::InOneGo => {
                let judged = match this.compare_in_one_go(pass.clone()).await {
                    // The next part would not have more time.
                    Err(error) if error.is_deadline() && self.is_fresh => pass.clone().give_up(),
                    judged => judged?,
                };
                _ = pass.rest();
                return Ok(self.progress.judged_cells(judged));
            }
            Next::Done => {
                *phase = pass.following().map_or(Phase::Done, |pass| Phase::Rows { scan: Scan::of(segments), pass });
            }
        }
        Ok(Vec::new())
    }
}

impl Verification<'_> {
    /// Compares the attributes that a pass could not judge.
    async fn compare_in_one_go(&self, mut pass: Pass) -> Result<Vec<Judged>, OperationError> {
        let Self { rule, deadline, .. } = *self;
        let (mut moving, large) = pass.rest();
        let mut judged = Vec::new();
        if !large.is_empty() {
            let mut alone = Pass::only(large.clone());
            self.store().each_row(rule, deadline, |row| alone.take(&row)).await?;
            judged.append(&mut alone.scanned(usize::MAX));
            while let Next::Rows(keys) = alone.next(READ_MAX) {
                let rows = self.store().rows(rule, keys.clone(), deadline).await?;
                alone.learn(&keys, &rows);
            }
            self.store().each_row(rule, deadline, |row| alone.take(&row)).await?;
            judged.append(&mut alone.scanned(usize::MAX));
            moving.extend(alone.rest().0);
        }
        let (mut differences, unsettled) = self.differences(moving.keys().cloned().collect()).await?;
        for (cell, known) in moving {
            let difference = differences.remove(&cell);
            // What is in neither of them belongs to its row's own aggregate.
            if difference.is_some() || unsettled.contains(&cell) {
                judged.push(known.judge_by(cell, difference));
            }
        }
        Ok(judged)
    }

    /// Reads a page of events, and checks the rows of the histories that end on it, if they give reason to.
    async fn read_events(self, segment: Segment, mut of: Box<OpenSegment>) -> Result<Page, OperationError> {
        let (page, after) = self.store().scan_events(segment, of.next.as_ref(), self.deadline).await?;
        let was_open = of.histories.open().cloned();
        let keys: Vec<_> = page.iter().map(|(id, stored)| (id.clone(), stored.version())).collect();
        let mut visits = of.histories.page(self.store(), page, self.deadline).await?;
        let open = if let Some(end) = after {
            let scanned = ScannedPage { keys: &keys, start: of.next.as_ref(), end: &end };
            of.resume = scanned.resume_cursor(was_open.as_ref(), of.histories.open(), of.resume.as_ref());
            of.next = Some(end);
            Some(of)
        } else {
            visits.extend(of.histories.end());
            None
        };
        let (events, number) = (visits.iter().map(|visit| visit.events).sum(), visits.len() as u64);
        let checked = self.check_all(self.suspects(visits).await?).await?;
        let (late, checked): (Vec<_>, Vec<_>) = checked.into_iter().partition(|(_, checked)| checked.waits());
        let late = late.into_iter().map(|(id, _)| id.to_string()).collect();
        Ok(Page::Events { segment, open, visits: number, events, checked, late })
    }

    /// Reads a page of rows. If `check`, it checks those of aggregates without events: no history leads to them.
    async fn read_rows(self, segment: Segment, after: Option<RowPosition>, check: bool) -> Result<Page, OperationError> {
        let Self { rule, deadline, .. } = self;
        // Child rows of a key that the last page ends with were looked at then.
        let before = after.as_ref().filter(|after| after.is_child()).map(|after| after.key.clone());
        let mut page = self.store().scan_rows(rule, segment, after, deadline).await?;
        let read = page.rows.len() as u64 + page.children.values().sum::<u64>();
        let (mut footing, mut checked) = (Footing::default(), Vec::new());
        if check {
            let mut suspects: BTreeSet<_> = footing.count(self.store(), &page.rows, deadline).await?.into_iter().collect();
            // It contributes without having a version, if its re-projection is unfinished.
            let unfinished = page.rows.iter().filter(|row| row.home.unfinished.is_some());
            suspects.extend(unfinished.map(|row| AggregateId::from(row.key.as_str())));
            let homes: BTreeSet<_> = page.rows.iter().filter(|row| row.home.version > Version::NONE).map(|row| &row.key).collect();
            page.children.retain(|key, _| !homes.contains(key) && before.as_ref() != Some(key));
            suspects.extend(self.without_home(page.children.into_keys(), &mut footing).await?);
            for (id, of) in self.check_all(suspects).await? {
                if !self.has_events(&id).await? {
                    checked.push((id, of));
                }
            }
        }
        Ok(Page::Rows { segment, next: page.next, rows: page.rows, read, footing, checked })
    }
}

impl OpenSegment {
    fn new(rule: &'static dyn DynProjection, after: Option<Cursor>) -> Self {
        Self { histories: Histories::new(rule, up_to), next: after.clone(), resume: after }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use aws_sdk_dynamodb::types::AttributeValue;
    use projection_vocabulary::{Contribution, Contributions, HOME_SORT, HomeRow, RecordedEvent};

    use super::*;
    use crate::operations::fixture::{Guests, Notes, applied, happened, stayed, worker, worker_of};
    use SharedFinding::{Sum, TakenBack, Unsettled};

    fn cell(row: usize) -> Cell {
        (format!("row-{row:03}").as_str().into(), "nights".to_owned())
    }

    fn drift(row: usize, amount: i32) -> Sums {
        [(cell(row), amount.into())].into()
    }

    #[test]
    fn drifts_beyond_the_most_are_forgotten_and_those_that_are_known_still_grow() {
        let mut drifts = Drifts::default();
        (0..10).for_each(|row| drifts.add(&drift(row, 1)));
        let all = saved_bytes(&drifts.by);
        drifts.shrink(all);
        assert_eq!((drifts.by.len(), drifts.full), (10, false));
        drifts.shrink(all - 1);
        assert_eq!((drifts.by.len(), drifts.full), (5, true));
        (0..10).for_each(|row| drifts.add(&drift(row, 2)));
        assert_eq!((drifts.of(&cell(4)), drifts.of(&cell(5))), (Some(&3.into()), None));
    }

    #[test]
    fn a_scan_moves_segment_by_segment() {
        let mut scan = Scan::of(&(vec![0, 1], 2));
        let segment = |number| Segment::new(number, 2).expect("a segment");
        scan.moved(segment(1), Position::After(Some("there")));
        let places = |scan: &Scan<&'static str>| scan.left.iter().map(|place| (place.segment, place.after)).collect::<Vec<_>>();
        assert_eq!(places(&scan), [(0, None), (1, Some("there"))]);
        scan.moved(segment(0), Position::End);
        assert_eq!((places(&scan), scan.is_complete()), (vec![(1, Some("there"))], false));
        scan.moved(segment(1), Position::End);
        assert!(scan.is_complete());
    }

    #[test]
    fn a_verification_is_done_after_its_last_phase() {
        let start = Progress::start(1, None);
        assert!(!start.is_done());
        assert!(Progress { phase: Phase::Done, ..start }.is_done());
    }

    #[test]
    fn a_drifted_row_drifts_and_one_on_other_events_does_not() {
        let contributions = |amount: i32| Contributions::from([(cell(0), Contribution::Sum(amount.into()))]);
        for (finding, expected) in [(RowFinding::Drifted, Some(Decimal::from(2))), (RowFinding::Ahead, None)] {
            let (mut progress, mut found) = (Progress::start(1, None), Vec::new());
            let row = HomeRow { contributions: contributions(5), ..HomeRow::default() };
            let checked = Checked { finding: Some(finding), children: BTreeMap::new(), row, contributions: Some(contributions(3)) };
            progress.judged("ann".into(), checked, &mut found);
            assert_eq!((progress.drifts.of(&cell(0)), progress.totals.home_rows(finding)), (expected.as_ref(), 1));
            assert!(matches!(&found[..], [Finding::Home { drift, .. }] if drift.get(&cell(0)) == expected.as_ref()));
        }
    }

    #[test]
    fn a_sum_is_wrong_by_what_drifted_home_rows_do_not_explain() {
        let mut progress = Progress::start(1, None);
        progress.drifts.add(&drift(0, 2));
        let mut judge = |row, amount: Option<i32>, other| {
            let difference = amount.map(|amount| Difference { amount: amount.into(), corrected: "".into() });
            let found = progress.judged_cells(vec![Judged { cell: cell(row), is_sum: amount.is_some(), difference, other }]);
            let found = found.into_iter().map(|found| match found {
                Finding::Shared(WrongCell { finding, difference, unsettled, .. }) => (finding, difference.is_some(), unsettled),
                Finding::Home { .. } | Finding::Child(..) => panic!("it is an attribute of a shared row"),
            });
            (found.collect::<Vec<_>>(), progress.totals.sums, progress.totals.shared)
        };
        assert_eq!(judge(0, None, None), (vec![], 0, 0));
        // It is right once the home row is, and a repair still needs to know.
        assert_eq!(judge(0, Some(-2), None), (vec![(None, true, None)], 1, 0));
        assert_eq!(judge(0, Some(-1), None), (vec![(Some(Sum(1.into())), true, None)], 2, 1));
        assert_eq!(judge(1, Some(-2), None), (vec![(Some(Sum(Decimal::from(-2))), true, None)], 3, 2));
        assert_eq!(judge(1, None, Some((Unsettled, Kind::Sum))), (vec![(Some(Unsettled), false, None)], 3, 3));
        assert_eq!(judge(1, None, Some((TakenBack, Kind::Max))), (vec![(Some(TakenBack), false, Some(Kind::Max))], 3, 4));
    }

    /// A verification with a row that can only be compared in one go.
    fn large() -> Progress {
        let mut pass = Pass::default();
        let home = HomeRow { contributions: [(cell(0), Contribution::Sum(1.into()))].into(), ..HomeRow::default() };
        pass.take(&Row { key: "ann".into(), home, shared: BTreeMap::new(), corrected: "".into() });
        pass.shrink(0);
        Progress { phase: Phase::Rows { scan: Scan { of: 1, left: Vec::new() }, pass }, ..Progress::start(1, None) }
    }

    #[tokio::test]
    async fn what_does_not_fit_into_a_whole_part_is_given_up() {
        let (worker, client) = worker_of(&[&Guests]).await;
        let (late, none) = (Deadline::at(Instant::now()), Deadline::NONE);
        let ends = async |deadline, is_fresh| {
            let mut part = Part { is_fresh, ..Part::new(&worker, &Guests, large(), deadline) };
            let found = part.go_on().await.map(|found| found.len());
            found.map_err(|error| error.is_deadline())
        };
        assert_eq!(ends(none, true).await, Ok(0));
        assert_eq!(ends(late, true).await, Ok(1), "the next part would not have more time");
        assert_eq!(ends(late, false).await, Err(true), "the next part will have more time");
        client.delete_table().table_name("guests").send().await.expect("deleted");
        assert_eq!(ends(none, true).await, Err(false));
    }

    fn ids(progress: &Progress) -> Vec<&str> {
        progress.late.iter().map(String::as_str).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn rows_that_may_only_be_late_are_judged_after_the_last_history() {
        let worker = worker().await;
        happened(&worker, "ann", [stayed(1), stayed(1)]).await;
        let mut part = Part::new(&worker, &Guests, Progress::start(1, None), Deadline::NONE);
        assert_eq!(part.step().await.expect("read").len(), 0);
        assert_eq!((ids(&part.progress), part.progress.totals.events), (vec!["ann"], 2));
        let found = part.step().await.expect("read");
        assert!(matches!(&found[..], [Finding::Home { finding: RowFinding::Behind, .. }]));
        assert!(matches!(part.progress.phase, Phase::Histories { .. }) && ids(&part.progress).is_empty());
        assert_eq!(part.step().await.expect("read").len(), 0);
        assert!(matches!(part.progress.phase, Phase::Rows { .. }));
    }

    #[tokio::test(start_paused = true)]
    async fn late_rows_are_judged_at_once_if_they_are_too_many_to_be_saved() {
        let worker = worker().await;
        happened(&worker, "ann", [stayed(1), stayed(1)]).await;
        // Together with what the page will add.
        let room = LATE_BYTES - saved_bytes(&BTreeSet::from(["ann"]));
        for (bytes, expected) in [(room, false), (room + 1, true)] {
            let mut late: BTreeSet<_> = (0..59).map(|at| format!("{at:0>1000}")).collect();
            let last = bytes - saved_bytes(&late) - saved_bytes(&BTreeSet::from([""])) + 1;
            late.insert("x".repeat(last));
            assert_eq!(saved_bytes(&late), bytes);
            let mut part = Part::new(&worker, &Guests, Progress { late, ..Progress::start(1, None) }, Deadline::NONE);
            assert_eq!(part.step().await.expect("read").len(), usize::from(expected));
            assert_eq!(ids(&part.progress).is_empty(), expected, "{bytes}");
        }
    }

    #[tokio::test]
    async fn a_sample_is_done_once_its_rows_are_read() {
        let worker = worker().await;
        happened(&worker, "ann", [stayed(1)]).await;
        let mut part = Part::new(&worker, &Guests, Progress::start(1, Some(100)), Deadline::NONE);
        while !part.progress.is_done() {
            assert_eq!(part.step().await.expect("read").len(), 0);
        }
        assert_eq!((part.progress.totals.events, part.progress.totals.rows, part.progress.totals.sums), (1, 2, 0));
    }

    #[tokio::test]
    async fn rows_that_no_history_leads_to_are_those_of_aggregates_without_events() {
        let (worker, client) = worker_of(&[&Notes]).await;
        let event = happened(&worker, "ann", [stayed(1)]).await.remove(0);
        for id in ["ben", "cid", "dan"] {
            applied(&worker, &RecordedEvent { aggregate: id.into(), ..event.clone() }).await;
        }
        let text = |text: &str| AttributeValue::S(text.to_owned());
        client.delete_item().table_name("notes").key("id", text("cid")).key("room", text(HOME_SORT)).send().await.expect("deleted");
        // An item of its key that has no version.
        client.put_item().table_name("notes").item("id", text("dan")).item("room", text(HOME_SORT)).send().await.expect("put");
        let found = async |after: Option<&str>, check| {
            let after = after.map(|id| serde_json::from_str(&format!(r#"{{"key":"{id}","sort":"a"}}"#)).expect("a position"));
            let this = Verification { worker: &worker, rule: &Notes, deadline: Deadline::NONE };
            let Page::Rows { read, checked, .. } = this.read_rows(Segment::ALL, after, check).await.expect("read") else {
                panic!("it is a page of rows")
            };
            let mut ids: Vec<_> = checked.into_iter().map(|(id, _)| id.to_string()).collect();
            ids.sort();
            (ids.join(" "), read > 0)
        };
        assert_eq!(found(None, true).await, ("ben cid dan".to_owned(), true));
        assert_eq!(found(None, false).await, (String::new(), true));
        // The page before has ended among the child rows of this key.
        assert!(!found(Some("cid"), true).await.0.contains("cid"));
    }
}
