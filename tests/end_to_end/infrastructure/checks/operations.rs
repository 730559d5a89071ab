//! The schedules and the state machine ask for tasks that the function knows. What the state machine does with the answers is checked by
//! `infra/check.sh`, which runs it.

use std::collections::{BTreeMap, BTreeSet};

use projection_worker::internals::doctor::cloudformation::integer;
use serde_json::{Value as Json, json};

use super::{super::code::Code, differ};
use crate::support::template::Template;

const SCHEDULE: &str = "AWS::Scheduler::Schedule";
/// The schedule that lets timers run out.
const TICK: &str = "Tick";
/// From one tick to the next.
const TICK_SECONDS: i64 = 60;
/// A day and an hour: the schedule may start that much later.
const CATCH_UP_HOURS_MIN: u32 = 25;

fn members(object: &Json) -> BTreeSet<&str> {
    object.as_object().into_iter().flatten().map(|(name, _)| name.as_str()).collect()
}

/// The task that a schedule sends.
fn input(schedule: &Json) -> Json {
    serde_json::from_str(schedule["Target"]["Input"].as_str().unwrap_or_default()).unwrap_or_default()
}

/// Every projection is caught up by schedule, over a time longer than from one run to the next.
pub fn schedules(template: &Template, code: &Code) -> Vec<String> {
    let mut problems = Vec::new();
    let mut caught_up = BTreeMap::new();
    for (id, schedule) in template.of_kind(SCHEDULE).filter(|(id, _)| *id != TICK) {
        let target = &schedule["Target"];
        problems.extend(differ(&format!("ScheduleExpression of {id}"), &schedule["ScheduleExpression"], &json!("<CatchUpSchedule>")));
        problems.extend(differ(&format!("Arn of {id}"), &target["Arn"], &json!("${OperationsFunction.Arn}")));
        problems.extend(differ(&format!("RoleArn of {id}"), &target["RoleArn"], &json!("${CatchUpRole.Arn}")));
        let input = input(schedule);
        problems.extend(differ(&format!("Input of {id}"), &members(&input), &["catchUp"].into()));
        let task = &input["catchUp"];
        problems.extend(differ(&format!("task of {id}"), &members(task), &members(&code.tasks["catchUp"]["task"])));
        caught_up.insert(task["projection"].as_str().unwrap_or_default().to_owned(), task["since"].clone());
    }
    let wanted = code.projections.iter().map(|projection| (projection.clone(), json!("<CatchUpSince>"))).collect();
    problems.extend(differ("projections that are caught up", &caught_up, &wanted));
    let since = template.parameter("CatchUpSince");
    let units: BTreeSet<_> = code.age_units.chars().collect();
    let pattern = since["AllowedPattern"].as_str().unwrap_or_default();
    let allowed = pattern.strip_prefix("^[0-9]{1,5}[").and_then(|rest| rest.strip_suffix("]$")).unwrap_or_default();
    problems.extend(differ("units of CatchUpSince", &allowed.chars().collect::<BTreeSet<_>>(), &units));
    let hours = since["Default"].as_str().and_then(|since| since.strip_suffix('h')?.parse::<u32>().ok());
    if template.parameter("CatchUpSchedule")["Default"] != "rate(1 day)" || hours.is_none_or(|hours| hours < CATCH_UP_HOURS_MIN) {
        problems.push("CatchUpSince: the times that two runs catch up with must overlap".to_owned());
    }
    problems
}

/// The worker ticks each minute, for as long as there are processes; one tick ends before the next begins, and none is kept until it is of
/// no use.
pub fn ticks(template: &Template, code: &Code) -> Vec<String> {
    let ticks: Vec<_> = template.of_kind(SCHEDULE).filter(|(_, schedule)| input(schedule).get("tick").is_some()).collect();
    let wanted = if code.processes.is_empty() { [].as_slice() } else { &[TICK] };
    let mut problems =
        Vec::from_iter(differ("schedules that tick", &ticks.iter().map(|(id, _)| *id).collect::<Vec<_>>(), &wanted.to_vec()));
    for (id, schedule) in ticks {
        let target = &schedule["Target"];
        for (property, found, wanted) in [
            ("ScheduleExpression", &schedule["ScheduleExpression"], json!("rate(1 minute)")),
            ("State", &schedule["State"], Json::Null),
            ("FlexibleTimeWindow", &schedule["FlexibleTimeWindow"], json!({ "Mode": "OFF" })),
            ("GroupName", &schedule["GroupName"], json!("${Ticks}")),
            ("Arn", &target["Arn"], json!("${WorkerFunction.Arn}")),
            ("RoleArn", &target["RoleArn"], json!("${TickRole.Arn}")),
            ("Input", &input(schedule), json!({ "tick": code.tasks["tick"]["task"] })),
        ] {
            problems.extend(differ(&format!("{property} of {id}"), found, &wanted));
        }
        let kept = |age: &Json| integer(age).is_some_and(|seconds| seconds <= TICK_SECONDS);
        if !kept(&target["RetryPolicy"]["MaximumEventAgeInSeconds"]) {
            problems.push(format!("RetryPolicy of {id}: a tick is sent after the next one"));
        }
        let asynchronous: Vec<_> = template.of_kind("AWS::Lambda::EventInvokeConfig").map(|(_, invocations)| invocations).collect();
        match asynchronous.as_slice() {
            [of] if of["FunctionName"] == "${WorkerFunction}" && of["Qualifier"] == "$LATEST" => {
                if !kept(&of["MaximumEventAgeInSeconds"]) || integer(&of["MaximumRetryAttempts"]) != Some(0) {
                    problems.push("Lambda keeps ticks, or repeats them, after the next one".to_owned());
                }
            }
            _ => problems.push("Lambda keeps ticks of an outage for hours: limit their age".to_owned()),
        }
        if integer(&template.properties("WorkerFunction")["Timeout"]).is_none_or(|seconds| seconds > TICK_SECONDS) {
            problems.push("WorkerFunction may work on one tick when the next begins".to_owned());
        }
    }
    problems
}

/// It asks for tasks that the function knows, waits as long as the function works, and retries what a retry can help.
pub fn state_machine(template: &Template, code: &Code) -> Vec<String> {
    let mut problems = Vec::new();
    if template.machine.to_string().contains("${Operations") {
        // The one reference that is left when all are substituted.
        problems.extend(differ(
            "Resource of Verify",
            &template.state("Verify")["Resource"],
            &json!("arn:${AWS::Partition}:states:::lambda:invoke"),
        ));
    } else {
        problems.push("the state machine does not invoke the operations function".to_owned());
    }
    let works_seconds = integer(&template.properties("OperationsFunction")["Timeout"]).unwrap_or(i64::MAX);
    for (state, kind) in [("RebuildSegment", "rebuild"), ("Verify", "verify")] {
        let task = template.state(state);
        if integer(&task["TimeoutSeconds"]).is_none_or(|waits| waits <= works_seconds) {
            problems.push(format!("{state} gives up before the function does, after {works_seconds} s"));
        }
        let payload = &task["Arguments"]["Payload"];
        problems.extend(differ(&format!("task of {state}"), &members(payload), &[kind].into()));
        // A text is an expression: its members are known when it runs.
        if payload[kind].is_object() {
            problems.extend(differ(&format!("members of {kind}"), &members(&payload[kind]), &members(&code.tasks[kind]["task"])));
        }
        let retried = |error: &Json| {
            task["Retry"]
                .as_array()
                .into_iter()
                .flatten()
                .any(|retry| retry["ErrorEquals"].as_array().is_some_and(|errors| errors.contains(error)))
        };
        let errors = &code.tasks["errors"];
        if !retried(&errors["unfinished"]) {
            problems.push(format!("{state} does not retry {}", errors["unfinished"]));
        }
        if retried(&errors["invalid"]) {
            problems.push(format!("{state} retries {}, which no retry can help", errors["invalid"]));
        }
    }
    problems
}
