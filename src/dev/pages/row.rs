//! One row: its attributes, who made those that aggregates share, and its child rows.

use maud::{Markup, html};
use projection_vocabulary::{AggregateId, Contribution, DynProjection, HomeRow, RowKey};
use serde::Deserialize;

use super::{Failure, ON_A_PAGE, SaidBefore, link, of_aggregate, of_row, page as whole, read_model, text, value};
use crate::{
    dev::Console,
    operations::explain::{self, Contributors},
    queries::{PageToken, Queries},
    retry::Deadline,
    store::reads::ReadRow,
};

/// How many contributors of an attribute are named.
const CONTRIBUTORS_MAX: usize = 50;

/// Which row.
#[derive(Deserialize)]
pub struct Asked {
    projection: String,
    key: String,
    /// The attribute that is to be explained.
    #[serde(default)]
    why: String,
    #[serde(default)]
    after: String,
}

/// The page.
pub async fn page(console: &Console, asked: &Asked) -> Result<Markup, Failure> {
    let rule = read_model(console, &asked.projection)?;
    let key = RowKey::from(asked.key.as_str());
    let queries = Queries::new(console.store.clone());
    let rows = queries.rows_of(rule);
    let row = rows.many_read([key.clone()]).await?.pop().and_then(|(_, row)| row);
    let home = console.store.home_row(rule, &AggregateId::from(asked.key.as_str()), Deadline::NONE).await?;
    let why = if asked.why.is_empty() {
        None
    } else {
        Some(
            explain::contributors(&console.store, rule, &(key.clone(), asked.why.clone()), (None, CONTRIBUTORS_MAX), Deadline::NONE)
                .await?,
        )
    };
    let children = match rule.children() {
        Some(_) => {
            let after = Some(&asked.after).filter(|token| !token.is_empty()).map(|token| PageToken::from(token.as_str()));
            let page = rows.children(key).newest_first().page_read(ON_A_PAGE, after.as_ref()).await?;
            Some((page.rows, page.next))
        }
        None => None,
    };
    let body = html! {
        h1 { (text(&asked.key)) " in " (rule.name()) }
        p {
            a href=(link("/rows", &[("projection", rule.name())])) { "All rows" }
            @if !home.own.is_empty() || home.version.0 > 0 { " · " a href=(link("/aggregate", &[("id", &asked.key), ("projection", rule.name())])) { "Step through its history" } }
        }
        div #live data-live {
            @match &row {
                None => { p { "There is no such row." } }
                Some(row) => { (attributes(rule, row, &home, asked)) }
            }
            @if let Some(contributors) = &why { (explained(asked, contributors)) }
            @if !home.contributions.is_empty() { (contributions(rule, &home)) }
            @if let Some((rows, next)) = &children { (child_rows(rule, rows, next.as_ref(), asked)) }
        }
    };
    Ok(whole("/rows", &asked.key, &SaidBefore::default(), &body))
}

fn attributes(rule: &dyn DynProjection, row: &ReadRow, home: &HomeRow, asked: &Asked) -> Markup {
    html! {
        @if row.parked { p { span.mark.parked { "‖ parked" } " It waits before an event that cannot be applied: " a href="/parked" { "see why" } "." } }
        table {
            thead { tr { th { "attribute" } th { "value" } th { "made by" } } }
            tbody {
                @for (name, of) in &row.shown.attributes {
                    tr {
                        th scope="row" { (text(name)) }
                        td { (value(of)) }
                        td {
                            @if home.shared.contains_key(name) {
                                a href=(link("/row", &[("projection", rule.name()), ("key", &asked.key), ("why", name)])) { "several aggregates: why?" }
                            } @else if name == "version" { "the worker: the last event that counts" }
                            @else if name == "parked" { "the worker" }
                            @else { "this aggregate" }
                        }
                    }
                }
            }
        }
    }
}

/// Why an attribute is what it is: the aggregates that made it.
fn explained(asked: &Asked, Contributors { named, others, .. }: &Contributors) -> Markup {
    html! {
        section #why {
            h2 { "Why " (text(&asked.why)) "?" }
            p { "What each aggregate contributes to it; together they make it." }
            table {
                thead { tr { th { "aggregate" } th { "contributes" } } }
                tbody { @for (aggregate, contribution) in named { tr { td { (of_aggregate(aggregate.as_str(), &asked.projection)) } td { (contributed(contribution)) } } } }
            }
            @if *others > 0 { p { "and " (others) " more aggregates" } }
        }
    }
}

fn contributed(contribution: &Contribution) -> Markup {
    html! {
        @match contribution {
            Contribution::Sum(_) => "adds ",
            Contribution::Max(_) => "at least ",
            Contribution::Set(_) => "inserts ",
        }
        (value(&contribution.value()))
    }
}

/// What the aggregate contributes to rows that it shares with others.
fn contributions(rule: &dyn DynProjection, home: &HomeRow) -> Markup {
    html! {
        section {
            h2 { "What it contributes to shared rows" }
            table {
                thead { tr { th { "row" } th { "attribute" } th { "contributes" } } }
                tbody {
                    @for ((row, attribute), contribution) in home.contributions.iter().take(ON_A_PAGE) {
                        tr { td { (of_row(rule.name(), row.as_str())) } td { (text(attribute)) } td { (contributed(contribution)) } }
                    }
                }
            }
            @if home.contributions.len() > ON_A_PAGE { p { "and " (home.contributions.len() - ON_A_PAGE) " more" } }
        }
    }
}

fn child_rows(rule: &dyn DynProjection, rows: &[ReadRow], next: Option<&PageToken>, asked: &Asked) -> Markup {
    let sort = rule.children().unwrap_or_default();
    html! {
        section {
            h2 { "Child rows, the last first" }
            @if rows.is_empty() { p { "None." } } @else {
                table.rows {
                    thead { tr { th { (sort) } th { "attributes" } } }
                    tbody {
                        @for row in rows {
                            tr {
                                td { (text(row.id.child.as_deref().unwrap_or_default())) }
                                td { @for (name, of) in &row.shown.attributes { span.attribute { b { (text(name)) } " " (value(of)) } " " } }
                            }
                        }
                    }
                }
            }
            @if let Some(token) = next {
                p { a rel="next" href=(link("/row", &[("projection", rule.name()), ("key", &asked.key), ("after", token.as_str())])) { "Next page" } }
            }
        }
    }
}
