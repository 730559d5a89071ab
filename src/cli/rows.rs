//! `projector rows`: shows rows without replaying anything.

use clap::{Args, Subcommand};
use projection_vocabulary::{DynProjection, RowId};

use super::{
    Context, EXIT_FINDINGS, EXIT_OK,
    format::Format,
    row_tables,
    snapshot::row,
    terminal,
    text::{Lines, printable},
};
use crate::store::rows::{Shown, ShownRow};

/// Which rows to show.
#[derive(Subcommand)]
pub enum Command {
    /// Show one row; exit code 1 if it does not exist
    #[command(after_help = "Example: projector --data demo.db rows get {projection} alice")]
    Get(GetOptions),
    /// Show the first rows of a projection, in the order of a scan
    #[command(after_help = "Example: projector --data demo.db rows list {projection} --limit 10")]
    List(ListOptions),
}

/// Which row.
#[derive(Args)]
pub struct GetOptions {
    /// The projection
    projection: String,
    /// The row's key: the id of its aggregate, or the name of a shared row
    key: String,
    #[command(flatten)]
    shown: ShownOptions,
}

/// Which rows.
#[derive(Args)]
pub struct ListOptions {
    /// The projection
    projection: String,
    /// The number of rows at most
    #[arg(long, value_name = "N", default_value_t = 50)]
    limit: usize,
    #[command(flatten)]
    shown: ShownOptions,
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

/// `rows`
pub async fn run(command: &Command, cx: &mut Context) -> anyhow::Result<u8> {
    match command {
        Command::Get(options) => get(options, cx).await,
        Command::List(options) => list(options, cx).await,
    }
}

async fn get(options: &GetOptions, cx: &mut Context) -> anyhow::Result<u8> {
    let GetOptions { projection, key, shown } = options;
    let rule = cx.rule(projection)?;
    let Some(found) = cx.open_existing_store().await?.read_row(rule, key, shown.shown()).await? else {
        terminal::error(format_args!("{projection} has no row {}", printable(key)));
        return Ok(EXIT_FINDINGS);
    };
    let id = RowId::from(key.as_str());
    if shown.format.is_json() {
        cx.out.line(json(rule, &id, &found));
    } else {
        cx.out.text(&attribute_lines(rule, &id, &found));
    }
    Ok(EXIT_OK)
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
    let ListOptions { projection, limit, shown } = options;
    let rule = cx.rule(projection)?;
    let (rows, more) = cx.open_existing_store().await?.read_model(rule, *limit, shown.shown()).await?;
    if shown.format.is_json() {
        for (id, row) in &rows {
            cx.out.line(json(rule, id, row));
        }
    } else {
        let more = if more { ", and more; to see them: --limit N" } else { "" };
        cx.out.text(&row_tables::draw(rule, &rows, more, terminal::columns()));
    }
    Ok(EXIT_OK)
}

fn json(rule: &dyn DynProjection, id: &RowId, found: &ShownRow) -> String {
    row(rule, id, &found.attributes).get().to_owned()
}
