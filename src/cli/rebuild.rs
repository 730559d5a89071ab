//! `projector rebuild-projection`: every row by today's rule.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, anyhow, bail};
use clap::Args;
use projection_vocabulary::{DynProjection, Registry};
use serde::Serialize;

use super::{
    EXIT_FINDINGS, EXIT_INTERRUPTED, EXIT_OK, StoreOptions,
    rate_limit::Budget,
    runner::{self, End, ExportPass, Pass, Passed},
    stores, terminal,
};
use crate::{
    Worker,
    operations::{
        error::find_projection,
        rebuild::{
            Rebuild, Task,
            segment::{Resume, SegmentRebuild},
        },
    },
    progress::Counts,
    retry::Deadline,
    sources::export::Export,
    store::{Store, cursors::SavedCursor, segment::Segment},
};

/// The most segments that one process works at once: each holds a page of a megabyte and what it comes to.
pub const SEGMENTS_AT_ONCE_MAX: i64 = 128;

/// What to rebuild, and how fast.
#[derive(Args)]
pub struct Options {
    /// The projection
    #[arg(value_name = "NAME")]
    projection: String,
    /// Build the rows in this table beside, which is created if it is missing; nothing is parked
    #[arg(long, value_name = "TABLE", conflicts_with = "dry_run")]
    into: Option<String>,
    /// Scan the event store in N segments at once [default: 1 inside this process, else 4]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=SEGMENTS_AT_ONCE_MAX))]
    segments: Option<u32>,
    /// Do only segment I, from 0, of N: one task of many on many machines
    #[arg(long, value_name = "I/N", value_parser = segment, conflicts_with = "segments")]
    segment: Option<Segment>,
    #[command(flatten)]
    budget: Budget,
    /// Take the events from a DynamoDB export to S3, copied to this folder, in place of a scan; what it lacks is healed from the event
    /// store
    #[arg(long, value_name = "DIR", conflicts_with_all = ["segments", "segment", "resume"])]
    from_export: Option<PathBuf>,
    /// Sort the export's events in a file in this folder, which takes half as much again as they do unpacked [default: the system's
    /// folder for temporary files]
    #[arg(long, value_name = "DIR", requires = "from_export")]
    spill_dir: Option<PathBuf>,
    /// Go on where a rebuild by the same revision into the same table was interrupted
    #[arg(long, conflicts_with = "dry_run")]
    resume: bool,
    /// Only count what would be done
    #[arg(long)]
    dry_run: bool,
    /// Print the result as one JSON object
    #[arg(long)]
    json: bool,
}

fn segment(text: &str) -> anyhow::Result<Segment> {
    let (number, of) = text.split_once('/').ok_or_else(|| anyhow!("not I/N, such as 0/8"))?;
    Ok(Segment::new(number.parse()?, of.parse()?)?)
}

/// `rebuild-projection`
pub async fn run(options: &Options, store_options: &StoreOptions, registry: Registry) -> anyhow::Result<u8> {
    let rule = rule(registry, &options.projection)?;
    let (store, is_new) = match &options.into {
        Some(table) => stores::open_beside(store_options, registry, rule, table).await.context("--into")?,
        None => (stores::open(store_options, registry, false).await?, false),
    };
    if is_new && options.resume {
        bail!("the table of the interrupted rebuild was not there, and is new now: start without --resume");
    }
    let task = match options {
        Options { dry_run: true, .. } => Task::DryRun,
        Options { into: Some(_), .. } => Task::IntoTable,
        _ => Task::Rebuild,
    };
    if let Some(folder) = &options.from_export {
        let worker = Worker::new(store, registry);
        return from_export(options, &worker, rule, task, folder).await;
    }
    let begins = begins(options, store_options, rule, &store).await?;
    let worker = Worker::new(store, registry);
    let segments = begins.len();
    let mut done_before = Counts::default();
    let mut segment_passes = Vec::new();
    for SavedCursor { segment, cursor, counts, done, .. } in begins {
        if done {
            done_before += counts;
        } else {
            let pass = SegmentRebuild::new(&worker, rule, task, segment, Resume { cursor, counts });
            segment_passes.push(Pass::Segment(Box::new(pass)));
        }
    }
    let items = items(&worker, options.segment).await;
    let keeps = task != Task::DryRun;
    let passed = runner::run(&worker, rule, (segment_passes, done_before), options.budget, items, keeps).await;
    if keeps && matches!(passed.end, End::Done) {
        forget(options, rule, worker.store()).await?;
    }
    let again = if keeps && passed.saved {
        "the same command with --resume goes on from here"
    } else {
        "run the same command again: what is done is not done again"
    };
    let target = options.into.as_deref();
    Outcome::new(rule, task, segments, &passed, target).tell(options.json, &passed, again)
}

/// All of an export in one pass. It has no cursor: what it has done is not done again.
async fn from_export(
    options: &Options,
    worker: &Worker,
    rule: &'static dyn DynProjection,
    task: Task,
    folder: &Path,
) -> anyhow::Result<u8> {
    let export = Export::open(folder)?;
    eprintln!("the export shows {} as it was at {}", terminal::printable(export.table_arn()), terminal::printable(export.exported_at()));
    let of_event_store =
        export.table_arn().rsplit_once(":table/").is_some_and(|(_, table)| worker.store().names().event_store.ends_with(table));
    if !of_event_store {
        eprintln!("warning: that is not the event store that this command works on, {}", worker.store().names().event_store);
    }
    let progress = terminal::progress(Some(export.bytes()));
    progress.set_message("read and sorted");
    // Nobody listens to Ctrl-C yet, so it ends the process: nothing is written, and the file has no name.
    let sorted = export.sort(options.spill_dir.as_deref(), |bytes| progress.set_position(bytes))?;
    progress.finish_and_clear();
    let items = sorted.events();
    let pass = Pass::Export(Box::new(ExportPass { rebuild: Rebuild::new(worker, rule, task), sorted }));
    let passed = runner::run(worker, rule, (vec![pass], Counts::default()), options.budget, Some(items), false).await;
    let target = options.into.as_deref();
    Outcome::new(rule, task, 1, &passed, target).tell(options.json, &passed, "run the same command again: what is done is not done again")
}

/// The rule of a projection of this program.
pub fn rule(registry: Registry, name: &str) -> anyhow::Result<&'static dyn DynProjection> {
    Ok(find_projection(registry, name)?)
}

/// About how many items there are to read.
pub async fn items(worker: &Worker, only: Option<Segment>) -> Option<u64> {
    worker.store().event_store_items().await.map(|items| items / u64::from(only.map_or(1, Segment::count)))
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
        None => Segment::all(options.segments.unwrap_or_else(|| store_options.segments())).collect(),
    };
    if options.dry_run {
        return Ok(segments.into_iter().map(SavedCursor::beginning).collect());
    }
    let mut kept = store.saved_cursors(rule, Deadline::NONE).await?;
    if let Some(segment) = options.segment {
        kept.retain(|saved| saved.segment == segment);
    }
    let latest = kept.iter().max_by_key(|saved| &saved.saved_at).cloned();
    let Some(latest) = latest else {
        if options.resume {
            bail!("nothing is kept of an interrupted rebuild of `{}` by revision {}: start without --resume", rule.name(), rule.revision());
        }
        return Ok(segments.into_iter().map(SavedCursor::beginning).collect());
    };
    if !options.resume {
        eprintln!("an interrupted rebuild, last saved at {}, could have gone on with --resume; this one starts over", latest.saved_at);
        if options.segment.is_none() {
            store.forget_cursors(rule, Deadline::NONE).await?;
        }
        return Ok(segments.into_iter().map(SavedCursor::beginning).collect());
    }
    let count = latest.segment.count();
    if let Some(asked) = options.segments.filter(|asked| *asked != count) {
        bail!("the interrupted rebuild has {count} segments and not {asked}: leave --segments away, or start without --resume");
    }
    if options.segment.is_some() {
        return Ok(vec![latest]);
    }
    // One that was never saved was never begun.
    let kept_or_beginning =
        |segment| kept.iter().find(|saved| saved.segment == segment).cloned().unwrap_or_else(|| SavedCursor::beginning(segment));
    Ok(Segment::all(count).map(kept_or_beginning).collect())
}

/// Forgets the cursors when nothing is left that could go on: of many tasks on many machines, the last one does.
async fn forget(options: &Options, rule: &dyn DynProjection, store: &Store) -> anyhow::Result<()> {
    if let Some(segment) = options.segment {
        let kept = store.saved_cursors(rule, Deadline::NONE).await?;
        let done = kept.iter().filter(|saved| saved.done && saved.segment.count() == segment.count()).count();
        if done < segment.count() as usize {
            return Ok(());
        }
    }
    Ok(store.forget_cursors(rule, Deadline::NONE).await?)
}

/// What is told of a pass.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcome<'a> {
    projection: &'a str,
    revision: u32,
    task: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    into: Option<&'a str>,
    segments: usize,
    /// `done`, `interrupted` or `failed`.
    end: &'static str,
    counts: Counts,
    requests: u64,
    write_units: f64,
    read_units: f64,
    seconds: f64,
}

impl<'a> Outcome<'a> {
    /// Of a pass with this task over so many segments.
    pub fn new(rule: &'a dyn DynProjection, task: Task, segments: usize, passed: &Passed, into: Option<&'a str>) -> Self {
        Self {
            projection: rule.name(),
            revision: rule.revision(),
            task: match task {
                Task::Rebuild => "rebuild",
                Task::IntoTable => "beside",
                Task::DryRun => "dryRun",
                Task::CatchUp => "catchUp",
            },
            into,
            segments,
            end: match passed.end {
                End::Done => "done",
                End::Interrupted => "interrupted",
                End::Failed(_) => "failed",
            },
            counts: passed.counts,
            requests: passed.usage.requests,
            write_units: passed.usage.write_units,
            read_units: passed.usage.read_units,
            seconds: passed.took.as_secs_f64(),
        }
    }

    /// Prints it, and on the error output how to go on if it is not through. Returns the exit code.
    pub fn tell(&self, json: bool, passed: &Passed, again: &str) -> anyhow::Result<u8> {
        let told = if json { serde_json::to_string(self)? } else { self.lines() };
        writeln!(std::io::stdout(), "{told}")?;
        Ok(match &passed.end {
            End::Interrupted => {
                eprintln!("interrupted: {again}");
                EXIT_INTERRUPTED
            }
            End::Failed(failed) => {
                eprintln!("error: {}", terminal::printable(&failed.to_string()));
                eprintln!("once that is mended, {again}");
                EXIT_FINDINGS
            }
            End::Done if self.counts.parked + self.counts.stopped > 0 => EXIT_FINDINGS,
            End::Done => EXIT_OK,
        })
    }

    fn lines(&self) -> String {
        let Counts { events, aggregates, replaced, created, changed, caught_up, parked, stopped } = self.counts;
        let Self { projection, revision, task, end, .. } = self;
        let mut lines = Vec::new();
        lines.push(match (*task, *end) {
            ("catchUp", "done") if self.counts.nothing_done() => format!("{projection}: no row is behind: nothing to do"),
            (_, "done") if self.counts.nothing_done() && parked + stopped == 0 => {
                format!("{projection}: every row is of revision {revision} already: nothing to do")
            }
            ("catchUp", _) => format!("{projection}: {} caught up", some(caught_up, "aggregate")),
            _ => {
                let would = if *task == "dryRun" { "would be " } else { "" };
                format!(
                    "{projection}: to revision {revision}, {} {would}replaced and {created} created, {changed} of them changed; \
                     {} {would}caught up",
                    some(replaced, "row"),
                    some(caught_up, "aggregate"),
                )
            }
        });
        if parked > 0 {
            let are = if parked == 1 { "is" } else { "are" };
            let parked = some(parked, "aggregate");
            lines.push(format!("{parked} {are} parked: `projector parked list --projection {projection}` says why"));
        }
        if stopped > 0 {
            lines.push(format!("{} with an event that cannot be applied: there the rows end", some(stopped, "aggregate")));
        }
        let Self { requests, write_units, read_units, seconds, .. } = self;
        lines.push(format!("{} of {} looked at in {seconds:.2} s", some(events, "event"), some(aggregates, "aggregate")));
        lines.push(format!("{requests} requests, {write_units} write units, {read_units} read units"));
        lines.join("\n")
    }
}

/// A number of something.
fn some(count: u64, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}
