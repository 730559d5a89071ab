//! One run: writers, a stream, pollers, workers and operators on one simulated DynamoDB, and a scheduler that chooses, step by step,
//! which of them continues and which fault occurs. Then all faults end, everything comes to rest, and the oracle checks the rows.

mod clients;
mod processes;
mod requests;
mod rest;
mod transfers;
mod truth;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use poller::Poller;
use projection_vocabulary::DynProjection;
use projection_worker::{
    Worker,
    internals::{operations::verify::Verified, store::parking::Parked},
};

use crate::{
    books::Books,
    choices::Choices,
    far::{self, Far},
    faults::{Counts, Fault},
    network::{Network, lock},
    oracle::{EVENTS, Oracle, PARKED},
    plan::{Plan, Subject},
    purses::{Answers, Sent},
    rules::{BAD, DEPLOYMENTS, FIRST, NEXT, REPAIRED, WITH_PROCESS},
    stream::Delivered,
};
use processes::{Process, Role};

const INVOCATIONS_MAX: usize = 3;
const WRITERS_MAX: usize = 2;
const OPERATORS_MAX: usize = 2;

/// The result of a run.
pub struct Finished {
    /// The violated invariant, if any.
    pub failure: Option<String>,
    /// The faults that were injected.
    pub counts: Counts,
    /// The choices that were made.
    pub made: Vec<u32>,
    /// The trace, if requested.
    pub trace: Vec<String>,
    /// Requests that reached the database.
    pub requests: u64,
}

/// Runs one schedule.
///
/// # Panics
/// If no runtime can be created.
#[must_use]
pub fn run(choices: Choices, traced: bool) -> Finished {
    // The worker takes its random delays and ids from these; everything else comes from the choices.
    fastrand::seed(1);
    projection_worker::internals::store::seed_ids(1);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
    runtime.block_on(tokio::task::unconstrained(async {
        let mut run = Run::new(choices, traced);
        let failure = run.go().await.err();
        if let Some(failure) = &failure {
            run.note(|| format!("WRONG: {failure}"));
        }
        Finished {
            failure,
            counts: run.counts,
            made: run.choices.made().to_vec(),
            trace: run.trace.unwrap_or_default(),
            requests: run.requests,
        }
    }))
}

struct Run {
    choices: Choices,
    plan: Plan,
    counts: Counts,
    trace: Option<Vec<String>>,
    network: Arc<Mutex<Network>>,
    oracle: Oracle,
    shards: Vec<Poller<Delivered>>,
    streamed: u64,
    delivered: BTreeMap<u64, u64>,
    streamed_versions: BTreeMap<String, u64>,
    given_up: Vec<Vec<Delivered>>,
    /// The parked entries that an operator has seen.
    parked: Vec<Parked>,
    /// The result of the last verification.
    verified: Verified,
    processes: Vec<Process>,
    named: u64,
    deployed: usize,
    /// Idle workers that wait for their next invocation, as Lambda keeps processes.
    idle: Vec<(usize, Arc<Worker>)>,
    appends_left: usize,
    commands_left: usize,
    /// The commands that were sent.
    sent: Vec<Sent>,
    answers: Answers,
    facts: u64,
    asks_left: usize,
    /// The transfers that were asked for.
    asked: usize,
    books: Books,
    far: Arc<Mutex<Far>>,
    parking_down: bool,
    /// Malformed events that are not fixed yet.
    malformed: Vec<(String, u64)>,
    /// Aggregates that only an operator can bring to the head: the stream has lost their record, or no further event will come.
    left_behind: bool,
    requests: u64,
}

/// The possible next steps of the scheduler.
#[derive(Clone, Copy)]
enum Action {
    Network,
    Far,
    Ask,
    Tick,
    Help,
    Start(usize, usize),
    Append,
    Command,
    Time,
    Kill,
    Duplicate,
    Operate,
    Deploy,
    DeployBad,
    Malform,
    Fix,
    Restore,
    Overwrite,
    LoseRow,
    LoseChild,
    Parking,
    Expire,
}

type Result<T = (), E = String> = std::result::Result<T, E>;

impl Run {
    fn new(mut choices: Choices, traced: bool) -> Self {
        let plan = Plan::choose(&mut choices);
        let mut network = Network::default();
        network.database.create_table(EVENTS, "PK", Some("SK"));
        network.database.create_table(PARKED, "aggregateId", Some("projection"));
        for rule in deployments(&plan)[FIRST] {
            network.database.create_table(rule.name(), rule.key(), rule.children());
        }
        network.database.page_items_max = plan.page_items_max;
        network.database.segments_split = plan.segments_split;
        Self {
            choices,
            counts: Counts::default(),
            trace: traced.then(Vec::new),
            network: Arc::new(Mutex::new(network)),
            oracle: Oracle::default(),
            shards: (0..plan.shards).map(|_| Poller::new(plan.settings)).collect(),
            streamed: 0,
            delivered: BTreeMap::new(),
            streamed_versions: BTreeMap::new(),
            given_up: Vec::new(),
            parked: Vec::new(),
            verified: Verified::default(),
            processes: Vec::new(),
            named: 0,
            deployed: FIRST,
            idle: Vec::new(),
            appends_left: plan.appends,
            commands_left: plan.commands,
            sent: Vec::new(),
            answers: Answers::default(),
            facts: 0,
            asks_left: plan.asks,
            asked: 0,
            books: Books::default(),
            far: Arc::default(),
            parking_down: false,
            malformed: Vec::new(),
            left_behind: false,
            requests: 0,
            plan,
        }
    }

    async fn go(&mut self) -> Result {
        for _ in 0..self.plan.history {
            self.append();
            self.finish_all().await?;
        }
        if self.plan.is_about(Subject::Rush) {
            self.rush();
        }
        if self.plan.is_about(Subject::Transfers) {
            self.fill_purses().await?;
        }
        for _ in 0..self.plan.error {
            self.poll_all()?;
            let action = self.choose();
            self.act(action).await?;
        }
        self.come_to_rest().await
    }

    /// What a deployment runs.
    fn rules(&self, deployment: usize) -> &'static [&'static dyn DynProjection] {
        deployments(&self.plan)[deployment]
    }

    fn note(&mut self, line: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            trace.push(line());
        }
    }

    fn choose(&mut self) -> Action {
        let busy = |role: fn(&Role) -> bool| self.processes.iter().filter(|process| role(&process.role)).count();
        let (invocations, writers) = (busy(|role| matches!(role, Role::Invocation { .. })), busy(|role| matches!(role, Role::Writer)));
        let clients = busy(|role| matches!(role, Role::Client));
        let operators = busy(|role| matches!(role, Role::Operator));
        let may = |fault: Fault, weight: usize| if self.plan.has(fault) { weight } else { 0 };
        let when = |possible: bool, weight: usize| if possible { weight } else { 0 };
        let (requests, slow) = {
            let under_way = &lock(&self.network).under_way;
            let slow = under_way.iter().filter(|request| self.is_slow(request)).count();
            (under_way.len() - slow, slow)
        };
        let mut actions = vec![(when(requests > 0, 60 + 20 * requests.min(5)) + when(requests == 0 && slow > 0, 10), Action::Network)];
        let calls = far::lock(&self.far).under_way.len();
        if invocations < INVOCATIONS_MAX {
            for (at, shard) in self.shards.iter().enumerate() {
                actions.extend(shard.ready().map(|partition| (15, Action::Start(at, partition))));
            }
        }
        let succeeded = self.shards.iter().any(|shard| !shard.succeeded().is_empty());
        actions.extend([
            (when(self.appends_left > 0 && writers < WRITERS_MAX, 15), Action::Append),
            (when(self.commands_left > 0 && clients < clients::CLIENTS_MAX, 15), Action::Command),
            (when(calls > 0, 40), Action::Far),
            (when(self.asks_left > 0 && writers < WRITERS_MAX, 15), Action::Ask),
            (when(self.asked > 0 && operators < OPERATORS_MAX && !self.books.timers().is_empty(), 3), Action::Tick),
            (when(self.asked > 0 && operators < OPERATORS_MAX && !self.books.stuck().is_empty(), 8), Action::Help),
            (when(!self.processes.is_empty(), 4), Action::Time),
            (when(!self.processes.is_empty(), may(Fault::Crash, 3)), Action::Kill),
            (when(invocations < INVOCATIONS_MAX && succeeded, may(Fault::DuplicateDelivery, 4)), Action::Duplicate),
            (when(operators < OPERATORS_MAX, if slow > 0 { 30 } else { 2 }), Action::Operate),
            (
                may(Fault::Deployed, 1)
                    + may(Fault::PoisonFixed, 1)
                    + when(slow > 0 && !self.plan.is_about(Subject::OneSum) && self.deployed != NEXT, 30),
                Action::Deploy,
            ),
            (may(Fault::BadDeployment, 1), Action::DeployBad),
            (may(Fault::Malformed, 1), Action::Malform),
            (when(!self.malformed.is_empty(), 1), Action::Fix),
            (may(Fault::Restored, 1), Action::Restore),
            (may(Fault::Overwritten, 1), Action::Overwrite),
            (may(Fault::RowLost, 1), Action::LoseRow),
            (may(Fault::RowLost, 1), Action::LoseChild),
            (may(Fault::ParkingDown, 1), Action::Parking),
            (may(Fault::Discarded, 1), Action::Expire),
        ]);
        if actions.iter().all(|(weight, _)| *weight == 0) {
            return Action::Time;
        }
        self.choices.weighted(&actions)
    }

    async fn act(&mut self, action: Action) -> Result {
        match action {
            Action::Network => self.network_step(true)?,
            Action::Far => self.far_step(true)?,
            Action::Ask => {
                self.asks_left -= 1;
                self.ask();
            }
            Action::Tick => self.tick(),
            Action::Help => self.help(),
            Action::Start(shard, partition) => {
                let batch = self.shards[shard].start(partition);
                self.invoke(shard, batch.id, batch.records);
            }
            Action::Append => {
                self.appends_left -= 1;
                self.append();
            }
            Action::Command => {
                self.commands_left -= 1;
                self.command();
            }
            Action::Time => {
                let pause = [30, 300, 3_000][self.choices.below(3)];
                self.note(|| format!("-- {pause} ms pass"));
                tokio::time::advance(Duration::from_millis(pause)).await;
            }
            Action::Kill => self.kill(),
            Action::Duplicate => {
                let able: Vec<_> = (0..self.shards.len()).filter(|at| !self.shards[*at].succeeded().is_empty()).collect();
                let shard = able[self.choices.below(able.len())];
                let which = self.choices.below(self.shards[shard].succeeded().len());
                let batch = self.shards[shard].start_duplicate(which);
                self.invoke(shard, batch.id, batch.records);
            }
            Action::Operate => self.operate(),
            Action::Deploy if self.plan.is_about(Subject::OneMaximum) => self.deploy(NEXT),
            Action::Deploy => {
                let choice = self.choices.below(3);
                let possible = [REPAIRED, self.plan.last_deployment, FIRST];
                let deployment = possible[choice];
                // No deployment follows one that could not have preceded it.
                self.deploy(if deployment == REPAIRED && self.plan.last_deployment == FIRST { FIRST } else { deployment });
            }
            Action::DeployBad => self.deploy(BAD),
            Action::Malform => self.malform()?,
            Action::Fix => {
                let at = self.choices.below(self.malformed.len());
                self.fix(at)?;
            }
            Action::Restore => self.restore()?,
            Action::Overwrite => self.overwrite()?,
            Action::LoseRow => self.lose_row()?,
            Action::LoseChild => self.lose_child()?,
            Action::Parking => {
                self.parking_down = !self.parking_down;
                let down = self.parking_down;
                self.note(|| format!("** the parking table is {}", if down { "unavailable" } else { "available again" }));
            }
            Action::Expire => self.expire(),
        }
        Ok(())
    }
}

/// The deployments of a run.
fn deployments(plan: &Plan) -> &'static [&'static [&'static dyn DynProjection]; 4] {
    if plan.is_about(Subject::Transfers) { &WITH_PROCESS } else { &DEPLOYMENTS }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_seed_makes_one_run_and_so_do_its_choices() {
        for seed in 0..20 {
            let told = |finished: Finished| (finished.failure, finished.made, finished.requests);
            let once = told(run(Choices::of_seed(seed), false));
            assert_eq!(told(run(Choices::of_seed(seed), true)), once, "seed {seed}");
            assert_eq!(told(run(Choices::of_list(once.1.clone()), false)), once, "seed {seed}");
        }
    }

    #[test]
    fn without_choices_the_plainest_run_holds() {
        let finished = run(Choices::of_list(Vec::new()), true);
        assert_eq!((finished.failure, Fault::ALL.iter().map(|fault| finished.counts.of(*fault)).sum::<u64>()), (None, 0));
    }
}
