//! What processes need besides the stream: somebody who ticks, and permission to act.

use projection_vocabulary::{DynProjection, Registry, process::ProcessStatus};

use super::{Check, Deployment, Examination, Setting, Severity};

/// A schedule that sends the task of a tick to a function.
#[derive(Debug)]
pub struct Schedule {
    /// Its logical id.
    pub name: String,
    /// Whether the function is the worker.
    pub invokes_worker: bool,
    /// When it does so: `rate(1 minute)`.
    pub expression: Setting<String>,
    /// Whether it is enabled.
    pub enabled: Setting<bool>,
    /// The JSON that it sends.
    pub input: String,
}

/// How ticks show, from outside.
#[derive(Debug)]
pub enum Ticks {
    /// The schedules that send them.
    Sent(Vec<Schedule>),
    /// Processes with a timer that should have run out, each with when that was due.
    Overdue(Vec<(String, String)>),
}

/// Something that the worker does in the name of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Deed {
    /// `dynamodb:PutItem` on the event store.
    PutEvent,
    /// `dynamodb:Query` on the event store.
    ReadEvents,
    /// `dynamodb:UpdateItem` on the event store, for its VERSION items.
    MoveVersion,
    /// `dynamodb:Query` on the index of `process-status` by status. Only of who ticks.
    FindInstances,
    /// `dynamodb:Query` on its index of timers. Only of who ticks.
    FindTimers,
}

/// The JSON of a tick, with a member that makes it one.
pub(super) const TICK: &str = "tick";
/// How long a timer may have run out before nobody ticks, in milliseconds: a tick each minute, and what is late in the index and in the
/// worker.
pub(super) const OVERDUE_MS: i64 = 15 * 60 * 1_000;
/// What the schedules of AWS call each minute.
const EACH_MINUTE: [&str; 3] = ["rate(1 minute)", "cron(* * * * ? *)", "cron(*/1 * * * ? *)"];

static NO_TICK: Check = Check {
    name: "tick",
    severity: Severity::Error,
    why: "No timer of a process runs out: an instance that waits for what never comes stays open for ever, and nothing of it is undone.",
    fix: r#"an AWS::Scheduler::Schedule with the ScheduleExpression rate(1 minute) that invokes the worker with the Input {"tick":{}}"#,
};
static TICK_RATE: Check = Check {
    name: "tick-rate",
    severity: Severity::Warning,
    why: "Timers of processes run out with the next tick, so they are late by up to the time between two.",
    fix: "ScheduleExpression: rate(1 minute)",
};
static TICK_CONCURRENCY: Check = Check {
    name: "tick-concurrency",
    severity: Severity::Warning,
    why: "A tick and a batch of the stream wait for each other: ticks are dropped while batches are worked on, and batches are throttled.",
    fix: "no ReservedConcurrentExecutions, or one more than the stream has shards",
};
static PERMISSIONS: Check = Check {
    name: "permissions",
    severity: Severity::Error,
    why: "Processes act by appending to the event store, and a tick finds by indexes what is due. Without permission every batch with an event \
          of a process fails and is delivered again until it is given up, and no timer runs out.",
    fix: "a statement in the policy of the worker's role; infra/template.yaml has ActForProcesses and FindTimersAndOpenInstances",
};

/// All checks of this module.
pub(super) static CHECKS: &[&Check] = &[&NO_TICK, &TICK_RATE, &TICK_CONCURRENCY, &PERMISSIONS];

pub(super) fn examine(deployment: &Deployment, registry: Registry, examination: &mut Examination) {
    if registry.processes().next().is_none() {
        return;
    }
    let function = &deployment.function.name;
    let worker_ticks = match &deployment.ticks {
        Setting::Value(Ticks::Sent(schedules)) => {
            let none = Setting::Value(schedules.is_empty());
            examination
                .judge(&NO_TICK, format!("schedules of {function}:"), &none, |none| none?.then(|| r#"none sends {"tick":{}}"#.to_owned()));
            for schedule in schedules {
                examine_schedule(schedule, examination);
            }
            schedules.iter().any(|schedule| schedule.invokes_worker)
        }
        Setting::Value(Ticks::Overdue(timers)) => {
            for process in registry.processes().map(DynProjection::name) {
                let due = Setting::from(timers.iter().find(|(of, _)| of == process).map(|(_, due)| due.clone()));
                examination.judge(&NO_TICK, format!("timers of {process}:"), &due, |due| {
                    due.map(|due| format!("one was due at {due}, and no tick has let it run out"))
                });
            }
            false
        }
        Setting::Unset => false,
        Setting::Unseen(why) => {
            examination.unseen.insert("ticks".to_owned(), why.clone());
            false
        }
    };
    if worker_ticks {
        let reserved = format!("{function}.ReservedConcurrentExecutions");
        // Zero is another finding.
        examination.reject_if(&TICK_CONCURRENCY, reserved, &deployment.function.reserved_concurrency, |reserved| *reserved == 1);
    }
    examination.judge(&PERMISSIONS, format!("{function}.Role"), &deployment.allowed, |allowed| {
        let allowed = allowed?;
        let needed = Deed::ALL.into_iter().filter(|deed| worker_ticks || !deed.is_of_ticks());
        let missing: Vec<_> =
            needed.filter(|deed| !allowed.contains(deed)).map(|deed| format!("{} on {}", deed.action(), deed.place())).collect();
        (!missing.is_empty()).then(|| format!("does not allow {}", missing.join(", ")))
    });
}

fn examine_schedule(schedule: &Schedule, examination: &mut Examination) {
    let at = |property: &str| format!("{}.{property}", schedule.name);
    examination.judge(&NO_TICK, at("State"), &schedule.enabled, |enabled| (enabled == Some(&false)).then(|| "is DISABLED".to_owned()));
    let input: Option<serde_json::Value> = serde_json::from_str(&schedule.input).ok();
    let is_tick = input.as_ref().is_some_and(|input| *input == serde_json::json!({ TICK: {} }));
    examination.judge(&NO_TICK, at("Input"), &Setting::Value(is_tick), |is_tick| {
        (!is_tick?).then(|| r#"is not {"tick":{}}, so the function refuses it"#.to_owned())
    });
    let each_minute = |expression: &String| EACH_MINUTE.contains(&expression.trim());
    examination.reject_if(&TICK_RATE, at("ScheduleExpression"), &schedule.expression, |expression| !each_minute(expression));
}

impl Deed {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::PutEvent, Self::MoveVersion, Self::ReadEvents, Self::FindTimers, Self::FindInstances];

    /// As IAM calls it.
    #[must_use]
    pub fn action(self) -> &'static str {
        match self {
            Self::PutEvent => "dynamodb:PutItem",
            Self::MoveVersion => "dynamodb:UpdateItem",
            Self::ReadEvents | Self::FindInstances | Self::FindTimers => "dynamodb:Query",
        }
    }

    /// The index of `process-status` that it needs.
    #[must_use]
    pub fn index(self) -> Option<&'static str> {
        match self {
            Self::FindInstances => Some(ProcessStatus::BY_STATUS.index().name),
            Self::FindTimers => Some(ProcessStatus::TIMERS.index().name),
            Self::PutEvent | Self::MoveVersion | Self::ReadEvents => None,
        }
    }

    fn is_of_ticks(self) -> bool {
        self.index().is_some()
    }

    fn place(self) -> String {
        self.index().map_or_else(|| "the event store".to_owned(), |index| format!("the index {index} of process-status"))
    }
}
