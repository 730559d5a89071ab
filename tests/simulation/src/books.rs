//! What must hold of a process: its instances follow the protocol, each request has one effect or none, and no coin is made or lost.
//!
//! The laws are stated once more here, event by event, without the code that they are about.

use std::collections::{BTreeMap, BTreeSet};

use projection_vocabulary::{
    DynProjection, RecordedEvent, Rows, Value,
    process::{ProcessEvent, ProcessStatus, Requested, Status, Target},
    read_event, read_value,
};
use projection_worker::internals::store::item::decode_event;
use serde_dynamo::Item as StreamItem;

use crate::{
    database::Written,
    expression::Item,
    far::{Effect, TRIES_MAX},
    oracle::{EVENTS, PARKED},
    purses::{self, Command, command_id},
    transfers::{self, DESKS, Fact, Fee, NAME, PAY, transfer_of},
};

/// Everything that instances of the process have done.
#[derive(Default)]
pub struct Books {
    /// What each desk has for which instance, in the order of versions.
    desks: BTreeMap<String, Vec<(u64, String)>>,
    instances: BTreeMap<String, Account>,
    /// The timers that were ever started.
    started: BTreeSet<Timer>,
    /// The time-outs that instances were told.
    told: BTreeSet<Timer>,
}

/// A timer: its instance, its name, and the version that started it.
pub type Timer = (String, String, u64);

/// One instance.
#[derive(Default)]
struct Account {
    version: u64,
    events: Vec<RecordedEvent>,
    received: BTreeMap<String, u64>,
    requests: BTreeMap<u64, Sent>,
    timers: BTreeMap<String, u64>,
    stuck: BTreeSet<u64>,
    begun: bool,
    failed: bool,
    ended: Option<Status>,
    revision: u64,
    /// The coins that were taken and neither given nor given back.
    under_way: i64,
    /// Of the present commit: what it received says that the instance begins.
    begins: Option<bool>,
    /// Of the present commit: an operator retries.
    retries: bool,
    /// Of the present commit: it says that it is no longer stuck, and whether it undoes.
    resumes: Option<bool>,
    /// Where it stood before.
    before: Option<Status>,
}

/// A request.
struct Sent {
    to: Option<Target>,
    undo: Option<Target>,
    undoes: Option<u64>,
    /// The version of the request that names the key.
    key: u64,
    accepted: Option<bool>,
    undone: bool,
    repeated: bool,
    tries: u32,
    /// The version of the commanded aggregate after its effect.
    effect: Option<u64>,
}

type Result<T = (), E = String> = std::result::Result<T, E>;

impl Sent {
    fn waits(&self) -> bool {
        self.to.is_some() && self.accepted.is_none() && !self.repeated
    }

    fn is_call(&self) -> bool {
        matches!(self.to, Some(Target::Call { .. }))
    }

    fn to_undo(&self) -> bool {
        self.accepted == Some(true) && self.undo.is_some() && self.undoes.is_none() && !self.undone
    }
}

impl Books {
    /// Takes note of what one call wrote.
    ///
    /// # Errors
    /// A description of the violation.
    pub fn written(&mut self, written: &Written, effects: &BTreeMap<String, Effect>) -> Result {
        let mut events = Vec::new();
        for (table, (_, sort), before, after) in &written.items {
            if table == EVENTS
                && sort.starts_with("EVENT#")
                && before.is_none()
                && let Some(event) = after.as_ref().and_then(|item| decode_event(&StreamItem::from(item.clone())).ok())
            {
                events.push(event);
            }
        }
        events.sort_by_key(|event| (event.aggregate.clone(), event.version));
        let (mut touched, mut caused) = (BTreeSet::new(), BTreeMap::<String, Vec<RecordedEvent>>::new());
        for event in events {
            let aggregate = event.aggregate.to_string();
            if DESKS.contains(&aggregate.as_str()) {
                let input: transfers::Event = read_event(&event.event_type, &event.data).map_err(|misfit| misfit.to_string())?;
                let instance = format!("{NAME}/{}", transfer_of(&input));
                self.desks.entry(aggregate).or_default().push((event.version.0, instance));
            } else if is_instance(&aggregate) {
                let account = self.instances.entry(aggregate.clone()).or_default();
                let wrong = |why| format!("{aggregate}/{}: {why}", event.version);
                account.take(&aggregate, &event, &self.desks, &self.told, effects).map_err(wrong)?;
                account.events.push(event);
                self.started.extend(account.timers.iter().map(|(name, version)| (aggregate.clone(), name.clone(), *version)));
                touched.insert(aggregate);
            } else if let Some(id) = event.metadata.as_ref().and_then(command_id).filter(|id| is_instance(id)) {
                caused.entry(id).or_default().push(event);
            }
        }
        for (id, events) in caused {
            touched.insert(self.effect(&id, &events).map_err(|why| format!("the command {id} {why}"))?);
        }
        for instance in touched {
            self.balanced(&instance)?;
        }
        for (table, (aggregate, sort), _, after) in &written.items {
            let Some(after) = after else { continue };
            if table == NAME {
                self.row(aggregate, after)?;
            }
            if table == PARKED && sort == NAME {
                let reason = after.get("reason").and_then(|reason| reason.as_s().ok()).ok_or("a parking entry has no reason")?;
                if !["a bad deployment", "panicked", "smudged"].iter().any(|known| reason.contains(known)) {
                    return Err(format!("{aggregate} is parked in the process without need: {reason}"));
                }
            }
        }
        Ok(())
    }

    /// A command of an instance had this effect on a purse.
    fn effect(&mut self, id: &str, events: &[RecordedEvent]) -> Result<String> {
        let (instance, of) = request_of(id).ok_or("has no request's id")?;
        let account = self.instances.get_mut(&instance).ok_or("is of no instance")?;
        let sent = account.requests.get_mut(&of).ok_or("was never sent")?;
        let Some(Target::Command { aggregate, command, .. }) = &sent.to else { return Err("was no command".to_owned()) };
        let last = events.last().expect("there is one");
        if last.aggregate.as_str() != aggregate {
            return Err("went to another purse".to_owned());
        }
        if sent.effect.replace(last.version.0).is_some() {
            return Err("has two effects".to_owned());
        }
        if sent.accepted.is_some() {
            return Err("has an effect after it was answered".to_owned());
        }
        let mut had = 0;
        for event in events {
            had += match read_event(&event.event_type, &event.data).map_err(|misfit| misfit.to_string())? {
                purses::Event::Gained { coins } => -coins,
                purses::Event::Spent { coins } => coins,
                purses::Event::Named { .. } => return Err("named a purse".to_owned()),
            };
        }
        let due = match read_value(command).map_err(|misfit| misfit.to_string())? {
            Command::Gain { coins } if coins > 0 => -coins,
            Command::Spend { coins } if coins > 0 => coins,
            other => return Err(format!("is {other:?} and has an effect")),
        };
        if had != due {
            return Err(format!("took {had} coins in place of {due}"));
        }
        account.under_way += had;
        Ok(instance)
    }

    /// The far side has carried out a call.
    ///
    /// # Errors
    /// A description of the violation.
    pub fn called(&mut self, key: &str, function: &str, fee: &Fee, first: bool, accepted: bool) -> Result {
        let wrong = |why: &str| format!("the call {key} of {function} {why}");
        let (instance, of) = request_of(key).ok_or_else(|| wrong("has no request's id as its key"))?;
        let account = self.instances.get_mut(&instance).ok_or_else(|| wrong("is of no instance"))?;
        let sent = account.requests.get(&of).ok_or_else(|| wrong("was never sent"))?;
        let Some(Target::Call { function: to, argument }) = &sent.to else { return Err(wrong("was no call")) };
        if sent.key != of {
            return Err(wrong("has another key than the request that it repeats"));
        }
        if to != function || read_value::<Fee>(argument).as_ref() != Ok(fee) || fee.coins <= 0 {
            return Err(wrong("has another argument than what was sent"));
        }
        if first && accepted {
            account.under_way += if function == PAY { -fee.coins } else { fee.coins };
        }
        self.balanced(&instance)
    }

    /// The coins of an instance after a write.
    fn balanced(&mut self, instance: &str) -> Result {
        let Some(account) = self.instances.get_mut(instance) else { return Ok(()) };
        account.retries = false;
        if account.begins.take() == Some(true) && !account.begun {
            return Err(format!("{instance} says that it begins, and does not"));
        }
        let status = account.status();
        let resumes = (account.before == Some(Status::Stuck) && matches!(status, Status::Open | Status::Undoing)).then_some(account.failed);
        if account.resumes.take() != resumes {
            return Err(format!("{instance} is {status} now, and does not say so"));
        }
        account.before = Some(status);
        let coins = account.under_way;
        if coins < 0 {
            return Err(format!("{instance} gave {} coins more than it took", -coins));
        }
        match account.ended {
            Some(status @ (Status::Completed | Status::Undone)) if coins != 0 => {
                Err(format!("{instance} is {status} with {coins} coins under way"))
            }
            _ => Ok(()),
        }
    }

    /// The process has acted on everything that a row of it is past.
    fn row(&self, aggregate: &str, row: &Item) -> Result {
        let version = row.get("version").and_then(|version| version.as_n().ok()?.parse::<u64>().ok()).unwrap_or_default();
        let ahead = |of: u64| Err(format!("the row of {aggregate} is at version {version}, and the process has not acted on {of}"));
        if let Some(account) = self.instances.get(aggregate) {
            let left = account.requests.range(..=version).find(|(of, sent)| sent.waits() && !account.stuck.contains(of));
            return left.map_or(Ok(()), |(of, _)| ahead(*of));
        }
        for (of, instance) in self.desks.get(aggregate).into_iter().flatten().take_while(|(of, _)| *of <= version) {
            let received = self.instances.get(instance).and_then(|account| account.received.get(aggregate)).copied().unwrap_or_default();
            if received < *of {
                return ahead(*of);
            }
        }
        Ok(())
    }

    /// The timers that run.
    #[must_use]
    pub fn timers(&self) -> Vec<Timer> {
        let of = |(instance, account): (&String, &Account)| {
            account.timers.iter().map(|(name, version)| (instance.clone(), name.clone(), *version)).collect::<Vec<_>>()
        };
        self.instances.iter().flat_map(of).collect()
    }

    /// The timers that ran once and do not run any more.
    #[must_use]
    pub fn past_timers(&self) -> Vec<Timer> {
        let running = self.timers();
        self.started.iter().filter(|timer| !running.contains(timer)).cloned().collect()
    }

    /// Instances are about to be told that these timers ran out.
    pub fn telling(&mut self, timers: &[Timer]) {
        self.told.extend(timers.iter().cloned());
    }

    /// The instances that are stuck.
    #[must_use]
    pub fn stuck(&self) -> Vec<String> {
        self.instances.iter().filter(|(_, account)| account.status() == Status::Stuck).map(|(instance, _)| instance.clone()).collect()
    }

    /// Everything that the process reads: desks and instances.
    #[must_use]
    pub fn aggregates(&self) -> Vec<String> {
        self.desks.keys().chain(self.instances.keys()).cloned().collect()
    }

    /// Everything was received and answered, and every instance has ended or is stuck.
    ///
    /// # Errors
    /// A description of the violation.
    pub fn at_rest(&self, process: &'static dyn DynProjection) -> Result {
        for (desk, inputs) in &self.desks {
            for (version, instance) in inputs {
                let received = self.instances.get(instance).and_then(|account| account.received.get(desk)).copied().unwrap_or_default();
                if received < *version {
                    return Err(format!("at rest, {instance} has not received version {version} of {desk}"));
                }
            }
        }
        for (instance, account) in &self.instances {
            let status = account.status();
            if matches!(status, Status::Open | Status::Undoing) {
                return Err(format!("at rest, {instance} is {status}"));
            }
            if let Some((of, _)) = account.requests.iter().find(|(of, sent)| sent.waits() && !account.stuck.contains(of)) {
                return Err(format!("at rest, {instance} has no answer to its request {of}"));
            }
            account.is_seen_by(process).map_err(|why| format!("at rest, {instance}: {why}"))?;
        }
        Ok(())
    }
}

impl Account {
    fn status(&self) -> Status {
        match self.ended {
            Some(status) => status,
            None if !self.stuck.is_empty() => Status::Stuck,
            None if self.failed => Status::Undoing,
            None if self.begun => Status::Open,
            None => Status::New,
        }
    }

    /// Takes the next event of the instance.
    fn take(
        &mut self,
        id: &str,
        event: &RecordedEvent,
        desks: &BTreeMap<String, Vec<(u64, String)>>,
        told: &BTreeSet<Timer>,
        effects: &BTreeMap<String, Effect>,
    ) -> Result {
        let version = event.version.0;
        must(version == self.version + 1, "it has a hole")?;
        self.version = version;
        let revision = event.metadata.as_ref().and_then(revision_of).ok_or("it does not say which revision wrote it")?;
        must(revision >= self.revision, "an older revision wrote after a newer one")?;
        self.revision = revision;
        let known = ProcessEvent::read(&event.event_type, &event.data).map_err(|misfit| misfit.to_string())?;
        if let Some(ProcessEvent::ProcessReceived { from, version, begins, .. }) = known {
            let last = self.received.insert(from.clone(), version).unwrap_or_default();
            let due = desks.get(&from).and_then(|inputs| inputs.iter().find(|(at, instance)| *at > last && instance == id));
            must(due.is_some_and(|(due, _)| *due == version), "it received an event twice, out of turn or in place of another one")?;
            must(!(begins && self.begun), "it begins twice")?;
            self.begins = Some(begins);
            return Ok(());
        }
        if !self.begun {
            must(self.begins == Some(true), "it does not say that it begins")?;
            self.begun = true;
        }
        let Some(known) = known else {
            read_event::<Fact>(&event.event_type, &event.data).map_err(|misfit| misfit.to_string())?;
            return must(!self.failed && self.ended.is_none(), "it decided after it had failed or ended");
        };
        match known {
            ProcessEvent::ProcessReceived { .. } => {}
            ProcessEvent::ProcessSent { name: _, to, undo, undoes, again } => self.sent(version, to, undo, undoes, again)?,
            ProcessEvent::ProcessUndoAdded { undo, .. } => {
                must(!self.failed && self.ended.is_none(), "it decided after it had failed or ended")?;
                let undo = Some(undo);
                let known = Sent { undo, accepted: Some(true), ..Sent::new(None, version) };
                self.requests.insert(version, known);
            }
            ProcessEvent::ProcessAccepted { of, version, .. } => {
                let undoes = self.answered(id, of, true, version, effects)?;
                if let Some(undone) = undoes.and_then(|of| self.requests.get_mut(&of)) {
                    undone.undone = true;
                }
            }
            ProcessEvent::ProcessRefused { of, .. } => _ = self.answered(id, of, false, None, effects)?,
            ProcessEvent::ProcessTried { of, tries, .. } => {
                let sent = self.requests.get_mut(&of).ok_or("it tried what it never sent")?;
                must(sent.waits() && sent.is_call(), "it tried what was answered")?;
                must(tries == sent.tries + 1, "a try is left out or recorded twice")?;
                sent.tries = tries;
            }
            ProcessEvent::ProcessScheduled { name, .. } => {
                must(!self.failed && self.ended.is_none(), "it started a timer after it had failed or ended")?;
                self.timers.insert(name, version);
            }
            ProcessEvent::ProcessCancelled { name } => must(self.timers.remove(&name).is_some(), "it stopped a timer that did not run")?,
            ProcessEvent::ProcessTimedOut { name, .. } => {
                let started = self.timers.remove(&name).ok_or("a timer ran out that did not run")?;
                must(told.contains(&(id.to_owned(), name, started)), "a timer ran out that nobody told")?;
            }
            ProcessEvent::ProcessFailed { .. } => {
                must(!self.failed && self.ended.is_none() && self.timers.is_empty(), "it failed twice, after its end or with timers")?;
                self.failed = true;
            }
            ProcessEvent::ProcessStuck { of, .. } => {
                let sent = self.requests.get(&of).ok_or("it is stuck at what it never sent")?;
                let unknown = sent.waits() && sent.tries >= TRIES_MAX;
                let refused = sent.undoes.is_some() && sent.accepted == Some(false) && !sent.repeated;
                must(unknown || refused, "it is stuck without a reason")?;
                self.stuck.insert(of);
            }
            ProcessEvent::ProcessRetried { .. } => {
                must(self.status() == Status::Stuck, "it was retried without being stuck")?;
                self.retries = true;
            }
            ProcessEvent::ProcessResumed { undoing } => self.resumes = Some(undoing),
            ProcessEvent::ProcessResolved { .. } => {
                must(self.status() == Status::Stuck && self.timers.is_empty(), "it was resolved without being stuck, or with timers")?;
                self.ended = Some(Status::Resolved);
            }
            ProcessEvent::ProcessCompleted {} => {
                must(!self.failed && self.ended.is_none() && self.timers.is_empty(), "it completed after it had failed, or with timers")?;
                must(self.requests.values().all(|sent| !sent.waits()), "it completed before all steps were done")?;
                self.ended = Some(Status::Completed);
            }
            ProcessEvent::ProcessUndone {} => {
                must(self.failed && self.ended.is_none() && self.stuck.is_empty(), "it is undone without having failed, or stuck")?;
                must(self.requests.values().all(|sent| !sent.waits() && !sent.to_undo()), "it is undone before everything is")?;
                self.ended = Some(Status::Undone);
            }
        }
        Ok(())
    }

    fn sent(&mut self, version: u64, to: Target, undo: Option<Target>, undoes: Option<u64>, again: Option<u64>) -> Result {
        must(self.ended.is_none(), "it sent something after its end")?;
        let mut sent = Sent { undo, undoes, ..Sent::new(Some(to), version) };
        match (undoes, again) {
            (_, Some(again)) => {
                must(self.retries && self.stuck.remove(&again), "it sent again what it was not stuck at")?;
                let before = self.requests.get_mut(&again).ok_or("it sent again what it never sent")?;
                must(before.to == sent.to && before.undoes == undoes, "it sent something else again")?;
                before.repeated = true;
                sent.key = before.key;
            }
            (Some(of), None) => {
                must(self.failed && self.stuck.is_empty(), "it undoes something without having failed, or while it is stuck")?;
                must(self.requests.values().all(|sent| !sent.waits()), "it undoes something while a request waits")?;
                let newest = self.requests.iter().rev().find(|(_, sent)| sent.to_undo());
                let (newest, undone) = newest.ok_or("it undoes what is undone")?;
                must(*newest == of, "it does not undo the newest request first")?;
                must(undone.undo == sent.to, "it undoes a request by something else")?;
            }
            (None, None) => must(!self.failed, "it sent a step after it had failed")?,
        }
        self.requests.insert(version, sent);
        Ok(())
    }

    fn answered(
        &mut self,
        id: &str,
        of: u64,
        accepted: bool,
        version: Option<u64>,
        effects: &BTreeMap<String, Effect>,
    ) -> Result<Option<u64>> {
        let sent = self.requests.get_mut(&of).ok_or("it has an answer to what it never sent")?;
        must(sent.waits(), "it has two answers to one request")?;
        if sent.is_call() {
            let effect = effects.get(&format!("{id}/{}", sent.key)).ok_or("it has an answer that the far side never gave")?;
            must(effect.accepted == accepted, "it has another answer than the far side gave")?;
        } else if accepted {
            must(sent.effect.is_none() || sent.effect == version, "its request was accepted with another effect")?;
            must(sent.effect.is_some() || sent.looks(), "its request was accepted and has no effect")?;
        } else {
            must(sent.effect.is_none(), "its request was refused and has an effect")?;
        }
        sent.accepted = Some(accepted);
        self.stuck.remove(&of);
        Ok(sent.undoes)
    }

    /// The engine and the projection see the instance as it is.
    fn is_seen_by(&self, process: &'static dyn DynProjection) -> Result {
        let process = process.process().ok_or("no process")?;
        let (mut state, mut rows) = (process.instances().start(), Rows::default());
        for event in &self.events {
            state.evolve(event).map_err(|misfit| misfit.to_string())?;
            if ProcessEvent::read(&event.event_type, &event.data).is_ok_and(|event| event.is_some()) {
                rows.fold(&ProcessStatus, event).map_err(|unfolded| unfolded.to_string())?;
            }
        }
        let instance = process.instance(state.state()).ok_or("it is no instance")?;
        must(instance.status() == self.status(), "its status is another one")?;
        let timers: BTreeMap<_, _> = instance.timers().iter().map(|(name, (version, _))| (name.clone(), *version)).collect();
        must(timers == self.timers, "its timers are others")?;
        let waiting = |(_, request): &(&u64, &Requested)| request.outcome == projection_vocabulary::process::Outcome::Waiting;
        let waits = instance.requests().iter().filter(waiting).map(|(of, _)| *of);
        must(waits.eq(self.requests.iter().filter(|(_, sent)| sent.waits()).map(|(of, _)| *of)), "other requests wait")?;
        let rows = rows.visible();
        let row = rows.iter().find(|(id, _)| id.child.is_none());
        let row = row.and_then(|(_, row)| row.get("status")?.as_text().map(str::to_owned));
        let status = self.begun.then(|| self.status().as_str().to_owned());
        if row == status { Ok(()) } else { Err(format!("its status row says {row:?}, and it is {status:?}")) }
    }
}

impl Sent {
    fn new(to: Option<Target>, key: u64) -> Self {
        Self { to, undo: None, undoes: None, key, accepted: None, undone: false, repeated: false, tries: 0, effect: None }
    }

    fn looks(&self) -> bool {
        let Some(Target::Command { command, .. }) = &self.to else { return false };
        read_value(command) == Ok(Command::Look)
    }
}

fn must(holds: bool, otherwise: &str) -> Result {
    if holds { Ok(()) } else { Err(otherwise.to_owned()) }
}

fn is_instance(id: &str) -> bool {
    id.strip_prefix(NAME).is_some_and(|rest| rest.starts_with('/'))
}

/// The instance and the request that an id names.
fn request_of(id: &str) -> Option<(String, u64)> {
    let (instance, of) = id.rsplit_once('/')?;
    Some((instance.to_owned(), of.parse().ok()?))
}

fn revision_of(metadata: &Value) -> Option<u64> {
    let Value::Map(members) = metadata else { return None };
    read_value(members.get("processRevision")?).ok()
}
