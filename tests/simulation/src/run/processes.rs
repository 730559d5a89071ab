//! The processes: invocations, writers and operators. Each continues when the scheduler lets it, and may be killed at any await.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll, Wake, Waker},
};

use poller::{Answer, BatchId};
use projection_vocabulary::{AggregateId, DynProjection, Registry};
use projection_worker::{
    Worker,
    internals::{
        engine::{report::Report, reproject::Trust},
        operations::{
            catch_up::catch_up,
            error::OperationError,
            rebuild::{
                Task,
                segment::{Resume, SegmentRebuild},
            },
            redrive::{Redriven, redrive},
            settle::settle,
            verify::{Options, Repair, Verified, verify},
        },
        retry::Deadline,
        store::{Store, TableNames, parking::Parked, segment::Segment},
    },
};

use super::{Result, Run};
use crate::{
    far,
    faults::Fault,
    network::{Line, lock},
    oracle::{EVENTS, PARKED, SHELVES as SHARED},
    plan::{GIVERS, Subject},
    purses::{Sent, Told},
    rules::{BAD, DEPLOYMENTS, FIRST, NEXT},
    stream::Delivered,
};

pub(super) struct Process {
    pub(super) name: Arc<str>,
    pub(super) role: Role,
    future: Pin<Box<dyn Future<Output = Ended>>>,
    woken: Arc<Flag>,
}

pub(super) enum Role {
    Invocation {
        shard: usize,
        batch: BatchId,
        records: Vec<(u64, Delivered)>,
        deployment: usize,
        worker: Arc<Worker>,
    },
    /// Discarded records, delivered by hand.
    Replay(Vec<Delivered>),
    Writer,
    /// Sends a command.
    Client,
    Operator,
}

pub(super) enum Ended {
    Report(Box<Report>),
    Quiet,
    Redriven(Redriven),
    Told(Sent, Told, bool),
    /// Entries to redrive.
    Parked(Vec<Parked>),
    Verified(Box<Verified>),
    Failed(String),
    Panicked(String),
}

pub(super) struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Relaxed);
    }
}

impl Run {
    pub(super) fn name(&mut self, kind: &str) -> String {
        self.named += 1;
        format!("{kind}-{}", self.named)
    }

    pub(super) fn store(&self, name: &str) -> Store {
        let projections = self.rules(FIRST).iter().map(|rule| (rule.name(), rule.name().to_owned())).collect();
        let names = TableNames { event_store: EVENTS.to_owned(), parked: PARKED.to_owned(), projections };
        Store::new(Line::new(self.network.clone(), name), names)
    }

    pub(super) fn worker(&mut self, deployment: usize) -> Arc<Worker> {
        if let Some(at) = self.idle.iter().position(|(of, _)| *of == deployment) {
            return self.idle.swap_remove(at).1;
        }
        let name = self.name("worker");
        let worker = Worker::new(self.store(&name), Registry::new(self.rules(deployment)));
        let worker = if self.plan.is_about(Subject::Transfers) { worker.with_calls(far::calls(&self.far)) } else { worker };
        Arc::new(worker.with_reprojection_budget(self.plan.reprojected_events_max))
    }

    pub(super) fn start(&mut self, name: &str, role: Role, future: impl Future<Output = Ended> + 'static) {
        let woken = Arc::new(Flag(AtomicBool::new(true)));
        // Without tokio's limit on uninterrupted work: the scheduler alone decides who waits.
        let future = Box::pin(tokio::task::unconstrained(future));
        self.processes.push(Process { name: name.into(), role, future, woken });
    }

    pub(super) fn invoke(&mut self, shard: usize, batch: BatchId, records: Vec<(u64, Delivered)>) {
        let newest = self.delivered.keys().next_back().copied();
        if records.first().is_some_and(|(_, first)| Some(first.0.order) < newest && !self.delivered.contains_key(&first.0.order)) {
            self.counts.add(Fault::ReorderedAcross);
        }
        for (_, record) in &records {
            let times = self.delivered.entry(record.0.order).or_default();
            *times += 1;
            if *times > 1 {
                self.counts.add(Fault::DuplicateDelivery);
            }
        }
        let deployment = self.deployed;
        let worker = self.worker(deployment);
        let name = self.name("invocation");
        let names = || records.iter().map(|(_, record)| record.0.name.clone()).collect::<Vec<_>>().join(", ");
        let line = self.trace.is_some().then(|| format!("{name} of deployment {deployment} is given {}", names()));
        self.note(|| line.unwrap_or_default());
        let deadline = Deadline::at(tokio::time::Instant::now().into_std() + self.plan.working_time);
        let role = Role::Invocation { shard, batch, records: records.clone(), deployment, worker: worker.clone() };
        self.start(&name, role, async move {
            let records: Vec<_> = records.into_iter().map(|(_, record)| record).collect();
            Ended::Report(Box::new(worker.process(&records, deadline).await))
        });
    }

    /// Starts a process that uses a worker of the current deployment.
    pub(super) fn operator<W: Future<Output = Ended> + 'static>(&mut self, what: &str, work: impl FnOnce(Arc<Worker>) -> W) {
        let (worker, name) = (self.worker(self.deployed), self.name("operator"));
        self.note(|| format!("{name} {what}"));
        self.start(&name, Role::Operator, work(worker));
    }

    /// Starts a rebuild or a catch-up, and settles what it has taken back.
    fn rebuild(&mut self, rule: &'static dyn DynProjection, task: Task, segment: Segment, steps: usize) {
        self.operator(&format!("does {task:?} of {} in segment {segment:?}", rule.name()), move |worker| async move {
            _ = rebuild(&worker, rule, task, segment, steps).await;
            // What others take back meanwhile, too.
            if rule.name() == SHARED {
                _ = settle(worker.store(), rule, Deadline::NONE).await;
            }
            Ended::Quiet
        });
    }

    /// Starts an operation that is allowed at any time.
    pub(super) fn operate(&mut self) {
        let working = self.processes.iter().any(|process| matches!(process.role, Role::Invocation { .. }));
        let rule = self.rules(self.deployed)[self.choices.below(3)];
        if self.plan.is_about(Subject::OneMaximum) {
            return self.rebuild(shared(self.deployed), Task::Rebuild, Segment::ALL, 1);
        }
        if self.plan.is_about(Subject::OneEntry) {
            return self.redrive_all();
        }
        if self.plan.is_about(Subject::OneSum) {
            return self.repair(shared(self.deployed));
        }
        if self.plan.is_about(Subject::Transfers) && self.choices.per_mille(700) {
            return self.catch_up_process();
        }
        if self.plan.has(Fault::Rebuilt) && self.choices.per_mille(400) {
            let segments = 1 + u32::try_from(self.choices.below(3)).expect("few");
            let (segment, steps) = (self.segment(segments), 1 + self.choices.below(3));
            let task = [Task::Rebuild, Task::Rebuild, Task::CatchUp][self.choices.below(3)];
            if working {
                self.counts.add(Fault::Rebuilt);
            }
            return self.rebuild(rule, task, segment, steps);
        }
        if self.plan.has(Fault::Verified) && self.choices.per_mille(400) {
            if working {
                self.counts.add(Fault::Verified);
            }
            return self.repair(rule);
        }
        if self.plan.has(Fault::Rebuilt) && rule.name() == SHARED && self.choices.per_mille(700) {
            self.operator("settles shared rows", move |worker| async move {
                _ = settle(worker.store(), rule, Deadline::NONE).await;
                Ended::Quiet
            });
            return;
        }
        if self.choices.per_mille(500) {
            let aggregate = AggregateId::from(GIVERS[self.choices.below(self.plan.givers)]);
            self.operator(&format!("lets {aggregate} catch up in {}", rule.name()), |worker| async move {
                _ = catch_up(&worker, rule, &aggregate, Trust::Row, Deadline::NONE).await;
                Ended::Quiet
            });
            return;
        }
        self.redrive_all();
    }

    fn repair(&mut self, rule: &'static dyn DynProjection) {
        let segments = 1 + u32::try_from(self.choices.below(3)).expect("few");
        self.operator(&format!("verifies and repairs {}", rule.name()), move |worker| async move {
            _ = verify(&worker, rule, Options { segments, sample: None, repair: Repair::AllOrphans }, Deadline::NONE).await;
            Ended::Quiet
        });
    }

    fn redrive_all(&mut self) {
        self.operator("redrives what is parked", |worker| async move {
            for parked in worker.store().parked().await.unwrap_or_default() {
                _ = redrive(&worker, &parked, Trust::Row, Deadline::NONE).await;
            }
            Ended::Quiet
        });
    }

    pub(super) fn segment(&mut self, of: u32) -> Segment {
        let number = u32::try_from(self.choices.below(of as usize)).expect("few");
        Segment::new(number, of).expect("less than there are")
    }

    pub(super) fn deploy(&mut self, deployment: usize) {
        if deployment == self.deployed {
            return;
        }
        self.note(|| format!("** deployment {deployment}"));
        if deployment == BAD {
            self.counts.add(Fault::BadDeployment);
        }
        if (deployment == NEXT) != (self.deployed == NEXT)
            && self.processes.iter().any(|process| matches!(process.role, Role::Invocation { .. }))
        {
            self.counts.add(Fault::Deployed);
        }
        self.oracle.revised |= deployment == NEXT;
        self.deployed = deployment;
        self.idle.clear();
    }

    pub(super) fn kill(&mut self) {
        let at = self.choices.below(self.processes.len());
        let process = self.processes.swap_remove(at);
        self.note(|| format!("** {} is killed", process.name));
        self.counts.add(match process.role {
            Role::Invocation { .. } | Role::Replay(_) => Fault::Crash,
            Role::Operator => Fault::OperatorKilled,
            Role::Writer => Fault::WriterKilled,
            Role::Client => Fault::ClientKilled,
        });
        if let Role::Invocation { shard, batch, .. } = process.role {
            self.shards[shard].answer(batch, &Answer::Errored);
            self.take_discarded(shard);
        }
    }

    /// Lets every process continue that can.
    pub(super) fn poll_all(&mut self) -> Result {
        loop {
            let Some(at) = self.processes.iter().position(|process| process.woken.0.swap(false, Relaxed)) else { return Ok(()) };
            let process = &mut self.processes[at];
            let waker = Waker::from(process.woken.clone());
            let polled = catch_unwind(AssertUnwindSafe(|| process.future.as_mut().poll(&mut Context::from_waker(&waker))));
            let ended = match polled {
                Ok(Poll::Pending) => continue,
                Ok(Poll::Ready(ended)) => ended,
                Err(panic) => Ended::Panicked(panic_text(&*panic)),
            };
            let process = self.processes.swap_remove(at);
            self.ended(process, ended)?;
        }
    }

    pub(super) fn ended(&mut self, process: Process, ended: Ended) -> Result {
        let name = process.name;
        match (process.role, ended) {
            (_, Ended::Panicked(panic)) => return Err(format!("{name} panicked: {panic}")),
            (_, Ended::Failed(error)) => return Err(format!("{name} failed: {error}")),
            (Role::Invocation { shard, batch, records, deployment, worker }, Ended::Report(report)) => {
                let answer = answer_of(&report);
                self.note(|| format!("{name} answers {answer:?}: {:?} {:?}", report.total, report.reasons));
                if report.reasons.keys().any(|reason| reason.starts_with("out of time")) {
                    self.counts.add(Fault::OutOfTime);
                }
                if report.reasons.keys().any(|reason| reason.starts_with("instances of")) {
                    self.counts.add(Fault::OlderProcess);
                }
                let Answer::Responded(failed) = &answer else { unreachable!("a report is an answer") };
                let checkpoint = failed.first().map_or(u64::MAX, |number| number.parse().unwrap_or(0));
                let acknowledged: Vec<_> =
                    records.iter().filter(|(sequence, _)| *sequence < checkpoint).map(|(_, record)| record).collect();
                self.acknowledged(deployment, &acknowledged)?;
                self.shards[shard].answer(batch, &answer);
                self.take_discarded(shard);
                if deployment == self.deployed {
                    self.idle.push((deployment, worker));
                }
            }
            (Role::Replay(records), Ended::Report(report)) => {
                self.note(|| format!("{name}: {:?} {:?}", report.total, report.reasons));
                if report.total.failed > 0 {
                    return Err(format!("all faults have ended, but records fail: {:?}", report.reasons));
                }
                self.acknowledged(self.deployed, &records.iter().collect::<Vec<_>>())?;
            }
            (_, Ended::Redriven(redriven)) => {
                if matches!(redriven, Redriven::Done { .. }) {
                    self.counts.add(Fault::PoisonFixed);
                }
                self.note(|| format!("{name}: {redriven:?}"));
            }
            (_, Ended::Told(sent, told, replayed)) => {
                self.note(|| format!("{name} is told {told:?}"));
                self.take_answer(&sent, told, replayed)?;
            }
            (_, Ended::Parked(parked)) => self.parked = parked,
            (_, Ended::Verified(verified)) => {
                self.note(|| format!("{name}: {verified:?}"));
                self.verified = *verified;
            }
            (_, Ended::Quiet | Ended::Report(_)) => self.note(|| format!("{name} is done")),
        }
        Ok(())
    }

    pub(super) fn acknowledged(&self, deployment: usize, records: &[&Delivered]) -> Result {
        let network = lock(&self.network);
        for record in records {
            self.oracle.acknowledged(&network.database, self.rules(deployment), &record.0)?;
        }
        Ok(())
    }
}

/// The rule of a deployment that writes to shared rows.
pub(super) fn shared(deployment: usize) -> &'static dyn DynProjection {
    *DEPLOYMENTS[deployment].iter().find(|rule| rule.name() == SHARED).expect("every deployment has it")
}

/// Rebuilds a segment to its end. After some steps, another process resumes it at the cursor.
pub(super) async fn rebuild(
    worker: &Worker,
    rule: &'static dyn DynProjection,
    task: Task,
    segment: Segment,
    steps: usize,
) -> std::result::Result<(), OperationError> {
    let mut from = Resume::default();
    loop {
        let mut part = SegmentRebuild::new(worker, rule, task, segment, from.clone());
        let mut step = 0;
        // The checkpoint stays where it is until an aggregate is done.
        while step < steps || part.resume().cursor == from.cursor {
            if !part.step(Deadline::NONE).await? {
                return Ok(());
            }
            step += 1;
        }
        from = part.resume();
    }
}

/// The Lambda's answer.
fn answer_of(report: &Report) -> Answer {
    Answer::Responded(report.item_failure().into_iter().map(str::to_owned).collect())
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default()
}
