//! The pages. Everything that is written into one is escaped by the template; control and direction characters besides, so that what an
//! event holds can neither become markup nor turn the text around it.

pub mod aggregate;
pub mod checks;
pub mod commands;
pub mod live;
pub mod parked;
pub mod processes;
pub mod row;
pub mod rows;

use maud::{DOCTYPE, Markup, html};
use projection_vocabulary::{DynProjection, Value};

use serde::Deserialize;

use super::Console;
pub use crate::plural::{count, count_of};
use crate::{escape, operations::error::OperationError, queries::QueryError, store::StoreError};

/// The longest value that is shown whole.
const VALUE_CHARS_MAX: usize = 300;
/// Rows, entries or events on one page.
pub const ON_A_PAGE: usize = 50;

/// The sections, with the path of each.
const SECTIONS: [(&str, &str); 6] = [
    ("/", "Live"),
    ("/rows", "Rows"),
    ("/commands", "Commands"),
    ("/processes", "Processes"),
    ("/parked", "Parked"),
    ("/checks", "Checks"),
];

/// What the form before said, if a page is shown after one.
#[derive(Default, Deserialize)]
#[serde(default)]
pub struct SaidBefore {
    /// The sentence.
    pub said: String,
    /// Whether it was done.
    pub ok: String,
}

/// Why there is no page.
pub enum Failure {
    /// What is asked for does not exist.
    NotFound(String),
    /// What is asked for makes no sense.
    Invalid(String),
    /// The database fails.
    Failed(String),
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Failed(error.to_string())
    }
}

impl From<OperationError> for Failure {
    fn from(error: OperationError) -> Self {
        Self::Failed(error.to_string())
    }
}

impl From<QueryError> for Failure {
    fn from(error: QueryError) -> Self {
        match error {
            QueryError::Store(error) => error.into(),
            other => Self::Invalid(other.to_string()),
        }
    }
}

/// A page of a section.
pub fn page(section: &str, title: &str, said: &SaidBefore, body: &Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) " · projector dev" }
                link rel="stylesheet" href="/style.css";
                script src="/script.js" defer {}
            }
            body {
                a.skip href="#main" { "Skip to the content" }
                header {
                    strong { "projector dev" }
                    nav aria-label="Sections" {
                        @for (path, name) in SECTIONS {
                            a href=(path) aria-current=[(path == section).then_some("page")] { (name) }
                        }
                    }
                }
                main id="main" {
                    output id="said" role="status" class=(if said.ok == "0" { "refused" } else { "" }) { (text(&said.said)) }
                    (body)
                }
            }
        }
    }
}

/// A page that says why there is no other.
pub fn failure(why: &str) -> Markup {
    page("", "Not possible", &SaidBefore::default(), &html! { h1 { "Not possible" } p.refused { (text(why)) } p { a href="/" { "Back" } } })
}

/// A text in which nothing commands a browser or a reader's eye.
pub fn text(text: &str) -> String {
    escape::line(text)
}

/// A text of which the end may be left out.
pub fn short(text: &str) -> String {
    let escaped = escape::line(text);
    match escaped.char_indices().nth(VALUE_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &escaped[..end]),
        None => escaped,
    }
}

/// A value, as JSON.
pub fn value(value: &Value) -> String {
    match value {
        Value::Text(text) => short(text),
        other => short(other.to_json().get()),
    }
}

/// A value that may be absent.
pub fn maybe(of: Option<&Value>) -> Markup {
    html! { @if let Some(of) = of { (value(of)) } @else { span.absent { "none" } } }
}

/// A path with parameters.
pub fn link(path: &str, parameters: &[(&str, &str)]) -> String {
    let begin = path.len() + 1;
    let mut pairs = form_urlencoded::Serializer::for_suffix(format!("{path}?"), begin);
    pairs.extend_pairs(parameters.iter().filter(|(_, value)| !value.is_empty()));
    pairs.finish()
}

/// The link of an aggregate.
pub fn of_aggregate(id: &str, projection: &str) -> Markup {
    html! { a href=(link("/aggregate", &[("id", id), ("projection", projection)])) { (text(id)) } }
}

/// The link of a row.
pub fn of_row(projection: &str, key: &str) -> Markup {
    html! { a href=(link("/row", &[("projection", projection), ("key", key)])) { (text(key)) } }
}

/// The projection of this name, if it has rows.
pub fn read_model(console: &Console, name: &str) -> Result<&'static dyn DynProjection, Failure> {
    let known = console.registry.read_models().find(|rule| rule.name() == name);
    known.ok_or_else(|| Failure::NotFound(format!("there is no projection {}", text(name))))
}
