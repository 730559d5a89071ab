//! `projector rows`: shows rows without replaying anything.

use std::sync::Arc;

use clap::{Args, Subcommand};
use projection_vocabulary::{DynProjection, IndexKey, IndexOf, RowId, RowKey, Value};

use super::{
    Context, EXIT_FINDINGS, EXIT_OK,
    format::Format,
    row_tables, terminal,
    text::{Lines, printable},
};
use crate::{
    queries::{PAGE_ROWS_MAX, PageToken, Queries, QueryError, Rows, unknown_index},
    snapshot::row,
    store::{
        reads::ReadRow,
        rows::{Shown, ShownRow},
    },
};

/// Which rows to show.
#[derive(Subcommand)]
pub enum Command {
    /// Show rows by key; exit code 1 if one does not exist
    #[command(after_help = "Example: projector --data demo.db rows get {projection} alice")]
    Get(GetOptions),
    /// Show the first rows of a projection, in the order of a scan
    #[command(after_help = "Example: projector --data demo.db rows list {projection} --limit 10")]
    List(ListOptions),
    /// Show rows through an index, in the order of its sort key
    #[command(after_help = "Example: projector --data demo.db rows query {projection} INDEX VALUE --newest")]
    Query(QueryOptions),
    /// Show the child rows of a row, in the order of their sort keys
    #[command(after_help = "Example: projector --data demo.db rows children {projection} alice --newest")]
    Children(ChildrenOptions),
}

/// Which rows, by key.
#[derive(Args)]
pub struct GetOptions {
    /// The projection
    projection: String,
    /// The rows' keys: ids of aggregates, or names of shared rows
    #[arg(required = true, value_name = "KEY")]
    keys: Vec<String>,
    /// Count all events of the event store, also those that no worker has counted yet
    #[arg(long, conflicts_with = "all")]
    fresh: bool,
    #[command(flatten)]
    shown: ShownOptions,
}

/// Which rows.
#[derive(Args)]
pub struct ListOptions {
    /// The projection
    projection: String,
    #[command(flatten)]
    page: PageOptions,
    #[command(flatten)]
    shown: ShownOptions,
}

/// Which rows of an index.
#[derive(Args)]
pub struct QueryOptions {
    /// The projection
    projection: String,
    /// The index
    index: String,
    /// The values of the index's partition key, and then of its sort key, as many as wanted
    #[arg(required = true, value_name = "VALUE", allow_negative_numbers = true)]
    values: Vec<String>,
    #[command(flatten)]
    order: OrderOptions,
    #[command(flatten)]
    page: PageOptions,
    #[command(flatten)]
    format: Format,
}

/// Whose child rows.
#[derive(Args)]
pub struct ChildrenOptions {
    /// The projection
    projection: String,
    /// The key of the row whose child rows they are
    key: String,
    #[command(flatten)]
    order: OrderOptions,
    #[command(flatten)]
    page: PageOptions,
    #[command(flatten)]
    format: Format,
}

#[derive(Args)]
struct OrderOptions {
    /// Show the highest sort keys first; if they are times, the newest rows
    #[arg(long, conflicts_with = "oldest")]
    newest: bool,
    /// Show the lowest sort keys first, which is the default
    #[arg(long)]
    oldest: bool,
}

#[derive(Args)]
struct PageOptions {
    /// The number of rows at most
    #[arg(long, value_name = "N", default_value_t = 50)]
    limit: usize,
    /// Continue after the rows that were shown before: the token that came with them
    #[arg(long, value_name = "TOKEN")]
    after: Option<String>,
}

#[derive(Args)]
struct ShownOptions {
    /// Also show the worker's bookkeeping: revision, last event, contributions to shared rows
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    format: Format,
}

impl ShownOptions {
    fn shown(&self) -> Shown {
        if self.all { Shown::All } else { Shown::ToReaders }
    }
}

/// The rows of a projection that the command line names.
type AnyRows<'a> = Rows<'a, dyn DynProjection>;

/// `rows`
pub async fn run(command: &Command, cx: &mut Context) -> anyhow::Result<u8> {
    match command {
        Command::Get(options) => get(options, cx).await,
        Command::List(options) => list(options, cx).await,
        Command::Query(options) => query(options, cx).await,
        Command::Children(options) => children(options, cx).await,
    }
}

async fn get(options: &GetOptions, cx: &mut Context) -> anyhow::Result<u8> {
    let GetOptions { projection, keys, fresh, shown } = options;
    let rule = cx.rule(projection)?;
    let queries = Queries::new(Arc::new(cx.open_existing_store().await?));
    let rows = queries.rows_of(rule).showing(shown.shown());
    let found = if *fresh { fresh_rows(&rows, keys).await? } else { rows.many_read(keys.iter().map(RowKey::from)).await? };
    let (mut exit, mut is_first) = (EXIT_OK, true);
    for (key, row) in found {
        let Some(ReadRow { shown: found, .. }) = row else {
            terminal::error(format_args!("{projection} has no row {}", printable(key.as_str())));
            exit = EXIT_FINDINGS;
            continue;
        };
        if shown.format.is_json() {
            cx.out.line(json(rule, &key.into(), &found));
            continue;
        }
        if !is_first {
            cx.out.line("");
        }
        is_first = false;
        cx.out.text(&attribute_lines(rule, &key.into(), &found));
    }
    Ok(exit)
}

async fn fresh_rows(rows: &AnyRows<'_>, keys: &[String]) -> Result<Vec<(RowKey, Option<ReadRow>)>, QueryError> {
    let mut found: Vec<(RowKey, _)> = Vec::new();
    for key in keys.iter().map(RowKey::from) {
        if found.iter().all(|(known, _)| *known != key) {
            let row = rows.get::<()>(key.clone()).fresh().read().await?;
            found.push((key, row));
        }
    }
    Ok(found)
}

/// One attribute a line, in full.
fn attribute_lines(rule: &dyn DynProjection, id: &RowId, row: &ShownRow) -> String {
    let mut lines = Lines::default();
    let columns = row.attributes.keys().map(String::len).chain([rule.key().len()]).max().unwrap_or_default();
    lines.add(format_args!("{:columns$}  {}", rule.key(), printable(id.key.as_str())));
    for (name, value) in &row.attributes {
        lines.add(format_args!("{:columns$}  {}", printable(name), printable(&value.to_string())));
    }
    lines.into_text()
}

async fn list(options: &ListOptions, cx: &mut Context) -> anyhow::Result<u8> {
    let ListOptions { projection, page, shown } = options;
    let rule = cx.rule(projection)?;
    let queries = Queries::new(Arc::new(cx.open_existing_store().await?));
    let rows = queries.rows_of(rule).showing(shown.shown());
    let (mut found, next) = pages(page, async |limit, token| {
        let page = rows.scan_read(limit, token).await?;
        Ok((page.rows, page.next))
    })
    .await?;
    // The order of a scan tells nothing.
    found.sort_by(|one, other| one.id.cmp(&other.id));
    show(rule, &found, next, shown.format, cx);
    Ok(EXIT_OK)
}

async fn query(options: &QueryOptions, cx: &mut Context) -> anyhow::Result<u8> {
    let QueryOptions { projection, index, values, order, page, format } = options;
    let rule = cx.rule(projection)?;
    let known = rule.indexes().iter().find(|known| known.name == index);
    let index = *known.ok_or_else(|| unknown_index(rule, index))?;
    let queries = Queries::new(Arc::new(cx.open_existing_store().await?));
    // A text where a number belongs is refused by the query, in words.
    let keys = index.partition.iter().chain(index.sort).map(Some).chain(std::iter::repeat(None));
    let mut values = values.iter().zip(keys).map(|(text, key)| match key {
        Some(IndexKey::Number(_)) => text.parse().map_or_else(|_| Value::from(text), Value::Number),
        _ => Value::from(text),
    });
    let partition: Vec<_> = values.by_ref().take(index.partition.len()).collect();
    let selection = queries.rows_of(rule).index(IndexOf::new(index)).of(partition).with(values);
    let selection = if order.newest { selection.newest_first() } else { selection };
    let (found, next) = pages(page, async |limit, token| {
        let page = selection.page_read(limit, token).await?;
        Ok((page.rows, page.next))
    })
    .await?;
    show(rule, &found, next, *format, cx);
    Ok(EXIT_OK)
}

async fn children(options: &ChildrenOptions, cx: &mut Context) -> anyhow::Result<u8> {
    let ChildrenOptions { projection, key, order, page, format } = options;
    let rule = cx.rule(projection)?;
    let queries = Queries::new(Arc::new(cx.open_existing_store().await?));
    let children = queries.rows_of(rule).children(key);
    let children = if order.newest { children.newest_first() } else { children };
    let (found, next) = pages(page, async |limit, token| {
        let page = children.page_read(limit, token).await?;
        Ok((page.rows, page.next))
    })
    .await?;
    show(rule, &found, next, *format, cx);
    Ok(EXIT_OK)
}

/// As many pages as the limit takes.
async fn pages(
    options: &PageOptions,
    page: impl AsyncFn(usize, Option<&PageToken>) -> Result<(Vec<ReadRow>, Option<PageToken>), QueryError>,
) -> Result<(Vec<ReadRow>, Option<PageToken>), QueryError> {
    let (mut found, mut token) = (Vec::new(), options.after.clone().map(PageToken::from));
    loop {
        let (rows, next) = page((options.limit - found.len()).min(PAGE_ROWS_MAX), token.as_ref()).await?;
        found.extend(rows);
        token = next;
        if token.is_none() || found.len() >= options.limit {
            return Ok((found, token));
        }
    }
}

fn show(rule: &dyn DynProjection, found: &[ReadRow], next: Option<PageToken>, format: Format, cx: &mut Context) {
    if format.is_json() {
        for ReadRow { id, shown, .. } in found {
            cx.out.line(json(rule, id, shown));
        }
        if let Some(token) = next {
            cx.out.line(serde_json::json!({"more": {"after": token.to_string()}}));
        }
    } else {
        let more = if next.is_some() { ", and more; to see them: --limit N" } else { "" };
        let rows = found.iter().map(|row| (&row.id, &row.shown));
        cx.out.text(&row_tables::draw(rule, rows, more, terminal::columns()));
        if let Some(token) = next {
            terminal::note(format_args!("the rows after these: --after {token}"));
        }
    }
}

fn json(rule: &dyn DynProjection, id: &RowId, found: &ShownRow) -> String {
    row(rule, id, &found.attributes).get().to_owned()
}
