//! The process: clients that ask for transfers, the far side of its calls, tickers, and operators of stuck instances.

use projection_vocabulary::{
    AggregateId, DynProjection, RecordedEvent, Version,
    process::{DynProcess, Told},
    write_event,
};
use projection_worker::{
    Worker,
    internals::{
        engine::{act::tell, reproject::Trust},
        operations::{catch_up::catch_up, rebuild::Task},
        retry::Deadline,
        store::append::AppendError,
    },
};

use super::{
    Result, Run,
    processes::{Ended, Role, rebuild},
    truth::instant,
};
use crate::{
    books::Timer,
    far::{self, Effect},
    faults::Fault,
    plan::Subject,
    purses::{Command, PURSES, Sent},
    transfers::{DESKS, Event, NAME, Order},
};

/// More rounds than any run needs to come to rest.
const ROUNDS_MAX: usize = 200;

impl Run {
    /// The coins that there are to begin with.
    pub(super) async fn fill_purses(&mut self) -> Result {
        for (at, purse) in PURSES.iter().enumerate() {
            let coins = [9, 3, 1][at];
            self.send(Sent { id: format!("begin-{at}"), orders: vec![(purse, Command::Gain { coins })], required: None });
            self.finish_all().await?;
        }
        Ok(())
    }

    /// The process of the present deployment.
    fn process(&self) -> &'static dyn DynProcess {
        self.process_rule().process().expect("it is one")
    }

    pub(super) fn process_rule(&self) -> &'static dyn DynProjection {
        *self.rules(self.deployed).iter().find(|rule| rule.process().is_some()).expect("the deployment has a process")
    }

    /// Starts a client that appends a few events to a desk.
    pub(super) fn ask(&mut self) {
        let desk = DESKS[self.choices.below(DESKS.len())];
        let events: Vec<_> = (0..=self.choices.below(3)).map(|_| self.input()).collect();
        self.append_to(desk, &events);
    }

    fn append_to(&mut self, desk: &'static str, events: &[Event]) {
        let name = self.name("client");
        self.note(|| format!("{name} appends to {desk}: {events:?}"));
        let facts: Vec<_> = events
            .iter()
            .map(|event| {
                self.facts += 1;
                let (event_type, data) = write_event(event).expect("it is an enum of named fields");
                (self.facts, event_type, data)
            })
            .collect();
        let store = self.store(&name);
        self.start(&name, Role::Writer, async move {
            for _ in 0..5 {
                let id = AggregateId::from(desk);
                let Ok(expected) = store.current_version(&id).await else { return Ended::Quiet };
                let events = (1..).zip(&facts).map(|(at, (number, event_type, data))| RecordedEvent {
                    aggregate: id.clone(),
                    version: Version(expected.0 + at),
                    event_id: format!("event-{number}").into(),
                    event_type: event_type.as_str().into(),
                    data: data.clone(),
                    timestamp: instant(*number),
                    metadata: None,
                });
                match store.append(expected, &events.collect::<Vec<_>>()).await {
                    Err(AppendError::Conflict { .. }) => {}
                    Ok(_) | Err(AppendError::Store(_)) => return Ended::Quiet,
                    Err(error) => return Ended::Failed(error.to_string()),
                }
            }
            Ended::Quiet
        });
    }

    fn input(&mut self) -> Event {
        let smudged = usize::from(self.plan.has(Fault::Poison) && self.plan.fixes_all());
        let kind = self.choices.weighted(&[(12, 0), (5, 1), (4, 2), (2, 3), (smudged, 4)]);
        if kind == 0 {
            self.asked += 1;
            return Event::Asked { order: self.order(self.asked) };
        }
        // Perhaps before it is asked for, or twice.
        let transfer = format!("t{}", 1 + self.choices.below(self.asked + 1));
        match kind {
            1 => Event::Confirmed { transfer },
            2 => Event::Prolonged { transfer },
            3 => Event::Stopped { transfer },
            _ => Event::Smudged { transfer },
        }
    }

    fn order(&mut self, number: usize) -> Order {
        let from = self.choices.below(PURSES.len());
        let next = |at: usize| PURSES[(from + at) % PURSES.len()].to_owned();
        let mut when = |share: usize| self.choices.per_mille(share);
        let also = if when(300) { next(2) } else { String::new() };
        let seal = if when(400) { next(2) } else { String::new() };
        let (fee, waits, undo_late) = (i64::from(when(500)), when(400), when(200));
        let coins = 1 + i64::try_from(self.choices.below(3)).expect("few");
        // Two of the coins if another purse pays one of them.
        let coins = coins + i64::from(!also.is_empty());
        let number = if self.choices.per_mille(50) { 1 + self.choices.below(number) } else { number };
        Order { transfer: format!("t{number}"), from: next(0), also, to: next(1), coins, fee, waits, seal, undo_late }
    }

    /// A call reaches the far side, or its caller.
    pub(super) fn far_step(&mut self, error: bool) -> Result {
        let far = self.far.clone();
        let mut far = far::lock(&far);
        let at = self.choices.below(far.under_way.len());
        let loses = |run: &mut Self, share| error && run.plan.has(Fault::CallLost) && run.choices.per_mille(share);
        if error && self.choices.per_mille(150) {
            // Another worker makes the same call.
            let instance = far.under_way[at].key.rsplit_once('/').expect("a request's id").0.to_owned();
            let (id, rule) = (AggregateId::from(instance.as_str()), self.process_rule());
            self.operator(&format!("lets {instance} catch up in the process"), move |worker| async move {
                _ = catch_up(&worker, rule, &id, Trust::Row, Deadline::NONE).await;
                Ended::Quiet
            });
        }
        let call = &far.under_way[at];
        let (key, function, fee, late) = (call.key.clone(), call.function, call.fee.clone(), call.is_late());
        if call.arrived {
            if loses(self, 400) && !late {
                self.count(Fault::CallLost, || format!("{function} {key}: its answer is lost"));
                far.lose(at);
            } else {
                far.answer(at);
            }
            return Ok(());
        }
        if late {
            if error && self.choices.per_mille(300) {
                self.note(|| format!("{function} {key}: never arrived"));
                far.lose(at);
                return Ok(());
            }
            self.count(Fault::CallLate, || format!("{function} {key} arrives after its caller gave up"));
        } else if loses(self, 300) {
            if self.choices.per_mille(500) {
                self.note(|| format!("{function} {key}: given up while on its way"));
                far.delay(at);
            } else {
                self.count(Fault::CallLost, || format!("{function} {key}: never arrived"));
                far.lose(at);
            }
            return Ok(());
        }
        let first = !far.effects.contains_key(&key);
        if first {
            let accepted = !self.choices.per_mille(200);
            far.effects.insert(key.clone(), Effect { function, fee: fee.clone(), accepted });
        }
        let accepted = far.effects[&key].accepted;
        self.note(|| format!("{function} {key}: {}", if accepted { "accepted" } else { "refused" }));
        far.under_way[at].arrived = true;
        self.books.called(&key, function, &fee, first, accepted)?;
        if !self.choices.per_mille(300) {
            far.answer(at);
        }
        Ok(())
    }

    /// Starts a tick: the timers that run now run out. Or those that ran before do, as `process-status` shows them to a late tick.
    pub(super) fn tick(&mut self) {
        let past = self.books.past_timers();
        if !past.is_empty() && self.choices.per_mille(400) {
            for _ in &past {
                self.counts.add(Fault::TickedLate);
            }
            self.start_tick(past, false);
        } else {
            self.start_tick(self.books.timers(), false);
        }
    }

    fn start_tick(&mut self, timers: Vec<Timer>, at_rest: bool) {
        self.books.telling(&timers);
        let process = self.process();
        self.operator(&format!("ticks {timers:?}"), move |worker| async move {
            for (instance, name, of) in timers {
                let told = Told::TimeOut { name, of };
                if let Err(error) = told_to(&worker, process, &instance, told).await
                    && at_rest
                {
                    return Ended::Failed(error);
                }
            }
            Ended::Quiet
        });
    }

    /// Starts an operator who retries or resolves an instance that is stuck.
    pub(super) fn help(&mut self) {
        let stuck = self.books.stuck();
        let instance = stuck[self.choices.below(stuck.len())].clone();
        self.counts.add(Fault::Helped);
        let note = "seen".to_owned();
        let told = if self.choices.per_mille(250) { Told::Resolve { note } } else { Told::Retry { note } };
        let process = self.process();
        self.operator(&format!("tells {instance} {told:?}"), move |worker| async move {
            _ = told_to(&worker, process, &instance, told).await;
            Ended::Quiet
        });
    }

    /// Starts an operator who brings the process up to date with one aggregate, or with all of them.
    pub(super) fn catch_up_process(&mut self) {
        let (rule, aggregates) = (self.process_rule(), self.books.aggregates());
        if aggregates.is_empty() || self.choices.per_mille(300) {
            let segments = 1 + u32::try_from(self.choices.below(2)).expect("few");
            let (segment, steps) = (self.segment(segments), 1 + self.choices.below(3));
            self.operator("lets the process catch up", move |worker| async move {
                _ = rebuild(&worker, rule, Task::CatchUp, segment, steps).await;
                Ended::Quiet
            });
            return;
        }
        let id = AggregateId::from(aggregates[self.choices.below(aggregates.len())].as_str());
        self.operator(&format!("lets {id} catch up in the process"), move |worker| async move {
            _ = catch_up(&worker, rule, &id, Trust::Row, Deadline::NONE).await;
            Ended::Quiet
        });
    }

    /// Lets everything run its course: what the stream brings, timers, and what operators do.
    pub(super) async fn end_processes(&mut self) -> Result {
        if !self.plan.is_about(Subject::Transfers) {
            return Ok(());
        }
        let (rule, helps) = (self.process_rule(), self.choices.per_mille(500));
        let (mut helped, mut late, mut prolonged) = (false, false, 0);
        for _ in 0..ROUNDS_MAX {
            self.deliver_all().await?;
            let streamed = self.streamed;
            for aggregate in self.books.aggregates() {
                if !self.left_behind && !self.oracle.disturbed.contains(&aggregate) {
                    continue;
                }
                let id = AggregateId::from(aggregate.as_str());
                let trust = if self.oracle.disturbed.contains(&aggregate) { Trust::Store } else { Trust::Row };
                let rules = self.rules(self.deployed);
                self.operator(&format!("lets {aggregate} catch up"), move |worker| async move {
                    for rule in rules {
                        if let Err(failed) = catch_up(&worker, *rule, &id, trust, Deadline::NONE).await {
                            return Ended::Failed(failed.to_string());
                        }
                    }
                    Ended::Quiet
                });
                self.finish_all().await?;
            }
            if self.streamed > streamed {
                continue;
            }
            let (timers, past) = (self.books.timers(), self.books.past_timers());
            if !timers.is_empty() && prolonged < 2 && self.choices.per_mille(400) {
                prolonged += 1;
                let transfer = timers[0].0.trim_start_matches(NAME).trim_start_matches('/').to_owned();
                self.append_to(DESKS[0], &[Event::Prolonged { transfer }]);
            } else if !timers.is_empty() && !past.is_empty() && !late {
                late = true;
                self.start_tick(past, true);
            } else if !timers.is_empty() {
                self.start_tick(timers, true);
            } else if helps && !helped {
                helped = true;
                for instance in self.books.stuck() {
                    let process = self.process();
                    self.operator(&format!("retries {instance}"), move |worker| async move {
                        let told = told_to(&worker, process, &instance, Told::Retry { note: "at the end".to_owned() }).await;
                        told.map_or_else(Ended::Failed, |()| Ended::Quiet)
                    });
                }
            } else {
                return self.books.at_rest(rule);
            }
            self.finish_all().await?;
        }
        Err("the process does not come to rest".to_owned())
    }

    /// Loses the row of an aggregate that the process reads.
    pub(super) fn lose_process_row(&mut self) -> Result {
        let aggregates = self.books.aggregates();
        if aggregates.is_empty() {
            return Ok(());
        }
        let aggregate = aggregates[self.choices.below(aggregates.len())].clone();
        let rule = self.process_rule();
        self.delete_row(rule.name(), &aggregate, &crate::oracle::home_key(rule, &aggregate))
    }
}

async fn told_to(worker: &Worker, process: &'static dyn DynProcess, instance: &str, told: Told) -> std::result::Result<(), String> {
    let told = tell(worker.store(), process, &instance.into(), &told, None, Deadline::NONE).await;
    told.map(drop).map_err(|error| format!("{instance} cannot be told: {error}"))
}
