//! Load, decide, append; and decide again if somebody else appended first.

use std::{
    any::Any,
    collections::{BTreeMap, BTreeSet},
    sync::Mutex,
};

use futures::future::try_join_all;
use projection_vocabulary::{Aggregate, AggregateId, Decided, DynDecider, RecordedEvent, Undecided, Value, Version};

use super::{
    error::{AnyRefusal, Unhandled},
    history::History,
};
use crate::{
    retry::{Attempt, Deadline, retry},
    store::{
        Store,
        claims::{ClaimKey, ClaimMove},
        commands::{COMMAND_ID_BYTES_MAX, Commit, Committed, FirstAnswer, Outcome, Part, Snapshot},
        digest, event_id, fresh_id, now,
    },
};

/// The largest snapshot, as JSON in bytes: an item holds 400 KB. Of a larger state none is kept.
const SNAPSHOT_BYTES_MAX: usize = 300_000;

/// A command to an aggregate.
pub struct Order {
    pub decider: &'static dyn DynDecider,
    pub aggregate: AggregateId,
    pub command: Value,
    pub expected: Option<Version>,
}

/// Says what a neighbour's state must be: the reason of the refusal, otherwise.
pub type Rule = Box<dyn Fn(&dyn Any) -> Result<(), String> + Send + Sync>;

/// What must hold of another aggregate when the events are appended.
pub struct Requirement {
    pub decider: &'static dyn DynDecider,
    pub aggregate: AggregateId,
    pub rule: Rule,
}

/// Commands to carry out together.
#[derive(Default)]
pub struct Request {
    pub id: Option<String>,
    pub orders: Vec<Order>,
    pub required: Vec<Requirement>,
    pub metadata: Option<Value>,
}

/// Commands that were carried out.
pub struct Answer {
    pub handled: Vec<HandledOne>,
    pub replayed: bool,
}

/// One aggregate after its command.
pub struct HandledOne {
    pub aggregate: AggregateId,
    pub version: Version,
    pub events: Vec<RecordedEvent>,
    pub state: Box<dyn Aggregate>,
}

/// What is kept from one attempt for the next.
#[derive(Default)]
struct Progress {
    orders: Vec<History>,
    required: Vec<History>,
    /// An aggregate that was found at another version.
    moved: Option<(AggregateId, Version)>,
    /// Claims that the states say are theirs, and that others have.
    foreign: BTreeSet<ClaimKey>,
    /// DynamoDB refused a write with snapshots.
    without_snapshots: bool,
}

/// Carries out the commands.
pub async fn run(store: &Store, request: &Request, deadline: Deadline) -> Result<Answer, Unhandled> {
    request.check()?;
    let running = Running { store, request, deadline, digest: request.digest(), attempt: fresh_id() };
    // An attempt that was too late leaves behind what it read.
    let progress = Mutex::new(Progress::default());
    let attempt = || async {
        let mut kept = std::mem::take(&mut *progress.lock().expect("nothing panics while it is locked"));
        match running.attempt(&mut kept).await {
            Ok(Some(answer)) => Attempt::Decided(Ok(answer)),
            Ok(None) => {
                let aggregate = kept.moved.as_ref().map_or_else(|| request.orders[0].aggregate.clone(), |(aggregate, _)| aggregate.clone());
                *progress.lock().expect("nothing panics while it is locked") = kept;
                Attempt::Again(Unhandled::Contended { aggregate })
            }
            Err(error) => Attempt::Decided(Err(error)),
        }
    };
    retry(deadline, attempt, |_| ()).await?
}

impl Request {
    fn check(&self) -> Result<(), Unhandled> {
        let invalid = |why: String| Err(Unhandled::Invalid(why));
        if self.orders.is_empty() {
            return invalid("there is no command to carry out".to_owned());
        }
        let mut seen = BTreeSet::new();
        for aggregate in self.orders.iter().map(|order| &order.aggregate).chain(self.required.iter().map(|required| &required.aggregate)) {
            if !crate::store::item::is_aggregate(aggregate) {
                return invalid("the id of an aggregate is empty, or longer than 2,038 bytes".to_owned());
            }
            if !seen.insert(aggregate) {
                return invalid(format!("aggregate {aggregate} occurs twice: send it one command at a time"));
            }
        }
        match self.id.as_ref().map(String::len) {
            Some(0) => invalid("the id of a command is empty".to_owned()),
            Some(bytes) if bytes > COMMAND_ID_BYTES_MAX => {
                invalid(format!("the id of a command has {bytes} bytes; at most {COMMAND_ID_BYTES_MAX} can be kept"))
            }
            _ if self.metadata.as_ref().is_some_and(|metadata| !matches!(metadata, Value::Map(_))) => {
                invalid("the metadata of a command is not a map".to_owned())
            }
            _ => Ok(()),
        }
    }

    /// The aggregate that the answer is kept with: the same whatever the order of the commands.
    fn keeper(&self) -> &AggregateId {
        self.orders.iter().map(|order| &order.aggregate).min().expect("there is an order")
    }

    /// A digest of the commands, which tells a repetition from another command with the same id.
    fn digest(&self) -> String {
        let mut commands: Vec<_> =
            self.orders.iter().map(|order| (order.aggregate.as_str(), order.decider.kind(), order.command.to_json())).collect();
        commands.sort_by_key(|(aggregate, ..)| *aggregate);
        digest(&serde_json::to_string(&commands).expect("texts and JSON serialise"))
    }
}

/// A request under way.
struct Running<'a> {
    store: &'a Store,
    request: &'a Request,
    deadline: Deadline,
    digest: String,
    /// Names this call, so that it knows its own writes.
    attempt: String,
}

impl Running<'_> {
    /// Returns `None` if somebody else was faster.
    async fn attempt(&self, kept: &mut Progress) -> Result<Option<Answer>, Unhandled> {
        self.read(kept).await?;
        for (order, history) in self.request.orders.iter().zip(&kept.orders) {
            if let Some(expected) = order.expected
                && expected != history.version
            {
                // The first answer to this command may have been what moved it.
                let answer = self.first_answer().await?;
                let conflict = Unhandled::Conflict { aggregate: order.aggregate.clone(), expected, actual: history.version };
                return answer.ok_or(conflict).map(Some);
            }
        }
        for (required, history) in self.request.required.iter().zip(&kept.required) {
            if let Err(message) = (required.rule)(history.state.state()) {
                let refusal = Value::Text(message.as_str().into());
                return self.refuse(Outcome::Refused { aggregate: required.aggregate.clone(), refusal, message }).await.map(Some);
            }
        }
        let mut decided = Vec::with_capacity(kept.orders.len());
        for (order, history) in self.request.orders.iter().zip(&kept.orders) {
            match history.state.decide(&order.command) {
                Ok(events) => decided.push(events),
                Err(Undecided::Refused { refusal, message }) => {
                    return self.refuse(Outcome::Refused { aggregate: order.aggregate.clone(), refusal, message }).await.map(Some);
                }
                Err(Undecided::Misfit(misfit)) => return Err(Unhandled::of_command(&misfit)),
                Err(Undecided::Outdated { revision }) => {
                    let (aggregate, kind) = (order.aggregate.clone(), order.decider.kind());
                    return Err(Unhandled::Outdated { aggregate, kind, revision });
                }
                Err(Undecided::Unwritable(unwritable)) => return Err(Unhandled::of_type(&unwritable)),
            }
        }
        self.append(kept, decided).await
    }

    /// Brings what is known of all aggregates up to date.
    async fn read(&self, kept: &mut Progress) -> Result<(), Unhandled> {
        let Some((moved, actual)) = kept.moved.take() else {
            if kept.orders.is_empty() {
                let load = |decider, aggregate| History::load(self.store, decider, aggregate, self.deadline);
                kept.orders = try_join_all(self.request.orders.iter().map(|order| load(order.decider, &order.aggregate))).await?;
                kept.required =
                    try_join_all(self.request.required.iter().map(|required| load(required.decider, &required.aggregate))).await?;
            }
            return Ok(());
        };
        for history in kept.orders.iter_mut().chain(&mut kept.required) {
            let before = history.version;
            if history.aggregate == moved && history.mark.is_some() && actual == before {
                // Its events were corrected, and they may be in the state.
                *history = History::load(self.store, history.decider, &history.aggregate, self.deadline).await?;
                continue;
            }
            history.advance(self.store, Version(u64::MAX), self.deadline).await?;
            if history.aggregate == moved && history.version == before && actual != before {
                let reason = format!("its VERSION item says {actual}, and its events end at {before}");
                return Err(history.unreadable(before.next(), &reason));
            }
        }
        Ok(())
    }

    async fn append(&self, kept: &mut Progress, decided: Vec<Vec<Decided>>) -> Result<Option<Answer>, Unhandled> {
        let mut handled = Vec::with_capacity(decided.len());
        for (history, decided) in kept.orders.iter().zip(decided) {
            handled.push(self.handled(history, decided)?);
        }
        let mut commit = self.commit(kept, &handled)?;
        if handled.iter().all(|one| one.events.is_empty()) {
            return self.accept_nothing(commit, handled).await;
        }
        if kept.without_snapshots || !commit.fits() {
            commit.parts.iter_mut().for_each(|part| part.snapshot = None);
        }
        if !commit.fits() {
            let actions = commit.actions();
            return Err(Unhandled::Invalid(format!(
                "the command makes {actions} writes with its events, and a transaction holds 100: split it into several commands"
            )));
        }
        match self.store.commit_command(&commit, self.deadline).await? {
            Committed::Done => Ok(Some(Answer { handled, replayed: false })),
            Committed::Answered(first) => self.answer(*first).await.map(Some),
            Committed::Moved(aggregate, version) => {
                kept.moved = Some((aggregate, version));
                Ok(None)
            }
            Committed::Claimed(at) => {
                let ClaimMove { claim, to, .. } = commit.claims.swap_remove(at);
                if let Some(aggregate) = to {
                    return self.refuse(Outcome::Taken { aggregate, kind: claim.kind }).await.map(Some);
                }
                // Another aggregate has what this one gives up: there is nothing to give up.
                kept.foreign.insert(claim);
                Ok(None)
            }
            Committed::Invalid(_) if commit.parts.iter().any(|part| part.snapshot.is_some()) => {
                kept.without_snapshots = true;
                Ok(None)
            }
            Committed::Invalid(reason) => Err(Unhandled::Invalid(format!("DynamoDB refuses what was decided: {reason}"))),
        }
    }

    /// Keeps the answer to a command that makes no events.
    async fn accept_nothing(&self, commit: Commit, handled: Vec<HandledOne>) -> Result<Option<Answer>, Unhandled> {
        let Some((keeper, id, answer)) = commit.answer else { return Ok(Some(Answer { handled, replayed: false })) };
        match self.store.keep_answer(&keeper, &id, &answer, self.deadline).await? {
            Some(first) if first.attempt != self.attempt => self.answer(first).await.map(Some),
            _ => Ok(Some(Answer { handled, replayed: false })),
        }
    }

    fn handled(&self, history: &History, decided: Vec<Decided>) -> Result<HandledOne, Unhandled> {
        let mut metadata = self.request.metadata.clone();
        if let Some(id) = &self.request.id
            && let Value::Map(members) = metadata.get_or_insert_with(|| Value::Map(BTreeMap::new()))
        {
            members.insert("commandId".to_owned(), id.into());
        }
        let (mut state, timestamp) = (history.state.copy(), now());
        let events = decided.into_iter().zip(history.version.0 + 1..).map(|(Decided { event_type, data }, version)| {
            let event = RecordedEvent {
                aggregate: history.aggregate.clone(),
                version: Version(version),
                event_id: event_id(&timestamp).into(),
                event_type: event_type.into(),
                data,
                timestamp: timestamp.clone(),
                metadata: metadata.clone(),
            };
            let evolved = state.evolve(&event);
            evolved.map(|()| event).map_err(|misfit| Unhandled::Invalid(format!("cannot read an event as it was written: {misfit}")))
        });
        let events = events.collect::<Result<Vec<_>, _>>()?;
        let version = events.last().map_or(history.version, |last| last.version);
        Ok(HandledOne { aggregate: history.aggregate.clone(), version, events, state })
    }

    fn commit(&self, kept: &Progress, handled: &[HandledOne]) -> Result<Commit, Unhandled> {
        let histories = || kept.orders.iter().zip(handled);
        let answer = self.request.id.as_ref().map(|id| {
            let versions = histories().map(|(before, after)| (after.aggregate.clone(), before.version, after.version));
            (self.request.keeper().clone(), id.clone(), self.answer_with(Outcome::Accepted(versions.collect())))
        });
        let part = |(history, one): (&History, &HandledOne)| {
            let HandledOne { aggregate, events, .. } = one;
            let mark = history.mark.clone();
            Part { aggregate: aggregate.clone(), expected: history.version, mark, events: events.clone(), snapshot: snapshot(history, one) }
        };
        let mut claims: BTreeMap<ClaimKey, ClaimMove> = BTreeMap::new();
        for (history, one) in histories() {
            let (before, after) = (history.state.claims(), one.state.claims());
            let given_up = before.difference(&after).map(ClaimKey::from).filter(|claim| !kept.foreign.contains(claim));
            for claim in given_up {
                moved(&mut claims, claim).from = Some(one.aggregate.clone());
            }
            for claim in after.difference(&before) {
                let taken = moved(&mut claims, claim.into());
                if taken.to.is_some() {
                    return Err(Unhandled::Invalid(format!("two of the commands claim the same {}", claim.kind)));
                }
                taken.to = Some(one.aggregate.clone());
            }
        }
        Ok(Commit {
            parts: histories().map(part).collect(),
            answer,
            claims: claims.into_values().collect(),
            unchanged: kept.required.iter().map(|history| (history.aggregate.clone(), history.version)).collect(),
        })
    }

    fn answer_with(&self, outcome: Outcome) -> FirstAnswer {
        FirstAnswer { command: self.digest.clone(), attempt: self.attempt.clone(), at: now(), outcome }
    }

    /// Refuses the command, unless it was answered before.
    async fn refuse(&self, outcome: Outcome) -> Result<Answer, Unhandled> {
        let answer = self.answer_with(outcome);
        let Some(id) = &self.request.id else { return self.answer(answer).await };
        let first = self.store.keep_answer(self.request.keeper(), id, &answer, self.deadline).await?;
        self.answer(first.unwrap_or(answer)).await
    }

    async fn first_answer(&self) -> Result<Option<Answer>, Unhandled> {
        let Some(id) = &self.request.id else { return Ok(None) };
        match self.store.first_answer(self.request.keeper(), id, self.deadline).await? {
            Some(first) => self.answer(first).await.map(Some),
            None => Ok(None),
        }
    }

    /// Gives an answer that was given before, by an earlier call or by an attempt of this one.
    async fn answer(&self, first: FirstAnswer) -> Result<Answer, Unhandled> {
        if first.command != self.digest {
            return Err(Unhandled::IdReused);
        }
        let replayed = first.attempt != self.attempt;
        let versions = match first.outcome {
            Outcome::Accepted(versions) => versions,
            Outcome::Refused { aggregate, refusal, message } => {
                return Err(Unhandled::Refused { refusal: AnyRefusal { aggregate, message, refusal }, replayed });
            }
            Outcome::Taken { aggregate: _, kind } => return Err(Unhandled::Taken { kind, replayed }),
        };
        let mut handled = Vec::with_capacity(versions.len());
        for order in &self.request.orders {
            let of_order = versions.iter().find(|(aggregate, ..)| *aggregate == order.aggregate);
            let (aggregate, before, after) = of_order.ok_or(Unhandled::IdReused)?;
            let mut history = History::load_at(self.store, order.decider, aggregate, *before, self.deadline).await?;
            let events = history.reach(self.store, *after, self.deadline).await?;
            handled.push(HandledOne { aggregate: aggregate.clone(), version: *after, events, state: history.state });
        }
        Ok(Answer { handled, replayed })
    }
}

/// The way of a claim, of which nothing is known if it is new here.
fn moved(claims: &mut BTreeMap<ClaimKey, ClaimMove>, claim: ClaimKey) -> &mut ClaimMove {
    claims.entry(claim.clone()).or_insert(ClaimMove { claim, from: None, to: None })
}

/// The snapshot to keep, if one is due.
fn snapshot(history: &History, after: &HandledOne) -> Option<Snapshot> {
    let due = history.decider.snapshot_every()? <= after.version.0 - history.snapshot.0;
    if !due || after.events.is_empty() {
        return None;
    }
    let state = after.state.snapshot().ok().filter(|state| state.to_json().get().len() <= SNAPSHOT_BYTES_MAX)?;
    let (kind, revision) = (history.decider.kind().to_owned(), history.decider.revision().into());
    Some(Snapshot { kind, revision, version: after.version, state })
}
