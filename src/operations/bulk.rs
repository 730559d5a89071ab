//! Many writes to the event store in few transactions. Pieces of several aggregates share one, and many transactions are under way at
//! once.
//!
//! An aggregate takes part in one transaction at a time: so its events stay in order, and no two requests compete for its VERSION item.
//! The more pieces wait, the more of one aggregate are found together, and each transaction of an aggregate costs its VERSION item. So a
//! transaction is sent when one can be filled, or when there is nothing else to wait for.
//!
//! A DynamoDB on one machine answers one transaction after the other. If it has too many at once, the last ones take so long that they
//! count as lost, and are sent again, which takes it still longer. So fewer are under way while answers are slow.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use projection_vocabulary::AggregateId;
use tokio::time::Instant;

use crate::{
    engine::worker::CONCURRENCY,
    store::limits::{TRANSACTION_ACTIONS_MAX, TRANSACTION_BYTES_MAX},
};

/// How many actions may wait: twice what is under way at most.
const WAITING_ACTIONS_MAX: usize = 2 * CONCURRENCY * TRANSACTION_ACTIONS_MAX;
/// How many bytes may wait. Together with those under way, they bound the memory.
const WAITING_BYTES_MAX: usize = 8 * TRANSACTION_BYTES_MAX;
/// How many bytes may be under way at once.
const UNDER_WAY_BYTES_MAX: usize = 8 * TRANSACTION_BYTES_MAX;

/// An answer that takes this long is slow: a third of the time after which a request counts as lost ([`clients`](crate::clients)).
const SLOW: Duration = Duration::from_secs(1);

/// What is written for one aggregate, all or nothing.
pub trait Piece {
    /// The aggregate.
    fn aggregate(&self) -> &AggregateId;
    /// How many actions of a transaction it takes, besides the one on the VERSION item. They fit into one transaction.
    fn actions(&self) -> usize;
    /// About how many bytes it writes.
    fn bytes(&self) -> usize;
    /// Whether it can share a transaction with the pieces of its aggregate before it.
    fn joins<'a>(&'a self, before: impl Iterator<Item = &'a Self>) -> bool;
}

/// Writes pieces, and gives the answers to the transactions that they were in.
pub struct Bulk<'a, P, A> {
    waiting: Waiting<P>,
    under_way: FuturesUnordered<BoxFuture<'a, (Sent, A)>>,
    under_way_bytes: usize,
    pace: Pace,
    send: Box<dyn Fn(Transaction<P>) -> BoxFuture<'a, A> + Send + Sync + 'a>,
}

/// A transaction that is under way.
struct Sent {
    aggregates: Vec<AggregateId>,
    bytes: usize,
    at: Instant,
}

/// How many transactions may be under way.
struct Pace {
    limit: usize,
    /// When it last became lower. What was sent before says nothing about the lower limit.
    lowered: Option<Instant>,
}

/// The pieces of one transaction, aggregate by aggregate.
pub type Transaction<P> = Vec<Vec<P>>;

impl<'a, P: Piece, A: Send + 'a> Bulk<'a, P, A> {
    /// Nothing waits yet. `send` makes the request.
    pub fn new(send: impl Fn(Transaction<P>) -> BoxFuture<'a, A> + Send + Sync + 'a) -> Self {
        let pace = Pace { limit: CONCURRENCY, lowered: None };
        Self { waiting: Waiting::default(), under_way: FuturesUnordered::new(), under_way_bytes: 0, pace, send: Box::new(send) }
    }

    /// Lets a piece wait behind those of its aggregate. Call [`make_room`](Self::make_room) first.
    pub fn push(&mut self, piece: P) {
        self.waiting.push(piece);
    }

    /// Sends transactions while more waits than should. Returns the next answer if no more may wait without one; after the caller has
    /// seen to it, this is called again.
    pub async fn make_room(&mut self) -> Option<A> {
        while self.waiting.is_full() {
            if !self.send_next() {
                return self.answered().await;
            }
        }
        None
    }

    /// Sends what waits, and returns the next answer; `None` if everything is answered.
    pub async fn next(&mut self) -> Option<A> {
        while self.send_next() {}
        self.answered().await
    }

    /// Takes away what waits of an aggregate. Nothing of it may be under way: call this for aggregates of the last answer.
    pub fn withdraw(&mut self, aggregate: &AggregateId) -> Vec<P> {
        self.waiting.withdraw(aggregate)
    }

    /// Takes away everything that waits. What is under way will be answered.
    pub fn stop(&mut self) -> Vec<P> {
        let waiting = std::mem::take(&mut self.waiting);
        waiting.lanes.into_values().flat_map(|lane| lane.pieces).collect()
    }

    async fn answered(&mut self) -> Option<A> {
        let (sent, answer) = self.under_way.next().await?;
        self.under_way_bytes -= sent.bytes;
        self.pace.learn(sent.at);
        for aggregate in sent.aggregates {
            self.waiting.release(aggregate);
        }
        Some(answer)
    }

    /// Sends the next transaction, if there is one worth sending.
    fn send_next(&mut self) -> bool {
        let idle = self.under_way.is_empty();
        if !idle && (self.under_way.len() >= self.pace.limit || self.under_way_bytes >= UNDER_WAY_BYTES_MAX) {
            return false;
        }
        let Some(transaction) = self.waiting.take(idle) else { return false };
        let aggregates = transaction.iter().map(|pieces| pieces[0].aggregate().clone()).collect();
        let bytes = transaction.iter().flatten().map(Piece::bytes).sum();
        self.under_way_bytes += bytes;
        let sent = Sent { aggregates, bytes, at: Instant::now() };
        self.under_way.push((self.send)(transaction).map(move |answer| (sent, answer)).boxed());
        true
    }
}

impl Pace {
    /// What was sent at this time is answered now.
    fn learn(&mut self, sent: Instant) {
        if sent.elapsed() < SLOW {
            self.limit = (self.limit + 1).min(CONCURRENCY);
        } else if self.lowered.is_none_or(|lowered| lowered <= sent) {
            self.limit = (self.limit / 2).max(1);
            self.lowered = Some(Instant::now());
        }
    }
}

/// What is not sent yet.
struct Waiting<P> {
    lanes: HashMap<AggregateId, Lane<P>>,
    /// The aggregates of which something waits and nothing is under way, in the order in which they became so.
    ready: VecDeque<AggregateId>,
    actions: usize,
    bytes: usize,
}

struct Lane<P> {
    pieces: VecDeque<P>,
    under_way: bool,
}

/// What a transaction can still take.
struct Room {
    actions: usize,
    bytes: usize,
    /// Something did not fit, or nothing more will.
    full: bool,
}

impl<P> Default for Waiting<P> {
    fn default() -> Self {
        Self { lanes: HashMap::new(), ready: VecDeque::new(), actions: 0, bytes: 0 }
    }
}

impl<P: Piece> Waiting<P> {
    fn is_full(&self) -> bool {
        self.actions >= WAITING_ACTIONS_MAX || self.bytes >= WAITING_BYTES_MAX
    }

    fn push(&mut self, piece: P) {
        self.actions += piece.actions();
        self.bytes += piece.bytes();
        let aggregate = piece.aggregate().clone();
        let lane = self.lanes.entry(aggregate.clone()).or_insert_with(|| Lane { pieces: VecDeque::new(), under_way: false });
        lane.pieces.push_back(piece);
        if lane.pieces.len() == 1 && !lane.under_way {
            self.ready.push_back(aggregate);
        }
    }

    /// The next transaction, if one can be filled, or `partial`ly. Its aggregates are under way from now on.
    fn take(&mut self, partial: bool) -> Option<Transaction<P>> {
        let mut room = Room { actions: TRANSACTION_ACTIONS_MAX, bytes: TRANSACTION_BYTES_MAX, full: false };
        let mut counts = Vec::new();
        for aggregate in &self.ready {
            let count = room.take(&self.lanes[aggregate].pieces, counts.is_empty());
            counts.extend((count > 0).then_some(count));
            if room.full {
                break;
            }
        }
        if counts.is_empty() || !(room.full || partial) {
            return None;
        }
        let taken = self.ready.drain(..counts.len()).zip(counts);
        let mut transaction = Vec::with_capacity(taken.len());
        for (aggregate, count) in taken {
            let lane = self.lanes.get_mut(&aggregate).expect("what is ready waits");
            lane.under_way = true;
            let pieces: Vec<_> = lane.pieces.drain(..count).collect();
            self.actions -= pieces.iter().map(Piece::actions).sum::<usize>();
            self.bytes -= pieces.iter().map(Piece::bytes).sum::<usize>();
            transaction.push(pieces);
        }
        Some(transaction)
    }

    /// The transaction with this aggregate is answered.
    fn release(&mut self, aggregate: AggregateId) {
        // If everything was taken away, nothing is left to release.
        let Some(lane) = self.lanes.get_mut(&aggregate) else { return };
        lane.under_way = false;
        if lane.pieces.is_empty() {
            self.lanes.remove(&aggregate);
        } else {
            self.ready.push_back(aggregate);
        }
    }

    fn withdraw(&mut self, aggregate: &AggregateId) -> Vec<P> {
        let Some(lane) = self.lanes.remove(aggregate) else { return Vec::new() };
        self.ready.retain(|ready| ready != aggregate);
        self.actions -= lane.pieces.iter().map(Piece::actions).sum::<usize>();
        self.bytes -= lane.pieces.iter().map(Piece::bytes).sum::<usize>();
        lane.pieces.into()
    }
}

impl Room {
    /// How many of an aggregate's pieces go in. The first of a transaction always does.
    fn take<P: Piece>(&mut self, pieces: &VecDeque<P>, first: bool) -> usize {
        let (mut count, mut version_item) = (0, 1);
        for piece in pieces {
            if count > 0 && !piece.joins(pieces.iter().take(count)) {
                break;
            }
            let (actions, bytes) = (version_item + piece.actions(), piece.bytes());
            let fits = actions <= self.actions && bytes <= self.bytes;
            let goes_in = fits || (first && count == 0);
            if !goes_in {
                self.full = true;
                return count;
            }
            (self.actions, self.bytes) = (self.actions.saturating_sub(actions), self.bytes.saturating_sub(bytes));
            (count, version_item) = (count + 1, 0);
        }
        // The smallest piece of another aggregate takes two.
        self.full |= self.actions < 2;
        count
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    use super::*;

    /// A piece of an aggregate, with a name, a number of actions, and a number of bytes.
    struct Some(AggregateId, &'static str, usize, usize);

    impl Piece for Some {
        fn aggregate(&self) -> &AggregateId {
            &self.0
        }

        fn actions(&self) -> usize {
            self.2
        }

        fn bytes(&self) -> usize {
            self.3
        }

        /// One whose name is known already does not. Nothing joins nothing.
        fn joins<'a>(&'a self, before: impl Iterator<Item = &'a Self>) -> bool {
            let names: Vec<_> = before.map(|other| other.1).collect();
            !names.is_empty() && !names.contains(&self.1)
        }
    }

    fn waiting(pieces: &[(&str, &'static str, usize)]) -> Waiting<Some> {
        let mut waiting = Waiting::default();
        for (aggregate, name, actions) in pieces {
            waiting.push(Some((*aggregate).into(), name, *actions, 10));
        }
        waiting
    }

    /// The names of what is taken, aggregate by aggregate; empty if nothing is.
    fn take(waiting: &mut Waiting<Some>, partial: bool) -> String {
        let transaction = waiting.take(partial).unwrap_or_default();
        let names = |pieces: &Vec<Some>| pieces.iter().map(|piece| piece.1).collect::<Vec<_>>().join("+");
        transaction.iter().map(names).collect::<Vec<_>>().join(" ")
    }

    #[tokio::test(start_paused = true)]
    async fn slow_answers_halve_what_is_under_way_once_for_all_and_fast_ones_raise_it_again() {
        let mut pace = Pace { limit: CONCURRENCY, lowered: None };
        for expected in [16, 8, 4, 2, 1, 1] {
            let sent = Instant::now();
            tokio::time::advance(SLOW).await;
            for _ in 0..5 {
                pace.learn(sent);
                assert_eq!(pace.limit, expected);
            }
        }
        for expected in (2..=CONCURRENCY).chain([CONCURRENCY]) {
            pace.learn(Instant::now());
            assert_eq!(pace.limit, expected);
        }
    }

    #[test]
    fn a_transaction_holds_what_a_hundred_actions_do_and_less_only_if_it_must() {
        let mut few = waiting(&[("a", "a1", 50), ("b", "b1", 46)]);
        assert_eq!(take(&mut few, false), "", "a smaller piece may still come");
        few.push(Some("c".into(), "c1", 1, 10));
        assert_eq!((take(&mut few, false).as_str(), take(&mut few, true).as_str()), ("a1 b1 c1", ""));
        assert_eq!((few.actions, few.bytes), (0, 0));

        let mut many = waiting(&[("a", "a1", 50), ("a", "a2", 49), ("a", "a3", 1), ("b", "b1", 99), ("c", "c1", 1)]);
        assert_eq!(take(&mut many, false), "a1+a2");
        assert_eq!((take(&mut many, false).as_str(), take(&mut many, false).as_str()), ("b1", ""));
        assert_eq!(take(&mut many, true), "c1", "the third piece waits for the first two");
        many.release("a".into());
        assert_eq!((take(&mut many, false).as_str(), take(&mut many, true).as_str()), ("", "a3"));

        let mut halves = waiting(&[("a", "a1", 60), ("b", "b1", 60)]);
        assert_eq!((take(&mut halves, false).as_str(), take(&mut halves, true).as_str()), ("a1", "b1"), "the second does not fit");
    }

    #[test]
    fn an_aggregate_is_in_one_transaction_at_a_time() {
        let mut one = waiting(&[("a", "a1", 1)]);
        assert_eq!(take(&mut one, true), "a1");
        one.push(Some("a".into(), "a2", 1, 10));
        one.push(Some("b".into(), "b1", 1, 10));
        assert_eq!(take(&mut one, true), "b1");
        one.release("a".into());
        one.release("b".into());
        assert_eq!(take(&mut one, true), "a2");
        one.release("a".into());
        assert!(one.lanes.is_empty() && one.ready.is_empty(), "nothing is kept of aggregates that are done");
    }

    #[test]
    fn bytes_end_a_transaction_and_one_piece_always_goes() {
        let mut large = Waiting::default();
        for (name, bytes) in [("a1", TRANSACTION_BYTES_MAX + 1), ("a2", TRANSACTION_BYTES_MAX - 10), ("a3", 10), ("a4", 1)] {
            large.push(Some("a".into(), name, 1, bytes));
        }
        for expected in ["a1", "a2+a3"] {
            assert_eq!(take(&mut large, false), expected);
            large.release("a".into());
        }
        assert_eq!((take(&mut large, false).as_str(), take(&mut large, true).as_str()), ("", "a4"));
    }

    #[test]
    fn what_does_not_join_waits_for_the_next_transaction() {
        let mut twice = waiting(&[("a", "x", 1), ("a", "x", 1), ("b", "y", 1)]);
        assert_eq!(take(&mut twice, true), "x y");
        twice.release("a".into());
        assert_eq!(take(&mut twice, true), "x");
    }

    #[test]
    fn what_is_withdrawn_neither_waits_nor_is_sent() {
        let mut some = waiting(&[("a", "a1", 1), ("b", "b1", 1), ("a", "a2", 1)]);
        let withdrawn: Vec<_> = some.withdraw(&"a".into()).iter().map(|piece| piece.1).collect();
        assert_eq!((withdrawn, some.actions, some.bytes), (vec!["a1", "a2"], 1, 10));
        assert!(some.withdraw(&"c".into()).is_empty());
        assert_eq!((take(&mut some, true).as_str(), take(&mut some, true).as_str()), ("b1", ""));
    }

    /// Pieces of so many aggregates, one of each, that wait; how many transactions are sent is counted.
    fn pieces(sent: &AtomicUsize, (count, actions, bytes): (usize, usize, usize)) -> Bulk<'_, Some, ()> {
        let mut bulk = Bulk::new(move |_| {
            sent.fetch_add(1, Relaxed);
            async {}.boxed()
        });
        (0..count).for_each(|at| bulk.push(Some(format!("a{at}").as_str().into(), "piece", actions, bytes)));
        bulk
    }

    #[tokio::test]
    async fn as_many_transactions_are_under_way_as_are_allowed() {
        for (of, expected) in
            [((40, 99, 10), CONCURRENCY), ((40, 1, TRANSACTION_BYTES_MAX), UNDER_WAY_BYTES_MAX / TRANSACTION_BYTES_MAX), ((2, 99, 10), 2)]
        {
            let sent = AtomicUsize::new(0);
            let mut bulk = pieces(&sent, of);
            let mut answers = u64::from(bulk.next().await.is_some());
            assert_eq!(sent.load(Relaxed), expected, "{of:?}");
            while bulk.next().await.is_some() {
                answers += 1;
            }
            assert_eq!((sent.load(Relaxed), answers), (of.0, of.0 as u64), "{of:?}");
        }
    }

    /// As many are sent as make room, and nobody waits for an answer.
    #[tokio::test]
    async fn room_is_made_when_too_much_waits() {
        let (actions, bytes) = (WAITING_ACTIONS_MAX.div_ceil(99), WAITING_BYTES_MAX / TRANSACTION_BYTES_MAX);
        for (of, expected) in [
            ((actions, 99, 10), 1),
            ((actions - 1, 99, 10), 0),
            ((bytes, 1, TRANSACTION_BYTES_MAX), 1),
            ((bytes - 1, 1, TRANSACTION_BYTES_MAX), 0),
        ] {
            let sent = AtomicUsize::new(0);
            let waits = pieces(&sent, of).make_room().await.is_some();
            assert_eq!((waits, sent.load(Relaxed)), (false, expected), "{of:?}");
        }
    }
}
