//! What waits: parked aggregates and records, and what the mapping has given up.

use maud::{Markup, html};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Failure, ON_A_PAGE, SaidBefore, count, count_of, link, of_aggregate, page as whole, text};
use crate::{
    dev::Console,
    engine::reproject::Trust,
    operations::redrive::{self, Redriven},
    retry::Deadline,
    store::parking::{NO_PROJECTION, Parked},
};

/// The longest payload that is shown.
const PAYLOAD_CHARS_MAX: usize = 20_000;

/// Which entry to show, if one.
#[derive(Default, Deserialize)]
#[serde(default)]
pub struct Asked {
    projection: String,
    aggregate: String,
}

/// What to redrive: an entry, or all of them if none is named.
#[derive(Default, Deserialize)]
#[serde(default)]
pub struct Redrive {
    projection: String,
    aggregate: String,
}

/// The page.
pub async fn page(console: &Console, asked: &Asked, said: &SaidBefore) -> Result<Markup, Failure> {
    let parked = console.store.parked().await?;
    let shown = if asked.projection.is_empty() {
        None
    } else {
        console.store.parked_entry(&asked.projection, &asked.aggregate, Deadline::NONE).await?
    };
    let given_up = console.ours_mapping.given_up();
    let body = html! {
        h1 { "Parked" }
        p { "An event that cannot be applied stops its own aggregate in one projection. Fix the cause, then redrive: the aggregate goes on where it waits." }
        @if let Some((entry, payload)) = &shown { (detail(entry, payload.as_deref())) }
        div #live data-live {
            @if parked.is_empty() { p { "Nothing is parked." } } @else {
                form method="post" action="/parked/redrive" { button { "Redrive all" } }
                (table(&parked))
            }
        }
        section {
            h2 { "Given up by the mapping" }
            p { "What fails ten times more goes to the on-failure store, as at Lambda. Nothing of it is lost." }
            @if given_up.is_empty() { p { "Nothing was given up." } } @else {
                form method="post" action="/press" { button name="what" value="deliver-given-up" { "Deliver again" } }
                ul { @for object in given_up.iter().take(ON_A_PAGE) { li { (count_of(object.len(), "record")) " from position " (object.first().map_or("", |record| &record.position)) } } }
            }
        }
    };
    Ok(whole("/parked", "Parked", said, &body))
}

fn table(parked: &[Parked]) -> Markup {
    html! {
        table {
            thead { tr { th { "projection" } th { "aggregate" } th { "version" } th { "reason" } th { "since" } th { "times" } th { "" } } }
            tbody {
                @for entry in parked.iter().take(ON_A_PAGE) {
                    @let Parked { projection, aggregate, version, reason, first_seen, count, .. } = entry;
                    tr {
                        td { @if projection == NO_PROJECTION { "none: the record names no event" } @else { (text(projection)) } }
                        td { @if projection == NO_PROJECTION { (text(aggregate)) } @else { (of_aggregate(aggregate, projection)) } }
                        td { @if let Some(version) = version { (version) } }
                        td { (text(reason)) }
                        td { time { (text(first_seen)) } }
                        td { (count) }
                        td.buttons {
                            a href=(link("/parked", &[("projection", projection), ("aggregate", aggregate)])) { "payload" }
                            form.inline method="post" action="/parked/redrive" {
                                input type="hidden" name="projection" value=(projection);
                                input type="hidden" name="aggregate" value=(aggregate);
                                button { "Redrive" }
                            }
                        }
                    }
                }
            }
        }
        @if parked.len() > ON_A_PAGE { p { "and " (parked.len() - ON_A_PAGE) " more" } }
    }
}

fn detail(Parked { projection, aggregate, .. }: &Parked, payload: Option<&str>) -> Markup {
    html! {
        section #payload {
            h2 { "What is parked of " (text(aggregate)) " in " (text(projection)) }
            @match payload {
                None => { p { "No payload was kept: the event is missing in the event store, or no single event is the cause." } }
                Some(payload) => { pre { code { (pretty(payload)) } } }
            }
        }
    }
}

fn pretty(payload: &str) -> String {
    let json = serde_json::from_str::<&RawValue>(payload).ok().and_then(|raw| serde_json::from_str::<serde_json::Value>(raw.get()).ok());
    let lines = json.and_then(|json| serde_json::to_string_pretty(&json).ok()).unwrap_or_else(|| payload.to_owned());
    let shown: String = lines.chars().take(PAYLOAD_CHARS_MAX).collect();
    crate::escape::lines(&shown)
}

/// Redrives what is named. Returns whether all of it goes on, and a sentence.
pub async fn redrive(console: &Console, form: &Redrive) -> Result<(bool, String), Failure> {
    let mut parked = console.store.parked().await?;
    if !form.projection.is_empty() {
        parked.retain(|entry| entry.projection == form.projection && entry.aggregate == form.aggregate);
    }
    if parked.is_empty() {
        return Ok((false, "it is not parked".to_owned()));
    }
    let (mut done, mut still) = (0_u64, Vec::new());
    for entry in &parked {
        match redrive::redrive(&console.operator, entry, Trust::Row, Deadline::NONE).await? {
            Redriven::Done { .. } => done += 1,
            Redriven::Parked(why) => still.push(format!("{}: {}", text(&entry.aggregate), text(&why))),
        }
    }
    let first = still.first().map(|why| format!("; still parked: {why}")).unwrap_or_default();
    Ok((still.is_empty(), format!("{} redriven{first}", count(done, "entry"))))
}
