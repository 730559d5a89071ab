//! The template and the state machine in `infra` agree with the code.
//!
//! The checks ask the code itself: they start the program that is deployed, give it batches and tasks, and record its calls of DynamoDB,
//! its answers and its metrics. `infra/check.sh` does what needs Python and Node: it lints, translates and deploys the template, and runs
//! the state machine.

mod checks;
mod code;
mod mutations;

use std::fs;

use projection_worker::internals::doctor::{examine, template};
use serde_json::Value as Json;
use tokio::sync::OnceCell;

use crate::{
    size,
    support::{
        template::{Template, named_in, own, own_machine, with},
        world::included,
    },
};

use self::{
    checks::problems,
    code::{Code, TASKS},
    mutations::{File, OF_CODE, OF_FILES},
};

static CODE: OnceCell<Code> = OnceCell::const_new();

fn own_template() -> Template {
    Template::read(&own(), &own_machine()).expect("the template of this repository")
}

async fn code() -> &'static Code {
    CODE.get_or_init(Code::ask).await
}

#[tokio::test]
async fn the_template_and_the_state_machine_agree_with_the_code() {
    assert_eq!(problems(&own_template(), code().await), [""; 0]);
}

/// The state machine is run against these answers, by `infra/check.sh`.
#[tokio::test]
async fn the_tasks_in_the_file_are_answered_as_it_states() {
    let written: Json = serde_json::from_str(&fs::read_to_string(TASKS).expect("tasks.json")).expect("JSON");
    let answered = &code().await.tasks;
    assert_eq!(&written, answered, "update infra/checks/tasks.json:\n{answered:#}");
}

/// The doctor has a list of its own, because it is not linked into the Lambda.
#[tokio::test]
async fn the_doctor_knows_every_metric_that_the_code_counts() {
    let query = "SELECT SUM(Stuck) FROM SCHEMA(\"ProjectionWorker\", projection, stage)";
    for (dimensions, name) in &code().await.metrics {
        let by: Vec<_> = dimensions.iter().map(String::as_str).collect();
        let text = with(&own(), query, &format!("SELECT SUM({name}) FROM SCHEMA(\"ProjectionWorker\", {})", by.join(", ")));
        let deployment = template::read(&text, &[], Some("WorkerFunction"), included()).expect("a template");
        assert_eq!(named_in(&examine(&deployment, included())), [""; 0], "{name} by {by:?}");
    }
}

/// What the two mutations of the filter are about is in the stream.
#[tokio::test]
async fn the_stream_behind_processes_has_events_of_instances_and_answers_to_commands() {
    let stream = &code().await.stream;
    let has = |name: &str, begins: &str| {
        stream.iter().any(|record| record["dynamodb"]["NewImage"][name]["S"].as_str().is_some_and(|text| text.starts_with(begins)))
    };
    for process in ["transfers/", "order-fulfilment/"] {
        assert!(has("aggregateId", process), "{process}");
    }
    for event_type in
        ["ProcessReceived", "ProcessSent", "ProcessAccepted", "ProcessRefused", "ProcessTimedOut", "ProcessCompleted", "ProcessUndone"]
    {
        assert!(has("eventType", event_type), "{event_type}");
    }
    assert!(has("SK", "COMMAND#"));
}

#[tokio::test]
async fn each_mutation_of_template_and_state_machine_is_reported() {
    let code = code().await;
    let mut missed = Vec::new();
    for (name, file, old, new, expected) in OF_FILES.iter().step_by(size(5, 1)) {
        let mutant = match file {
            File::Template => Template::read(&with(&own(), old, new), &own_machine()),
            File::Machine => Template::read(&own(), &with(&own_machine(), old, new)),
        };
        let found = mutant.map_or_else(|unreadable| vec![unreadable], |mutant| problems(&mutant, code));
        if !found.iter().any(|problem| problem.contains(expected)) {
            missed.push((name, found));
        }
    }
    assert!(missed.is_empty(), "{missed:#?}");
}

#[tokio::test]
async fn a_template_that_does_not_follow_the_code_is_reported() {
    let (template, mut missed) = (own_template(), Vec::new());
    for (name, change, expected) in OF_CODE.iter().step_by(size(5, 1)) {
        let mut changed = code().await.clone();
        change(&mut changed);
        let found = problems(&template, &changed);
        if !found.iter().any(|problem| problem.contains(expected)) {
            missed.push((name, found));
        }
    }
    assert!(missed.is_empty(), "{missed:#?}");
}
