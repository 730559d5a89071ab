//! The rows of a projection: page by page, by a part of their keys, or through an index.

use maud::{Markup, html};
use projection_vocabulary::{DynProjection, Index, IndexKey, IndexOf, RowKey, Value};
use serde::Deserialize;

use super::{Failure, ON_A_PAGE, SaidBefore, link, of_row, page as whole, read_model, text, value};
use crate::{
    dev::Console,
    queries::{PAGE_ROWS_MAX, PageToken, Queries},
    store::reads::ReadRow,
};

/// How many rows a search reads at most.
const SEARCHED_MAX: usize = 20_000;

/// Which rows.
#[derive(Default, Deserialize)]
#[serde(default)]
pub struct Asked {
    projection: String,
    find: String,
    after: String,
    index: String,
    /// The values of an index's keys, separated by commas.
    values: String,
    newest: String,
}

/// The page.
pub async fn page(console: &Console, asked: &Asked) -> Result<Markup, Failure> {
    let rules: Vec<_> = console.registry.read_models().collect();
    let Some(first) = rules.first() else { return Err(Failure::NotFound("this program has no projections".to_owned())) };
    let rule = if asked.projection.is_empty() { *first } else { read_model(console, &asked.projection)? };
    let found = rows(console, rule, asked).await?;
    let body = html! {
        h1 { "Rows of " (rule.name()) }
        nav.tabs aria-label="Projections" {
            @for other in rules {
                a href=(link("/rows", &[("projection", other.name())])) aria-current=[(other.name() == rule.name()).then_some("page")] {
                    (other.name())
                }
            }
        }
        form.line method="get" action="/rows" role="search" {
            input type="hidden" name="projection" value=(rule.name());
            label { "Key, or a part of it " input type="search" name="find" value=(asked.find); }
            button { "Find" }
        }
        @for index in rule.indexes() { (index_form(rule, index, asked)) }
        (table(rule, &found, asked))
    };
    Ok(whole("/rows", "Rows", &SaidBefore::default(), &body))
}

struct Found {
    rows: Vec<ReadRow>,
    next: Option<PageToken>,
    /// How many rows a search has read, if it stopped before the end.
    stopped_after: Option<usize>,
}

async fn rows(console: &Console, rule: &'static dyn DynProjection, asked: &Asked) -> Result<Found, Failure> {
    let queries = Queries::new(console.store.clone());
    let rows = queries.rows_of(rule);
    let after = Some(&asked.after).filter(|token| !token.is_empty()).map(|token| PageToken::from(token.as_str()));
    if !asked.index.is_empty() {
        let index = *rule
            .indexes()
            .iter()
            .find(|index| index.name == asked.index)
            .ok_or_else(|| Failure::NotFound(format!("{} has no index {}", rule.name(), text(&asked.index))))?;
        let keys = index.partition.iter().chain(index.sort);
        let mut values = asked.values.split(',').map(str::trim).filter(|value| !value.is_empty()).zip(keys).map(|(text, key)| match key {
            IndexKey::Number(_) => text.parse().map_or_else(|_| Value::from(text), Value::Number),
            IndexKey::Text(_) => Value::from(text),
        });
        let partition: Vec<_> = values.by_ref().take(index.partition.len()).collect();
        let selection = rows.index(IndexOf::new(index)).of(partition).with(values);
        let selection = if asked.newest.is_empty() { selection } else { selection.newest_first() };
        let page = selection.page_read(ON_A_PAGE, after.as_ref()).await?;
        return Ok(Found { rows: page.rows, next: page.next, stopped_after: None });
    }
    if asked.find.is_empty() {
        let page = rows.scan_read(ON_A_PAGE, after.as_ref()).await?;
        return Ok(Found { rows: page.rows, next: page.next, stopped_after: None });
    }
    let exact = rows.many_read([RowKey::from(asked.find.as_str())]).await?;
    let mut found: Vec<_> = exact.into_iter().filter_map(|(_, row)| row).collect();
    let (mut token, mut searched) = (None, 0);
    loop {
        let page = rows.scan_read(PAGE_ROWS_MAX, token.as_ref()).await?;
        searched += page.rows.len();
        let matching = |row: &ReadRow| row.id.key.as_str().contains(&asked.find) && row.id.key.as_str() != asked.find;
        found.extend(page.rows.into_iter().filter(matching).take(ON_A_PAGE.saturating_sub(found.len())));
        token = page.next;
        let stopped = searched >= SEARCHED_MAX || found.len() >= ON_A_PAGE;
        if token.is_none() || stopped {
            return Ok(Found { rows: found, next: None, stopped_after: token.is_some().then_some(searched) });
        }
    }
}

fn index_form(rule: &dyn DynProjection, index: &Index, asked: &Asked) -> Markup {
    let keys: Vec<_> = index.partition.iter().chain(index.sort).map(IndexKey::attribute).collect();
    let is_shown = asked.index == index.name;
    html! {
        form.line method="get" action="/rows" {
            input type="hidden" name="projection" value=(rule.name());
            input type="hidden" name="index" value=(index.name);
            label {
                "By index " (index.name) ": "
                input name="values" required placeholder=(keys.join(", ")) value=(if is_shown { asked.values.as_str() } else { "" });
            }
            label { input type="checkbox" name="newest" value="1" checked[is_shown && !asked.newest.is_empty()]; " highest first" }
            button { "Show" }
        }
    }
}

fn table(rule: &dyn DynProjection, Found { rows, next, stopped_after }: &Found, asked: &Asked) -> Markup {
    html! {
        @if rows.is_empty() {
            p { "No rows." @if asked.find.is_empty() && asked.index.is_empty() { " Events make them: give a " a href="/commands" { "command" } "." } }
        } @else {
            table.rows {
                thead { tr { th { (rule.key()) } th { "attributes" } } }
                tbody {
                    @for row in rows {
                        tr {
                            td { (of_row(rule.name(), row.id.key.as_str())) @if let Some(child) = &row.id.child { " / " (text(child)) } }
                            td {
                                @if row.parked { span.mark.parked { "‖ parked" } " " }
                                @for (name, of) in &row.shown.attributes { span.attribute { b { (text(name)) } " " (value(of)) } " " }
                            }
                        }
                    }
                }
            }
        }
        @if let Some(token) = next {
            p { a rel="next" href=(link("/rows", &[
                ("projection", rule.name()), ("after", token.as_str()), ("index", &asked.index), ("values", &asked.values), ("newest", &asked.newest),
            ])) { "Next page" } }
        }
        @if let Some(searched) = stopped_after { p { "The search stopped after " (searched) " rows: type more of the key." } }
    }
}
