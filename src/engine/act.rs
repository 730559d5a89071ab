//! What a process does with an event before its row moves past it: it delivers the event to an instance, or carries out what an instance
//! has sent. Both are idempotent: an instance knows what it has received and what was answered, and a command has an id.

use std::{ops::AddAssign, time::Duration};

use projection_vocabulary::{
    AggregateId, RecordedEvent, Value,
    process::{Answer, DynProcess, Outcome, ProcessEvent, REVISION_MEMBER, SENT, Target, Told},
    to_value,
};
use tracing::Instrument as _;

use crate::{
    commands::{AnyCommand, AnyHandled, Commands, Unhandled},
    engine::{
        calls::{CallError, Calls, Registered},
        error::AdvanceError,
    },
    retry::{Deadline, DeadlineExceeded},
    store::{Store, commands::COMMAND_ID_BYTES_MAX, digest, spans},
};

/// How long to wait before a call is tried again: twice as long each time, up to the last of these.
const PAUSES: [Duration; 4] =
    [Duration::from_millis(100), Duration::from_millis(200), Duration::from_millis(400), Duration::from_millis(800)];
/// What of an error of a call is kept: its beginning.
const ERROR_CHARS_MAX: usize = 300;

/// The members of metadata that a process adds to the events that it causes.
const HOPS: &str = "hops";
const CAUSED_BY: &str = "causedBy";

/// What became of instances, by the events that were appended to them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are self-explanatory")]
pub struct InstanceCounts {
    pub started: u64,
    pub sent: u64,
    pub accepted: u64,
    pub refused: u64,
    pub timed_out: u64,
    pub failed: u64,
    pub stuck: u64,
    pub completed: u64,
    pub undone: u64,
    pub resolved: u64,
}

impl AddAssign for InstanceCounts {
    fn add_assign(&mut self, other: Self) {
        self.started += other.started;
        self.sent += other.sent;
        self.accepted += other.accepted;
        self.refused += other.refused;
        self.timed_out += other.timed_out;
        self.failed += other.failed;
        self.stuck += other.stuck;
        self.completed += other.completed;
        self.undone += other.undone;
        self.resolved += other.resolved;
    }
}

impl InstanceCounts {
    /// Counts events that were appended to an instance.
    #[must_use]
    pub fn of(events: &[RecordedEvent]) -> Self {
        let mut counts = Self::default();
        for event in events {
            let Ok(Some(event)) = ProcessEvent::read(&event.event_type, &event.data) else { continue };
            *(match event {
                ProcessEvent::ProcessReceived { begins: true, .. } => &mut counts.started,
                ProcessEvent::ProcessSent { .. } => &mut counts.sent,
                ProcessEvent::ProcessAccepted { .. } => &mut counts.accepted,
                ProcessEvent::ProcessRefused { .. } => &mut counts.refused,
                ProcessEvent::ProcessTimedOut { .. } => &mut counts.timed_out,
                ProcessEvent::ProcessFailed { .. } => &mut counts.failed,
                ProcessEvent::ProcessStuck { .. } => &mut counts.stuck,
                ProcessEvent::ProcessCompleted {} => &mut counts.completed,
                ProcessEvent::ProcessUndone {} => &mut counts.undone,
                ProcessEvent::ProcessResolved { .. } => &mut counts.resolved,
                _ => continue,
            }) += 1;
        }
        counts
    }
}

/// Why a process has not acted on an event.
#[derive(Debug)]
pub enum NotActed {
    /// It never can: park the aggregate, for this reason.
    Poison(String),
    /// Nothing is known to be wrong with the event.
    Failed(AdvanceError),
}

impl From<AdvanceError> for NotActed {
    fn from(error: AdvanceError) -> Self {
        Self::Failed(error)
    }
}

impl From<DeadlineExceeded> for NotActed {
    fn from(exceeded: DeadlineExceeded) -> Self {
        Self::Failed(exceeded.into())
    }
}

/// A process at work.
#[derive(Clone, Copy)]
pub struct Act<'a> {
    /// Where aggregates and instances are.
    pub store: &'a Store,
    /// What it may call.
    pub calls: &'a Calls,
    /// The process.
    pub process: &'static dyn DynProcess,
    /// When no new work may begin.
    pub deadline: Deadline,
}

impl Act<'_> {
    /// Acts on an event, whether or not that was done before.
    ///
    /// # Errors
    /// [`NotActed`].
    pub async fn on(self, event: &RecordedEvent) -> Result<InstanceCounts, NotActed> {
        self.deadline.check()?;
        let hops = hops_of(event);
        if hops >= self.process.hops_max() {
            return Err(NotActed::Poison(format!(
                "{hops} things in a row have led to each other without time passing or anybody else acting: the process feeds itself"
            )));
        }
        let process = self.process.name();
        if &*event.event_type == SENT {
            self.dispatch(event).instrument(spans::act("dispatch", process)).await
        } else {
            self.deliver(event).instrument(spans::act("deliver", process)).await
        }
    }

    async fn deliver(self, event: &RecordedEvent) -> Result<InstanceCounts, NotActed> {
        let Some(instance) = self.process.route(event).map_err(|refusal| NotActed::Poison(refusal.to_string()))? else {
            return Ok(InstanceCounts::default());
        };
        self.tell(&instance, &Told::Deliver { event: event.clone() }, event).await
    }

    /// Carries out what an instance has sent, and tells it the answer.
    async fn dispatch(self, event: &RecordedEvent) -> Result<InstanceCounts, NotActed> {
        let poison = |misfit: &dyn std::fmt::Display| NotActed::Poison(format!("cannot read the request: {misfit}"));
        let sent = ProcessEvent::read(&event.event_type, &event.data).map_err(|misfit| poison(&misfit))?;
        let Some(ProcessEvent::ProcessSent { to, .. }) = sent else { return Err(poison(&"it is of another type")) };
        let of = event.version.0;
        match to {
            Target::Command { kind, aggregate, command } => {
                let answer = self.command(event, &kind, &aggregate, command).await?;
                self.tell(&event.aggregate, &Told::Answer { of, answer }, event).await
            }
            Target::Call { function, argument } => self.call(event, &function, &argument).await,
        }
    }

    async fn command(self, event: &RecordedEvent, kind: &str, aggregate: &str, command: Value) -> Result<Answer, NotActed> {
        let decider = self.process.commanded().iter().find(|decider| decider.kind() == kind);
        let Some(decider) = decider else {
            return Err(AdvanceError::NotHere { process: self.process.name(), place: format!("the kind `{kind}`") }.into());
        };
        let id = Some(request_id(&event.aggregate, event.version.0));
        let metadata = Some(metadata(hops_of(event), Some(event), None));
        match self.commands().handle_any(*decider, aggregate, AnyCommand { command, id, expected: None, metadata }).await {
            Ok(AnyHandled { version, .. }) => Ok(Answer::Accepted { version: Some(version.0), answer: Value::Null }),
            Err(Unhandled::Refused { refusal, .. }) => {
                Ok(Answer::Refused { message: refusal.message.clone(), refusal: refusal.refusal().clone() })
            }
            Err(Unhandled::Taken { kind, .. }) => {
                Ok(Answer::Refused { message: format!("the {kind} is taken"), refusal: Value::Text(kind.as_str().into()) })
            }
            Err(unhandled) => Err(self.not_handled(unhandled)),
        }
    }

    /// Calls a function until it answers, as often as it may be tried, and tells the instance each time how that went.
    async fn call(self, event: &RecordedEvent, function: &str, argument: &Value) -> Result<InstanceCounts, NotActed> {
        let Some(registered) = self.calls.get(function) else {
            return Err(AdvanceError::NotHere { process: self.process.name(), place: format!("the function `{function}`") }.into());
        };
        let of = event.version.0;
        let loaded = self.commands().load_any(self.process.instances(), &event.aggregate).await;
        let state = loaded.map_err(|unhandled| self.not_handled(unhandled))?;
        let unknown = || NotActed::Poison("the instance does not know the request".to_owned());
        let instance = self.process.instance(state.state()).ok_or_else(unknown)?;
        if instance.revision() > self.process.process_revision() {
            return Err(self.newer(instance.revision()).into());
        }
        let request = instance.requests().get(&of).ok_or_else(unknown)?;
        let mut counts = InstanceCounts::default();
        if request.outcome != Outcome::Waiting {
            return Ok(counts);
        }
        let key = request_id(&event.aggregate, request.key);
        for number in request.tries + 1..=registered.tries_max {
            self.deadline.check()?;
            let answer = match self.try_once(registered, key.clone(), argument).await {
                Ok(answer) => Answer::Accepted { version: None, answer },
                Err(CallError::Refused(message)) => Answer::Refused { refusal: Value::Text(message.as_str().into()), message },
                Err(CallError::Failed(error)) => {
                    let error = error.chars().take(ERROR_CHARS_MAX).collect();
                    let most = registered.tries_max;
                    counts += self.tell(&event.aggregate, &Told::Tried { of, number, error, most }, event).await?;
                    if number < most {
                        tokio::time::sleep(PAUSES[PAUSES.len().min(number as usize) - 1]).await;
                    }
                    continue;
                }
            };
            counts += self.tell(&event.aggregate, &Told::Answer { of, answer }, event).await?;
            return Ok(counts);
        }
        Ok(counts)
    }

    async fn try_once(self, registered: &Registered, key: String, argument: &Value) -> Result<Value, CallError> {
        let time = self.deadline.left().map_or(registered.time_max, |left| left.min(registered.time_max));
        let answered = tokio::time::timeout(time, (registered.call)(key, argument)).await;
        answered.unwrap_or_else(|_| Err(CallError::failed("no answer in time")))
    }

    /// Tells an instance something, and counts what it appends.
    async fn tell(self, instance: &AggregateId, told: &Told, because: &RecordedEvent) -> Result<InstanceCounts, NotActed> {
        match tell(self.store, self.process, instance, told, Some(because), self.deadline).await {
            Ok(handled) => Ok(InstanceCounts::of(&handled.events)),
            // What the process refuses to take is a mistake in it, or in the event.
            Err(Unhandled::Refused { refusal, .. }) => Err(NotActed::Poison(refusal.message)),
            Err(unhandled) => Err(self.not_handled(unhandled)),
        }
    }

    fn commands(&self) -> Commands<'_> {
        Commands::new(self.store).until(self.deadline)
    }

    fn newer(self, instance: u32) -> AdvanceError {
        AdvanceError::NewerProcess { process: self.process.name(), instance, program: self.process.process_revision() }
    }

    fn not_handled(self, unhandled: Unhandled) -> NotActed {
        let process = self.process.name();
        NotActed::Failed(match unhandled {
            Unhandled::Store(error) => error.into(),
            Unhandled::Contended { .. } => AdvanceError::Contended { process },
            Unhandled::Outdated { kind, revision, .. } if kind == process => self.newer(revision),
            other => return NotActed::Poison(other.to_string()),
        })
    }
}

/// Tells an instance something, because of an event, or else of an operator or of time: then a chain of its own begins.
///
/// # Errors
/// [`CommandError`](crate::CommandError).
pub async fn tell(
    store: &Store,
    process: &'static dyn DynProcess,
    instance: &AggregateId,
    told: &Told,
    because: Option<&RecordedEvent>,
    deadline: Deadline,
) -> Result<AnyHandled, Unhandled> {
    let hops = because.map_or(0, |event| hops_of(event) + 1);
    let metadata = metadata(hops, because, Some(process.process_revision()));
    let command = to_value(told).map_err(|unwritable| Unhandled::Invalid(unwritable.to_string()))?;
    let command = AnyCommand { command, metadata: Some(metadata), ..AnyCommand::default() };
    Commands::new(store).until(deadline).handle_any(process.instances(), instance.as_str(), command).await
}

fn metadata(hops: u32, because: Option<&RecordedEvent>, revision: Option<u32>) -> Value {
    let cause = because.map(|event| format!("{}@{}", event.aggregate, event.version).into());
    let revision = revision.map(|revision| u64::from(revision).into());
    let members = [(HOPS, Some(u64::from(hops).into())), (CAUSED_BY, cause), (REVISION_MEMBER, revision)];
    Value::Map(members.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect())
}

fn hops_of(event: &RecordedEvent) -> u32 {
    let Some(Value::Map(members)) = &event.metadata else { return 0 };
    members.get(HOPS).and_then(|hops| projection_vocabulary::read_value(hops).ok()).unwrap_or_default()
}

/// The id of the command that a request of an instance sends, and the idempotency key of a call.
#[must_use]
pub fn request_id(instance: &AggregateId, version: u64) -> String {
    let id = format!("{instance}/{version}");
    if id.len() <= COMMAND_ID_BYTES_MAX { id } else { format!("{}/{version}", digest(instance.as_str())) }
}

#[cfg(test)]
mod tests {
    use projection_vocabulary::{
        DynDecider, Recorded, Refusal, Registry, data,
        process::{Input, Instance, Outputs, Process, ProcessRule, outputs},
        sample::{Fact, record},
    };
    use serde::{Deserialize, Serialize};

    use super::*;
    use crate::{embedded::Embedded, store::TableNames};

    #[test]
    fn each_event_of_an_instance_counts_in_its_way() {
        let none = InstanceCounts::default;
        for (event_type, data, expected) in [
            ("ProcessReceived", data! { from: "o", version: 1, eventType: "T", begins: true }, InstanceCounts { started: 1, ..none() }),
            ("ProcessReceived", data! { from: "o", version: 1, eventType: "T" }, none()),
            (
                "ProcessSent",
                data! { name: "print", to: { "Call": { "function": "print", "argument": null } } },
                InstanceCounts { sent: 1, ..none() },
            ),
            ("ProcessAccepted", data! { of: 1 }, InstanceCounts { accepted: 1, ..none() }),
            ("ProcessRefused", data! { of: 1, message: "no", refusal: null }, InstanceCounts { refused: 1, ..none() }),
            ("ProcessTimedOut", data! { name: "t", due: "2026-01-01T00:00:00Z" }, InstanceCounts { timed_out: 1, ..none() }),
            ("ProcessFailed", data! { why: "no" }, InstanceCounts { failed: 1, ..none() }),
            ("ProcessStuck", data! { of: 1, why: "no" }, InstanceCounts { stuck: 1, ..none() }),
            ("ProcessCompleted", data! {}, InstanceCounts { completed: 1, ..none() }),
            ("ProcessUndone", data! {}, InstanceCounts { undone: 1, ..none() }),
            ("ProcessResolved", data! { note: "by hand" }, InstanceCounts { resolved: 1, ..none() }),
            ("ProcessRetried", data! { note: "again" }, none()),
            ("SomethingElse", data! {}, none()),
        ] {
            let events: Vec<_> = record([Fact { aggregate: "order".into(), event_type, data }]).collect();
            assert_eq!(InstanceCounts::of(&events), expected, "{event_type}");
        }
    }

    #[test]
    fn the_id_of_a_request_is_as_long_as_an_id_may_be() {
        let id = |bytes: usize| request_id(&"x".repeat(bytes - "/7".len()).as_str().into(), 7);
        assert_eq!(id(4), "xx/7");
        assert_eq!(id(COMMAND_ID_BYTES_MAX), "x".repeat(COMMAND_ID_BYTES_MAX - 2) + "/7");
        let digested = id(COMMAND_ID_BYTES_MAX + 1);
        assert!(digested.len() < COMMAND_ID_BYTES_MAX && digested.ends_with("/7") && !digested.contains('x'), "{digested}");
    }

    struct Letters;

    #[derive(Deserialize)]
    enum Letter {
        Earned {},
    }

    #[derive(Clone, Serialize, Deserialize)]
    enum Written {
        Written {},
    }

    impl Process for Letters {
        type Input = Letter;
        type Fact = Written;
        type State = ();
        const NAME: &str = "letters";
        const COMMANDED: &[&dyn DynDecider] = &[];

        fn route(&self, event: &Recorded<'_, Letter>) -> Option<String> {
            let Letter::Earned {} = event.event;
            Some(event.aggregate.to_string())
        }

        fn evolve(&self, (): &mut (), Written::Written {}: &Written) {}

        fn decide(&self, _: &Instance<()>, _: Input<'_, Letter>) -> Result<Outputs<Written>, Refusal> {
            Ok(outputs())
        }
    }

    /// The deployment is too old for an instance that a newer one wrote; what it was commanded by a newer one is a mistake.
    #[test]
    fn an_instance_of_a_newer_program_fails_and_anything_else_that_is_newer_parks() {
        let client = Embedded::memory().expect("an empty database").client();
        let store = Store::new(client, TableNames::from_env_or_default(Registry::new(&[]), |_| None));
        let act = Act { store: &store, calls: &Calls::new(), process: &ProcessRule(Letters), deadline: Deadline::NONE };
        let outdated = |kind| act.not_handled(Unhandled::Outdated { aggregate: "ann".into(), kind, revision: 7 });
        let newer = AdvanceError::NewerProcess { process: "letters", instance: 7, program: 1 };
        assert!(matches!(outdated("letters"), NotActed::Failed(error) if error == newer));
        assert!(matches!(outdated("account"), NotActed::Poison(reason) if reason.contains("revision 7 of `account`")));
    }
}
