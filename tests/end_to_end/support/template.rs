//! The template and the state machine as the checks read them.

use std::{collections::BTreeMap, fs, sync::LazyLock};

use projection_worker::internals::doctor::{
    Examination, Finding,
    cloudformation::{Document, Resource, function_in, text_of},
};
use serde_json::Value as Json;

const INFRA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/infra");

/// The template of this repository.
pub fn own_path() -> String {
    format!("{INFRA}/template.yaml")
}

/// The text of the template of this repository.
pub fn own() -> String {
    fs::read_to_string(own_path()).expect("the template of this repository")
}

/// The text of its state machine.
pub fn own_machine() -> String {
    fs::read_to_string(format!("{INFRA}/rebuild.asl.json")).expect("the state machine of this repository")
}

/// A text with one thing in it changed: a mutation.
pub fn with(text: &str, old: &str, new: &str) -> String {
    assert!(text.contains(old), "the text no longer contains {old:?}: update the test");
    text.replacen(old, new, 1)
}

/// Each parameter of the template, with its own name in angle brackets as its value.
static PARAMETERS: LazyLock<Vec<(String, String)>> = LazyLock::new(|| {
    let document = Document::read(&own(), &[]).expect("the template of this repository");
    let names = document.section("Parameters").as_object().into_iter().flat_map(serde_json::Map::keys);
    names.map(|name| (name.clone(), format!("<{name}>"))).collect()
});

/// The template with its functions resolved. Each parameter has its own name in angle brackets as its value, `<Stage>`, so that a check
/// sees where it is used.
pub struct Template {
    pub text: String,
    pub resources: BTreeMap<String, Resource>,
    pub machine: Json,
    document: Document,
}

impl Template {
    /// Reads both.
    ///
    /// # Errors
    /// One of them cannot be read, in words.
    pub fn read(text: &str, machine: &str) -> Result<Self, String> {
        let document = Document::read(text, &PARAMETERS).map_err(|error| format!("the template {error}"))?;
        let resources = document.resources().map_err(|error| format!("the template {error}"))?;
        let resources: BTreeMap<_, _> = resources.into_iter().map(|resource| (resource.id.clone(), resource)).collect();
        let mut machine = machine.to_owned();
        let substituted = resources.get("RebuildStateMachine").map(|machine| &machine.properties["DefinitionSubstitutions"]);
        for (name, value) in substituted.and_then(Json::as_object).into_iter().flatten() {
            machine = machine.replace(&format!("${{{name}}}"), &text_of(value).unwrap_or_default());
        }
        let machine = serde_json::from_str(&machine).map_err(|error| format!("the state machine is not JSON: {error}"))?;
        Ok(Self { text: text.to_owned(), resources, machine, document })
    }

    /// The properties of a resource; null if it is missing.
    pub fn properties(&self, id: &str) -> &Json {
        self.resources.get(id).map_or(&Json::Null, |resource| &resource.properties)
    }

    /// The resources of a type.
    pub fn of_kind<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = (&'a str, &'a Json)> {
        let resources = self.resources.values().filter(move |resource| resource.kind == kind);
        resources.map(|resource| (resource.id.as_str(), &resource.properties))
    }

    /// A parameter as it is declared.
    pub fn parameter(&self, name: &str) -> &Json {
        &self.document.section("Parameters")[name]
    }

    /// The outputs as they are declared.
    pub fn outputs(&self) -> &Json {
        self.document.section("Outputs")
    }

    /// An attribute of a resource other than its properties: `DeletionPolicy`.
    pub fn attribute(&self, id: &str, name: &str) -> &Json {
        &self.document.section("Resources")[id][name]
    }

    /// The table with this name behind its stage.
    pub fn table(&self, name: &str) -> Option<&str> {
        let name = format!("<Stage>-{name}");
        self.of_kind("AWS::DynamoDB::Table").find(|(_, table)| table["TableName"] == *name).map(|(id, _)| id)
    }

    /// A state of the machine, or of the machine that each segment runs.
    pub fn state(&self, name: &str) -> &Json {
        let states = &self.machine["States"];
        states.get(name).unwrap_or(&states["Rebuild"]["ItemProcessor"]["States"][name])
    }
}

/// What refers to nothing or could not be resolved.
pub fn references(template: &Template) -> Vec<String> {
    let mut problems = Vec::new();
    for resource in template.resources.values() {
        let mut left = vec![&resource.properties];
        while let Some(value) = left.pop() {
            if let Some((function, argument)) = function_in(value) {
                problems.push(format!("{}: cannot resolve {function} {argument}", resource.id));
                continue;
            }
            match value {
                Json::Array(values) => left.extend(values),
                Json::Object(members) => left.extend(members.values()),
                Json::String(text) => {
                    let names = text.split("${").skip(1).filter_map(|rest| rest.split(['}', '.']).next());
                    let unknown = names.filter(|name| !name.starts_with("AWS::") && !template.resources.contains_key(*name));
                    problems.extend(unknown.map(|name| format!("{}: there is no {name}", resource.id)));
                }
                _ => {}
            }
        }
    }
    problems
}

/// What is found: check, where, and what.
pub fn named_in(examination: &Examination) -> Vec<String> {
    examination.findings.iter().map(|Finding { check, subject, found }| format!("{}: {subject} {found}", check.name)).collect()
}
