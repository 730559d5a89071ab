//! A process instance: the fold of its events, and the protocol of what follows what. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{Input, Outputs, Process, ProcessEvent, REVISION_MEMBER, Target, guarded, output::End};
use crate::{
    AggregateId, DEPTH_MAX, Decided, Misfit, Recorded, RecordedEvent, Refusal, Timestamp, Undecided, Unwritable, Value,
    change::is_child_sort, de, ser,
};

/// A process instance as [`Process::decide`] sees it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Instance<S> {
    state: S,
    phase: Phase,
    /// Why it failed.
    why: Option<String>,
    /// The newest event that was received of each aggregate.
    received: BTreeMap<String, u64>,
    /// What was sent, by the version of its event.
    requests: BTreeMap<u64, Requested>,
    /// The timers that run: the version that started each, and when it is due.
    timers: BTreeMap<String, (u64, Timestamp)>,
    /// The requests that it is stuck at.
    stuck: BTreeSet<u64>,
    version: u64,
    /// The newest revision of the process that wrote to it.
    revision: u32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    New,
    Open,
    Undoing,
    Completed,
    Undone,
    Resolved,
}

/// Where an instance stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Status {
    /// It only received events, and decided to do nothing.
    New,
    /// It waits for an answer, an event or a timer.
    Open,
    /// It failed, and undoes what was done.
    Undoing,
    /// It cannot go on by itself: an operator must retry or resolve it.
    Stuck,
    /// It ended as it should.
    Completed,
    /// It failed, and everything that was done is undone.
    Undone,
    /// An operator ended it.
    Resolved,
}

/// A request and its answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Requested {
    /// Its name.
    pub name: String,
    /// Where it went; `None` if it is only to be sent to undo.
    pub to: Option<Target>,
    /// What undoes it. Nothing undoes an undo.
    pub undo: Option<Target>,
    /// The request that it undoes.
    pub undoes: Option<u64>,
    /// The request that names the idempotency key of a call: this one, or the first of those that it repeats.
    pub key: u64,
    /// How it was answered.
    pub outcome: Outcome,
    /// How often a call has failed without an answer.
    pub tries: u32,
}

/// How a request was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was not answered yet.
    Waiting,
    /// It was accepted.
    Accepted,
    /// It was refused.
    Refused,
    /// It was accepted and then undone.
    Undone,
    /// It was sent again, as another request.
    Repeated,
}

/// A command to an instance.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Told {
    /// Receive an event.
    Deliver {
        /// The event.
        event: RecordedEvent,
    },
    /// Take the answer to a request.
    Answer {
        /// The version of the request.
        of: u64,
        /// The answer.
        answer: Answer,
    },
    /// Record that a call failed without an answer.
    Tried {
        /// The version of the request.
        of: u64,
        /// Which try it was, from 1.
        number: u32,
        /// Why it failed.
        error: String,
        /// After how many tries the instance is stuck.
        most: u32,
    },
    /// A timer has run out.
    TimeOut {
        /// Its name.
        name: String,
        /// The version that started it.
        of: u64,
    },
    /// Try again what it is stuck at.
    Retry {
        /// What the operator says.
        note: String,
    },
    /// End it, although it is stuck.
    Resolve {
        /// What the operator says.
        note: String,
    },
}

/// The answer to a request.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Answer {
    /// It was accepted.
    Accepted {
        /// The version of the commanded aggregate afterwards.
        version: Option<u64>,
        /// What the far side of a call returned.
        answer: Value,
    },
    /// It was refused.
    Refused {
        /// What the refusal says.
        message: String,
        /// The refusal.
        refusal: Value,
    },
}

impl Status {
    /// Every status.
    pub const ALL: [Self; 7] = [Self::New, Self::Open, Self::Undoing, Self::Stuck, Self::Completed, Self::Undone, Self::Resolved];

    /// The status as rows have it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Open => "open",
            Self::Undoing => "undoing",
            Self::Stuck => "stuck",
            Self::Completed => "completed",
            Self::Undone => "undone",
            Self::Resolved => "resolved",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl<S> Instance<S> {
    /// The state that its facts make.
    #[must_use]
    pub fn state(&self) -> &S {
        &self.state
    }

    /// Where it stands.
    #[must_use]
    pub fn status(&self) -> Status {
        match self.phase {
            Phase::Open | Phase::Undoing if !self.stuck.is_empty() => Status::Stuck,
            Phase::New => Status::New,
            Phase::Open => Status::Open,
            Phase::Undoing => Status::Undoing,
            Phase::Completed => Status::Completed,
            Phase::Undone => Status::Undone,
            Phase::Resolved => Status::Resolved,
        }
    }

    /// Why it failed, if it did.
    #[must_use]
    pub fn why(&self) -> Option<&str> {
        self.why.as_deref()
    }

    /// How many requests with this name wait for an answer.
    #[must_use]
    pub fn waiting(&self, name: &str) -> usize {
        self.requests.values().filter(|request| request.name == name && request.outcome == Outcome::Waiting).count()
    }

    /// Whether it is stuck at the request of this version.
    #[must_use]
    pub fn is_stuck_at(&self, request: u64) -> bool {
        self.stuck.contains(&request)
    }

    /// Whether a timer with this name runs.
    #[must_use]
    pub fn timer(&self, name: &str) -> bool {
        self.timers.contains_key(name)
    }

    /// The timers that run: the version that started each, and when it is due.
    #[must_use]
    pub fn timers(&self) -> &BTreeMap<String, (u64, Timestamp)> {
        &self.timers
    }

    /// The newest revision of the process that wrote to it. A program with an older one reads nothing of what follows.
    #[must_use]
    pub fn revision(&self) -> u32 {
        self.revision
    }

    /// What was sent, by the version of its event.
    #[must_use]
    pub fn requests(&self) -> &BTreeMap<u64, Requested> {
        &self.requests
    }

    /// The newest event that was received of each aggregate.
    #[must_use]
    pub fn received(&self) -> &BTreeMap<String, u64> {
        &self.received
    }

    /// The same with the state as a value.
    pub(super) fn with_value(&self) -> Result<Instance<Value>, Unwritable>
    where
        S: Serialize,
    {
        let Self { state, phase, why, received, requests, timers, stuck, version, revision } = self;
        Ok(Instance {
            state: ser::to_value(state)?,
            phase: *phase,
            why: why.clone(),
            received: received.clone(),
            requests: requests.clone(),
            timers: timers.clone(),
            stuck: stuck.clone(),
            version: *version,
            revision: *revision,
        })
    }

    /// Whether it has ended: nothing follows any more.
    fn ended(&self) -> bool {
        matches!(self.phase, Phase::Completed | Phase::Undone | Phase::Resolved)
    }

    /// Whether a request waits for an answer.
    fn waits(&self) -> bool {
        self.requests.values().any(|request| request.outcome == Outcome::Waiting)
    }

    fn take(&mut self, version: u64, at: &Timestamp, event: ProcessEvent) {
        self.version = version;
        if let ProcessEvent::ProcessReceived { from, version, .. } = event {
            self.received.insert(from, version);
            return;
        }
        if self.phase == Phase::New {
            self.phase = Phase::Open;
        }
        match event {
            ProcessEvent::ProcessReceived { .. } | ProcessEvent::ProcessRetried { .. } | ProcessEvent::ProcessResumed { .. } => {}
            ProcessEvent::ProcessSent { name, to, undo, undoes, again } => {
                let before = again.and_then(|again| self.requests.get_mut(&again));
                let key = before.map_or(version, |before| {
                    before.outcome = Outcome::Repeated;
                    before.key
                });
                self.stuck.retain(|of| Some(*of) != again);
                let (to, outcome, tries) = (Some(to), Outcome::Waiting, 0);
                self.requests.insert(version, Requested { name, to, undo, undoes, key, outcome, tries });
            }
            ProcessEvent::ProcessUndoAdded { name, undo } => {
                let (undo, outcome) = (Some(undo), Outcome::Accepted);
                self.requests.insert(version, Requested { name, to: None, undo, undoes: None, key: version, outcome, tries: 0 });
            }
            ProcessEvent::ProcessAccepted { of, .. } => {
                let undoes = self.answered(of, Outcome::Accepted);
                if let Some(undone) = undoes.and_then(|of| self.requests.get_mut(&of)) {
                    undone.outcome = Outcome::Undone;
                }
            }
            ProcessEvent::ProcessRefused { of, .. } => {
                self.answered(of, Outcome::Refused);
            }
            ProcessEvent::ProcessTried { of, tries, .. } => {
                if let Some(request) = self.requests.get_mut(&of) {
                    request.tries = tries;
                }
            }
            ProcessEvent::ProcessScheduled { name, after_ms } => {
                self.timers.insert(name, (version, due(at, after_ms)));
            }
            ProcessEvent::ProcessCancelled { name } | ProcessEvent::ProcessTimedOut { name, .. } => {
                self.timers.remove(&name);
            }
            ProcessEvent::ProcessFailed { why } => {
                self.phase = Phase::Undoing;
                self.why = Some(why);
            }
            ProcessEvent::ProcessStuck { of, .. } => {
                self.stuck.insert(of);
            }
            ProcessEvent::ProcessResolved { .. } => self.phase = Phase::Resolved,
            ProcessEvent::ProcessCompleted {} => self.phase = Phase::Completed,
            ProcessEvent::ProcessUndone {} => self.phase = Phase::Undone,
        }
    }

    fn answered(&mut self, of: u64, outcome: Outcome) -> Option<u64> {
        self.stuck.remove(&of);
        let request = self.requests.get_mut(&of)?;
        request.outcome = outcome;
        request.undoes
    }
}

impl Requested {
    /// What it is, for people.
    fn title(&self) -> String {
        if self.undoes.is_some() { format!("the undo of `{}`", self.name) } else { format!("`{}`", self.name) }
    }
}

/// When a timer that was started at this time runs out.
pub(super) fn due(at: &Timestamp, after_ms: u64) -> Timestamp {
    let due = i64::try_from(after_ms).ok().and_then(|after| Timestamp::from_epoch_ms(at.epoch_ms().checked_add(after)?));
    // A timer beyond the year 9999 never runs out.
    due.unwrap_or_else(|| Timestamp::parse("9999-12-31T23:59:59.999Z").expect("valid"))
}

/// An instance with its process, and the events that follow a command, as they are decided.
struct Deciding<'a, P: Process> {
    process: &'a P,
    instance: Instance<P::State>,
    decided: Vec<Decided>,
}

/// Applies an event to an instance.
pub(crate) fn evolve<P: Process>(process: &P, instance: &mut Instance<P::State>, event: &RecordedEvent) -> Result<(), Misfit> {
    instance.version = event.version.0;
    let revision = event.metadata.as_ref().and_then(revision_of).unwrap_or_default();
    instance.revision = revision.max(instance.revision);
    if instance.revision > P::REVISION {
        // What a newer revision recorded may mean something else here: nothing is decided any more.
        return Ok(());
    }
    match ProcessEvent::read(&event.event_type, &event.data)? {
        Some(of_protocol) => instance.take(event.version.0, &event.timestamp, of_protocol),
        None => note(process, instance, event.version.0, &de::event(&event.event_type, &event.data)?)?,
    }
    Ok(())
}

fn note<P: Process>(process: &P, instance: &mut Instance<P::State>, version: u64, fact: &P::Fact) -> Result<(), Misfit> {
    instance.version = version;
    if instance.phase == Phase::New {
        instance.phase = Phase::Open;
    }
    guarded(|| process.evolve(&mut instance.state, fact)).ok_or_else(|| serde::de::Error::custom("the process panicked on this event type"))
}

fn revision_of(metadata: &Value) -> Option<u32> {
    let Value::Map(members) = metadata else { return None };
    de::value(members.get(REVISION_MEMBER)?).ok()
}

/// Decides what follows a command.
pub(crate) fn decide<P: Process>(process: &P, instance: &Instance<P::State>, told: &Told) -> Result<Vec<Decided>, Undecided> {
    if instance.revision > P::REVISION {
        return Err(Undecided::Outdated { revision: instance.revision });
    }
    let mut deciding = Deciding { process, instance: instance.clone(), decided: Vec::new() };
    deciding.told(told)?;
    Ok(deciding.decided)
}

impl<P: Process> Deciding<'_, P> {
    fn told(&mut self, told: &Told) -> Result<(), Undecided> {
        let was_stuck = self.instance.status() == Status::Stuck;
        match told {
            Told::Deliver { event } => self.deliver(event)?,
            Told::Answer { of, answer } => self.answer(*of, answer)?,
            Told::Tried { of, number, error, most } => self.tried(*of, *number, error, *most)?,
            Told::TimeOut { name, of } => self.time_out(name, *of)?,
            Told::Retry { note } => self.retry(note)?,
            Told::Resolve { note } => {
                self.refuse_unless_stuck()?;
                self.stop_timers()?;
                self.add(ProcessEvent::ProcessResolved { note: note.clone() })?;
            }
        }
        match self.instance.status() {
            Status::Open if was_stuck => self.add(ProcessEvent::ProcessResumed { undoing: false })?,
            Status::Undoing if was_stuck => self.add(ProcessEvent::ProcessResumed { undoing: true })?,
            _ => {}
        }
        self.undo_next()
    }

    fn deliver(&mut self, event: &RecordedEvent) -> Result<(), Undecided> {
        let (aggregate, version) = (event.aggregate.as_str(), &event.version.0);
        if self.instance.received.get(aggregate).is_some_and(|newest| newest >= version) {
            return Ok(());
        }
        let (from, event_type) = (aggregate.to_owned(), event.event_type.to_string());
        self.add(ProcessEvent::ProcessReceived { from, version: *version, event_type, begins: false })?;
        let typed = de::event(&event.event_type, &event.data)?;
        let was_new = self.instance.phase == Phase::New;
        self.decide(Input::Event(Recorded::new(event, typed, None)))?;
        if was_new && self.instance.phase != Phase::New {
            // Known only now, and to be told where the history begins.
            if let Value::Map(received) = &mut self.decided[0].data {
                received.insert("begins".to_owned(), true.into());
            }
        }
        Ok(())
    }

    fn answer(&mut self, of: u64, answer: &Answer) -> Result<(), Undecided> {
        let Some(request) = self.waiting(of) else { return Ok(()) };
        let Requested { name, undoes, .. } = &request;
        match answer {
            Answer::Accepted { version, answer } => {
                self.add(ProcessEvent::ProcessAccepted { of, version: *version, answer: answer.clone() })?;
                self.decide(Input::Accepted { name, answer })
            }
            Answer::Refused { message, refusal } => {
                self.add(ProcessEvent::ProcessRefused { of, message: message.clone(), refusal: refusal.clone() })?;
                match undoes {
                    Some(_) => self.stick(of, format!("{} was refused: {message}", request.title())),
                    None => self.decide(Input::Refused { name, message, refusal }),
                }
            }
        }
    }

    fn tried(&mut self, of: u64, number: u32, error: &str, most: u32) -> Result<(), Undecided> {
        let Some(request) = self.waiting(of) else { return Ok(()) };
        if request.tries >= number || self.instance.stuck.contains(&of) {
            return Ok(());
        }
        self.add(ProcessEvent::ProcessTried { of, tries: number, error: error.to_owned() })?;
        if number < most {
            return Ok(());
        }
        let tries = if number == 1 { "1 try".to_owned() } else { format!("{number} tries") };
        self.stick(of, format!("what became of {} is unknown after {tries}: {error}", request.title()))
    }

    /// It is stuck at a request, unless it has ended meanwhile.
    fn stick(&mut self, of: u64, why: String) -> Result<(), Undecided> {
        if self.instance.ended() { Ok(()) } else { self.add(ProcessEvent::ProcessStuck { of, why }) }
    }

    fn time_out(&mut self, name: &str, of: u64) -> Result<(), Undecided> {
        let Some((_, due)) = self.instance.timers.get(name).filter(|(version, _)| *version == of).cloned() else { return Ok(()) };
        self.add(ProcessEvent::ProcessTimedOut { name: name.to_owned(), due: due.clone() })?;
        self.decide(Input::TimedOut { name, due: &due })
    }

    fn retry(&mut self, note: &str) -> Result<(), Undecided> {
        self.refuse_unless_stuck()?;
        self.add(ProcessEvent::ProcessRetried { note: note.to_owned() })?;
        for of in self.instance.stuck.clone() {
            let Requested { name, to, undo, undoes, .. } = self.instance.requests[&of].clone();
            let Some(to) = to else { continue };
            self.add(ProcessEvent::ProcessSent { name, to, undo, undoes, again: Some(of) })?;
        }
        Ok(())
    }

    fn refuse_unless_stuck(&self) -> Result<(), Undecided> {
        match self.instance.status() {
            Status::Stuck => Ok(()),
            status => Err(refused(format!("the instance is not stuck but {status}"))),
        }
    }

    /// The request, if it waits for an answer.
    fn waiting(&self, of: u64) -> Option<Requested> {
        self.instance.requests.get(&of).filter(|request| request.outcome == Outcome::Waiting).cloned()
    }

    /// Asks the process, if the instance has not failed or ended, and records what it decides.
    fn decide(&mut self, input: Input<'_, P::Input>) -> Result<(), Undecided> {
        if !matches!(self.instance.phase, Phase::New | Phase::Open) {
            return Ok(());
        }
        let asked = guarded(|| self.process.decide(&self.instance, input)).unwrap_or(Err(Refusal::Panicked));
        let Outputs { facts, requests, undo_only, timers, cancelled, end } = asked.map_err(|refusal| refused(refusal.to_string()))?;
        for fact in facts {
            let (event_type, data) = ser::event(&fact)?;
            let version = self.instance.version + 1;
            note(self.process, &mut self.instance, version, &fact).map_err(|_| refused(Refusal::Panicked.to_string()))?;
            self.decided.push(Decided { event_type, data });
        }
        for (name, undo) in undo_only {
            self.add(ProcessEvent::ProcessUndoAdded { name, undo: checked::<P>(undo.to?)? })?;
        }
        if let Some(End::Fail(why)) = end {
            self.stop_timers()?;
            self.add(ProcessEvent::ProcessFailed { why })?;
            // It stays stuck until what it is stuck at is answered, and its status says so.
            return self.instance.stuck.clone().into_iter().try_for_each(|of| {
                let why = "what was sent before it failed has no answer yet".to_owned();
                self.add(ProcessEvent::ProcessStuck { of, why })
            });
        }
        for name in cancelled {
            if self.instance.timer(&name) {
                self.add(ProcessEvent::ProcessCancelled { name })?;
            }
        }
        for (name, request) in requests {
            let to = checked::<P>(request.to?)?;
            let undo = request.undo.transpose()?.map(checked::<P>).transpose()?;
            self.add(ProcessEvent::ProcessSent { name, to, undo, undoes: None, again: None })?;
        }
        if end == Some(End::Complete) {
            self.stop_timers()?;
            return self.add(ProcessEvent::ProcessCompleted {});
        }
        for (name, time) in timers {
            // It names a row.
            if !is_child_sort(&name) {
                return Err(refused("the name of a timer has 1 to 1,024 bytes and does not begin with a space or `!`".to_owned()));
            }
            self.add(ProcessEvent::ProcessScheduled { name, after_ms: millis(time) })?;
        }
        Ok(())
    }

    fn stop_timers(&mut self) -> Result<(), Undecided> {
        let names: Vec<_> = self.instance.timers.keys().cloned().collect();
        names.into_iter().try_for_each(|name| self.add(ProcessEvent::ProcessCancelled { name }))
    }

    /// While it undoes, sends what undoes the newest request that is not undone yet, once everything that was sent is answered.
    fn undo_next(&mut self) -> Result<(), Undecided> {
        let Instance { phase, stuck, requests, .. } = &self.instance;
        if *phase != Phase::Undoing || !stuck.is_empty() || self.instance.waits() {
            return Ok(());
        }
        let to_undo = requests.iter().rev().find_map(|(of, request)| {
            let undo = request.undo.clone().filter(|_| request.outcome == Outcome::Accepted)?;
            Some((*of, request.name.clone(), undo))
        });
        match to_undo {
            Some((of, name, to)) => self.add(ProcessEvent::ProcessSent { name, to, undo: None, undoes: Some(of), again: None }),
            None => self.add(ProcessEvent::ProcessUndone {}),
        }
    }

    fn add(&mut self, event: ProcessEvent) -> Result<(), Undecided> {
        let (event_type, data) = ser::event(&event)?;
        // A command within it is not written deeper than by itself, so that this is not known yet.
        if data.depth() > DEPTH_MAX {
            return Err(refused(format!(
                "a request or an answer is nested too deep: with what is around it, more than {DEPTH_MAX} levels"
            )));
        }
        self.decided.push(Decided { event_type, data });
        let version = self.instance.version + 1;
        // The time of what is decided is not known yet. Whether a timer runs does not depend on it.
        self.instance.take(version, &Timestamp::from_epoch_ms(0).expect("in range"), event);
        Ok(())
    }
}

/// A command must be to a kind that the process names: the engine finds the decider there.
fn checked<P: Process>(to: Target) -> Result<Target, Undecided> {
    match &to {
        Target::Command { kind, .. } if P::COMMANDED.iter().all(|decider| decider.kind() != kind) => {
            Err(refused(format!("the process commands the kind `{kind}`, which its COMMANDED does not name")))
        }
        _ => Ok(to),
    }
}

fn refused(message: String) -> Undecided {
    Undecided::Refused { refusal: Value::Text(message.as_str().into()), message }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// The aggregate of an instance of a process.
#[must_use]
pub(super) fn aggregate_of(process: &str, instance: &str) -> AggregateId {
    format!("{process}/{instance}").as_str().into()
}
