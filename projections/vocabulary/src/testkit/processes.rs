//! The test kit for processes: given these events and answers, then these requests; and every order in which they can come.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use crate::{
    AggregateId, DynProjection, RecordedEvent, Timestamp, Undecided, Value, Version,
    process::{
        Answer, DynProcess as _, Instance, Outcome, Process, ProcessEvent, ProcessRule, Requested, Status, Target, Told, decide, evolve,
        told,
    },
};

/// 2026-01-01T00:00:00Z. Each thing happens one second after the one before it.
const EPOCH_MS: i64 = 1_767_225_600_000;
/// The most states that [`Run::every_order`] visits.
const STATES_MAX: usize = 50_000;

/// A process under test. Made by [`process`].
pub struct Run<P: Process> {
    rule: &'static ProcessRule<P>,
    instances: BTreeMap<String, (Instance<P::State>, Vec<RecordedEvent>)>,
    /// The instance that the last event was for.
    present: String,
    /// The version of each aggregate whose events were delivered.
    versions: BTreeMap<String, u64>,
    seconds: i64,
}

/// An event of an aggregate, for [`Run::every_order`].
#[derive(Clone, Debug)]
pub struct Arrival {
    /// The aggregate.
    pub aggregate: &'static str,
    /// The event type.
    pub event_type: &'static str,
    /// The event's data.
    pub data: Value,
}

/// Starts a test of a process.
#[must_use]
#[track_caller]
pub fn process<P: Process>(process: P) -> Run<P> {
    let rule: &'static ProcessRule<P> = Box::leak(Box::new(ProcessRule(process)));
    crate::projection::assert_valid(rule);
    Run { rule, instances: BTreeMap::new(), present: String::new(), versions: BTreeMap::new(), seconds: 0 }
}

impl<P: Process> Clone for Run<P> {
    fn clone(&self) -> Self {
        let Self { rule, instances, present, versions, seconds } = self;
        Self { rule, instances: instances.clone(), present: present.clone(), versions: versions.clone(), seconds: *seconds }
    }
}

impl<P: Process> Run<P> {
    /// Delivers an event. Versions count up within each aggregate. What follows is about the instance that it is for.
    ///
    /// # Panics
    /// If the process does not handle the event type, or refuses the event.
    #[must_use]
    #[track_caller]
    pub fn event(mut self, aggregate: &str, event_type: &'static str, data: Value) -> Self {
        match self.deliver(aggregate, event_type, data) {
            Ok(()) => self,
            Err(refusal) => panic!("{refusal}"),
        }
    }

    /// Returns why an event is refused.
    ///
    /// # Panics
    /// If it is not.
    #[must_use]
    #[track_caller]
    pub fn refusal(mut self, aggregate: &str, event_type: &'static str, data: Value) -> String {
        self.deliver(aggregate, event_type, data).expect_err("expected a refusal, but the event was taken")
    }

    /// The oldest open request with this name is accepted.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    #[track_caller]
    pub fn accepted(self, name: &str) -> Self {
        self.answered(name, Value::Null)
    }

    /// The oldest open call with this name is answered.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    #[track_caller]
    pub fn answered(self, name: &str, answer: Value) -> Self {
        let of = self.open(name);
        self.tell(&Told::Answer { of, answer: Answer::Accepted { version: None, answer } })
    }

    /// The oldest open request with this name is refused.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    #[track_caller]
    pub fn refused(self, name: &str, message: &str) -> Self {
        let of = self.open(name);
        self.tell(&Told::Answer { of, answer: Answer::Refused { message: message.to_owned(), refusal: message.into() } })
    }

    /// The oldest open call with this name fails as often as it is tried.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    #[track_caller]
    pub fn unanswered(self, name: &str) -> Self {
        let of = self.open(name);
        self.tell(&Told::Tried { of, number: 1, error: "no answer".to_owned(), most: 1 })
    }

    /// A timer runs out.
    ///
    /// # Panics
    /// If it does not run.
    #[must_use]
    #[track_caller]
    pub fn timed_out(self, name: &str) -> Self {
        let Some((of, _)) = self.instance().timers().get(name) else { panic!("no timer `{name}` runs") };
        let of = *of;
        self.tell(&Told::TimeOut { name: name.to_owned(), of })
    }

    /// An operator retries what the instance is stuck at.
    #[must_use]
    #[track_caller]
    pub fn retried(self) -> Self {
        self.tell(&Told::Retry { note: "retried".to_owned() })
    }

    /// An operator ends the instance.
    #[must_use]
    #[track_caller]
    pub fn resolved(self) -> Self {
        self.tell(&Told::Resolve { note: "resolved".to_owned() })
    }

    /// Turns to another instance.
    #[must_use]
    pub fn of(self, instance: &str) -> Self {
        Self { present: instance.to_owned(), ..self }
    }

    /// Where the instance stands.
    #[must_use]
    #[track_caller]
    pub fn status(&self) -> &'static str {
        self.instance().status().as_str()
    }

    /// The instance.
    #[must_use]
    #[track_caller]
    pub fn instance(&self) -> &Instance<P::State> {
        let present = self.instances.get(&self.present);
        present.map_or_else(|| panic!("nothing was delivered to `{}`", self.present), |(instance, _)| instance)
    }

    /// What has happened to the instance: its history, for tests of what projections make of it.
    #[must_use]
    #[track_caller]
    pub fn events(&self) -> &[RecordedEvent] {
        _ = self.instance();
        &self.instances[&self.present].1
    }

    /// What has happened to the instance, one line each.
    #[must_use]
    #[track_caller]
    pub fn timeline(&self) -> String {
        _ = self.instance();
        let mut text = String::new();
        for event in self.events() {
            writeln!(text, "{}", told(event, self.instance())).expect("writing to a String cannot fail");
        }
        text
    }

    /// Tries every order in which these events and the answers to what the process sends can come: events of one aggregate in their order,
    /// requests in the order in which they were sent, and timers at any time. Returns how instances end.
    ///
    /// It also checks the laws: no step begins after the first undo, nothing is undone twice, and what is undone as a whole has nothing left
    /// that was accepted.
    ///
    /// # Panics
    /// If a law is broken, an event is refused, an instance does not end, or there are more than 50,000 states.
    #[must_use]
    #[track_caller]
    pub fn every_order(&self, arrivals: &[Arrival], answer: impl Fn(&Requested) -> Result<Value, String>) -> BTreeSet<Status> {
        let mut by_aggregate: BTreeMap<&str, Vec<&Arrival>> = BTreeMap::new();
        for arrival in arrivals {
            by_aggregate.entry(arrival.aggregate).or_default().push(arrival);
        }
        let by_aggregate: Vec<_> = by_aggregate.into_values().collect();
        let mut ends = BTreeSet::new();
        let mut visited = 0;
        let mut open = vec![(self.clone(), vec![0_usize; by_aggregate.len()])];
        while let Some((run, delivered)) = open.pop() {
            visited += 1;
            assert!(visited <= STATES_MAX, "there are more than {STATES_MAX} states: give fewer events");
            let mut moves = 0;
            for (at, arrivals) in by_aggregate.iter().enumerate() {
                let Some(Arrival { aggregate, event_type, data }) = arrivals.get(delivered[at]) else { continue };
                let mut delivered = delivered.clone();
                delivered[at] += 1;
                open.push((run.clone().event(aggregate, event_type, data.clone()), delivered));
                moves += 1;
            }
            for (name, (instance, _)) in &run.instances {
                let first = instance.requests().iter().find(|(_, request)| request.outcome == Outcome::Waiting);
                if let Some((of, request)) = first {
                    let answer = match answer(request) {
                        Ok(answer) => Answer::Accepted { version: None, answer },
                        Err(message) => Answer::Refused { refusal: message.as_str().into(), message },
                    };
                    open.push((run.clone().of(name).tell(&Told::Answer { of: *of, answer }), delivered.clone()));
                    moves += 1;
                }
                for (timer, (of, _)) in instance.timers() {
                    let told = Told::TimeOut { name: timer.clone(), of: *of };
                    open.push((run.clone().of(name).tell(&told), delivered.clone()));
                    moves += 1;
                }
            }
            run.check();
            if moves == 0 {
                for (name, (instance, _)) in &run.instances {
                    let status = instance.status();
                    let ended = !matches!(status, Status::Open | Status::Undoing);
                    assert!(ended, "the instance `{name}` does not end:\n{}", run.clone().of(name).timeline());
                    ends.insert(status);
                }
            }
        }
        ends
    }

    /// Asserts the laws of an instance.
    fn check(&self) {
        for (name, (instance, events)) in &self.instances {
            let told = || self.clone().of(name).timeline();
            let protocol = events.iter().filter_map(|event| ProcessEvent::read(&event.event_type, &event.data).ok().flatten());
            let (mut failed, mut undone) = (false, BTreeSet::new());
            for event in protocol {
                match event {
                    ProcessEvent::ProcessFailed { .. } => failed = true,
                    ProcessEvent::ProcessSent { undoes: None, again: None, .. } => {
                        assert!(!failed, "`{name}` began a step after it had failed:\n{}", told());
                    }
                    ProcessEvent::ProcessSent { undoes: Some(of), again: None, .. } => {
                        assert!(undone.insert(of), "`{name}` undid something twice:\n{}", told());
                    }
                    _ => {}
                }
            }
            let left = |request: &Requested| request.outcome == Outcome::Accepted && request.undoes.is_none() && request.undo.is_some();
            let undone = instance.status() != Status::Undone || !instance.requests().values().any(left);
            assert!(undone, "`{name}` left something that was accepted:\n{}", told());
        }
    }

    fn deliver(&mut self, aggregate: &str, event_type: &'static str, data: Value) -> Result<(), String> {
        let known = DynProjection::event_types(self.rule);
        assert!(known.contains(&event_type), "`{}` does not handle `{event_type}`: it handles {}", P::NAME, known.join(", "));
        let version = self.versions.entry(aggregate.to_owned()).or_default();
        *version += 1;
        let event = RecordedEvent {
            aggregate: aggregate.into(),
            version: Version(*version),
            event_id: format!("{aggregate}-{version}").into(),
            event_type: event_type.into(),
            data,
            timestamp: self.tick(),
            metadata: None,
        };
        let Some(instance) = self.rule.route(&event).map_err(|refusal| refusal.to_string())? else { return Ok(()) };
        let (_, name) = instance.as_str().split_once('/').expect("the aggregate of an instance has one");
        name.clone_into(&mut self.present);
        self.instances.entry(name.to_owned()).or_default();
        self.try_tell(&Told::Deliver { event }).map_err(|undecided| undecided.to_string())
    }

    #[track_caller]
    fn open(&self, name: &str) -> u64 {
        let open = |request: &Requested| request.name == name && request.outcome == Outcome::Waiting;
        let found = self.instance().requests().iter().find(|(_, request)| open(request));
        *found.unwrap_or_else(|| panic!("no request `{name}` waits for an answer:\n{}", self.timeline())).0
    }

    #[track_caller]
    pub(crate) fn tell(mut self, told: &Told) -> Self {
        match self.try_tell(told) {
            Ok(()) => self,
            Err(undecided) => panic!("{undecided}"),
        }
    }

    #[track_caller]
    pub(crate) fn try_tell(&mut self, told: &Told) -> Result<(), Undecided> {
        let (instance, _) = self.instances.get(&self.present).unwrap_or_else(|| panic!("nothing was delivered to `{}`", self.present));
        let decided = decide(&self.rule.0, instance, told)?;
        let aggregate = AggregateId::from(format!("{}/{}", P::NAME, self.present).as_str());
        let timestamp = self.tick();
        let (instance, events) = self.instances.get_mut(&self.present).expect("looked up above");
        for decided in decided {
            let version = Version(events.len() as u64 + 1);
            let event = RecordedEvent {
                aggregate: aggregate.clone(),
                version,
                event_id: format!("{aggregate}-{version}").into(),
                event_type: decided.event_type.into(),
                data: decided.data,
                timestamp: timestamp.clone(),
                metadata: None,
            };
            evolve(&self.rule.0, instance, &event).expect("what was written is read");
            if let Ok(Some(ProcessEvent::ProcessSent { to, undo, .. })) = ProcessEvent::read(&event.event_type, &event.data) {
                std::iter::once(to).chain(undo).for_each(|to| assert_readable::<P>(&to));
            }
            events.push(event);
        }
        Ok(())
    }

    fn tick(&mut self) -> Timestamp {
        self.seconds += 1;
        Timestamp::from_epoch_ms(EPOCH_MS + 1_000 * self.seconds).expect("a test ends before the year 9999")
    }
}

/// A command must be one of its decider.
#[track_caller]
fn assert_readable<P: Process>(to: &Target) {
    let Target::Command { kind, command, .. } = to else { return };
    let decider = P::COMMANDED.iter().find(|decider| decider.kind() == kind).expect("the process names the kind");
    if let Err(Undecided::Misfit(misfit)) = decider.start().decide(command) {
        panic!("`{kind}` cannot read a command of `{}`: {misfit}", P::NAME);
    }
}
