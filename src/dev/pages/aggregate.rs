//! One aggregate, event by event: what each did to the row, also under the next deployment's rule.

use maud::{Markup, html};
use projection_vocabulary::{AggregateId, DynProjection, HomeRow, Registry, Version};
use serde::Deserialize;

use super::{Failure, SaidBefore, count, count_of, link, maybe, of_row, page as whole, short, text, value};
use crate::{
    dev::Console,
    operations::{
        differs::{Differs, of_content},
        explain::{self, Compared, Did, Standing, Step, Told, Until},
    },
    retry::Deadline,
};

/// Which aggregate, in which projection, at which version.
#[derive(Deserialize)]
pub struct Asked {
    id: String,
    #[serde(default)]
    projection: String,
    #[serde(default)]
    at: Option<u64>,
}

/// An event under a rule, and the row after it.
struct Shown {
    step: Option<Step>,
    told: Told,
}

async fn shown(console: &Console, rule: &'static dyn DynProjection, id: &AggregateId, at: Version) -> Result<Shown, Failure> {
    let mut step = None;
    let told = explain::tell(&console.store, rule, id, (at, &Until::Version(at)), Deadline::NONE, |last| step = Some(last)).await?;
    Ok(Shown { step, told })
}

/// The page.
pub async fn page(console: &Console, asked: &Asked) -> Result<Markup, Failure> {
    let id = AggregateId::from(asked.id.as_str());
    let head = console.store.current_version(&id).await?;
    if head == Version::NONE {
        return Err(Failure::NotFound(format!("the event store has no events of {}", text(&asked.id))));
    }
    let rules = concerned(console, &id, head).await?;
    let chosen = rules.iter().find(|rule| rule.name() == asked.projection).or(rules.first());
    let Some(rule) = chosen.copied() else {
        return Err(Failure::NotFound(format!(
            "no projection here has a row of {}: of a process's instance, see Processes",
            text(&asked.id)
        )));
    };
    let at = Version(asked.at.unwrap_or(head.0).clamp(1, head.0));
    let now = shown(console, rule, &id, at).await?;
    let next = match console.next.and_then(|next| Registry::get(&next, rule.name())) {
        Some(next) => Some((next, shown(console, next, &id, at).await?)),
        None => None,
    };
    let standing = if at == head { Some(explain::standing(&console.store, rule, &id, &now.told, Deadline::NONE).await?) } else { None };
    let body = html! {
        h1 { (text(id.as_str())) ", event by event" }
        nav.tabs aria-label="Projections" {
            @for other in &rules {
                a href=(link("/aggregate", &[("id", &asked.id), ("projection", other.name())])) aria-current=[(other.name() == rule.name()).then_some("page")] {
                    (other.name())
                }
            }
        }
        p {
            "See " (of_row(rule.name(), id.as_str())) " as a row, or "
            a href=(link("/commands", &[("aggregate", id.as_str()), ("kind", kind_of(console, now.step.as_ref()))])) { "give it a command" } "."
        }
        label { "Version " input type="range" name="at" min="1" max=(head.0) value=(at.0) data-step aria-describedby="place"; }
        div #step aria-live="polite" {
            p #place {
                @if at.0 > 1 { a rel="prev" href=(to(asked, rule, at.0 - 1)) { "← version " (at.0 - 1) } " " }
                strong { "version " (at) " of " (head) }
                @if at < head { " " a rel="next" href=(to(asked, rule, at.0 + 1)) { "version " (at.0 + 1) " →" } }
            }
            @if let Some(step) = &now.step { (event(step)) }
            (under(rule, &now))
            @if let Some((next, of_next)) = &next { (difference(*next, &now, of_next)) }
            @if let Some(standing) = &standing { (compared(rule, standing, now.told.row.version)) }
        }
    };
    Ok(whole("/rows", &asked.id, &SaidBefore::default(), &body))
}

/// The projections that have something to do with an aggregate, by its first event or its last.
async fn concerned(console: &Console, id: &AggregateId, head: Version) -> Result<Vec<&'static dyn DynProjection>, Failure> {
    let mut types = Vec::new();
    for at in [Version::NONE.next(), head] {
        for stored in console.store.load_page(id, at..=at, 1, Deadline::NONE).await? {
            types.push(crate::engine::content::event_type(&stored).map(str::to_owned));
        }
    }
    let concerns = |rule: &&'static dyn DynProjection| types.iter().any(|of| of.as_deref().is_none_or(|of| rule.concerns(id, of)));
    Ok(console.registry.read_models().filter(concerns).collect())
}

/// The kind of aggregate that has such an event.
fn kind_of(console: &Console, step: Option<&Step>) -> &'static str {
    let event_type = step.and_then(|step| step.event.as_ref()).map(|event| event.event_type.clone());
    let has = |types: &[&str]| event_type.as_ref().is_some_and(|name| types.contains(&&**name));
    console.deciders.all().iter().find(|decider| has(decider.event_types())).map_or("", |decider| decider.kind())
}

fn to(asked: &Asked, rule: &dyn DynProjection, at: u64) -> String {
    link("/aggregate", &[("id", &asked.id), ("projection", rule.name()), ("at", &at.to_string())])
}

fn event(Step { event, .. }: &Step) -> Markup {
    html! {
        @match event {
            None => { h2 { "An event that cannot be read" } }
            Some(event) => {
                h2 { (text(&event.event_type)) }
                p { time { (event.timestamp.as_str()) } " · " (text(&event.event_id)) }
                p { code { (short(event.data.to_json().get())) } }
                @if let Some(metadata) = &event.metadata { p.hint { "metadata " code { (value(metadata)) } } }
            }
        }
    }
}

/// What the event did under a rule, and the row then.
fn under(rule: &dyn DynProjection, Shown { step, told }: &Shown) -> Markup {
    html! {
        h3 { "Under " (rule.name()) ", revision " (rule.revision()) }
        @if let Some(Step { did, changes: changed, children, .. }) = step {
            p {
                @match did {
                    Did::Applied if changed.is_empty() && children.is_empty() => { span.mark.applied { "✓ applied" } " It changes nothing." }
                    Did::Applied => { span.mark.applied { "✓ applied" } }
                    Did::Irrelevant => { span.mark.duplicate { "· ignored" } " It does not concern this projection." }
                    Did::Stopped(why) => { span.mark.parked { "‖ cannot be applied" } " " (text(why)) }
                    Did::Waits => { span.mark.parked { "‖ waits" } @if let Some((version, why)) = &told.stopped { " Version " (version) " cannot be applied: " (text(why)) } }
                }
            }
            @if !changed.is_empty() { (changes(rule, changed, ["before", "after"])) }
            @for (sort, changed) in children {
                p { "Child row " strong { (text(sort)) } ": " @if changed.iter().all(|differs| differs.to.is_none()) { "removed" } }
                @if changed.iter().any(|differs| differs.to.is_some()) { (changes(rule, changed, ["before", "after"])) }
            }
        }
        details open {
            summary { "The row then: version " (told.row.version) @if !told.children.is_empty() { ", " (count_of(told.children.len(), "child row")) } }
            (row(&told.row))
        }
    }
}

fn changes(rule: &dyn DynProjection, all: &[Differs], [from, to]: [&str; 2]) -> Markup {
    html! {
        table {
            thead { tr { th { "attribute" } th { (from) } th { (to) } } }
            tbody {
                @for Differs { attribute, contributed_to, from, to } in all {
                    tr {
                        th scope="row" { (text(attribute)) @if let Some((row, _)) = contributed_to { ", contributed to " (of_row(rule.name(), row.as_str())) } }
                        td { (maybe(from.as_ref())) }
                        td { (maybe(to.as_ref())) }
                    }
                }
            }
        }
    }
}

fn row(row: &HomeRow) -> Markup {
    html! {
        p {
            @if row.own.is_empty() { span.absent { "no attributes of its own" } }
            @for (name, of) in &row.own { span.attribute { b { (text(name)) } " " (value(of)) } " " }
        }
    }
}

/// What the next deployment's rule makes of it.
fn difference(next: &'static dyn DynProjection, now: &Shown, of_next: &Shown) -> Markup {
    let differs = of_content(&now.told.row, &of_next.told.row);
    html! {
        section #next {
            (under(next, of_next))
            @if differs.is_empty() { p { "The next deployment's rule makes the same row." } } @else {
                p.planned { "⚠ The next deployment's rule makes another row." }
                (changes(next, &differs, ["now", "next"]))
            }
        }
    }
}

/// How the row that is stored compares.
fn compared(rule: &dyn DynProjection, Standing { stored, is }: &Standing, newest: Version) -> Markup {
    let behind = newest.0.saturating_sub(stored.version.0);
    html! {
        p {
            @match is {
                Compared::Absent => "No row is stored yet.",
                Compared::Right if behind > 0 => { strong.good { "✓ The stored row is right," } " and " (count(behind, "version")) " behind." }
                Compared::Right => strong.good { "✓ The stored row is the same." },
                Compared::Wrong { changes: all, children } => {
                    strong.bad { "✗ The stored row differs" @if *children > 0 { ", and " (count_of(*children, "child row")) } "." }
                    " " a href="/checks" { "Verify" }
                    @if !all.is_empty() { (changes(rule, all, ["stored", "must be"])) }
                }
                Compared::OtherRevision => { "Revision " (stored.newest_revision()) " wrote the stored row." }
                Compared::Moving => "The stored row moves: it was not compared.",
            }
        }
    }
}
