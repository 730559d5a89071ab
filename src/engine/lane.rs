//! One aggregate in one projection: what is still to do, and what an answer of the store means for it. Pure.
//!
//! A lane holds the events of its aggregate that a batch brought, in order, and says its next [`Step`]. Whoever carries
//! the step out tells the lane what came of it: [`Lane::written`], [`Lane::refused`], [`Lane::invalid`]. A refusal carries
//! the row as it is, and that decides (design, section 5):
//!
//! | the row says | then |
//! |---|---|
//! | parked | all of the lane waits with it |
//! | written by an older revision | project the aggregate anew |
//! | written by a newer revision | touch nothing, fail: this deployment is old |
//! | at the last event of the span or beyond | duplicate |
//! | at an event of the span that has another id | history diverged: park |
//! | within the span | drop what is applied, go on from there |
//! | before the span | read what is missing from the event store, go on from there |

use std::{collections::VecDeque, sync::Arc};

use projection_vocabulary::{AggregateId, Change, DynProjection, HomeRow, RecordedEvent, Sums, Version, fold};

use crate::{
    engine::content::{Content, content, payload_of},
    engine::{
        report::{Outcome, Tally},
        reproject::{HOLE_REASON, HistoryFold, Replacement, Stop, Trust},
    },
    store::{events::Stored, home::HomeWrite, limits::TRANSACTION_ACTIONS_MAX},
};

/// How often a lane may be refused for no reason that its row shows before it gives up.
pub const UNEXPLAINED_MAX: u32 = 8;
/// Why it gives up.
pub const UNEXPLAINED_REASON: &str = "a row keeps refusing writes that it should take";

/// One aggregate in one projection.
pub struct Lane {
    /// The projection.
    pub rule: &'static dyn DynProjection,
    /// The aggregate.
    pub aggregate: AggregateId,
    entries: VecDeque<Entry>,
    /// The row at the present position, if it was read.
    row: Option<HomeRow>,
    /// At most so many events in one write: halved when DynamoDB refuses what several events come to.
    limit: usize,
    parking: Option<Park>,
    /// A row to be put in the place of the one that is there, before anything else.
    replacing: Option<Box<Write>>,
    unexplained: u32,
    /// What became of the batch's records, by their index in it.
    pub outcomes: Vec<(usize, Outcome)>,
    /// Counts of this lane.
    pub tally: Tally,
    /// Why its failed records failed.
    pub failure: Option<String>,
    /// Whether it was found or made parked.
    pub waits: bool,
}

/// Contiguous versions and what they hold.
struct Entry {
    first: Version,
    last: Version,
    content: Content,
    /// The records of the batch that brought it, by index; none if it comes from the event store.
    records: Vec<usize>,
}

/// What a lane needs next.
pub enum Step {
    /// Nothing.
    Done,
    /// Its home row, read consistently.
    Read,
    /// This write.
    Write(Box<Write>),
    /// To be parked.
    Park(Park),
}

/// A write of the lane's row and of what it adds to shared rows.
#[derive(Clone)]
pub struct Write {
    /// The home row's part.
    pub home: HomeWrite,
    /// The change, for its `max` and `insert` operations.
    pub change: Change,
    /// What to add to shared rows.
    pub shared: Sums,
    entries: usize,
    concerning: usize,
}

/// Why an aggregate must be parked, and where.
#[derive(Clone, Debug)]
pub struct Park {
    /// The watermark that the row must have.
    pub after: Version,
    /// The revision that the row must have, unless it is absent.
    pub after_revision: u32,
    /// The version that cannot be applied.
    pub version: Version,
    /// Why, without event data.
    pub reason: String,
    /// The event as JSON.
    pub payload: String,
}

/// What to do after a refusal.
#[derive(Debug)]
pub enum AfterRefusal {
    /// Ask the lane for its next step.
    Continue,
    /// Read these versions from the event store.
    Heal(Version, Version),
    /// Project the aggregate anew over this row.
    Reproject(Box<HomeRow>),
}

impl Lane {
    /// An empty lane.
    #[must_use]
    pub fn new(rule: &'static dyn DynProjection, aggregate: AggregateId) -> Self {
        Self {
            rule,
            aggregate,
            entries: VecDeque::new(),
            row: None,
            limit: usize::MAX,
            parking: None,
            replacing: None,
            unexplained: 0,
            outcomes: Vec::new(),
            tally: Tally::default(),
            failure: None,
            waits: false,
        }
    }

    /// Adds an event that a record brought. Records may come in any order.
    pub fn push_event(&mut self, event: &Arc<RecordedEvent>, record: usize) {
        let content = if fold::concerns(self.rule, event) { Content::Event(event.clone()) } else { Content::Irrelevant };
        self.entries.push_back(Entry { first: event.version, last: event.version, content, records: vec![record] });
    }

    /// Adds an unreadable event that a record brought.
    pub fn push_poison(&mut self, version: Version, reason: String, payload: String, record: usize) {
        self.entries.push_back(Entry {
            first: version,
            last: version,
            content: Content::Poison { reason, payload },
            records: vec![record],
        });
    }

    /// Adds what the event store has from version `from` on. Nothing between the watermark `after` and there concerns the rule.
    pub fn push_stored(&mut self, after: Version, from: Version, stored: Vec<Stored>) {
        self.push_irrelevant(after, from);
        for item in stored {
            let entry = self.entry_of(item);
            self.entries.push_back(entry);
        }
    }

    /// Adds the event at which a fold ended that leaves the row at version `after`.
    pub fn push_stop(&mut self, after: Version, due: Version, Stop { reason, payload }: Stop) {
        self.push_irrelevant(after, due);
        self.entries.push_back(Entry { first: due, last: due, content: Content::Poison { reason, payload }, records: Vec::new() });
    }

    /// What lies between the watermark `after` and version `next`, if anything: nothing of it concerns the rule.
    fn push_irrelevant(&mut self, after: Version, next: Version) {
        if after.next() < next {
            self.entries.push_back(Entry { first: after.next(), last: next.previous(), content: Content::Irrelevant, records: Vec::new() });
        }
    }

    /// Puts what was pushed in order. Returns whether anything in it concerns the rule; if not, the lane is for the bin.
    pub fn prepare(&mut self) -> bool {
        self.entries.make_contiguous().sort_by_key(|entry| entry.first);
        let mut entries: VecDeque<Entry> = VecDeque::with_capacity(self.entries.len());
        for entry in std::mem::take(&mut self.entries) {
            match entries.back_mut() {
                Some(before) if before.last == entry.first && before.content.same(&entry.content) => before.records.extend(entry.records),
                _ => entries.push_back(entry),
            }
        }
        self.entries = entries;
        // What follows the last event that concerns the rule is left to the next one, so that a row's watermark does not
        // depend on how events were batched.
        let passed = |entry: Option<&Entry>| entry.is_some_and(|entry| matches!(entry.content, Content::Irrelevant));
        while passed(self.entries.back()) {
            self.entries.pop_back();
        }
        !self.entries.is_empty()
    }

    /// What the lane needs next.
    #[must_use]
    pub fn step(&mut self) -> Step {
        if let Some(park) = &self.parking {
            return Step::Park(park.clone());
        }
        if let Some(write) = &self.replacing {
            return Step::Write(write.clone());
        }
        loop {
            let Some(front) = self.entries.front() else { return Step::Done };
            let after = front.first.previous();
            if self.rule.reads_row() && self.row.is_none() && after > Version::NONE {
                return Step::Read;
            }
            let run = self.run();
            let empty = HomeRow::default();
            let row = self.row.as_ref().unwrap_or(&empty);
            let events = run.iter().filter_map(|entry| if let Content::Event(event) = &entry.content { Some(&**event) } else { None });
            let merged = fold::merge(self.rule, events.take(self.limit), row);
            if merged.concerning == 0 {
                if let Some((version, reason, payload)) = self.blocked_by(&run, merged.stop) {
                    return Step::Park(self.park_at(after, version, reason, payload));
                }
                // Only events that do not concern the rule, and a hole after them: healing will bring them again. A row that was
                // read stands before the hole, and what follows is another position.
                self.row = None;
                self.entries.drain(..run_len(&self.entries)).for_each(drop);
                continue;
            }
            if merged.change.needs_contributions() && self.row.is_none() && after > Version::NONE {
                return Step::Read;
            }
            let resolved = merged.change.resolve(&row.contributions);
            let mut shared_rows: Vec<_> = resolved.shared.keys().map(|(row, _)| row).collect();
            shared_rows.dedup();
            if shared_rows.len() >= TRANSACTION_ACTIONS_MAX {
                if merged.concerning == 1 {
                    let last = run.iter().find(|entry| !matches!(entry.content, Content::Irrelevant)).expect("one event concerns the rule");
                    let reason =
                        format!("the event changes more than {} shared rows, which no transaction holds", TRANSACTION_ACTIONS_MAX - 1);
                    let (version, payload) = (last.last, last.payload());
                    return Step::Park(self.park_at(after, version, reason, payload));
                }
                self.limit = merged.concerning / 2;
                continue;
            }
            let mut left = merged.concerning;
            let entries = 1 + run
                .iter()
                .position(|entry| {
                    left -= usize::from(matches!(entry.content, Content::Event(_)));
                    left == 0
                })
                .expect("the merged events are in the run");
            let Content::Event(last) = &run[entries - 1].content else { unreachable!("the run was cut at an event") };
            let home = HomeWrite::of(
                self.aggregate.clone(),
                after,
                last.version,
                self.rule.revision(),
                last.event_id.clone(),
                &merged.change,
                &resolved,
            );
            let home = if let Some(row) = &self.row { home.reckoned_from(row) } else { home };
            return Step::Write(Box::new(Write {
                home,
                change: merged.change,
                shared: resolved.shared,
                entries,
                concerning: merged.concerning,
            }));
        }
    }

    /// The entries from the first that follow each other without a hole, up to one that cannot be read.
    fn run(&self) -> Vec<&Entry> {
        self.entries.iter().take(run_len(&self.entries)).take_while(|entry| !matches!(entry.content, Content::Poison { .. })).collect()
    }

    /// The event that keeps the lane from going on, if it is one and not a hole.
    fn blocked_by(&self, run: &[&Entry], stop: Option<fold::Stop>) -> Option<(Version, String, String)> {
        if let Some(fold::Stop::Poison(refusal)) = stop {
            let refused = run.iter().find(|entry| matches!(entry.content, Content::Event(_)))?;
            return Some((refused.last, refusal.to_string(), refused.payload()));
        }
        let next = self.entries.get(run.len()).filter(|_| run.len() < run_len(&self.entries))?;
        let Content::Poison { reason, payload } = &next.content else { return None };
        Some((next.last, reason.clone(), payload.clone()))
    }

    fn park_at(&mut self, after: Version, version: Version, reason: String, payload: String) -> Park {
        let after_revision = self.rule.revision();
        self.parking.insert(Park { after, after_revision, version, reason, payload }).clone()
    }

    /// The home row was read: `None` if it is absent.
    pub fn read(&mut self, row: Option<HomeRow>) -> AfterRefusal {
        let row = row.unwrap_or_default();
        let expected = self.entries.front().map_or(Version::NONE, |front| front.first.previous());
        if row.version == expected && row.revision == self.rule.revision() && row.parked_at.is_none() {
            self.row = Some(row);
            return AfterRefusal::Continue;
        }
        self.refused(Some(row), None)
    }

    /// The write was committed.
    pub fn written(&mut self, write: &Write) {
        self.row = None;
        self.unexplained = 0;
        if self.replacing.take().is_some() {
            self.tally.reprojected += 1;
            self.finish_up_to(write.home.after, Outcome::Duplicate);
            self.finish_up_to(write.home.to, Outcome::Applied);
            return;
        }
        for entry in self.entries.drain(..write.entries) {
            let Content::Event(event) = &entry.content else { continue };
            self.tally.counted(event);
            if entry.records.is_empty() {
                self.tally.healed += 1;
            }
            for (at, record) in entry.records.into_iter().enumerate() {
                let outcome = if at == 0 { Outcome::Applied } else { Outcome::Duplicate };
                self.tally.count(outcome);
                self.outcomes.push((record, outcome));
            }
        }
    }

    /// A write or a parking was refused because the row is another: this one, or absent.
    ///
    /// `tried` is the write, if an earlier try of it may have been applied and its answer lost.
    pub fn refused(&mut self, row: Option<HomeRow>, tried: Option<&Write>) -> AfterRefusal {
        self.row = None;
        self.parking = None;
        let replacing = self.replacing.take();
        let row = row.unwrap_or_default();
        if row.parked_at.is_some() {
            self.finish_up_to(row.version, Outcome::Duplicate);
            self.parked();
            return AfterRefusal::Continue;
        }
        let revision = self.rule.revision();
        if row.version > Version::NONE && row.revision != revision {
            if row.revision < revision {
                return if self.refused_for_no_reason() { AfterRefusal::Continue } else { AfterRefusal::Reproject(Box::new(row)) };
            }
            self.fail(newer_revision(self.rule, row.revision));
            return AfterRefusal::Continue;
        }
        if let (Some(write), Some(_)) = (tried, &replacing)
            && write.home.to == row.version
        {
            self.replacing = replacing;
            self.written(write);
            return AfterRefusal::Continue;
        }
        let Some(front) = self.entries.front() else { return AfterRefusal::Continue };
        let after = front.first.previous();
        if row.version < after {
            return AfterRefusal::Heal(row.version.next(), after);
        }
        if row.version == after {
            self.refused_for_no_reason();
            return AfterRefusal::Continue;
        }
        let diverged = self
            .entries
            .iter()
            .find(|entry| entry.last == row.version && entry.event_id().is_some_and(|id| Some(id) != row.last_event_id.as_ref()));
        if let Some(entry) = diverged {
            let reason = "history diverged: another event with this version was applied before; was the event store restored?".to_owned();
            let (version, payload) = (entry.last, entry.payload());
            self.park_at(row.version, version, reason, payload);
            return AfterRefusal::Continue;
        }
        match tried {
            Some(write) if write.home.to == row.version => self.written(write),
            _ => self.finish_up_to(row.version, Outcome::Duplicate),
        }
        AfterRefusal::Continue
    }

    /// Counts a refusal that the row as it is does not explain: others move it, or it takes no write at all and the lane fails.
    fn refused_for_no_reason(&mut self) -> bool {
        self.unexplained += 1;
        let too_often = self.unexplained > UNEXPLAINED_MAX;
        if too_often {
            self.fail(UNEXPLAINED_REASON.to_owned());
        }
        too_often
    }

    /// What the event store has from version `from` on, up to `to`.
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
            // Events passed over may have been read before this hole: the row is still where they begin.
            let after = self.entries.front().map_or(from, |front| front.first.min(from)).previous();
            self.park_at(after, from, HOLE_REASON.to_owned(), String::new());
            return AfterRefusal::Continue;
        }
        let only_irrelevant = healed.iter().all(|entry| matches!(entry.content, Content::Irrelevant));
        let (first, last) = (healed[0].first, healed[healed.len() - 1].last);
        if only_irrelevant {
            healed = vec![Entry { first, last, content: Content::Irrelevant, records: Vec::new() }];
        }
        // What was read before in the same healing stands in front, all of it passed over.
        let before = self.entries.iter().take_while(|entry| entry.last < from).count();
        for (at, entry) in healed.into_iter().enumerate() {
            self.entries.insert(before + at, entry);
        }
        if only_irrelevant && last < to { AfterRefusal::Heal(last.next(), to) } else { AfterRefusal::Continue }
    }

    fn entry_of(&self, stored: Stored) -> Entry {
        let version = stored.version();
        Entry { first: version, last: version, content: content(self.rule, stored), records: Vec::new() }
    }

    /// Puts the fold of its history in the place of its row as it is; or parks the aggregate where that row stands, if that cannot be.
    pub fn replace(&mut self, stale: &HomeRow, folded: &HistoryFold, trust: Trust) {
        match folded.in_place_of(stale, trust) {
            Ok(Replacement { home, monotone, shared }) => {
                self.replacing = Some(Box::new(Write { home, change: monotone, shared, entries: 0, concerning: 1 }));
            }
            Err((version, stop)) => self.stuck((stale.version, stale.revision), version, stop),
        }
    }

    fn stuck(&mut self, (after, after_revision): (Version, u32), version: Version, Stop { reason, payload }: Stop) {
        self.parking = Some(Park { after, after_revision, version, reason, payload });
    }

    /// `DynamoDB` refuses what the write says, and it is this lane's alone.
    pub fn invalid(&mut self, write: &Write, reason: &'static str) {
        if self.replacing.take().is_some() {
            self.stuck((write.home.after, write.home.after_revision), write.home.after, Stop::refused(reason));
            return;
        }
        if write.concerning > 1 {
            self.limit = write.concerning / 2;
            return;
        }
        let payload = self.entries.get(write.entries - 1).map(Entry::payload).unwrap_or_default();
        self.park_at(write.home.after, write.home.to, reason.to_owned(), payload);
    }

    /// The aggregate is parked: all that is left waits.
    pub fn parked(&mut self) {
        self.parking = None;
        self.waits = true;
        self.finish_up_to(Version(u64::MAX), Outcome::Parked);
    }

    /// All that is left fails.
    pub fn fail(&mut self, reason: String) {
        self.parking = None;
        self.replacing = None;
        self.finish_up_to(Version(u64::MAX), Outcome::Failed);
        self.failure = Some(reason);
    }

    fn finish_up_to(&mut self, version: Version, outcome: Outcome) {
        while self.entries.front().is_some_and(|front| front.last <= version) {
            let entry = self.entries.pop_front().expect("there is a front");
            match &entry.content {
                Content::Irrelevant => continue,
                Content::Event(event) if outcome == Outcome::Applied => self.tally.counted(event),
                Content::Event(_) | Content::Poison { .. } => {}
            }
            for record in entry.records {
                self.tally.count(outcome);
                self.outcomes.push((record, outcome));
            }
        }
        // Events passed over may reach beyond the version as one entry.
        if let Some(front) = self.entries.front_mut()
            && front.first <= version
        {
            front.first = version.next();
        }
    }
}

/// Why rows of a newer revision are left alone.
pub fn newer_revision(rule: &dyn DynProjection, written_by: u32) -> String {
    format!(
        "rows of `{}` were written by revision {written_by} of its rule, this deployment has {}: deploy the newer one again, or rebuild",
        rule.name(),
        rule.revision()
    )
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
    fn event_id(&self) -> Option<&Arc<str>> {
        if let Content::Event(event) = &self.content { Some(&event.event_id) } else { None }
    }

    fn payload(&self) -> String {
        match &self.content {
            Content::Event(event) => payload_of(event),
            Content::Poison { payload, .. } => payload.clone(),
            Content::Irrelevant => String::new(),
        }
    }
}
