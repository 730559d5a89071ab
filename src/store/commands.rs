//! The items of the command side, beside an aggregate's events: answers to commands, snapshots, and claims.
//!
//! | item | keys | holds |
//! |---|---|---|
//! | answer | `AGGREGATE#<id>`, `COMMAND#<command id>` | what the command with this id was answered first |
//! | snapshot | `AGGREGATE#<id>`, `SNAPSHOT` | `kind`, `revision`, `version` and `state` of the aggregate |
//! | claim | `CLAIM#<kind>#<value>`, `CLAIM` | `aggregateId` of the aggregate that alone holds the value: see [`claims`](super::claims) |
//!
//! Their sort keys begin with none of an event's, so that no reader takes them for one, and the stream's filter holds them back: they cost
//! the worker nothing. In the order of sort keys, `COMMAND#`, `CORRECTED#`, `EVENT#`, `SNAPSHOT` and `VERSION`, the version, the snapshot
//! and the newest events are neighbours.

use aws_sdk_dynamodb::{
    operation::{
        get_item::GetItemInput,
        put_item::{PutItemError, PutItemInput},
        query::QueryInput,
    },
    types::{
        AttributeValue, CancellationReason, ConditionCheck, Put, ReturnConsumedCapacity, ReturnValuesOnConditionCheckFailure,
        TransactWriteItem,
    },
};
use projection_vocabulary::{AggregateId, RecordedEvent, Timestamp, Value, Version};

use super::{
    Store, StoreError,
    append::{CORRECTED, at_version, moved_to},
    claims::ClaimMove,
    error::{Failure, classify, retry_or_fail},
    events::{Stored, stored_of},
    expression::Expression,
    item::{SdkItem, VERSION_SK, attributes, encode_event, from_value, number_of, partition_key, text_of},
    limits::TRANSACTION_ACTIONS_MAX,
    transaction::Transacted,
};
use crate::retry::{Attempt, Deadline};

const COMMAND: &str = "COMMAND#";
const SNAPSHOT_SK: &str = "SNAPSHOT";
/// The most bytes of a sort key, less the prefix of a command's.
/// <https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Constraints.html>
pub const COMMAND_ID_BYTES_MAX: usize = 1024 - COMMAND.len();

/// The end of an aggregate's history, read at once.
#[derive(Debug, Default)]
pub struct Tail {
    /// The mark on its VERSION item, which a correction of its events changes; empty if there is none.
    pub mark: String,
    /// Its snapshot.
    pub snapshot: Option<Snapshot>,
    /// Its newest events in the order of versions.
    pub events: Vec<Stored>,
    /// Whether these are all of its events.
    pub whole: bool,
}

/// The state of an aggregate at a version.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// The kind of aggregate.
    pub kind: String,
    /// The revision of the decider that made it.
    pub revision: u64,
    /// The version of the last event in it.
    pub version: Version,
    /// The state.
    pub state: Value,
}

/// What a command with an id was answered first.
#[derive(Clone, Debug, PartialEq)]
pub struct FirstAnswer {
    /// A digest of the command.
    pub command: String,
    /// Names the attempt that it was given to.
    pub attempt: String,
    /// When it was given.
    pub at: Timestamp,
    /// The answer.
    pub outcome: Outcome,
}

/// An answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// The command was accepted: for each aggregate the version before it and the version after it.
    Accepted(Vec<(AggregateId, Version, Version)>),
    /// A rule of this aggregate refused it.
    Refused {
        /// The aggregate.
        aggregate: AggregateId,
        /// The refusal.
        refusal: Value,
        /// What it says.
        message: String,
    },
    /// Another aggregate held a value of this kind that this one would have claimed.
    Taken {
        /// The aggregate.
        aggregate: AggregateId,
        /// The kind of claim.
        kind: String,
    },
}

/// What one aggregate gets in a transaction.
#[derive(Debug)]
pub struct Part {
    /// The aggregate.
    pub aggregate: AggregateId,
    /// The version that it must have.
    pub expected: Version,
    /// The mark that its VERSION item must have, if the events were read together with it.
    pub mark: Option<String>,
    /// What is appended.
    pub events: Vec<RecordedEvent>,
    /// Its state after these events, if it is to be kept.
    pub snapshot: Option<Snapshot>,
}

/// One transaction of the command side.
#[derive(Debug, Default)]
pub struct Commit {
    /// What aggregates get.
    pub parts: Vec<Part>,
    /// The aggregate that the command's answer is kept with, the command's id, and the answer.
    pub answer: Option<(AggregateId, String, FirstAnswer)>,
    /// The claims that change hands.
    pub claims: Vec<ClaimMove>,
    /// Aggregates that must still be at these versions.
    pub unchanged: Vec<(AggregateId, Version)>,
}

/// The outcome of a [`Commit`].
#[derive(Debug, PartialEq)]
pub enum Committed {
    /// All of it was written.
    Done,
    /// The command had been answered before.
    Answered(Box<FirstAnswer>),
    /// An aggregate is not at the version that was expected: this one, now at this version at least.
    Moved(AggregateId, Version),
    /// The claim at this position is another aggregate's.
    Claimed(usize),
    /// DynamoDB refuses the content.
    Invalid(&'static str),
}

impl Commit {
    /// The number of actions that it takes, of which a transaction holds 100.
    #[must_use]
    pub fn actions(&self) -> usize {
        // The VERSION item is moved or checked.
        let parts: usize = self.parts.iter().map(|part| 1 + part.events.len() + usize::from(part.snapshot.is_some())).sum();
        parts + usize::from(self.answer.is_some()) + self.claims.len() + self.unchanged.len()
    }

    /// Whether one transaction holds it.
    #[must_use]
    pub fn fits(&self) -> bool {
        self.actions() <= TRANSACTION_ACTIONS_MAX
    }
}

/// What the action at a position of the transaction is for.
enum Purpose {
    Answer,
    Version(AggregateId, Version),
    Event(AggregateId, Version),
    Claim(usize),
    Snapshot,
}

impl Store {
    /// Reads the end of an aggregate's history by one consistent query, newest first: its VERSION item, its snapshot, and events; at most
    /// `limit` items. Events that are appended meanwhile may be missing.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn load_tail(&self, aggregate: &AggregateId, limit: usize, deadline: Deadline) -> Result<Tail, StoreError> {
        let query = || {
            let request = QueryInput::builder()
                .table_name(&self.names.event_store)
                .key_condition_expression("PK = :pk AND SK BETWEEN :first AND :last")
                .expression_attribute_values(":pk", AttributeValue::S(partition_key(aggregate)))
                .expression_attribute_values(":first", AttributeValue::S("EVENT#".to_owned()))
                .expression_attribute_values(":last", AttributeValue::S(VERSION_SK.to_owned()))
                .scan_index_forward(false)
                .consistent_read(true)
                .limit(i32::try_from(limit).unwrap_or(i32::MAX))
                .return_consumed_capacity(ReturnConsumedCapacity::Total);
            self.dynamo.query(request)
        };
        let page = self.send("Query of the end of a history", deadline, query).await?;
        self.meter.read_rows(&page.consumed_capacity);
        let mut tail = Tail { whole: page.last_evaluated_key.is_none(), ..Tail::default() };
        for item in page.items.unwrap_or_default() {
            match item.get("SK").and_then(|sort| sort.as_s().ok()).map(String::as_str) {
                Some(VERSION_SK) => text_of(&item, CORRECTED).unwrap_or_default().clone_into(&mut tail.mark),
                Some(SNAPSHOT_SK) => tail.snapshot = snapshot_of(item),
                _ => tail.events.extend(stored_of(&item.into())),
            }
        }
        tail.events.reverse();
        Ok(tail)
    }

    /// An aggregate's snapshot, by consistent read.
    ///
    /// # Errors
    /// [`StoreError`].
    #[cfg(feature = "cli")]
    pub async fn snapshot(&self, aggregate: &AggregateId, deadline: Deadline) -> Result<Option<Snapshot>, StoreError> {
        self.get_kept("GetItem of a snapshot", aggregate, SNAPSHOT_SK, deadline).await.map(|item| item.and_then(snapshot_of))
    }

    async fn get_kept(
        &self,
        what: &'static str,
        aggregate: &AggregateId,
        sort: &str,
        deadline: Deadline,
    ) -> Result<Option<SdkItem>, StoreError> {
        let read = || {
            let request = GetItemInput::builder().table_name(&self.names.event_store);
            let request = request.key("PK", AttributeValue::S(partition_key(aggregate))).key("SK", AttributeValue::S(sort.to_owned()));
            self.dynamo.get_item(request.consistent_read(true).return_consumed_capacity(ReturnConsumedCapacity::Total))
        };
        let found = self.send(what, deadline, read).await?;
        self.meter.read_rows(&found.consumed_capacity);
        Ok(found.item)
    }

    /// The first answer to a command, by consistent read; `None` if it has none yet.
    ///
    /// # Errors
    /// [`StoreError`], also if the answer cannot be read.
    pub async fn first_answer(&self, aggregate: &AggregateId, id: &str, deadline: Deadline) -> Result<Option<FirstAnswer>, StoreError> {
        let found = self.get_kept("GetItem of an answer", aggregate, &command_key(id), deadline).await?;
        found.map(answer_of).transpose()
    }

    /// Keeps the answer to a command that changes nothing, unless it had been answered before. Returns the first answer if it had.
    ///
    /// The aggregate's version is no condition: the answer was right when the history was read, which was after the command arrived.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn keep_answer(
        &self,
        aggregate: &AggregateId,
        id: &str,
        answer: &FirstAnswer,
        deadline: Deadline,
    ) -> Result<Option<FirstAnswer>, StoreError> {
        const PUT: &str = "PutItem of an answer";
        self.send_with_retries((PUT, None), deadline, || async {
            let request = PutItemInput::builder()
                .table_name(&self.names.event_store)
                .set_item(Some(answer_item(aggregate, id, answer)))
                .condition_expression("attribute_not_exists(PK)")
                .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
                .return_consumed_capacity(ReturnConsumedCapacity::Total);
            match self.dynamo.put_item(request).await.map_err(classify) {
                Ok(done) => {
                    self.meter.wrote(&done.consumed_capacity);
                    Attempt::Decided(Ok(None))
                }
                Err(Failure::Other(PutItemError::ConditionalCheckFailedException(refused))) => {
                    self.meter.wasted(1);
                    Attempt::Decided(refused.item.map(answer_of).transpose())
                }
                Err(failure) => retry_or_fail(PUT, failure),
            }
        })
        .await?
    }

    /// Appends events with all that goes with them, or nothing.
    ///
    /// An attempt whose answer was lost is found again by the answer that it kept, or else by the ids of its events.
    ///
    /// # Errors
    /// [`StoreError`]: whether it was written is unknown.
    pub async fn commit_command(&self, commit: &Commit, deadline: Deadline) -> Result<Committed, StoreError> {
        let (actions, purposes) = self.actions_of(commit);
        let refused = match self.transact_all("TransactWriteItems of a command", || actions.clone(), deadline).await? {
            Transacted::Done => return Ok(Committed::Done),
            Transacted::Invalid(reason) => return Ok(Committed::Invalid(reason)),
            Transacted::Refused(reasons) => reasons,
        };
        after_refusal(commit, refused.into_iter().zip(purposes))
    }

    fn actions_of(&self, commit: &Commit) -> (Vec<TransactWriteItem>, Vec<Purpose>) {
        let (mut actions, mut purposes) = (Vec::with_capacity(commit.actions()), Vec::with_capacity(commit.actions()));
        let mut add = |action, purpose| {
            actions.push(action);
            purposes.push(purpose);
        };
        if let Some((aggregate, id, answer)) = &commit.answer {
            add(self.put_new(answer_item(aggregate, id, answer)), Purpose::Answer);
        }
        for Part { aggregate, expected, mark, events, snapshot } in &commit.parts {
            let version = Purpose::Version(aggregate.clone(), *expected);
            match events.last() {
                Some(last) => add(self.move_version(aggregate, *expected, mark.as_deref(), last.version), version),
                None => add(self.check_version(aggregate, *expected, mark.as_deref()), version),
            }
            for event in events {
                add(self.put_new(encode_event(event)), Purpose::Event(aggregate.clone(), event.version));
            }
            if let Some(snapshot) = snapshot {
                let put = Put::builder().table_name(&self.names.event_store).set_item(Some(snapshot_item(aggregate, snapshot)));
                let put = put.build().expect("table and item are given");
                add(TransactWriteItem::builder().put(put).build(), Purpose::Snapshot);
            }
        }
        for (at, claim) in commit.claims.iter().enumerate() {
            add(self.move_claim(claim), Purpose::Claim(at));
        }
        for (aggregate, version) in &commit.unchanged {
            add(self.check_version(aggregate, *version, None), Purpose::Version(aggregate.clone(), *version));
        }
        (actions, purposes)
    }

    fn check_version(&self, aggregate: &AggregateId, version: Version, mark: Option<&str>) -> TransactWriteItem {
        let mut expression = Expression::default();
        let condition = at_version(&mut expression, version, mark);
        let check = ConditionCheck::builder()
            .table_name(&self.names.event_store)
            .key("PK", AttributeValue::S(partition_key(aggregate)))
            .key("SK", AttributeValue::S(VERSION_SK.into()))
            .condition_expression(condition)
            .set_expression_attribute_values(expression.values())
            .set_expression_attribute_names(expression.names())
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld);
        TransactWriteItem::builder().condition_check(check.build().expect("table, key and condition are given")).build()
    }

    /// The action that takes away an aggregate's snapshot: an event in it is corrected.
    #[cfg(feature = "cli")]
    pub(super) fn forget_snapshot(&self, aggregate: &AggregateId) -> TransactWriteItem {
        let delete = aws_sdk_dynamodb::types::Delete::builder()
            .table_name(&self.names.event_store)
            .key("PK", AttributeValue::S(partition_key(aggregate)))
            .key("SK", AttributeValue::S(SNAPSHOT_SK.to_owned()));
        TransactWriteItem::builder().delete(delete.build().expect("table and key are given")).build()
    }
}

/// What a refused transaction means.
fn after_refusal(commit: &Commit, reasons: impl Iterator<Item = (CancellationReason, Purpose)>) -> Result<Committed, StoreError> {
    let (mut moved, mut claimed, mut own) = (None, None, false);
    for (reason, purpose) in reasons.filter(|(reason, _)| reason.code() == Some("ConditionalCheckFailed")) {
        match purpose {
            Purpose::Answer => {
                let item = reason.item.ok_or_else(|| unreadable("it came without its attributes"))?;
                return Ok(Committed::Answered(Box::new(answer_of(item)?)));
            }
            Purpose::Version(aggregate, expected) => {
                let now = moved_to(&reason).unwrap_or(expected);
                moved = Some((aggregate, now));
            }
            Purpose::Event(aggregate, version) => {
                let there = reason.item.as_ref().and_then(|item| text_of(item, "eventId"));
                let ours = commit
                    .parts
                    .iter()
                    .flat_map(|part| &part.events)
                    .find(|event| event.aggregate == aggregate && event.version == version);
                own |= ours.is_some_and(|event| there == Some(&*event.event_id));
                moved.get_or_insert((aggregate, version));
            }
            Purpose::Claim(at) => claimed = Some(at),
            Purpose::Snapshot => {}
        }
    }
    Ok(match (own, moved, claimed) {
        // Event ids are unique, and all of a transaction is written or nothing: an attempt of this very call was.
        (true, ..) => Committed::Done,
        (_, Some((aggregate, version)), _) => Committed::Moved(aggregate, version),
        (.., Some(at)) => Committed::Claimed(at),
        _ => return Err(unreadable("a condition failed that has none")),
    })
}

fn command_key(id: &str) -> String {
    format!("{COMMAND}{id}")
}

fn unreadable(why: &str) -> StoreError {
    StoreError::Permanent { operation: "reading an item of the command side", class: format!("{why}; was it changed by hand?") }
}

/// A snapshot as it is kept; `None` for an item that is not one, which counts as no snapshot.
fn snapshot_of(mut item: SdkItem) -> Option<Snapshot> {
    let (revision, version) = (number_of(&item, "revision")?, Version(number_of(&item, "version")?));
    let kind = text_of(&item, "kind")?.to_owned();
    let state = attributes(SdkItem::from([item.remove_entry("state")?])).ok()?.remove("state")?;
    Some(Snapshot { kind, revision, version, state })
}

fn snapshot_item(aggregate: &AggregateId, Snapshot { kind, revision, version, state }: &Snapshot) -> SdkItem {
    SdkItem::from([
        ("PK".to_owned(), AttributeValue::S(partition_key(aggregate))),
        ("SK".to_owned(), AttributeValue::S(SNAPSHOT_SK.to_owned())),
        ("kind".to_owned(), AttributeValue::S(kind.clone())),
        ("revision".to_owned(), AttributeValue::N(revision.to_string())),
        ("version".to_owned(), AttributeValue::N(version.to_string())),
        ("state".to_owned(), from_value(state)),
    ])
}

fn answer_item(aggregate: &AggregateId, id: &str, answer: &FirstAnswer) -> SdkItem {
    let text = |text: &str| AttributeValue::S(text.to_owned());
    let mut item = SdkItem::from([
        ("PK".to_owned(), AttributeValue::S(partition_key(aggregate))),
        ("SK".to_owned(), AttributeValue::S(command_key(id))),
        ("command".to_owned(), text(&answer.command)),
        ("attempt".to_owned(), text(&answer.attempt)),
        ("at".to_owned(), text(answer.at.as_str())),
    ]);
    match &answer.outcome {
        Outcome::Accepted(aggregates) => {
            let number = |version: &Version| AttributeValue::N(version.to_string());
            let member = |(aggregate, before, after): &(AggregateId, Version, Version)| {
                AttributeValue::M(SdkItem::from([
                    ("aggregateId".to_owned(), text(aggregate.as_str())),
                    ("before".to_owned(), number(before)),
                    ("after".to_owned(), number(after)),
                ]))
            };
            item.insert("accepted".to_owned(), AttributeValue::L(aggregates.iter().map(member).collect()));
        }
        Outcome::Refused { aggregate, refusal, message } => {
            item.insert("aggregateId".to_owned(), text(aggregate.as_str()));
            item.insert("refusal".to_owned(), from_value(refusal));
            item.insert("message".to_owned(), text(message));
        }
        Outcome::Taken { aggregate, kind } => {
            item.insert("aggregateId".to_owned(), text(aggregate.as_str()));
            item.insert("taken".to_owned(), text(kind));
        }
    }
    item
}

fn answer_of(item: SdkItem) -> Result<FirstAnswer, StoreError> {
    let missing = || unreadable("the answer to a command lacks an attribute");
    let text = |name: &str| text_of(&item, name).ok_or_else(missing);
    let (command, attempt) = (text("command")?.to_owned(), text("attempt")?.to_owned());
    let at = Timestamp::parse(text("at")?).map_err(|_| missing())?;
    let aggregate = || text("aggregateId").map(AggregateId::from);
    let accepted = |value: &AttributeValue| {
        let member = value.as_m().ok()?;
        let version = |name: &str| number_of(member, name).map(Version);
        Some((text_of(member, "aggregateId")?.into(), version("before")?, version("after")?))
    };
    let outcome = if let Some(aggregates) = item.get("accepted") {
        let aggregates = aggregates.as_l().map_err(|_| missing())?;
        Outcome::Accepted(aggregates.iter().map(accepted).collect::<Option<_>>().ok_or_else(missing)?)
    } else if let Some(kind) = text_of(&item, "taken") {
        Outcome::Taken { aggregate: aggregate()?, kind: kind.to_owned() }
    } else {
        let (aggregate, message) = (aggregate()?, text("message")?.to_owned());
        let mut refusal = attributes(item).map_err(|_| missing())?;
        Outcome::Refused { aggregate, refusal: refusal.remove("refusal").ok_or_else(missing)?, message }
    };
    Ok(FirstAnswer { command, attempt, at, outcome })
}

#[cfg(test)]
mod tests {
    use projection_vocabulary::{
        data,
        sample::{Fact, record},
    };

    use super::*;

    #[test]
    fn an_answer_survives_encoding_and_decoding() {
        let aggregate = AggregateId::from("a");
        let outcomes = [
            Outcome::Accepted(vec![("a".into(), Version(3), Version(5)), ("b".into(), Version::NONE, Version(1))]),
            Outcome::Accepted(vec![]),
            Outcome::Refused { aggregate: "a".into(), refusal: data! { limit: 0.5 }, message: "too much".into() },
            Outcome::Refused { aggregate: "a".into(), refusal: Value::Null, message: String::new() },
            Outcome::Taken { aggregate: "a".into(), kind: "email".into() },
        ];
        for outcome in outcomes {
            let at = Timestamp::parse("2026-01-05T09:00:00Z").expect("valid");
            let answer = FirstAnswer { command: "c".into(), attempt: "t".into(), at, outcome };
            assert_eq!(answer_of(answer_item(&aggregate, "x", &answer)), Ok(answer));
        }
    }

    #[test]
    fn a_snapshot_survives_encoding_and_decoding_and_anything_else_is_none() {
        let snapshot = Snapshot { kind: "a".into(), revision: 2, version: Version(7), state: data! { sum: 0.1, open: true } };
        let item = snapshot_item(&"a".into(), &snapshot);
        assert_eq!(snapshot_of(item.clone()), Some(snapshot));
        for name in ["kind", "revision", "version", "state"] {
            let mut broken = item.clone();
            broken.insert(name.to_owned(), AttributeValue::Bs(vec![]));
            broken.remove(if name == "state" { "state" } else { "" });
            assert_eq!(snapshot_of(broken), None, "{name}");
        }
    }

    #[test]
    fn no_item_of_the_command_side_has_the_key_of_an_event() {
        let mut keys =
            vec![command_key("x"), format!("{COMMAND}EVENT#0000000001"), SNAPSHOT_SK.to_owned(), super::super::claims::CLAIM.to_owned()];
        keys.sort();
        for sort in keys {
            let keys = SdkItem::from([("PK".into(), AttributeValue::S("AGGREGATE#a".into())), ("SK".into(), AttributeValue::S(sort))]);
            assert_eq!(super::super::item::key_of(&keys.into()), Ok(super::super::item::Key::Other));
        }
    }

    #[test]
    fn a_commit_fits_into_as_many_actions_as_a_transaction_holds() {
        let fits = |actions| Commit { unchanged: vec![("ann".into(), Version(1)); actions], ..Commit::default() }.fits();
        assert!(fits(0) && fits(TRANSACTION_ACTIONS_MAX) && !fits(TRANSACTION_ACTIONS_MAX + 1));
    }

    /// The next event of each of two aggregates, `ann-3` and `ben-3`.
    fn of_two() -> Commit {
        let part = |id: &str| {
            let fact = Fact { aggregate: id.into(), event_type: "Stayed", data: data! {} };
            let event = record([fact]).next().expect("it is recorded");
            let event = RecordedEvent { version: Version(3), event_id: format!("{id}-3").into(), ..event };
            Part { aggregate: id.into(), expected: Version(2), mark: None, events: vec![event], snapshot: None }
        };
        Commit { parts: vec![part("ann"), part("ben")], ..Commit::default() }
    }

    #[test]
    fn a_refusal_means_what_the_items_show_that_are_there() {
        let failed = "ConditionalCheckFailed";
        let text = |text: &str| AttributeValue::S(text.to_owned());
        let reason = |code: &str, item: SdkItem| CancellationReason::builder().code(code).set_item(Some(item)).build();
        let with_id = |id: &str| SdkItem::from([("eventId".to_owned(), text(id))]);
        let version = |code, id: &str, now: u64| {
            let item = SdkItem::from([("version".to_owned(), AttributeValue::N(now.to_string()))]);
            (reason(code, item), Purpose::Version(id.into(), Version(2)))
        };
        let event = |id: &str, there: &str| (reason(failed, with_id(there)), Purpose::Event(id.into(), Version(3)));
        let claim = |at| (reason(failed, SdkItem::new()), Purpose::Claim(at));
        let moved = |id: &str, version| Ok(Committed::Moved(id.into(), Version(version)));
        for (reasons, expected) in [
            (vec![version(failed, "ben", 5)], moved("ben", 5)),
            (vec![version("None", "ann", 5), version(failed, "ben", 6)], moved("ben", 6)),
            (vec![version("None", "ann", 5), claim(4)], Ok(Committed::Claimed(4))),
            (vec![version(failed, "ben", 5), claim(4)], moved("ben", 5)),
            // The event is there, and it is this very one, or another one.
            (vec![event("ann", "ann-3")], Ok(Committed::Done)),
            (vec![event("ben", "ben-3"), claim(4)], Ok(Committed::Done)),
            (vec![event("ben", "another")], moved("ben", 3)),
            (vec![event("ben", "ann-3")], moved("ben", 3)),
        ] {
            let case = format!("{:?}", reasons.iter().map(|(reason, _)| reason).collect::<Vec<_>>());
            assert_eq!(after_refusal(&of_two(), reasons.into_iter()), expected, "{case}");
        }
        assert!(after_refusal(&of_two(), [version("None", "ann", 5)].into_iter()).is_err());
    }
}
