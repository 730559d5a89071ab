//! Appends events of many aggregates in bulk.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use futures::{FutureExt as _, StreamExt as _, stream};
use projection_vocabulary::{AggregateId, RecordedEvent, Version};

use super::bulk::{Bulk, Piece, Transaction};
use crate::{
    engine::worker::CONCURRENCY,
    retry::Deadline,
    store::{
        Store, StoreError,
        append::{APPEND_EVENTS_MAX, Append, AppendError},
        events::{PAGE_EVENTS, Stored},
        limits::TRANSACTION_BYTES_MAX,
    },
};

/// How often events that expect no certain version are appended again after those of other writers.
const TRIES: u32 = 8;
/// About what the attributes of an event's item take that are neither data nor metadata, besides its texts.
const ITEM_BYTES: usize = 300;

/// An event to append, and the number by which whoever appends it knows it. Its version is not yet known.
#[derive(Debug)]
pub struct Line {
    /// The number.
    pub number: u64,
    /// The event.
    pub event: RecordedEvent,
}

/// Events of one aggregate that are appended together, if a transaction holds them.
#[derive(Debug)]
pub struct Run {
    /// The version that the aggregate must have before them; without one they follow whatever is there.
    pub expected: Option<Version>,
    /// The events; at least one.
    pub lines: Vec<Line>,
}

/// What came of an append in bulk.
#[derive(Debug, Default)]
pub struct Appended {
    /// How many events were appended.
    pub new: usize,
    /// How many of the events the store had already.
    pub known: usize,
    /// How many events were not appended.
    pub left: usize,
    /// Why, by the number of the first one that each is about.
    pub failures: Vec<(u64, AppendError)>,
}

/// Appends runs of events, those of an aggregate in the order given. An event whose id is in its aggregate's history is known, and not
/// appended again. A failure ends the appends to its aggregate; those to others go on, unless the store itself fails.
pub async fn append(store: &Store, runs: Vec<Run>) -> Appended {
    let total: usize = runs.iter().map(|run| run.lines.len()).sum();
    let mut appending = Appending::new(store);
    // The histories of some aggregates are read ahead.
    let mut plans = stream::iter(by_aggregate(runs)).map(|runs| plan(store, runs, Version::NONE)).buffered(CONCURRENCY);
    while !appending.stopped
        && let Some(plan) = plans.next().await
    {
        for piece in appending.pieces_of(plan) {
            appending.make_room().await;
            if appending.stopped {
                break;
            }
            appending.bulk.push(piece);
        }
    }
    while let Some(answer) = appending.bulk.next().await {
        appending.see_to(answer).await;
    }
    let Appending { new, known, mut failures, .. } = appending;
    failures.sort_by_key(|(number, _)| *number);
    Appended { new, known, left: total - new - known, failures }
}

/// Lines that go into one transaction, with their versions.
struct Placed {
    /// The version that the aggregate must have before them.
    after: Version,
    /// Whether they can be appended after another version just as well.
    movable: bool,
    /// Whether no others may share a transaction with them, because DynamoDB refuses one of them.
    alone: bool,
    bytes: usize,
    lines: Vec<Line>,
}

/// What is to be done for an aggregate.
struct Plan {
    /// How many of the events are in its history.
    known: usize,
    /// The others.
    pieces: Vec<Placed>,
}

/// The number of the first line that could not be planned, and why.
type Unplanned = (u64, StoreError);

/// The pieces of a transaction, and for each of its aggregates what came of it.
type Answer = (Transaction<Placed>, Vec<Result<Version, AppendError>>);

struct Appending<'a> {
    store: &'a Store,
    bulk: Bulk<'a, Placed, Answer>,
    new: usize,
    known: usize,
    failures: Vec<(u64, AppendError)>,
    /// How often lines of an aggregate were appended again.
    tries: HashMap<AggregateId, u32>,
    /// The store has failed.
    stopped: bool,
}

impl<'a> Appending<'a> {
    fn new(store: &'a Store) -> Self {
        let bulk = Bulk::new(|transaction| send(store, transaction).boxed());
        Self { store, bulk, new: 0, known: 0, failures: Vec::new(), tries: HashMap::new(), stopped: false }
    }

    fn pieces_of(&mut self, plan: Result<Plan, Unplanned>) -> Vec<Placed> {
        match plan {
            Ok(Plan { known, pieces }) => {
                self.known += known;
                pieces
            }
            Err((number, error)) => {
                self.fail(number, error.into());
                Vec::new()
            }
        }
    }

    async fn make_room(&mut self) {
        while let Some(answer) = self.bulk.make_room().await {
            self.see_to(answer).await;
        }
    }

    async fn see_to(&mut self, (transaction, outcomes): Answer) {
        for (pieces, outcome) in transaction.into_iter().zip(outcomes) {
            let first = &pieces[0];
            let (aggregate, number) = (first.aggregate().clone(), first.lines[0].number);
            match outcome {
                Ok(_) => self.new += pieces.iter().map(|piece| piece.lines.len()).sum::<usize>(),
                Err(AppendError::Conflict { actual, .. }) if first.movable && !self.stopped && self.may_try_again(&aggregate) => {
                    let left = pieces.into_iter().chain(self.bulk.withdraw(&aggregate));
                    let plan = plan(self.store, left.map(Run::from).collect(), actual).await;
                    for piece in self.pieces_of(plan) {
                        self.bulk.push(piece);
                    }
                }
                Err(AppendError::Invalid { .. }) if pieces.len() > 1 && !self.stopped => {
                    let apart = pieces.into_iter().map(|piece| Placed { alone: true, ..piece });
                    for piece in apart.chain(self.bulk.withdraw(&aggregate)) {
                        self.bulk.push(piece);
                    }
                }
                Err(error) => {
                    self.bulk.withdraw(&aggregate);
                    self.fail(number, error);
                }
            }
        }
    }

    fn may_try_again(&mut self, aggregate: &AggregateId) -> bool {
        let tries = self.tries.entry(aggregate.clone()).or_default();
        *tries += 1;
        *tries < TRIES
    }

    fn fail(&mut self, number: u64, error: AppendError) {
        if matches!(error, AppendError::Store(_)) {
            self.stopped = true;
            self.bulk.stop();
        }
        self.failures.push((number, error));
    }
}

impl Piece for Placed {
    fn aggregate(&self) -> &AggregateId {
        &self.lines[0].event.aggregate
    }

    fn actions(&self) -> usize {
        self.lines.len()
    }

    fn bytes(&self) -> usize {
        self.bytes
    }

    fn joins<'a>(&'a self, before: impl Iterator<Item = &'a Self>) -> bool {
        let last = before.last().filter(|last| !last.alone && !self.alone);
        last.is_some_and(|last| last.after.0 + last.lines.len() as u64 == self.after.0)
    }
}

/// To be planned again.
impl From<Placed> for Run {
    fn from(Placed { after, movable, lines, .. }: Placed) -> Self {
        Self { expected: (!movable).then_some(after), lines }
    }
}

/// The runs of each aggregate, by the order in which the aggregates come.
fn by_aggregate(runs: Vec<Run>) -> Vec<Vec<Run>> {
    let (mut places, mut all) = (HashMap::new(), Vec::<Vec<Run>>::new());
    for run in runs {
        let place = *places.entry(run.lines[0].event.aggregate.clone()).or_insert(all.len());
        if place == all.len() {
            all.push(Vec::new());
        }
        all[place].push(run);
    }
    all
}

/// Reads an aggregate's history, and plans to append what is not in it, after its last version or after `at_least`, which is what another
/// writer was found to have appended.
async fn plan(store: &Store, runs: Vec<Run>, at_least: Version) -> Result<Plan, Unplanned> {
    let first = &runs[0].lines[0];
    let wanted = runs.iter().flat_map(|run| &run.lines).map(|line| line.event.event_id.clone()).collect();
    let history = history(store, &first.event.aggregate, &wanted).await;
    let (ids, last) = history.map_err(|error| (first.number, error))?;
    let (mut known, mut pieces, mut after) = (0, Vec::new(), last.max(at_least));
    for Run { expected, lines } in runs {
        let (there, new): (Vec<_>, Vec<_>) = lines.into_iter().partition(|line| ids.contains(&line.event.event_id));
        known += there.len();
        if let Some(expected) = expected {
            after = Version(expected.0 + there.len() as u64);
        }
        for lines in cut(new) {
            let piece = placed(after, expected.is_none(), lines);
            after = Version(after.0 + piece.lines.len() as u64);
            pieces.push(piece);
        }
    }
    Ok(Plan { known, pieces })
}

/// Which of the wanted ids are in an aggregate's history, and its last version.
async fn history(store: &Store, aggregate: &AggregateId, wanted: &BTreeSet<Arc<str>>) -> Result<(BTreeSet<Arc<str>>, Version), StoreError> {
    let (mut found, mut last) = (BTreeSet::new(), Version::NONE);
    loop {
        let page = store.load_page(aggregate, last.next()..=Version(u64::MAX), PAGE_EVENTS, Deadline::NONE).await?;
        let is_last = page.len() < PAGE_EVENTS;
        last = page.last().map_or(last, Stored::version);
        let ids = page.into_iter().filter_map(|stored| if let Stored::Event(event) = stored { Some(event.event_id) } else { None });
        found.extend(ids.filter(|id| wanted.contains(id)));
        if is_last {
            return Ok((found, last));
        }
    }
}

/// Cuts lines into as many as go into one transaction.
fn cut(lines: Vec<Line>) -> Vec<Vec<Line>> {
    let (mut all, mut bytes) = (Vec::<Vec<Line>>::new(), 0);
    for line in lines {
        let more = bytes_of(&line.event);
        match all.last_mut() {
            Some(last) if last.len() < APPEND_EVENTS_MAX && bytes + more <= TRANSACTION_BYTES_MAX => {
                last.push(line);
                bytes += more;
            }
            _ => {
                all.push(vec![line]);
                bytes = more;
            }
        }
    }
    all
}

fn placed(after: Version, movable: bool, mut lines: Vec<Line>) -> Placed {
    for (line, version) in lines.iter_mut().zip(after.0 + 1..) {
        line.event.version = Version(version);
    }
    let bytes = lines.iter().map(|line| bytes_of(&line.event)).sum();
    Placed { after, movable, alone: false, bytes, lines }
}

/// About how many bytes an event's item has.
fn bytes_of(event: &RecordedEvent) -> usize {
    let RecordedEvent { aggregate, event_id, event_type, data, timestamp, metadata, version: _ } = event;
    let twice = aggregate.as_str().len() + event_type.len() + timestamp.as_str().len();
    ITEM_BYTES + 2 * twice + event_id.len() + data.bytes() + metadata.as_ref().map_or(0, projection_vocabulary::Value::bytes)
}

async fn send(store: &Store, transaction: Transaction<Placed>) -> Answer {
    let appends: Vec<_> = transaction
        .iter()
        .map(|pieces| Append {
            expected: pieces[0].after,
            events: pieces.iter().flat_map(|piece| &piece.lines).map(|line| &line.event).collect(),
        })
        .collect();
    let outcomes = store.append_together(&appends).await;
    drop(appends);
    (transaction, outcomes)
}

#[cfg(test)]
mod tests {
    use projection_vocabulary::{
        Value, data,
        sample::{Fact, record},
    };

    use super::*;
    use crate::operations::fixture::worker;

    fn line(aggregate: &str, number: u64, data: Value) -> Line {
        let event = record([Fact { aggregate: aggregate.into(), event_type: "Stayed", data }]).next().expect("it is recorded");
        Line { number, event }
    }

    fn lines(count: u64) -> Vec<Line> {
        (0..count).map(|number| line("ann", number, data! {})).collect()
    }

    /// What the numbers of lines are, transaction by transaction.
    fn numbers(cut: &[Vec<Line>]) -> Vec<Vec<u64>> {
        cut.iter().map(|lines| lines.iter().map(|line| line.number).collect()).collect()
    }

    #[test]
    fn lines_are_cut_by_the_number_that_goes_into_one_transaction() {
        let most = APPEND_EVENTS_MAX as u64;
        assert_eq!(numbers(&cut(lines(most))), [(0..most).collect::<Vec<_>>()]);
        let twice = numbers(&cut(lines(2 * most + 1)));
        assert_eq!(twice, [(0..most).collect::<Vec<_>>(), (most..2 * most).collect(), vec![2 * most]]);
        assert_eq!(numbers(&cut(Vec::new())), [[0_u64; 0]; 0]);
    }

    #[test]
    fn lines_are_cut_by_their_bytes() {
        let note = |bytes: usize| Value::Map([("note".to_owned(), "x".repeat(bytes).as_str().into())].into());
        let empty = bytes_of(&line("ann", 0, note(0)).event);
        let half = TRANSACTION_BYTES_MAX / 2;
        let of = |sizes: &[usize]| {
            let lines: Vec<_> = sizes.iter().zip(0..).map(|(bytes, number)| line("ann", number, note(bytes - empty))).collect();
            assert!(lines.iter().zip(sizes).all(|(line, bytes)| bytes_of(&line.event) == *bytes));
            numbers(&cut(lines))
        };
        assert_eq!(of(&[half, half]), [[0, 1]]);
        assert_eq!(of(&[half, half + 1]), [[0], [1]]);
        // What is in the transaction before does not count.
        assert_eq!(of(&[half, half + 1, half - 1]), [vec![0], vec![1, 2]]);
    }

    #[test]
    fn pieces_share_a_transaction_if_one_follows_the_other_and_neither_must_be_alone() {
        let piece = |after, count| placed(Version(after), true, lines(count));
        let alone = |piece| Placed { alone: true, ..piece };
        let joins = |before: &[Placed], piece: Placed| piece.joins(before.iter());
        assert!(joins(&[piece(0, 3)], piece(3, 1)) && joins(&[piece(7, 1), piece(0, 3)], piece(3, 1)));
        assert!(!joins(&[piece(0, 3)], piece(2, 1)) && !joins(&[piece(0, 3)], piece(4, 1)) && !joins(&[], piece(0, 1)));
        assert!(!joins(&[alone(piece(0, 3))], piece(3, 1)));
        assert!(!joins(&[piece(0, 3)], alone(piece(3, 1))));
        assert!(!joins(&[alone(piece(0, 3))], alone(piece(3, 1))));
    }

    #[tokio::test]
    async fn events_follow_those_of_other_writers_a_few_times() {
        let worker = worker().await;
        let mut appending = Appending::new(worker.store());
        let tries: Vec<_> = (1..=TRIES).map(|_| appending.may_try_again(&"ann".into())).collect();
        let (last, before) = tries.split_last().expect("there are some");
        assert!(before.iter().all(|may| *may) && !last && !appending.may_try_again(&"ann".into()));
        assert!(appending.may_try_again(&"ben".into()));
    }

    #[tokio::test]
    async fn only_events_that_may_follow_any_version_follow_another_writers_and_only_while_the_store_answers() {
        let worker = worker().await;
        let failed_and_waiting = async |movable, stopped, tries| {
            let mut appending = Appending::new(worker.store());
            appending.stopped = stopped;
            appending.tries.insert("ann".into(), tries);
            let conflict = AppendError::Conflict { aggregate: "ann".into(), expected: Version::NONE, actual: Version(1) };
            appending.see_to((vec![vec![placed(Version::NONE, movable, lines(1))]], vec![Err(conflict)])).await;
            (appending.failures.len(), appending.bulk.stop().len())
        };
        assert_eq!(failed_and_waiting(true, false, 0).await, (0, 1));
        for (movable, stopped, tries) in [(false, false, 0), (true, true, 0), (false, true, 0), (true, false, TRIES)] {
            assert_eq!(failed_and_waiting(movable, stopped, tries).await, (1, 0), "{movable} {stopped} {tries}");
        }
    }

    #[tokio::test]
    async fn a_history_is_read_beyond_a_page_that_is_full() {
        let worker = worker().await;
        let facts = (0..=PAGE_EVENTS).map(|_| Fact { aggregate: "ann".into(), event_type: "Stayed", data: data! {} });
        let events: Vec<_> = record(facts).collect();
        for events in events.chunks(APPEND_EVENTS_MAX) {
            worker.store().append(events[0].version.previous(), events).await.expect("appended");
        }
        let last = events.last().expect("there are some");
        let wanted = BTreeSet::from([last.event_id.clone(), "another".into()]);
        let found = history(worker.store(), &"ann".into(), &wanted).await;
        assert_eq!(found, Ok(([last.event_id.clone()].into(), last.version)));
    }

    #[test]
    fn what_can_follow_any_version_is_planned_again_without_one() {
        let expected = |movable| Run::from(placed(Version(5), movable, lines(2))).expected;
        assert_eq!((expected(true), expected(false)), (None, Some(Version(5))));
        let placed = placed(Version(5), true, lines(2));
        assert_eq!(placed.lines.iter().map(|line| line.event.version.0).collect::<Vec<_>>(), [6, 7]);
    }

    #[test]
    fn the_runs_of_an_aggregate_stay_together_and_in_order() {
        let run = |aggregate, number| Run { expected: None, lines: vec![line(aggregate, number, data! {})] };
        let all = by_aggregate(vec![run("ann", 1), run("ben", 2), run("ann", 3), run("cid", 4), run("ben", 5)]);
        let numbers: Vec<Vec<_>> = all.iter().map(|runs| runs.iter().map(|run| run.lines[0].number).collect()).collect();
        assert_eq!(numbers, [vec![1, 3], vec![2, 5], vec![4]]);
    }
}
