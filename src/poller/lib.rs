//! Lambda's event source mapping for one shard: which records a function receives, and what its answer does to them.
//!
//! A state machine without clock, randomness or I/O: when a batch starts, how its invocation ends and when records expire is
//! the caller's choice. The rules are AWS's:
//!
//! - partial responses: <https://docs.aws.amazon.com/lambda/latest/dg/services-ddb-batchfailurereporting.html>
//! - retries, splits, what is discarded: <https://docs.aws.amazon.com/lambda/latest/dg/services-dynamodb-errors.html>
//! - several batches at once: <https://docs.aws.amazon.com/lambda/latest/dg/services-dynamodb-eventsourcemapping.html>
//! - limits and defaults: <https://docs.aws.amazon.com/lambda/latest/dg/services-ddb-params.html>
//!
//! Where they leave a question open, this model does what is harder on the function, and a comment says so.

use std::collections::{BTreeMap, VecDeque};

/// The configuration of the mapping, with AWS's names in parentheses. `ReportBatchItemFailures` is on.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// The most records in a batch (`BatchSize`).
    pub batch_size: usize,
    /// The most batches of the shard in flight at once (`ParallelizationFactor`).
    pub parallelization: usize,
    /// How often a failed batch is retried (`MaximumRetryAttempts`). `None` retries until the records expire.
    pub retries_max: Option<u32>,
    /// Whether a failed batch is split (`BisectBatchOnFunctionError`).
    pub bisect: bool,
}

/// The id of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BatchId(u64);

/// One delivery: the input of one invocation.
#[derive(Clone, Debug)]
pub struct Batch<T> {
    /// Its id, for the answer.
    pub id: BatchId,
    /// Sequence numbers and records, ascending.
    pub records: Vec<(u64, T)>,
    /// How often its most often delivered record has been delivered, this time included.
    pub attempt: u32,
}

/// How an invocation ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The function returned these `itemIdentifier`s in its `batchItemFailures`. A missing identifier is an empty string.
    Responded(Vec<String>),
    /// It returned an error, ran out of time or crashed, or its response was lost.
    Errored,
}

/// Why records were discarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// They failed after the last retry.
    RetryAttemptsExhausted,
    /// They are older than the mapping's limit or the stream's retention.
    RecordAgeExceeded,
}

/// Discarded records, as one object at the on-failure destination (in S3, which keeps the payload).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Discarded<T> {
    /// The reason.
    pub condition: Condition,
    /// Sequence numbers and records, ascending.
    pub records: Vec<(u64, T)>,
}

/// The event source mapping of one shard. `T` is a record.
#[derive(Clone, Debug)]
pub struct Poller<T> {
    settings: Settings,
    partitions: Vec<Partition<T>>,
    in_flight: BTreeMap<BatchId, Flight<T>>,
    started: u64,
    /// The sequence number of the newest record.
    newest: Option<u64>,
    /// Records below this sequence number are too old.
    horizon: u64,
    succeeded: Vec<Vec<(u64, T)>>,
    discarded: Vec<Discarded<T>>,
}

/// A share of the items. Their records are delivered in order; records of different partitions are not.
#[derive(Clone, Debug)]
struct Partition<T> {
    /// Records to deliver again, in order.
    pieces: VecDeque<Piece<T>>,
    unread: VecDeque<(u64, T)>,
    busy: bool,
}

/// A batch or the rest of one.
#[derive(Clone, Debug)]
struct Piece<T> {
    records: Vec<(u64, T)>,
    deliveries: u32,
    retries: u32,
}

#[derive(Clone, Debug)]
enum Flight<T> {
    /// A partition, and its piece that waits for this answer.
    Awaited(usize, Piece<T>),
    /// A repeated delivery of records that have succeeded. Its answer changes nothing.
    Spurious,
}

/// The meaning of an answer for its batch.
enum Outcome {
    Succeeded,
    /// The records from this index on must be delivered again.
    From(usize),
    Failed,
}

impl<T: Clone> Poller<T> {
    /// An empty shard and its mapping.
    ///
    /// # Panics
    /// If the batch size or the parallelization is 0.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        assert!(settings.batch_size > 0 && settings.parallelization > 0, "a mapping that delivers nothing");
        let partition = Partition { pieces: VecDeque::new(), unread: VecDeque::new(), busy: false };
        Self {
            settings,
            partitions: vec![partition; settings.parallelization],
            in_flight: BTreeMap::new(),
            started: 0,
            newest: None,
            horizon: 0,
            succeeded: Vec::new(),
            discarded: Vec::new(),
        }
    }

    /// Appends a record to the shard. `item` is the whole key of its item, PK and SK: with several batches in flight, only the records of
    /// one item stay in order.
    ///
    /// # Panics
    /// If its sequence number is not higher than all before it.
    pub fn push(&mut self, sequence: u64, item: &str, record: T) {
        assert!(self.newest.is_none_or(|newest| newest < sequence), "a shard's sequence numbers ascend");
        self.newest = Some(sequence);
        let partition = usize::try_from(hash(item) % self.partitions.len() as u64).expect("less than a length");
        self.partitions[partition].unread.push_back((sequence, record));
    }

    /// The partitions that may start a batch now.
    pub fn ready(&self) -> impl Iterator<Item = usize> + '_ {
        let ready = |partition: &Partition<T>| !partition.busy && (!partition.pieces.is_empty() || !partition.unread.is_empty());
        self.partitions.iter().enumerate().filter(move |(_, partition)| ready(partition)).map(|(at, _)| at)
    }

    /// Starts the next batch of a partition. A repeated batch is not filled up with newer records.
    ///
    /// # Panics
    /// If the partition is not [`ready`](Self::ready).
    pub fn start(&mut self, partition: usize) -> Batch<T> {
        let from = &mut self.partitions[partition];
        assert!(!from.busy, "a partition has one batch in flight");
        let mut piece = from.pieces.pop_front().unwrap_or_else(|| {
            let records = from.unread.drain(..from.unread.len().min(self.settings.batch_size)).collect();
            Piece { records, deliveries: 0, retries: 0 }
        });
        assert!(!piece.records.is_empty(), "a batch has records");
        from.busy = true;
        piece.deliveries += 1;
        let (records, attempt) = (piece.records.clone(), piece.deliveries);
        Batch { id: self.take_off(Flight::Awaited(partition, piece)), records, attempt }
    }

    /// The batches that have succeeded so far, or their parts before a checkpoint.
    #[must_use]
    pub fn succeeded(&self) -> &[Vec<(u64, T)>] {
        &self.succeeded
    }

    /// Forgets the batches that have succeeded, except the last one that `keep` chooses: nobody wants to deliver the others again.
    pub fn remember_one(&mut self, keep: impl Fn(&[(u64, T)]) -> bool) {
        let last = self.succeeded.iter().rposition(|batch| keep(batch));
        self.succeeded = last.map(|last| vec![self.succeeded.swap_remove(last)]).unwrap_or_default();
    }

    /// The records that are not in flight and are to be delivered, for the first time or again; of each partition, in their order.
    pub fn waiting(&self) -> impl Iterator<Item = &T> {
        self.partitions.iter().flat_map(|partition| {
            let again = partition.pieces.iter().flat_map(|piece| &piece.records);
            again.chain(&partition.unread).map(|(_, record)| record)
        })
    }

    /// Delivers the `which`-th batch that has [`succeeded`](Self::succeeded) once more, alongside the batches in flight: delivery is at
    /// least once. It needs an answer like any other, and the answer changes nothing.
    ///
    /// # Panics
    /// If there is no such batch.
    pub fn start_duplicate(&mut self, which: usize) -> Batch<T> {
        let records = self.succeeded[which].clone();
        Batch { id: self.take_off(Flight::Spurious), records, attempt: 2 }
    }

    fn take_off(&mut self, flight: Flight<T>) -> BatchId {
        self.started += 1;
        let id = BatchId(self.started);
        self.in_flight.insert(id, flight);
        id
    }

    /// Ends a delivery.
    ///
    /// # Panics
    /// If it is not in flight.
    pub fn answer(&mut self, batch: BatchId, answer: &Answer) {
        let flight = self.in_flight.remove(&batch).expect("a delivery is answered once");
        let Flight::Awaited(partition, mut piece) = flight else { return };
        self.partitions[partition].busy = false;
        let again = match outcome(&piece.records, answer) {
            Outcome::Succeeded => {
                self.succeeded.push(piece.records);
                return;
            }
            Outcome::From(checkpoint) => {
                let rest = piece.records.split_off(checkpoint);
                let done = std::mem::replace(&mut piece.records, rest);
                if !done.is_empty() {
                    self.succeeded.push(done);
                }
                // A split does not consume a retry. AWS says so of splits only, so every other repetition consumes one. A checkpoint
                // at the first record splits nothing.
                let split = self.settings.bisect && checkpoint > 0;
                if split { vec![piece] } else { self.retry(piece) }
            }
            Outcome::Failed if self.settings.bisect && piece.records.len() > 1 => {
                let second = piece.records.split_off(piece.records.len() / 2);
                let second = Piece { records: second, ..piece };
                vec![piece, second]
            }
            Outcome::Failed => self.retry(piece),
        };
        for mut piece in again.into_iter().rev() {
            let old = split_old(&mut piece.records, self.horizon);
            self.discard(Condition::RecordAgeExceeded, old);
            if !piece.records.is_empty() {
                self.partitions[partition].pieces.push_front(piece);
            }
        }
    }

    /// Repeats the piece, or discards all of it when its retries are spent, including records that have never failed.
    fn retry(&mut self, mut piece: Piece<T>) -> Vec<Piece<T>> {
        if self.settings.retries_max.is_some_and(|max| piece.retries >= max) {
            self.discard(Condition::RetryAttemptsExhausted, piece.records);
            return Vec::new();
        }
        piece.retries += 1;
        vec![piece]
    }

    /// Discards all records below this sequence number: they are older than the mapping's `MaximumRecordAgeInSeconds` or the stream's 24
    /// hours. A running invocation continues; records that fail in it are not delivered again.
    pub fn expire(&mut self, below: u64) {
        self.horizon = self.horizon.max(below);
        let mut old = Vec::new();
        for partition in &mut self.partitions {
            for piece in &mut partition.pieces {
                old.push(split_old(&mut piece.records, self.horizon));
            }
            partition.pieces.retain(|piece| !piece.records.is_empty());
            let unread_old = partition.unread.partition_point(|(sequence, _)| *sequence < self.horizon);
            old.push(partition.unread.drain(..unread_old).collect());
        }
        for records in old {
            self.discard(Condition::RecordAgeExceeded, records);
        }
    }

    fn discard(&mut self, condition: Condition, records: Vec<(u64, T)>) {
        if !records.is_empty() {
            self.discarded.push(Discarded { condition, records });
        }
    }

    /// Takes the records discarded since the last call.
    #[must_use]
    pub fn take_discarded(&mut self) -> Vec<Discarded<T>> {
        std::mem::take(&mut self.discarded)
    }

    /// Whether no batch is in flight and no record is left to deliver.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.in_flight.is_empty() && self.ready().next().is_none()
    }
}

fn outcome<T>(records: &[(u64, T)], answer: &Answer) -> Outcome {
    let Answer::Responded(identifiers) = answer else { return Outcome::Failed };
    let place = |identifier: &String| records.iter().position(|(sequence, _)| sequence.to_string() == *identifier);
    let places: Option<Vec<usize>> = identifiers.iter().map(place).collect();
    match places.map(|places| places.into_iter().min()) {
        Some(None) => Outcome::Succeeded,
        Some(Some(lowest)) => Outcome::From(lowest),
        // An empty or unknown identifier is a complete failure, which is retried like a failed invocation.
        None => Outcome::Failed,
    }
}

/// Takes the records below the horizon, which come first.
fn split_old<T>(records: &mut Vec<(u64, T)>, horizon: u64) -> Vec<(u64, T)> {
    let kept = records.split_off(records.partition_point(|(sequence, _)| *sequence < horizon));
    std::mem::replace(records, kept)
}

/// FNV-1a (<http://www.isthe.com/chongo/tech/comp/fnv/>): the same on every machine, unlike the standard library's hash.
fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: Settings = Settings { batch_size: 8, parallelization: 1, retries_max: None, bisect: false };
    const BISECT: Settings = Settings { bisect: true, ..SETTINGS };

    /// A shard with records 1 to `last`, each of another item.
    fn shard(settings: Settings, last: u64) -> Poller<String> {
        let mut poller = Poller::new(settings);
        for sequence in 1..=last {
            poller.push(sequence, &format!("item-{sequence}"), format!("record {sequence}"));
        }
        poller
    }

    fn numbers<T>(records: &[(u64, T)]) -> Vec<u64> {
        records.iter().map(|(sequence, _)| *sequence).collect()
    }

    fn failures(identifiers: &[&str]) -> Answer {
        Answer::Responded(identifiers.iter().map(ToString::to_string).collect())
    }

    fn success() -> Answer {
        failures(&[])
    }

    /// Delivers the only batch that may start and answers it.
    fn step(poller: &mut Poller<String>, answer: &Answer) -> Vec<u64> {
        let batch = poller.start(0);
        for (sequence, record) in &batch.records {
            assert_eq!(*record, format!("record {sequence}"));
        }
        poller.answer(batch.id, answer);
        numbers(&batch.records)
    }

    /// All further deliveries if everything succeeds.
    fn rest(poller: &mut Poller<String>) -> Vec<Vec<u64>> {
        let mut batches = Vec::new();
        while poller.ready().next().is_some() {
            batches.push(step(poller, &success()));
        }
        assert!(poller.is_idle());
        batches
    }

    fn discarded(poller: &mut Poller<String>) -> Vec<(Condition, Vec<u64>)> {
        poller.take_discarded().iter().map(|object| (object.condition, numbers(&object.records))).collect()
    }

    #[test]
    fn a_shard_is_delivered_in_order_a_batch_at_a_time() {
        let mut poller = shard(Settings { batch_size: 3, ..SETTINGS }, 7);
        let first = poller.start(0);
        assert_eq!((numbers(&first.records), first.attempt), (vec![1, 2, 3], 1));
        assert_eq!(poller.ready().count(), 0, "one batch is in flight");
        assert!(!poller.is_idle());
        poller.answer(first.id, &success());
        assert_eq!(rest(&mut poller), [vec![4, 5, 6], vec![7]]);
        assert_eq!(poller.succeeded().len(), 3);
    }

    #[test]
    fn what_waits_is_what_failed_and_what_is_unread() {
        let mut poller = shard(Settings { batch_size: 2, ..SETTINGS }, 5);
        let first = poller.start(0);
        assert_eq!(poller.waiting().collect::<Vec<_>>(), ["record 3", "record 4", "record 5"]);
        poller.answer(first.id, &failures(&["2"]));
        assert_eq!(poller.waiting().collect::<Vec<_>>(), ["record 2", "record 3", "record 4", "record 5"]);
    }

    #[test]
    fn of_the_batches_that_succeeded_the_last_chosen_one_can_be_remembered() {
        let mut poller = shard(Settings { batch_size: 2, ..SETTINGS }, 6);
        rest(&mut poller);
        poller.remember_one(|batch| batch.iter().any(|(sequence, _)| *sequence <= 4));
        assert_eq!(poller.succeeded().len(), 1);
        assert_eq!(numbers(&poller.start_duplicate(0).records), [3, 4]);
        poller.remember_one(|_| false);
        assert!(poller.succeeded().is_empty());
    }

    #[test]
    fn an_empty_shard_is_idle_until_it_gets_a_record() {
        let mut poller = shard(SETTINGS, 0);
        assert!(poller.is_idle());
        poller.push(5, "item", "record 5".into());
        assert!(!poller.is_idle());
        assert_eq!(rest(&mut poller), [[5]]);
    }

    #[test]
    fn an_error_repeats_the_whole_batch_before_anything_newer() {
        let mut poller = shard(Settings { batch_size: 3, ..SETTINGS }, 4);
        step(&mut poller, &Answer::Errored);
        let again = poller.start(0);
        assert_eq!((numbers(&again.records), again.attempt), (vec![1, 2, 3], 2));
        poller.answer(again.id, &success());
        assert_eq!(rest(&mut poller), [[4]]);
    }

    #[test]
    fn a_repeated_batch_is_not_filled_up_with_newer_records() {
        let mut poller = shard(SETTINGS, 3);
        step(&mut poller, &failures(&["3"]));
        poller.push(4, "item-4", "record 4".into());
        assert_eq!(rest(&mut poller), [[3], [4]]);
    }

    #[test]
    fn the_lowest_of_several_identifiers_is_the_checkpoint_as_a_number() {
        let mut poller = Poller::new(SETTINGS);
        for sequence in [8, 9, 10, 11] {
            poller.push(sequence, "item", format!("record {sequence}"));
        }
        assert_eq!(step(&mut poller, &failures(&["11", "10", "9"])), [8, 9, 10, 11]);
        assert_eq!(poller.succeeded().len(), 1, "records before the checkpoint are done");
        assert_eq!(rest(&mut poller), [[9, 10, 11]]);
    }

    #[test]
    fn an_identifier_that_is_empty_or_unknown_fails_the_whole_batch() {
        for identifiers in [&[""][..], &["9"], &["2", ""], &["02"], &["2 "], &["2", "x"]] {
            let mut poller = shard(SETTINGS, 3);
            step(&mut poller, &failures(identifiers));
            assert_eq!(rest(&mut poller), [[1, 2, 3]], "{identifiers:?}");
        }
    }

    #[test]
    fn bisect_halves_a_failed_batch_and_the_second_half_waits_for_the_first() {
        for failed in [Answer::Errored, failures(&[""])] {
            let mut poller = shard(BISECT, 9);
            assert_eq!(step(&mut poller, &failed), [1, 2, 3, 4, 5, 6, 7, 8]);
            let first = poller.start(0);
            assert_eq!(poller.ready().count(), 0);
            poller.answer(first.id, &failed);
            assert_eq!(numbers(&first.records), [1, 2, 3, 4]);
            assert_eq!(step(&mut poller, &success()), [1, 2]);
            assert_eq!(step(&mut poller, &Answer::Errored), [3, 4]);
            assert_eq!(rest(&mut poller), [vec![3], vec![4], vec![5, 6, 7, 8], vec![9]]);
        }
    }

    #[test]
    fn bisect_splits_at_the_returned_number_and_keeps_the_rest_whole() {
        let mut poller = shard(BISECT, 8);
        step(&mut poller, &failures(&["4"]));
        assert_eq!(rest(&mut poller), [[4, 5, 6, 7, 8]]);
    }

    #[test]
    fn after_the_last_retry_the_rest_of_the_batch_is_discarded_and_the_shard_moves_on() {
        let mut poller = shard(Settings { retries_max: Some(2), batch_size: 4, ..SETTINGS }, 6);
        step(&mut poller, &failures(&["3"]));
        assert_eq!(step(&mut poller, &Answer::Errored), [3, 4]);
        assert_eq!(poller.take_discarded(), []);
        assert_eq!(step(&mut poller, &failures(&["4"])), [3, 4]);
        assert_eq!(discarded(&mut poller), [(Condition::RetryAttemptsExhausted, vec![4])], "record 3 was done in the last try");
        assert_eq!(rest(&mut poller), [[5, 6]]);
        assert_eq!(poller.take_discarded(), [], "an object is written once");
    }

    #[test]
    fn without_retries_the_first_failure_discards() {
        let mut poller = shard(Settings { retries_max: Some(0), ..SETTINGS }, 3);
        step(&mut poller, &Answer::Errored);
        assert_eq!(discarded(&mut poller), [(Condition::RetryAttemptsExhausted, vec![1, 2, 3])]);
        assert!(poller.is_idle());
    }

    #[test]
    fn without_a_limit_nothing_is_discarded() {
        let mut poller = shard(SETTINGS, 3);
        for attempt in 1..=1_000 {
            let batch = poller.start(0);
            assert_eq!(batch.attempt, attempt);
            poller.answer(batch.id, &Answer::Errored);
        }
        assert_eq!((poller.take_discarded(), rest(&mut poller)), (vec![], vec![vec![1, 2, 3]]));
    }

    #[test]
    fn splits_do_not_consume_retries() {
        let mut poller = shard(Settings { retries_max: Some(1), ..BISECT }, 8);
        // Only the seventh fails: alone in the end, it is retried once more.
        let mut deliveries = Vec::new();
        while poller.ready().next().is_some() {
            let batch = poller.start(0);
            let records = numbers(&batch.records);
            poller.answer(batch.id, &if records.contains(&7) { Answer::Errored } else { success() });
            deliveries.push(records);
        }
        let expected =
            [vec![1, 2, 3, 4, 5, 6, 7, 8], vec![1, 2, 3, 4], vec![5, 6, 7, 8], vec![5, 6], vec![7, 8], vec![7], vec![7], vec![8]];
        assert_eq!(deliveries, expected);
        assert_eq!(discarded(&mut poller), [(Condition::RetryAttemptsExhausted, vec![7])]);
    }

    #[test]
    fn a_split_at_a_number_consumes_no_retry_and_failing_there_again_does() {
        let mut poller = shard(Settings { retries_max: Some(1), ..BISECT }, 8);
        for (checkpoint, delivered) in [("3", 1), ("5", 3), ("6", 5), ("6", 6)] {
            assert_eq!(step(&mut poller, &failures(&[checkpoint]))[0], delivered);
            assert_eq!(poller.take_discarded(), []);
        }
        step(&mut poller, &failures(&["6"]));
        assert_eq!(discarded(&mut poller), [(Condition::RetryAttemptsExhausted, vec![6, 7, 8])]);
    }

    #[test]
    fn without_bisect_a_checkpoint_consumes_a_retry() {
        let mut poller = shard(Settings { retries_max: Some(1), ..SETTINGS }, 4);
        step(&mut poller, &failures(&["2"]));
        step(&mut poller, &failures(&["3"]));
        assert_eq!(discarded(&mut poller), [(Condition::RetryAttemptsExhausted, vec![3, 4])]);
    }

    #[test]
    fn a_new_batch_has_all_its_retries() {
        let mut poller = shard(Settings { retries_max: Some(1), batch_size: 1, ..SETTINGS }, 2);
        for _ in 0..2 {
            step(&mut poller, &Answer::Errored);
            step(&mut poller, &success());
        }
        assert_eq!((poller.take_discarded(), poller.is_idle()), (vec![], true));
    }

    #[test]
    fn partitions_have_one_batch_each_in_flight_and_an_item_stays_in_its_own() {
        let mut poller = Poller::new(Settings { parallelization: 4, batch_size: 5, ..SETTINGS });
        for sequence in 0..100 {
            poller.push(sequence, &format!("item-{}", sequence % 13), sequence % 13);
        }
        let (mut homes, mut seen) = (BTreeMap::new(), BTreeMap::<u64, Vec<u64>>::new());
        while !poller.is_idle() {
            let ready: Vec<usize> = poller.ready().collect();
            let batches: Vec<_> = ready.iter().map(|partition| (*partition, poller.start(*partition))).collect();
            assert_eq!(poller.ready().count(), 0);
            // They end in reverse order.
            for (partition, batch) in batches.into_iter().rev() {
                for (sequence, item) in &batch.records {
                    assert_eq!(*homes.entry(*item).or_insert(partition), partition);
                    seen.entry(*item).or_default().push(*sequence);
                }
                poller.answer(batch.id, &success());
            }
        }
        assert!(homes.values().collect::<std::collections::BTreeSet<_>>().len() > 1, "items spread");
        assert!(seen.values().all(|sequences| sequences.is_sorted()));
        assert_eq!(seen.values().map(Vec::len).sum::<usize>(), 100);
    }

    #[test]
    fn a_failing_partition_does_not_block_another() {
        let mut poller = shard(Settings { parallelization: 2, batch_size: 2, ..SETTINGS }, 20);
        let stuck = poller.ready().next().expect("there are records");
        let mut delivered = 0;
        for _ in 0..40 {
            let Some(partition) = poller.ready().find(|partition| *partition != stuck) else { break };
            let batch = poller.start(stuck);
            poller.answer(batch.id, &Answer::Errored);
            let batch = poller.start(partition);
            delivered += batch.records.len();
            poller.answer(batch.id, &success());
        }
        assert!(delivered > 2);
        assert_eq!(poller.ready().collect::<Vec<_>>(), [stuck]);
    }

    #[test]
    fn a_successful_batch_may_be_delivered_again_and_the_answer_changes_nothing() {
        let mut poller = shard(Settings { batch_size: 2, retries_max: Some(0), ..SETTINGS }, 4);
        step(&mut poller, &success());
        let duplicate = poller.start_duplicate(0);
        assert_eq!((numbers(&duplicate.records), duplicate.attempt), (vec![1, 2], 2));
        // Alongside a batch in flight.
        let next = poller.start(0);
        assert_ne!(duplicate.id, next.id);
        poller.answer(next.id, &success());
        assert!(!poller.is_idle(), "the duplicate is still in flight");
        poller.answer(duplicate.id, &Answer::Errored);
        assert_eq!((poller.is_idle(), poller.succeeded().len(), poller.take_discarded()), (true, 2, vec![]));
    }

    #[test]
    fn expired_records_are_discarded_and_the_rest_is_delivered() {
        let mut poller = shard(Settings { batch_size: 4, ..BISECT }, 6);
        step(&mut poller, &Answer::Errored);
        poller.expire(4);
        let expected = [(Condition::RecordAgeExceeded, vec![1, 2]), (Condition::RecordAgeExceeded, vec![3])];
        assert_eq!(discarded(&mut poller), expected, "an object for each piece");
        poller.expire(2);
        assert_eq!(rest(&mut poller), [vec![4], vec![5, 6]]);
    }

    #[test]
    fn unread_records_expire() {
        let mut poller = shard(SETTINGS, 3);
        poller.expire(3);
        assert_eq!(discarded(&mut poller), [(Condition::RecordAgeExceeded, vec![1, 2])]);
        poller.expire(4);
        assert_eq!((discarded(&mut poller).len(), poller.is_idle()), (1, true));
    }

    #[test]
    fn records_that_expire_in_flight_count_on_success_and_are_discarded_on_failure() {
        for (answer, left) in [(success(), vec![]), (failures(&["2"]), vec![2]), (Answer::Errored, vec![1, 2])] {
            let mut poller = shard(SETTINGS, 3);
            let batch = poller.start(0);
            poller.expire(3);
            assert_eq!(poller.take_discarded(), [], "the invocation continues");
            poller.answer(batch.id, &answer);
            let expected: Vec<_> = left.iter().map(|_| (Condition::RecordAgeExceeded, left.clone())).take(1).collect();
            assert_eq!(discarded(&mut poller), expected, "{answer:?}");
            assert_eq!(rest(&mut poller).concat(), if answer == success() { vec![] } else { vec![3] });
        }
    }

    #[test]
    #[should_panic(expected = "a delivery is answered once")]
    fn a_second_answer_is_a_bug_of_the_caller() {
        let mut poller = shard(SETTINGS, 1);
        let batch = poller.start(0);
        poller.answer(batch.id, &success());
        poller.answer(batch.id, &success());
    }
}
