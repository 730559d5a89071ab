//! Runs that read the whole event store, or a part of it, from several sources at once: within a budget, with progress, until all are
//! done or somebody stops them.

use std::{
    cell::Cell,
    time::{Duration, Instant},
};

use futures::future::join_all;
use projection_vocabulary::{AggregateId, DynProjection, Version};
use serde_json::json;
use tokio::sync::watch;

use super::{
    rate_limit::{Budget, RateLimit},
    terminal,
    text::printable,
};
use crate::{
    Worker,
    operations::{
        error::OperationError,
        rebuild::{
            Rebuild,
            segment::{Resume, SegmentRebuild},
        },
        recent::Recent,
    },
    progress::Counts,
    retry::Deadline,
    sources::export::{ExportError, Sorted},
    store::{Store, StoreError, Usage, cursors::SavedCursor, events::PAGE_EVENTS, segment::Segment},
};

/// How often a step is tried. Each of its requests is retried for half a minute, so a throttled minute does not end a night's work.
const TRIES: u32 = 3;
/// How long to wait before another try, times the number of tries so far.
const TRY_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// How often cursors are saved. A run that is resumed checks again what was read since the last save.
const SAVE_EVERY: Duration = Duration::from_secs(5);
/// How often progress is reported as a line of JSON without a terminal, and drawn on a terminal.
const REPORT_EVERY: Duration = Duration::from_secs(5);
const DRAW_EVERY: Duration = Duration::from_millis(200);

/// Where a run takes its events from. Several are read at once.
pub enum Source<'a> {
    /// A segment of the event store.
    Segment(Box<SegmentRebuild<'a>>),
    /// The recent entries of the index by event type.
    Recent(Recent<'a>),
    /// A DynamoDB export.
    Export(Box<ExportSource<'a>>),
    /// Some aggregates.
    Chosen(Box<ChosenSource<'a>>),
}

/// The events of some aggregates.
pub struct ChosenSource<'a> {
    /// What applies them.
    rebuild: Rebuild<'a>,
    /// The aggregates that are left, the current one last, and where its history continues.
    left: (Vec<AggregateId>, Version),
}

/// The events of an export.
pub struct ExportSource<'a> {
    /// What applies them.
    pub rebuild: Rebuild<'a>,
    /// The export, sorted.
    pub sorted: Sorted,
}

/// Small events of an export taken at once.
const EXPORT_PAGE_EVENTS: usize = 2_000;

/// Why a step failed.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// The operation failed.
    #[error(transparent)]
    Operation(#[from] OperationError),
    /// The export cannot be read.
    #[error(transparent)]
    Export(#[from] ExportError),
}

impl StepError {
    /// Whether another try may succeed.
    fn is_transient(&self) -> bool {
        matches!(self, Self::Operation(error) if error.is_transient())
    }
}

/// How a run ended.
pub enum End {
    /// All of its sources are done.
    Done,
    /// Ctrl-C.
    Interrupted,
    /// One source failed; the others stopped at their next page.
    Failed(StepError),
}

/// The result of a run.
pub struct RunSummary {
    /// How it ended.
    pub end: End,
    /// The totals of all sources.
    pub counts: Counts,
    /// The capacity consumed.
    pub usage: Usage,
    /// How long it took.
    pub took: Duration,
    /// Whether the run can be resumed where it ended: all cursors were saved.
    pub saved: bool,
}

/// A run in progress.
struct Run<'a> {
    worker: &'a Worker,
    rule: &'static dyn DynProjection,
    /// Whether cursors are saved.
    saves_cursors: bool,
    limit: RateLimit,
    stop: watch::Sender<bool>,
    /// The counts of each source so far.
    counts: Vec<Cell<Counts>>,
}

impl Source<'_> {
    async fn step(&mut self, store: &Store) -> Result<bool, StepError> {
        match self {
            Self::Chosen(chosen) => chosen.step(store).await,
            Self::Segment(segment) => Ok(segment.step(Deadline::NONE).await?),
            Self::Recent(recent) => Ok(recent.step(Deadline::NONE).await?),
            Self::Export(export) => export.step().await,
        }
    }

    /// Whether a failed step can be tried again.
    fn can_retry(&self) -> bool {
        !matches!(self, Self::Export(_) | Self::Chosen(_))
    }

    fn counts(&self) -> Counts {
        match self {
            Self::Segment(segment) => segment.counts(),
            Self::Recent(recent) => recent.counts(),
            Self::Export(export) => export.rebuild.counts(),
            Self::Chosen(chosen) => chosen.rebuild.counts(),
        }
    }
}

impl<'a> ChosenSource<'a> {
    pub fn new(rebuild: Rebuild<'a>, chosen: &[AggregateId]) -> Self {
        Self { rebuild, left: (chosen.to_vec(), Version::NONE.next()) }
    }

    async fn step(&mut self, store: &Store) -> Result<bool, StepError> {
        let (ids, from) = &mut self.left;
        let Some(id) = ids.last().cloned() else {
            self.rebuild.end(Deadline::NONE).await?;
            return Ok(false);
        };
        let page = store.load_page(&id, *from..=Version(u64::MAX), PAGE_EVENTS, Deadline::NONE).await.map_err(OperationError::from)?;
        if page.len() < PAGE_EVENTS {
            ids.pop();
            *from = Version::NONE.next();
        } else if let Some(last) = page.last() {
            *from = last.version().next();
        }
        self.rebuild.page(page.into_iter().map(|stored| (id.clone(), stored)).collect(), Deadline::NONE).await?;
        Ok(true)
    }
}

/// Whether the event store has these aggregates. Those that it has not are named on the error output: they may be misspelt.
pub async fn all_exist(store: &Store, chosen: &[AggregateId]) -> Result<bool, StoreError> {
    let mut all = true;
    for id in chosen {
        if store.load_page(id, Version::NONE.next()..=Version(u64::MAX), 1, Deadline::NONE).await?.is_empty() {
            terminal::error(format_args!("the event store has no aggregate {}", printable(id.as_str())));
            all = false;
        }
    }
    Ok(all)
}

impl ExportSource<'_> {
    async fn step(&mut self) -> Result<bool, StepError> {
        let page = self.sorted.page(EXPORT_PAGE_EVENTS)?;
        let more = !page.is_empty();
        if more {
            self.rebuild.page(page, Deadline::NONE).await?;
        } else {
            self.rebuild.end(Deadline::NONE).await?;
        }
        Ok(more)
    }
}

/// Reads all sources to their end and reports progress. `items` is about how many items there are to read; `saves_cursors` says whether
/// the positions in segments are kept for a run that resumes this one.
pub async fn run(
    worker: &Worker,
    rule: &'static dyn DynProjection,
    (sources, done_before): (Vec<Source<'_>>, Counts),
    budget: Budget,
    items: Option<u64>,
    saves_cursors: bool,
) -> RunSummary {
    let (begun, before) = (Instant::now(), worker.store().usage());
    let counts = sources.iter().map(|source| Cell::new(source.counts())).chain([Cell::new(done_before)]).collect();
    let run = Run { worker, rule, saves_cursors, limit: RateLimit::new(budget, before), stop: watch::Sender::new(false), counts };
    let all = join_all(sources.into_iter().zip(&run.counts).map(|(source, counts)| run.one(source, counts)));
    let ended = tokio::select! {
        biased;
        ended = all => ended,
        () = run.on_ctrl_c() => unreachable!("it never ends"),
        () = run.report_progress(items, begun) => unreachable!("it never ends"),
    };
    let saved = ended.iter().all(|(_, saved)| *saved);
    let done = ended.into_iter().map(|(done, _)| done).try_fold(true, |all, done| Ok(all && done?));
    let end = match done {
        Ok(true) => End::Done,
        Ok(false) => End::Interrupted,
        Err(failed) => End::Failed(failed),
    };
    RunSummary { end, counts: run.total(), usage: worker.store().usage() - before, took: begun.elapsed(), saved }
}

impl Run<'_> {
    /// Reads one source as far as possible. Returns whether it is done, and whether its cursor was saved at the end.
    async fn one(&self, mut source: Source<'_>, counts: &Cell<Counts>) -> (Result<bool, StepError>, bool) {
        let (mut tries, mut saved_at) = (0, Instant::now());
        let done = loop {
            if self.or_stop(self.limit.wait(|| self.worker.store().usage())).await.is_none() {
                break Ok(false);
            }
            let stepped = source.step(self.worker.store()).await;
            counts.set(source.counts());
            match stepped {
                Ok(true) => tries = 0,
                Ok(false) => break Ok(true),
                Err(failed) => {
                    tries += 1;
                    if tries == TRIES || !source.can_retry() || !failed.is_transient() {
                        self.stop.send_replace(true);
                        break Err(failed);
                    }
                    tracing::warn!("trying again: {failed}");
                    // If it is stopped here, its cursor is saved below.
                    self.or_stop(tokio::time::sleep(TRY_AGAIN_AFTER * tries)).await;
                }
            }
            if saved_at.elapsed() >= SAVE_EVERY {
                self.save(&source, false).await;
                saved_at = Instant::now();
            }
        };
        let saved = self.save(&source, matches!(done, Ok(true))).await;
        (done, saved)
    }

    /// Waits for this, or for the run to be stopped: `None`.
    async fn or_stop<T>(&self, what: impl Future<Output = T>) -> Option<T> {
        let mut stop = self.stop.subscribe();
        tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => None,
            done = what => Some(done),
        }
    }

    /// Returns whether the cursor is saved. If not, the run continues anyway: the next save may succeed.
    async fn save(&self, source: &Source<'_>, done: bool) -> bool {
        let Source::Segment(segment) = source else { return false };
        if !self.saves_cursors {
            return false;
        }
        let Resume { cursor, counts } = segment.resume();
        let saved = SavedCursor { cursor, counts, done, ..SavedCursor::beginning(segment.segment()) };
        let result = self.worker.store().save_cursor(self.rule, &saved, Deadline::NONE).await;
        if let Err(error) = &result {
            tracing::warn!("the cursor of segment {} was not saved: {error}", segment.segment().number());
        }
        result.is_ok()
    }

    fn total(&self) -> Counts {
        let mut total = Counts::default();
        for counts in &self.counts {
            total += counts.get();
        }
        total
    }

    async fn on_ctrl_c(&self) {
        // On a system without signals, none arrives.
        if tokio::signal::ctrl_c().await.is_ok() {
            terminal::note("interrupted: finishing the pages in progress");
            self.stop.send_replace(true);
        }
        std::future::pending::<()>().await;
    }

    /// Draws progress on a terminal; elsewhere prints a line of JSON every few seconds.
    async fn report_progress(&self, items: Option<u64>, begun: Instant) {
        let drawn = terminal::shows_progress();
        let before = self.total();
        let bar = terminal::progress_of_items(items, items_of(before));
        let mut ticks = tokio::time::interval(if drawn { DRAW_EVERY } else { REPORT_EVERY });
        // The first tick is immediate.
        ticks.tick().await;
        loop {
            ticks.tick().await;
            let counts = self.total();
            if drawn {
                bar.set_position(items_of(counts));
                bar.set_message(format!("{} rows written", counts.written()));
                continue;
            }
            let elapsed = begun.elapsed().as_secs_f64();
            #[allow(clippy::cast_precision_loss, reason = "a rate, shown with one digit")]
            let rate = ((counts.events - before.events) as f64 / elapsed * 10.0).round() / 10.0;
            terminal::note(json!({ "elapsedSeconds": elapsed, "eventsPerSecond": rate, "items": items, "counts": counts }));
        }
    }
}

/// Each event is an item of the event store, and each aggregate has one more: its version.
fn items_of(counts: Counts) -> u64 {
    counts.events + counts.aggregates
}

/// About how many items a run reads from the event store, or from one segment of it; `None` if it is unknown.
pub async fn items(worker: &Worker, only: Option<Segment>) -> Option<u64> {
    worker.store().event_store_items().await.map(|items| items / u64::from(only.map_or(1, Segment::count)))
}
