//! What the template and the code must agree on. A check returns the problems that it finds.

mod alarms;
mod functions;
mod mapping;
mod operations;
mod permissions;
mod tables;

use std::collections::BTreeSet;

use projection_worker::internals::doctor::{examine, template};
use serde::Serialize;
use serde_json::{Value as Json, json};

use super::code::Code;
use crate::support::{
    template::{Template, named_in, references},
    world::included,
};

type Check = fn(&Template, &Code) -> Vec<String>;

const CHECKS: [Check; 17] = [
    |template, _| references(template),
    |template, _| doctor(template),
    tables::definitions,
    tables::outputs,
    |template, _| tables::kept(template),
    functions::environment,
    |template, _| functions::settings(template),
    |template, _| mapping::settings(template),
    mapping::filter,
    permissions::roles,
    permissions::policies,
    operations::schedules,
    operations::ticks,
    operations::state_machine,
    |template, _| alarms::alarms(template),
    alarms::metrics,
    alarms::tables,
];

/// The problems of a template and its state machine.
pub fn problems(template: &Template, code: &Code) -> Vec<String> {
    let mut known = BTreeSet::new();
    let found = CHECKS.iter().flat_map(|check| check(template, code));
    found.filter(|problem| known.insert(problem.clone())).collect()
}

/// `projector doctor` finds nothing, whichever function it takes for the worker.
fn doctor(template: &Template) -> Vec<String> {
    let mut problems = Vec::new();
    // The operations function runs the same program, and only tasks invoke it.
    for (function, expected) in [("WorkerFunction", None), ("OperationsFunction", Some("mapping"))] {
        match template::read(&template.text, &[], Some(function), included()) {
            Ok(deployment) => {
                let mut examination = examine(&deployment, included());
                examination.findings.retain(|finding| Some(finding.check.name) != expected);
                if expected.is_some() {
                    // Those that watch the stream are not about this function.
                    examination.unseen.remove("alarms");
                }
                problems.extend(named_in(&examination));
                problems.extend(examination.unseen.iter().map(|(subject, why)| format!("{subject}: {why}")));
            }
            Err(error) => problems.push(format!("the template {error}")),
        }
    }
    problems
}

/// A problem for each member in which the two objects differ.
fn members_differ(what: &str, found: &Json, wanted: &Json) -> Vec<String> {
    let names = |object: &Json| object.as_object().into_iter().flat_map(serde_json::Map::keys).cloned().collect::<Vec<_>>();
    let all: BTreeSet<_> = names(found).into_iter().chain(names(wanted)).collect();
    all.into_iter().filter_map(|name| differ(&format!("{name} of {what}"), &found[&name], &wanted[&name])).collect()
}

/// A problem if the two differ.
fn differ<T: PartialEq + Serialize>(what: &str, found: &T, wanted: &T) -> Option<String> {
    (found != wanted).then(|| format!("{what}: is {}, and should be {}", json!(found), json!(wanted)))
}
