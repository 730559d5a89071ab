//! One aggregate in one projection: what is left to do, and what an answer of the store means for it. Pure.
//!
//! A lane holds the events of its aggregate that a batch brought, in order, and names its next [`Step`]. The worker carries the step
//! out and reports the result: [`Lane::written`], [`Lane::refused`], [`Lane::invalid`]. A refusal carries the present row, and the
//! row decides, in this order:
//!
//! | the row | then |
//! |---|---|
//! | is parked | the whole lane waits with it |
//! | was written by a newer revision | write nothing, fail: this deployment is outdated |
//! | was written by an older revision, or its re-projection is unfinished | re-project the aggregate |
//! | is before the span | read the missing versions from the event store, and continue with them |
//! | is just where the span begins | try again with what the row shows, a few times |
//! | is at an event of the span that has another id | the history has diverged: park |
//! | is within the span | drop the applied part and continue |
//! | is at the last event of the span or beyond | duplicate |

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
};

use projection_vocabulary::{AggregateId, Change, ChildOp, DynProjection, HomeRow, RecordedEvent, Version, Watermark, fold};

use crate::{
    engine::{
        content::{Blocked, Content, content, payload_of},
        error::AdvanceError,
        report::{Outcome, Tally},
        reproject::{HOLE_REASON, HistoryFold, NextStep, STEP_ROWS_MAX, Trust, next_step, replacement_refused},
        shares::{Shares, TWO_OWNERS, shares_between, shares_of},
    },
    store::{
        events::Stored,
        home::{CLAUSES_MAX, ChildWrites, HomeWrite},
        limits::{TRANSACTION_ACTIONS_MAX, TRANSACTION_BYTES_MAX},
    },
};

/// How often a lane may be refused for a reason that its row does not show before it gives up.
pub const UNEXPLAINED_MAX: u32 = 8;

/// One aggregate in one projection.
pub struct Lane {
    /// The projection.
    pub rule: &'static dyn DynProjection,
    /// The aggregate.
    pub aggregate: AggregateId,
    entries: VecDeque<Entry>,
    /// The row at the present position, if it was read.
    row: Option<Box<HomeRow>>,
    /// Whether the row is to be read before the next write.
    reads_first: bool,
    /// The most events in one write: halved when DynamoDB refuses the merged write of several events.
    limit: usize,
    /// Why the aggregate must be parked, if it must.
    stuck: Option<Park>,
    /// The replacement of the row, before anything else.
    replacing: Option<Box<Replacing>>,
    unexplained: u32,
    /// The outcomes of the batch's records, by their index in it.
    pub outcomes: Vec<(usize, Outcome)>,
    /// Counts of this lane.
    pub tally: Tally,
    /// Why its failed records failed.
    pub failure: Option<AdvanceError>,
    /// Who parked the aggregate, if it is parked.
    pub parked: Option<ParkedBy>,
}

/// A row on its way to another one.
struct Replacing {
    /// The row before the next step.
    stale: HomeRow,
    /// The next step.
    write: Box<Write>,
    /// The row after the next step.
    next: HomeRow,
    /// The row after the last step.
    fresh: HomeRow,
    /// What is written to child rows after the next step.
    children: ChildWrites,
    /// The most rows that a step changes: halved when DynamoDB refuses a step of several.
    rows_max: usize,
}

/// Who parked an aggregate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ParkedBy {
    /// This lane, for this reason.
    ThisLane(String),
    /// Somebody else, before.
    Another,
}

/// Contiguous versions and what they hold.
struct Entry {
    first: Version,
    last: Version,
    content: Content,
    /// The record of the batch that brought it, by index; none if it comes from the event store.
    record: Option<usize>,
    /// The records that brought it again.
    again: Vec<usize>,
    /// Whether a process has acted on it.
    acted: bool,
}

/// What a lane needs next.
pub enum Step {
    /// Nothing: it is finished, or stuck (see [`Lane::stuck`]).
    Idle,
    /// Its home row, read consistently.
    Read,
    /// This write.
    Write(Box<Write>),
    /// To act on this event, as a process does before its row moves past it: see [`Lane::acted`].
    Act(Arc<RecordedEvent>),
    /// The fold of its history up to this version, because one transaction cannot apply the next event: see [`Lane::in_steps`].
    Steps(Box<HomeRow>, Version),
}

/// A write of the lane's row, its child rows and the rows that it shares.
#[derive(Clone)]
pub struct Write {
    /// The part of the home row and its child rows.
    pub home: HomeWrite,
    /// The part of the shared rows.
    pub shares: Shares,
    entries: usize,
    concerning: usize,
}

/// Why an aggregate must be parked, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Park {
    /// The watermark that the row must have.
    pub after: Watermark,
    /// The version that cannot be applied, and why.
    pub blocked: Blocked,
}

/// What to do after a refusal.
#[derive(Debug, PartialEq)]
pub enum AfterRefusal {
    /// Ask the lane for its next step.
    Continue,
    /// Read these versions from the event store.
    Heal(Version, Version),
    /// Re-project the aggregate over this row.
    Reproject(Box<HomeRow>),
}

impl Lane {
    /// An empty lane.
    #[must_use]
    pub fn new(rule: &'static dyn DynProjection, aggregate: AggregateId) -> Self {
        Self::with_room(rule, aggregate, 0)
    }

    /// An empty lane with room for this number of events.
    #[must_use]
    pub fn with_room(rule: &'static dyn DynProjection, aggregate: AggregateId, events: usize) -> Self {
        Self {
            rule,
            aggregate,
            entries: VecDeque::with_capacity(events),
            row: None,
            reads_first: false,
            limit: usize::MAX,
            stuck: None,
            replacing: None,
            unexplained: 0,
            outcomes: Vec::new(),
            tally: Tally::default(),
            failure: None,
            parked: None,
        }
    }

    /// Adds an event that a record brought. Records may come in any order.
    pub fn push_event(&mut self, event: &Arc<RecordedEvent>, record: usize) {
        let content = if fold::concerns(self.rule, event) { Content::Event(event.clone()) } else { Content::Irrelevant };
        self.entries.push_back(Entry::new(event.version, content, Some(record)));
    }

    /// Adds an unreadable event that a record brought.
    pub fn push_poison(&mut self, version: Version, reason: String, payload: String, record: usize) {
        self.entries.push_back(Entry::new(version, Content::Poison { reason, payload }, Some(record)));
    }

    /// Adds what the event store has from version `from` on. Nothing between the watermark `after` and `from` concerns the projection.
    pub fn push_stored(&mut self, after: Version, from: Version, stored: Vec<Stored>) {
        self.push_irrelevant(after, from);
        for item in stored {
            let entry = self.entry_of(item);
            self.entries.push_back(entry);
        }
    }

    /// Adds the event that ended a fold; the row is at version `after`.
    pub fn push_poison_after(&mut self, after: Version, version: Version, reason: String, payload: String) {
        self.push_irrelevant(after, version);
        let content = Content::Poison { reason, payload };
        self.entries.push_back(Entry::new(version, content, None));
    }

    /// Adds the versions between the watermark `after` and version `next`, if any: none of them concerns the projection.
    fn push_irrelevant(&mut self, after: Version, next: Version) {
        if after.next() < next {
            self.entries.push_back(Entry::irrelevant(after.next(), next.previous()));
        }
    }

    /// Sorts and deduplicates the entries. Returns `false` if none of them concerns the projection; the lane can then be dropped.
    pub fn prepare(&mut self) -> bool {
        let mut entries = Vec::from(std::mem::take(&mut self.entries));
        entries.sort_by_key(|entry| entry.first);
        entries.dedup_by(|entry, before| {
            let is_again = before.last == entry.first && before.content.same(&entry.content);
            if is_again {
                before.again.extend(entry.records());
            }
            is_again
        });
        self.entries = entries.into();
        // What follows the last event that concerns the projection is left to the next such event, so that a row's watermark does not
        // depend on how events were batched.
        let irrelevant = |entry: Option<&Entry>| entry.is_some_and(|entry| matches!(entry.content, Content::Irrelevant));
        while irrelevant(self.entries.back()) {
            self.entries.pop_back();
        }
        !self.entries.is_empty()
    }

    /// What the lane needs next. Asking again gives the same answer until the result of the step is reported.
    #[must_use]
    pub fn step(&mut self) -> Step {
        if self.stuck.is_some() {
            return Step::Idle;
        }
        if let Some(replacing) = &self.replacing {
            return Step::Write(replacing.write.clone());
        }
        let revision = self.rule.revision();
        loop {
            let Some(front) = self.entries.front() else { return Step::Idle };
            let after = front.first.previous();
            // A process acts on events in their order, so it must know where it stands before it acts.
            let process = self.rule.process().is_some();
            if self.row.is_none() && (process || self.reads_first || (self.rule.reads_row() && after > Version::NONE)) {
                return Step::Read;
            }
            if process && let Some(event) = self.run().find_map(Entry::to_act_on) {
                return Step::Act(event.clone());
            }
            let empty = HomeRow::default();
            let row = self.row.as_deref().unwrap_or(&empty);
            let events = self.run().filter_map(Entry::event);
            let merged = fold::merge(self.rule, events.take(self.limit), row, &may_fit);
            if merged.concerning == 0 {
                if let Some(blocked) = self.blocked_by(merged.stop) {
                    self.park_at(after, blocked);
                    return Step::Idle;
                }
                // Only events that do not concern the projection, followed by a hole: healing will bring them again. A row that was
                // read stands before the hole, and what follows is another position.
                self.row = None;
                self.entries.drain(..run_len(&self.entries)).for_each(drop);
                continue;
            }
            if merged.change.needs_contributions() && self.row.is_none() && after > Version::NONE {
                return Step::Read;
            }
            let (entries, last) = last_merged(self.run(), merged.concerning);
            match self.row.as_ref().and_then(|row| shared_by_others(merged.change.own().keys(), row, revision)) {
                Some(newer) if newer > revision => {
                    self.fail(AdvanceError::newer_revision(self.rule, newer));
                    return Step::Idle;
                }
                Some(_) => {
                    let blocked = Blocked { version: last.version, reason: TWO_OWNERS.to_owned(), payload: Some(payload_of(last)) };
                    if merged.concerning == 1 {
                        self.park_at(after, blocked);
                        return Step::Idle;
                    }
                    self.limit = merged.concerning / 2;
                    continue;
                }
                None => {}
            }
            let resolved = merged.change.resolve(self.row.as_ref().map(|row| &row.contributions));
            let clauses = resolved.contributions().count() + resolved.removes.len();
            let rows = resolved.rows().len() + merged.change.children().len();
            if rows >= TRANSACTION_ACTIONS_MAX || clauses > CLAUSES_MAX || !may_fit(&merged.change, merged.change.shared_rows().len()) {
                if merged.concerning > 1 {
                    self.limit = merged.concerning / 2;
                    continue;
                }
                let version = last.version;
                return if self.row.is_none() && after > Version::NONE { Step::Read } else { Step::Steps(Box::new(row.clone()), version) };
            }
            let home = HomeWrite::of(after, revision, last, &merged.change, &resolved, self.row.as_deref());
            if home.is_blind_and_wide() {
                return Step::Read;
            }
            return Step::Write(Box::new(Write { home, shares: shares_of(&resolved), entries, concerning: merged.concerning }));
        }
    }

    /// Why the aggregate must be parked, if the lane cannot continue.
    #[must_use]
    pub fn stuck(&self) -> Option<&Park> {
        self.stuck.as_ref()
    }

    /// The entries from the first that follow each other without a hole, up to one that cannot be read.
    fn run(&self) -> impl Iterator<Item = &Entry> + Clone {
        let mut due = self.entries.front().map(|front| front.first);
        self.entries.iter().take_while(move |entry| {
            let follows = due == Some(entry.first) && !matches!(entry.content, Content::Poison { .. });
            due = Some(entry.last.next());
            follows
        })
    }

    /// The event at which the lane cannot continue, if it is an event and not a hole.
    fn blocked_by(&self, stop: Option<fold::MergeStop>) -> Option<Blocked> {
        if let Some(fold::MergeStop::Poison(refusal)) = stop {
            let refused = self.run().find(|entry| entry.event().is_some())?;
            return Some(Blocked { version: refused.last, reason: refusal.to_string(), payload: refused.payload() });
        }
        let read = self.run().count();
        let next = self.entries.get(read).filter(|_| read < run_len(&self.entries))?;
        let Content::Poison { reason, payload } = &next.content else { return None };
        Some(Blocked { version: next.last, reason: reason.clone(), payload: Some(payload.clone()) })
    }

    fn park_at(&mut self, after: Version, blocked: Blocked) {
        self.stuck = Some(Park { after: Watermark { version: after, revision: self.rule.revision() }, blocked });
    }

    /// Whether its next write is made without knowing the row.
    #[must_use]
    pub fn is_blind(&self) -> bool {
        self.row.is_none() && self.replacing.is_none()
    }

    /// The same lane, whose row is read before its next write.
    #[must_use]
    pub fn reading_first(mut self) -> Self {
        self.reads_first = true;
        self
    }

    /// Whether it has nothing left to do, and had nothing to do from the start.
    #[must_use]
    pub fn was_duplicate(&self) -> bool {
        self.entries.is_empty() && self.outcomes.iter().all(|(_, outcome)| *outcome == Outcome::Duplicate)
    }

    /// The home row was read: `None` if it is absent.
    pub fn read(&mut self, row: Option<HomeRow>) -> AfterRefusal {
        self.reads_first = false;
        let row = row.unwrap_or_default();
        let expected = self.entries.front().map_or(Version::NONE, |front| front.first.previous());
        let current = row.unfinished.is_none() && (row.version == Version::NONE || row.revision == self.rule.revision());
        if row.version == expected && current && row.parked_at.is_none() {
            self.row = Some(Box::new(row));
            return AfterRefusal::Continue;
        }
        self.refused(Some(row), None)
    }

    /// The process has acted on the event that [`Step::Act`] named.
    pub fn acted(&mut self) {
        if let Some(entry) = self.next_to_act() {
            entry.acted = true;
        }
    }

    /// The process can never act on the event that [`Step::Act`] named.
    pub fn cannot_act(&mut self, reason: String) {
        if let Some(entry) = self.next_to_act() {
            let payload = entry.payload().unwrap_or_default();
            entry.content = Content::Poison { reason, payload };
        }
    }

    /// The process could not act on the event that [`Step::Act`] named. What it has acted on is still written.
    pub fn fail_to_act(&mut self, error: AdvanceError) {
        let acted = self.entries.iter().take_while(|entry| entry.to_act_on().is_none()).count();
        let rest = self.entries.split_off(acted);
        let written = std::mem::replace(&mut self.entries, rest);
        self.fail(error);
        self.entries = written;
    }

    fn next_to_act(&mut self) -> Option<&mut Entry> {
        self.entries.iter_mut().find(|entry| entry.to_act_on().is_some())
    }

    /// The write was committed.
    pub fn written(&mut self, write: &Write) {
        self.row = None;
        self.unexplained = 0;
        if let Some(replacing) = self.replacing.take() {
            let Replacing { next, fresh, children, rows_max, .. } = *replacing;
            if next.unfinished.is_some() {
                self.replace_step(next, fresh, children, rows_max);
                return;
            }
            self.tally.reprojected += 1;
            self.finish_up_to(write.home.after.version, Outcome::Duplicate);
            self.finish_up_to(write.home.to.version, Outcome::Applied);
            return;
        }
        for entry in self.entries.drain(..write.entries) {
            let Content::Event(event) = &entry.content else { continue };
            self.tally.counted(event);
            if entry.records().next().is_none() {
                self.tally.healed += 1;
            }
            for (at, record) in entry.records().enumerate() {
                let outcome = if at == 0 { Outcome::Applied } else { Outcome::Duplicate };
                self.tally.count(outcome);
                self.outcomes.push((record, outcome));
            }
        }
    }

    /// A write or a parking was refused because the row is not as expected: this is the row, or `None` if it is absent.
    ///
    /// `tried` is the write, if an earlier try of it may have been applied and its answer lost.
    pub fn refused(&mut self, row: Option<HomeRow>, tried: Option<&Write>) -> AfterRefusal {
        self.row = None;
        self.stuck = None;
        let replacing = self.replacing.take();
        let row = row.unwrap_or_default();
        if row.parked_at.is_some() {
            self.finish_up_to(row.version, Outcome::Duplicate);
            self.wait_with(ParkedBy::Another);
            return AfterRefusal::Continue;
        }
        if let (Some(write), Some(_)) = (tried, &replacing)
            && write.home.made(&row)
        {
            self.replacing = replacing;
            self.written(write);
            return AfterRefusal::Continue;
        }
        let revision = self.rule.revision();
        if row.newest_revision() > revision {
            self.fail(AdvanceError::newer_revision(self.rule, row.newest_revision()));
            return AfterRefusal::Continue;
        }
        if row.is_outdated(revision) {
            return if self.refused_without_reason() { AfterRefusal::Continue } else { AfterRefusal::Reproject(Box::new(row)) };
        }
        let Some(front) = self.entries.front() else { return AfterRefusal::Continue };
        let after = front.first.previous();
        if row.version < after {
            return AfterRefusal::Heal(row.version.next(), after);
        }
        if row.version == after {
            // The row shows what its version does not: a maximum that is higher already, or an attribute that others have written to.
            if !self.refused_without_reason() {
                self.row = Some(Box::new(row));
            }
            return AfterRefusal::Continue;
        }
        let diverged = self.entries.iter().find(|entry| {
            entry.last == row.version && entry.event().is_some_and(|event| Some(&event.event_id) != row.last_event_id.as_ref())
        });
        if let Some(entry) = diverged {
            let blocked = Blocked { version: entry.last, reason: DIVERGED_REASON.to_owned(), payload: entry.payload() };
            self.park_at(row.version, blocked);
            return AfterRefusal::Continue;
        }
        match tried {
            Some(write) if write.home.made(&row) => self.written(write),
            _ => self.finish_up_to(row.version, Outcome::Duplicate),
        }
        AfterRefusal::Continue
    }

    /// Counts a refusal that the present row does not explain: others are moving it, or it takes no write at all and the lane fails.
    fn refused_without_reason(&mut self) -> bool {
        self.unexplained += 1;
        let too_often = self.unexplained > UNEXPLAINED_MAX;
        if too_often {
            self.fail(AdvanceError::Unexplained);
        }
        too_often
    }

    /// Takes what the event store has from version `from` on, up to `to`.
    pub fn heal(&mut self, from: Version, to: Version, stored: Vec<Stored>) -> AfterRefusal {
        self.tally.gaps += 1;
        let mut due = from;
        let mut healed: Vec<Entry> = Vec::new();
        for item in stored {
            if item.version() != due {
                break;
            }
            due = due.next();
            healed.push(self.entry_of(item));
        }
        if healed.is_empty() {
            // Irrelevant events may have been read before this hole: the row is still where they begin.
            let after = self.entries.front().map_or(from, |front| front.first.min(from)).previous();
            self.park_at(after, Blocked { version: from, reason: HOLE_REASON.to_owned(), payload: None });
            return AfterRefusal::Continue;
        }
        let only_irrelevant = healed.iter().all(|entry| matches!(entry.content, Content::Irrelevant));
        let (first, last) = (healed[0].first, healed[healed.len() - 1].last);
        if only_irrelevant {
            healed = vec![Entry::irrelevant(first, last)];
        }
        // What the same healing read before stands in front, all of it irrelevant.
        let before = self.entries.iter().take_while(|entry| entry.last < from).count();
        let after = self.entries.split_off(before);
        self.entries.extend(healed);
        self.entries.extend(after);
        if only_irrelevant && last < to { AfterRefusal::Heal(last.next(), to) } else { AfterRefusal::Continue }
    }

    fn entry_of(&self, stored: Stored) -> Entry {
        let version = stored.version();
        Entry::new(version, content(self.rule, stored), None)
    }

    /// Replaces the row by the fold of its history, with these writes to its child rows; or parks the aggregate where the row stands, if
    /// that is not possible.
    pub fn replace(&mut self, stale: &HomeRow, folded: &HistoryFold, children: ChildWrites, trust: Trust) {
        let revision = self.rule.revision();
        let fresh = folded.in_place_of(stale, trust);
        let taken = fresh.as_ref().ok().and_then(|fresh| shared_by_others(fresh.owned.difference(&stale.owned), stale, revision));
        match (fresh, taken) {
            (Ok(_), Some(newer)) if newer > revision => self.fail(AdvanceError::newer_revision(self.rule, newer)),
            (Ok(_), Some(_)) => {
                self.stuck = Some(Park { after: stale.watermark(), blocked: replacement_refused(stale.version, TWO_OWNERS) });
            }
            (Ok(fresh), None) => self.replace_step(stale.clone(), fresh, children, STEP_ROWS_MAX),
            (Err(blocked), _) => self.stuck = Some(Park { after: stale.watermark(), blocked }),
        }
    }

    /// The answer to [`Step::Steps`]: applies the next event by replacing the row by the fold of the history up to it.
    pub fn in_steps(&mut self, row: &HomeRow, folded: &HistoryFold, children: ChildWrites, to: Version) {
        let event = self.entries.iter().find(|entry| entry.last == to);
        let is_folded = event.and_then(Entry::event).is_some_and(|event| folded.row().last_event_id.as_ref() == Some(&event.event_id));
        if is_folded {
            self.replace(row, folded, children, Trust::Row);
            return;
        }
        let reason = if folded.due > to {
            "the event store has another event with this version: was the event store restored?".to_owned()
        } else {
            format!(
                "the event changes more than {} shared rows or child rows, so it is applied in steps, which need it and all before it in the event store",
                TRANSACTION_ACTIONS_MAX - 1
            )
        };
        let payload = event.and_then(Entry::payload);
        self.park_at(row.version, Blocked { version: to, reason, payload });
    }

    fn replace_step(&mut self, stale: HomeRow, fresh: HomeRow, mut children: ChildWrites, rows_max: usize) {
        let NextStep { row: next, children: written } = next_step(&stale, &fresh, &children, self.rule.revision(), rows_max);
        children.retain(|sort, _| !written.contains_key(sort));
        let home = HomeWrite::between(self.aggregate.clone(), &stale, &next).with_children(written);
        let write = Box::new(Write { home, shares: shares_between(&stale, &next), entries: 0, concerning: 1 });
        self.replacing = Some(Box::new(Replacing { stale, write, next, fresh, children, rows_max }));
    }

    /// DynamoDB refuses the content of the write, and this lane alone is the cause.
    pub fn invalid(&mut self, write: &Write, reason: &'static str) {
        if let Some(replacing) = self.replacing.take() {
            let rows = write.rows();
            if rows > 1 {
                let Replacing { stale, fresh, mut children, .. } = *replacing;
                children.extend(write.home.children().clone());
                self.replace_step(stale, fresh, children, rows / 2);
                return;
            }
            let after = write.home.after;
            self.stuck = Some(Park { after, blocked: replacement_refused(after.version, reason) });
            return;
        }
        if write.concerning > 1 {
            self.limit = write.concerning / 2;
            return;
        }
        let payload = self.entries.get(write.entries - 1).and_then(Entry::payload);
        self.park_at(write.home.after.version, Blocked { version: write.home.to.version, reason: reason.to_owned(), payload });
    }

    /// The aggregate was parked as [`Lane::stuck`] asks.
    pub fn parked(&mut self) {
        if let Some(park) = self.stuck.take() {
            self.wait_with(ParkedBy::ThisLane(park.blocked.reason));
        }
    }

    fn wait_with(&mut self, by: ParkedBy) {
        self.parked = Some(by);
        self.finish_up_to(Version(u64::MAX), Outcome::Parked);
    }

    /// The same lane, without room for entries that it has finished: a batch may have ten thousand lanes.
    #[must_use]
    pub fn without_spare_room(mut self) -> Self {
        self.entries.shrink_to_fit();
        self.outcomes.shrink_to_fit();
        self
    }

    /// Everything that is left fails.
    pub fn fail(&mut self, error: AdvanceError) {
        self.stuck = None;
        self.replacing = None;
        self.finish_up_to(Version(u64::MAX), Outcome::Failed);
        self.failure = Some(error);
    }

    fn finish_up_to(&mut self, version: Version, outcome: Outcome) {
        while self.entries.front().is_some_and(|front| front.last <= version) {
            let entry = self.entries.pop_front().expect("there is a front");
            match &entry.content {
                Content::Irrelevant => continue,
                Content::Event(event) if outcome == Outcome::Applied => self.tally.counted(event),
                Content::Event(_) | Content::Poison { .. } => {}
            }
            for record in entry.records() {
                self.tally.count(outcome);
                self.outcomes.push((record, outcome));
            }
        }
        // An entry of irrelevant events may reach beyond the version.
        if let Some(front) = self.entries.front_mut()
            && front.first <= version
        {
            front.first = version.next();
        }
    }
}

impl Write {
    /// How many rows it writes besides the home row.
    #[must_use]
    pub fn rows(&self) -> usize {
        let shared: BTreeSet<_> = self.shares.keys().map(|(row, _)| row).collect();
        shared.len() + self.home.children().len()
    }

    /// About how many bytes it writes to child rows.
    #[must_use]
    pub fn child_bytes(&self) -> usize {
        self.home.children().values().map(ChildOp::bytes).sum()
    }
}

/// Whether one transaction holds a change whose events name this number of shared rows.
fn may_fit(change: &Change, shared_rows: usize) -> bool {
    let children = change.children();
    let sets = |op: &ChildOp| if let ChildOp::Set(attributes) = op { attributes.len() } else { 0 };
    change.shared_attributes() <= CLAUSES_MAX
        && children.len() + shared_rows < TRANSACTION_ACTIONS_MAX
        && children.values().all(|op| sets(op) <= CLAUSES_MAX)
        && children.values().map(ChildOp::bytes).sum::<usize>() <= TRANSACTION_BYTES_MAX
}

const DIVERGED_REASON: &str = "history diverged: another event with this version was applied before; was the event store restored?";

/// If other aggregates have written to one of these attributes of the row: the newest revision that has, if it is `revision` or newer.
/// What an older revision wrote is replaced.
fn shared_by_others<'a>(names: impl Iterator<Item = &'a String>, row: &HomeRow, revision: u32) -> Option<u32> {
    names.filter_map(|name| row.shared.get(name)).map(|mark| mark.revision).filter(|by| *by >= revision).max()
}

/// How many entries of a run the first `concerning` events take, and the last of these events.
fn last_merged<'a>(run: impl Iterator<Item = &'a Entry>, concerning: usize) -> (usize, &'a RecordedEvent) {
    let events = run.enumerate().filter_map(|(at, entry)| Some((at, entry.event()?)));
    let (at, last) = events.take(concerning).last().expect("the merged events are in the run");
    (at + 1, last)
}

/// How many entries from the first follow each other without a hole.
fn run_len(entries: &VecDeque<Entry>) -> usize {
    let follows = |(before, after): &(&Entry, &Entry)| before.last.next() == after.first;
    entries.iter().zip(entries.iter().skip(1)).take_while(follows).count() + usize::from(!entries.is_empty())
}

impl Content {
    fn same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Event(one), Self::Event(two)) => one.event_id == two.event_id,
            (Self::Irrelevant, Self::Irrelevant) => true,
            (Self::Poison { payload: one, .. }, Self::Poison { payload: two, .. }) => one == two,
            _ => false,
        }
    }
}

impl Entry {
    /// One version.
    fn new(version: Version, content: Content, record: Option<usize>) -> Self {
        Self { first: version, last: version, content, record, again: Vec::new(), acted: false }
    }

    /// Versions of which none concerns the projection.
    fn irrelevant(first: Version, last: Version) -> Self {
        Self { last, ..Self::new(first, Content::Irrelevant, None) }
    }

    /// The records of the batch that brought it, by index.
    fn records(&self) -> impl Iterator<Item = usize> {
        self.record.into_iter().chain(self.again.iter().copied())
    }

    /// The event, if it is one that concerns the projection.
    fn event(&self) -> Option<&RecordedEvent> {
        if let Content::Event(event) = &self.content { Some(event) } else { None }
    }

    /// The event, if a process has not acted on it yet.
    fn to_act_on(&self) -> Option<&Arc<RecordedEvent>> {
        if let Content::Event(event) = &self.content { Some(event).filter(|_| !self.acted) } else { None }
    }

    fn payload(&self) -> Option<String> {
        match &self.content {
            Content::Event(event) => Some(payload_of(event)),
            Content::Poison { payload, .. } => Some(payload.clone()),
            Content::Irrelevant => None,
        }
    }
}

#[cfg(test)]
mod tests;
