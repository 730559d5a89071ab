//! `projector rebuild-projection`: rebuilds every row with the current rule.

use std::path::{Path, PathBuf};

use anyhow::{anyhow, bail};
use clap::Args;
use projection_vocabulary::{AggregateId, DynProjection};

use super::{
    Context, EXIT_FINDINGS, StoreOptions,
    format::Format,
    rate_limit::Budget,
    runner::{self, ChosenSource, End, ExportSource, RunSummary, Source},
    segments::Segments,
    stores::{self, Named},
    summary::Summary,
    terminal,
    text::printable,
};
use crate::{
    Worker,
    operations::{
        processes::refuse_process,
        rebuild::{
            Rebuild, Task,
            segment::{Resume, SegmentRebuild},
        },
        settle::settle,
    },
    progress::Counts,
    retry::Deadline,
    sources::export::Export,
    store::{Store, cursors::SavedCursor, segment::Segment},
};

const RUN_AGAIN: &str = "run the same command again; completed work is skipped";

/// What to rebuild, and how fast.
#[derive(Args)]
pub struct Options {
    /// The projection
    #[arg(value_name = "NAME")]
    projection: String,
    /// Build the rows in this separate table, created if missing; nothing is parked
    #[arg(long, value_name = "TABLE", conflicts_with = "dry_run")]
    into: Option<String>,
    /// Rebuild only the row of this aggregate; may be repeated
    ///
    /// A row that the current rule has written is left alone; if it is wrong, use `verify --aggregate A --repair`.
    #[arg(long, value_name = "A", conflicts_with_all = ["segments", "segment", "from_export", "resume"], allow_hyphen_values = true)]
    aggregate: Vec<String>,
    #[command(flatten)]
    segments: Segments,
    /// Rebuild only segment I (from 0) of N: one task of N, on as many machines
    #[arg(long, value_name = "I/N", value_parser = segment, conflicts_with = "segments")]
    segment: Option<Segment>,
    #[command(flatten)]
    budget: Budget,
    /// Read the events from a DynamoDB export to S3, copied to this folder, instead of scanning
    ///
    /// Events that the export lacks are read from the event store.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["segments", "segment", "resume"])]
    from_export: Option<PathBuf>,
    /// Folder for the file in which the export is sorted [default: the system's temporary folder]
    ///
    /// It takes one and a half times the size of the unpacked events.
    #[arg(long, value_name = "DIR", requires = "from_export")]
    spill_dir: Option<PathBuf>,
    /// Continue an interrupted rebuild of the same revision into the same table
    #[arg(long, conflicts_with = "dry_run")]
    resume: bool,
    /// Only count the rows that would change
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    format: Format,
}

fn segment(text: &str) -> anyhow::Result<Segment> {
    let (number, of) = text.split_once('/').ok_or_else(|| anyhow!("not I/N, such as 0/8"))?;
    Ok(Segment::new(number.parse()?, of.parse()?)?)
}

/// `rebuild-projection`
pub async fn run(options: &Options, cx: &mut Context) -> anyhow::Result<u8> {
    let rule = cx.rule(&options.projection)?;
    refuse_process(rule)?;
    let (store, is_new) = match &options.into {
        Some(table) => stores::open_with_table(&cx.store, cx.registry, rule, table).await?,
        None => (cx.open_existing_store().await?, false),
    };
    if is_new && options.resume {
        bail!("the table did not exist, so there is nothing to resume; run without --resume");
    }
    let task = match options {
        Options { dry_run: true, .. } => Task::DryRun,
        Options { into: Some(_), .. } => Task::IntoTable,
        _ => Task::Rebuild,
    };
    if let Some(folder) = &options.from_export {
        let worker = cx.worker(store);
        return from_export(options, &worker, rule, task, folder, cx).await;
    }
    if !options.aggregate.is_empty() {
        let worker = cx.worker(store);
        return of_chosen(options, &worker, rule, task, cx).await;
    }
    let begins = begins(options, &cx.store, rule, &store).await?;
    let worker = cx.worker(store);
    let segments = begins.len();
    let mut done_before = Counts::default();
    let mut sources = Vec::new();
    for SavedCursor { segment, cursor, counts, done, .. } in begins {
        if done {
            done_before += counts;
        } else {
            let rebuild = SegmentRebuild::new(&worker, rule, task, segment, Resume { cursor, counts });
            sources.push(Source::Segment(Box::new(rebuild)));
        }
    }
    let items = runner::items(&worker, options.segment).await;
    let saves_cursors = task != Task::DryRun;
    let run = runner::run(&worker, rule, (sources, done_before), options.budget, items, saves_cursors).await;
    settle_after(task, &run, &worker, rule).await?;
    if saves_cursors && matches!(run.end, End::Done) {
        forget(options, rule, worker.store()).await?;
    }
    let how_to_continue = if saves_cursors && run.saved { "run the same command with --resume to continue from here" } else { RUN_AGAIN };
    let named = Named::of(&cx.store, worker.store().names(), &[rule]);
    Summary::new(rule, task, segments, &run, options.into.as_deref(), &named).print(
        options.format.is_json(),
        &run,
        how_to_continue,
        &mut cx.out,
    )
}

/// Works out what shared rows must show, once everything is rebuilt that may have taken contributions back.
async fn settle_after(task: Task, run: &RunSummary, worker: &Worker, rule: &'static dyn DynProjection) -> anyhow::Result<()> {
    if task == Task::Rebuild && matches!(run.end, End::Done) {
        settle(worker.store(), rule, Deadline::NONE).await?;
    }
    Ok(())
}

/// Rebuilds the rows of some aggregates.
async fn of_chosen(
    options: &Options,
    worker: &Worker,
    rule: &'static dyn DynProjection,
    task: Task,
    cx: &mut Context,
) -> anyhow::Result<u8> {
    let chosen: Vec<_> = options.aggregate.iter().map(|id| AggregateId::from(id.as_str())).collect();
    if !runner::all_exist(worker.store(), &chosen).await? {
        return Ok(EXIT_FINDINGS);
    }
    let source = Source::Chosen(Box::new(ChosenSource::new(Rebuild::new(worker, rule, task), &chosen)));
    let run = runner::run(worker, rule, (vec![source], Counts::default()), options.budget, None, false).await;
    settle_after(task, &run, worker, rule).await?;
    let named = Named::of(&cx.store, worker.store().names(), &[rule]);
    Summary::new(rule, task, 1, &run, options.into.as_deref(), &named).print(options.format.is_json(), &run, RUN_AGAIN, &mut cx.out)
}

/// Rebuilds from an export. It needs no cursor: run again, it skips completed work.
async fn from_export(
    options: &Options,
    worker: &Worker,
    rule: &'static dyn DynProjection,
    task: Task,
    folder: &Path,
    cx: &mut Context,
) -> anyhow::Result<u8> {
    let export = Export::open(folder)?;
    terminal::note(format_args!("the export shows {} as of {}", printable(export.table_arn()), printable(export.exported_at())));
    let of_event_store =
        export.table_arn().rsplit_once(":table/").is_some_and(|(_, table)| worker.store().names().event_store.ends_with(table));
    if !of_event_store {
        terminal::note(format_args!("warning: that is not this command's event store, {}", worker.store().names().event_store));
    }
    let progress = terminal::progress_of_bytes(Some(export.bytes()));
    progress.set_message("read and sorted");
    // Ctrl-C is not handled yet, so it ends the process: nothing has been written, and the temporary file has no name to clean up.
    let sorted = export.sort(options.spill_dir.as_deref(), |bytes| progress.set_position(bytes))?;
    progress.finish_and_clear();
    let items = sorted.events();
    let source = Source::Export(Box::new(ExportSource { rebuild: Rebuild::new(worker, rule, task), sorted }));
    let run = runner::run(worker, rule, (vec![source], Counts::default()), options.budget, Some(items), false).await;
    settle_after(task, &run, worker, rule).await?;
    let named = Named::of(&cx.store, worker.store().names(), &[rule]);
    Summary::new(rule, task, 1, &run, options.into.as_deref(), &named).print(options.format.is_json(), &run, RUN_AGAIN, &mut cx.out)
}

/// Where each segment begins.
async fn begins(
    options: &Options,
    store_options: &StoreOptions,
    rule: &dyn DynProjection,
    store: &Store,
) -> anyhow::Result<Vec<SavedCursor>> {
    let segments: Vec<_> = match options.segment {
        Some(segment) => vec![segment],
        None => options.segments.all(store_options).collect(),
    };
    if options.dry_run {
        return Ok(segments.into_iter().map(SavedCursor::beginning).collect());
    }
    let mut saved_cursors = store.saved_cursors(rule, Deadline::NONE).await?;
    if let Some(segment) = options.segment {
        saved_cursors.retain(|saved| saved.segment == segment);
    }
    let latest = saved_cursors.iter().max_by_key(|saved| &saved.saved_at).cloned();
    let Some(latest) = latest else {
        if options.resume {
            bail!("there is no interrupted rebuild of `{}` at revision {} to resume; run without --resume", rule.name(), rule.revision());
        }
        return Ok(segments.into_iter().map(SavedCursor::beginning).collect());
    };
    if !options.resume {
        terminal::note(format_args!(
            "starting over; an interrupted rebuild, last saved at {}, could have been continued with --resume",
            latest.saved_at
        ));
        if options.segment.is_none() {
            store.forget_cursors(rule, Deadline::NONE).await?;
        }
        return Ok(segments.into_iter().map(SavedCursor::beginning).collect());
    }
    let count = latest.segment.count();
    if let Some(asked) = options.segments.asked_for().filter(|asked| *asked != count) {
        bail!("the interrupted rebuild has {count} segments, not {asked}: omit --segments, or run without --resume");
    }
    if options.segment.is_some() {
        return Ok(vec![latest]);
    }
    // A segment that was never saved was never begun.
    let saved_or_beginning =
        |segment| saved_cursors.iter().find(|saved| saved.segment == segment).cloned().unwrap_or_else(|| SavedCursor::beginning(segment));
    Ok(Segment::all(count).map(saved_or_beginning).collect())
}

/// Deletes the cursors when no segment is left to continue. Of several tasks on several machines, the last one deletes them.
async fn forget(options: &Options, rule: &dyn DynProjection, store: &Store) -> anyhow::Result<()> {
    if let Some(segment) = options.segment {
        let saved_cursors = store.saved_cursors(rule, Deadline::NONE).await?;
        let done = saved_cursors.iter().filter(|saved| saved.done && saved.segment.count() == segment.count()).count();
        if done < segment.count() as usize {
            return Ok(());
        }
    }
    Ok(store.forget_cursors(rule, Deadline::NONE).await?)
}
