//! Proves the instances of a process: what was sent against what was carried out, and timers against the time.
//!
//! It runs while the worker runs. What may be under way (a request that is not answered yet) is looked at again before it is reported.
//! Reads each event once, and for each request the answer that the commanded aggregate keeps.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::Duration,
};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use projection_vocabulary::{
    AggregateId, RecordedEvent, Timestamp, Value, Version,
    process::{DynProcess, Instance, Outcome, ProcessEvent, Requested, SENT, Status, Target},
};

use super::CHECK_AGAIN_AFTER;
use crate::{
    commands::Unhandled,
    engine::{act::request_id, worker::CONCURRENCY},
    operations::{
        error::OperationError,
        processes::{WithHistory, load},
    },
    retry::Deadline,
    store::{
        Store,
        commands::{FirstAnswer, Outcome as Answered},
        events::Stored,
        segment::Segment,
    },
};

/// How long after it was due a timer may still run: a tick comes each minute.
const GRACE: Duration = Duration::from_mins(5);

/// What is wrong with an instance.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Finding {
    /// The request of this version was sent and never answered.
    Unanswered(u64),
    /// The instance has an answer to the request of this version, and sent none.
    NeverSent(u64),
    /// This event was caused by the request of this version, and the instance sent none.
    CausedByNone {
        /// The aggregate of the event.
        aggregate: AggregateId,
        /// The version of the request.
        of: u64,
    },
    /// The instance has an answer to the request of this version that the commanded aggregate never gave.
    NeverGiven(u64),
    /// A timer of this name should have run out.
    Overdue(String),
    /// It cannot be read, so that nothing goes on.
    Unreadable(String),
}

impl Finding {
    /// The finding in one word.
    #[must_use]
    pub fn text(&self) -> &'static str {
        match self {
            Self::Unanswered(_) => "unanswered",
            Self::NeverSent(_) => "neverSent",
            Self::CausedByNone { .. } => "causedByNone",
            Self::NeverGiven(_) => "neverGiven",
            Self::Overdue(_) => "overdue",
            Self::Unreadable(_) => "unreadable",
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unanswered(of) => write!(f, "the request of version {of} was sent and never answered"),
            Self::NeverSent(of) => write!(f, "it has an answer to the request of version {of}, and sent none"),
            Self::CausedByNone { aggregate, of } => {
                write!(f, "{aggregate} has events that the request of version {of} caused, and it sent none")
            }
            Self::NeverGiven(of) => write!(f, "it has an answer to the request of version {of} that was never given"),
            Self::Overdue(timer) => write!(f, "the timer {timer} should have run out: do ticks arrive?"),
            Self::Unreadable(reason) => f.write_str(reason),
        }
    }
}

/// The outcome.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VerifiedInstances {
    /// Instances read.
    pub instances: u64,
    /// Their requests.
    pub requests: u64,
    /// Instances by where they stand.
    pub by_status: BTreeMap<Status, u64>,
    /// What is wrong with each.
    pub findings: BTreeMap<AggregateId, BTreeSet<Finding>>,
}

impl VerifiedInstances {
    /// Each finding, with its instance.
    pub fn each(&self) -> impl Iterator<Item = (&AggregateId, &Finding)> {
        self.findings.iter().flat_map(|(instance, findings)| findings.iter().map(move |finding| (instance, finding)))
    }

    fn add(&mut self, Self { instances, requests, by_status, findings }: Self) {
        self.instances += instances;
        self.requests += requests;
        for (status, count) in by_status {
            *self.by_status.entry(status).or_default() += count;
        }
        for (instance, found) in findings {
            self.findings.entry(instance).or_default().extend(found);
        }
    }
}

/// Compares everything that instances of a process sent with what came of it.
///
/// # Errors
/// [`OperationError`].
pub async fn verify_instances(
    store: &Store,
    process: &'static dyn DynProcess,
    segments: u32,
    now: &Timestamp,
    deadline: Deadline,
) -> Result<VerifiedInstances, OperationError> {
    let verification = Verification { store, process, now, deadline };
    let each = Segment::all(segments.max(1)).map(|segment| verification.segment(segment));
    let parts: Vec<_> = stream::iter(each).buffer_unordered(segments.max(1) as usize).try_collect().await?;
    let mut all = VerifiedInstances::default();
    for part in parts {
        all.add(part);
    }
    verification.look_again(&mut all).await?;
    Ok(all)
}

#[derive(Clone, Copy)]
struct Verification<'a> {
    store: &'a Store,
    process: &'static dyn DynProcess,
    now: &'a Timestamp,
    deadline: Deadline,
}

/// What an event of the event store gives reason to look at.
#[derive(PartialEq, Eq)]
enum Look {
    Instance(AggregateId),
    /// An event of this aggregate names a request of an instance as its cause.
    Effect(AggregateId, AggregateId, u64),
}

impl Verification<'_> {
    async fn segment(self, segment: Segment) -> Result<VerifiedInstances, OperationError> {
        let (mut verified, mut last, mut next) = (VerifiedInstances::default(), None, None);
        loop {
            let (page, after) = self.store.scan_events(segment, next.as_ref(), self.deadline).await?;
            let mut looks: Vec<_> = page.iter().filter_map(|(aggregate, stored)| self.look(aggregate, stored)).collect();
            // Events of one aggregate are neighbours, also across pages.
            looks.dedup();
            if looks.first() == last.as_ref() {
                looks.drain(..looks.len().min(1)).for_each(drop);
            }
            let parts = looks.iter().map(|look| self.verify(look));
            let parts: Vec<_> = stream::iter(parts).buffer_unordered(CONCURRENCY).try_collect().await?;
            for part in parts {
                verified.add(part);
            }
            last = looks.pop().or(last);
            next = after;
            if next.is_none() {
                return Ok(verified);
            }
        }
    }

    fn look(self, aggregate: &AggregateId, stored: &Stored) -> Option<Look> {
        if self.process.is_instance(aggregate.as_str()) {
            return Some(Look::Instance(aggregate.clone()));
        }
        let Stored::Event(RecordedEvent { metadata: Some(Value::Map(members)), .. }) = stored else { return None };
        let (instance, of) = members.get("commandId")?.as_text().filter(|id| self.process.is_instance(id))?.rsplit_once('/')?;
        Some(Look::Effect(aggregate.clone(), instance.into(), of.parse().ok()?))
    }

    async fn verify(self, look: &Look) -> Result<VerifiedInstances, OperationError> {
        match look {
            Look::Instance(instance) => self.instance(instance).await,
            Look::Effect(aggregate, instance, of) => self.effect(aggregate, instance, *of).await,
        }
    }

    /// Whether the instance has sent what caused an event.
    async fn effect(self, aggregate: &AggregateId, instance: &AggregateId, of: u64) -> Result<VerifiedInstances, OperationError> {
        let stored = self.store.load_page(instance, Version(of)..=Version(of), 1, self.deadline).await?;
        let mut verified = VerifiedInstances::default();
        if !matches!(stored.first(), Some(Stored::Event(event)) if &*event.event_type == SENT) {
            let finding = Finding::CausedByNone { aggregate: aggregate.clone(), of };
            verified.findings.entry(instance.clone()).or_default().insert(finding);
        }
        Ok(verified)
    }

    async fn instance(self, id: &AggregateId) -> Result<VerifiedInstances, OperationError> {
        let mut verified = VerifiedInstances { instances: 1, ..VerifiedInstances::default() };
        let mut findings = BTreeSet::new();
        match load(self.store, self.process, id, self.deadline).await {
            Ok(Some(WithHistory { instance, events })) => {
                verified.requests = instance.requests().values().filter(|request| request.to.is_some()).count() as u64;
                verified.by_status.insert(instance.status(), 1);
                findings = self.findings(id, &instance, &events).await?;
            }
            Ok(None) => {}
            Err(Unhandled::Store(error)) => return Err(error.into()),
            Err(unreadable) => _ = findings.insert(Finding::Unreadable(unreadable.to_string())),
        }
        if !findings.is_empty() {
            verified.findings.insert(id.clone(), findings);
        }
        Ok(verified)
    }

    async fn findings(
        self,
        id: &AggregateId,
        instance: &Instance<Value>,
        events: &[RecordedEvent],
    ) -> Result<BTreeSet<Finding>, OperationError> {
        let mut findings = BTreeSet::new();
        for event in events {
            let Ok(Some(event)) = ProcessEvent::read(&event.event_type, &event.data) else { continue };
            if let ProcessEvent::ProcessAccepted { of, .. } | ProcessEvent::ProcessRefused { of, .. } = event
                && instance.requests().get(&of).is_none_or(|request| request.to.is_none())
            {
                findings.insert(Finding::NeverSent(of));
            }
        }
        for (of, request) in instance.requests() {
            match request.outcome {
                // An operator decides about what it is stuck at.
                Outcome::Waiting if !instance.is_stuck_at(*of) => _ = findings.insert(Finding::Unanswered(*of)),
                Outcome::Accepted | Outcome::Undone if !self.was_given(id, *of, request, true).await? => {
                    findings.insert(Finding::NeverGiven(*of));
                }
                Outcome::Refused if !self.was_given(id, *of, request, false).await? => _ = findings.insert(Finding::NeverGiven(*of)),
                _ => {}
            }
        }
        let latest = self.now.epoch_ms() - i64::try_from(GRACE.as_millis()).expect("minutes");
        let overdue = instance.timers().iter().filter(|(_, (_, due))| due.epoch_ms() < latest);
        findings.extend(overdue.map(|(name, _)| Finding::Overdue(name.clone())));
        Ok(findings)
    }

    /// Whether the aggregate that was commanded keeps this answer. Nobody keeps those of calls.
    async fn was_given(self, id: &AggregateId, of: u64, request: &Requested, accepted: bool) -> Result<bool, OperationError> {
        let Some(Target::Command { aggregate, .. }) = &request.to else { return Ok(true) };
        let kept = self.store.first_answer(&aggregate.as_str().into(), &request_id(id, of), self.deadline).await?;
        Ok(kept.is_some_and(|FirstAnswer { outcome, .. }| matches!(outcome, Answered::Accepted(_)) == accepted))
    }

    /// Forgets what was only under way.
    async fn look_again(self, all: &mut VerifiedInstances) -> Result<(), OperationError> {
        let is_waiting = |finding: &Finding| matches!(finding, Finding::Unanswered(_));
        for pause in CHECK_AGAIN_AFTER {
            let waiting: Vec<_> =
                all.findings.iter().filter(|(_, findings)| findings.iter().any(is_waiting)).map(|(id, _)| id.clone()).collect();
            if waiting.is_empty() {
                break;
            }
            tokio::time::sleep(pause).await;
            for id in waiting {
                let again = self.instance(&id).await?.findings.remove(&id).unwrap_or_default();
                let findings = all.findings.get_mut(&id).expect("it waits");
                // What is sent since then is no finding of this verification.
                findings.retain(|finding| !is_waiting(finding) || again.contains(finding));
                if findings.is_empty() {
                    all.findings.remove(&id);
                }
            }
        }
        Ok(())
    }
}
