//! Commands by form, from the types of the deciders.

use maud::{Markup, html};
use projection_vocabulary::{DynDecider, Value};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{SaidBefore, count_of, link, page as whole, text};
use crate::{
    commands::{AnyCommand, AnyHandled, Commands, Unhandled},
    dev::Console,
};

/// The members of a form that are not fields of the command.
const KIND: &str = "-kind";
const AGGREGATE: &str = "-aggregate";
const COMMAND: &str = "-command";
const ID: &str = "-id";

/// Which form.
#[derive(Default, Deserialize)]
#[serde(default)]
pub struct Asked {
    kind: String,
    aggregate: String,
}

/// The page.
pub fn page(console: &Console, asked: &Asked, said: &SaidBefore) -> Markup {
    let deciders = console.deciders.all();
    let chosen = console.deciders.get(&asked.kind).or(deciders.first().copied());
    let body = html! {
        h1 { "Commands" }
        @match chosen {
            None => { p { "This program has no aggregates that take commands. Events can be appended with an SDK or " code { "projector events append" } "." } }
            Some(chosen) => {
                nav.tabs aria-label="Kinds of aggregates" {
                    @for decider in deciders {
                        a href=(link("/commands", &[("kind", decider.kind()), ("aggregate", &asked.aggregate)]))
                            aria-current=[(decider.kind() == chosen.kind()).then_some("page")] { (decider.kind()) }
                    }
                }
                p { "A field takes a text, a number, or JSON. A command that is sent again with its id has one effect and the same answer." }
                div.columns { @for (name, fields) in chosen.commands() { (form(chosen, name, fields, asked)) } }
            }
        }
    };
    whole("/commands", "Commands", said, &body)
}

fn form(decider: &dyn DynDecider, name: &str, fields: &[&str], asked: &Asked) -> Markup {
    html! {
        form.command method="post" action="/commands" data-quiet data-new-id=(ID) {
            fieldset {
                legend { (name) }
                input type="hidden" name=(KIND) value=(decider.kind());
                input type="hidden" name=(COMMAND) value=(name);
                label { (decider.kind()) input name=(AGGREGATE) required value=(asked.aggregate) placeholder="its id" autocomplete="off"; }
                @for field in fields { label { (field) input name=(field) autocomplete="off"; } }
                details { summary { "Command id" } label { "Id" input name=(ID) value=(new_id()) autocomplete="off"; } }
                button { (name) }
            }
        }
    }
}

/// An id for the command of one form.
fn new_id() -> String {
    format!("form-{:012x}", fastrand::u64(..1 << 48))
}

/// Sends the command of a form. Returns whether it was accepted, a sentence, and where to go on.
pub async fn send(console: &Console, fields: &[(String, String)]) -> (bool, String, String) {
    let member = |name: &str| fields.iter().find(|(of, _)| of == name).map(|(_, value)| value.trim()).unwrap_or_default();
    let (kind, aggregate, name) = (member(KIND), member(AGGREGATE), member(COMMAND));
    let to = link("/commands", &[("kind", kind), ("aggregate", aggregate)]);
    let Some(decider) = console.deciders.get(kind) else { return (false, "there is no such kind of aggregate".to_owned(), to) };
    let Some((name, known)) = decider.commands().into_iter().find(|(known, _)| *known == name) else {
        return (false, "there is no such command".to_owned(), to);
    };
    if aggregate.is_empty() {
        return (false, "the aggregate's id is missing".to_owned(), to);
    }
    let given: Vec<_> = known.iter().map(|field| (*field, member(field))).filter(|(_, text)| !text.is_empty()).collect();
    let id = Some(member(ID)).filter(|id| !id.is_empty()).map(str::to_owned);
    // Of a field's type only the decider knows: `12` may be a number or a text.
    let mut as_text = Vec::new();
    loop {
        let fields = given.iter().map(|(field, text)| ((*field).to_owned(), read(text, as_text.contains(field))));
        let command = Value::Map([(name.to_owned(), Value::Map(fields.collect()))].into());
        let sent = AnyCommand { command, id: id.clone(), expected: None, metadata: None };
        match Commands::new(&console.store).handle_any(decider, aggregate, sent).await {
            Ok(handled) => return (true, accepted(&handled), to),
            Err(Unhandled::Invalid(why)) => {
                let blamed =
                    given.iter().map(|(field, _)| *field).find(|field| why.contains(&format!("`{field}`")) && !as_text.contains(field));
                match blamed {
                    Some(field) => as_text.push(field),
                    None => return (false, text(&why), to),
                }
            }
            Err(error) => return (false, refused(&error), to),
        }
    }
}

fn read(text: &str, as_text: bool) -> Value {
    let json = if as_text { None } else { serde_json::from_str::<Box<RawValue>>(text).ok() };
    json.and_then(|json| Value::from_json(&json).ok()).unwrap_or_else(|| Value::from(text))
}

fn accepted(AnyHandled { aggregate, version, events, replayed, .. }: &AnyHandled) -> String {
    let before = if *replayed { ", as answered before" } else { "" };
    let names: Vec<_> = events.iter().map(|event| text(&event.event_type)).collect();
    let done = if events.is_empty() {
        "nothing happened".to_owned()
    } else {
        format!("{}: {}", count_of(events.len(), "event"), names.join(", "))
    };
    format!("{} is at version {version}; {done}{before}", text(aggregate.as_str()))
}

fn refused(error: &Unhandled) -> String {
    let again = matches!(error, Unhandled::Refused { replayed: true, .. } | Unhandled::Taken { replayed: true, .. });
    let before = if again { "refused before, and so again: " } else { "refused: " };
    match error {
        Unhandled::Refused { .. } | Unhandled::Taken { .. } => format!("{before}{}", text(&error.to_string())),
        other => text(&other.to_string()),
    }
}
