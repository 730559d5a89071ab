//! Passes over the event store, side by side: within a budget, with progress, until all are through or somebody stops them.

use std::{
    cell::Cell,
    io::{self, IsTerminal as _},
    time::{Duration, Instant},
};

use futures::future::join_all;
use projection_vocabulary::DynProjection;
use serde_json::json;
use tokio::sync::watch;

use super::{
    rate_limit::{Budget, Pace},
    terminal,
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
    store::{Usage, cursors::SavedCursor},
};

/// How often a step is tried: each of its requests is tried for half a minute, so that a throttled minute does not end a night's work.
const TRIES: u32 = 3;
/// How long to wait before another try, times the number of those before.
const TRY_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// How often cursors are saved: what lies between is looked at again by whoever goes on.
const SAVE_EVERY: Duration = Duration::from_secs(5);
/// How often progress is told where there is no terminal, and shown where there is one.
const TELL_EVERY: Duration = Duration::from_secs(5);
const SHOW_EVERY: Duration = Duration::from_millis(200);

/// One of those that go side by side.
pub enum Pass<'a> {
    /// Over a segment of the event store.
    Segment(Box<SegmentRebuild<'a>>),
    /// Over what the index by event type has of late.
    Recent(Recent<'a>),
    /// Over an export.
    Export(Box<ExportPass<'a>>),
}

/// A pass over an export.
pub struct ExportPass<'a> {
    /// What is done about rows.
    pub rebuild: Rebuild<'a>,
    /// The export, in order.
    pub sorted: Sorted,
}

/// So many events of an export are taken at once, if they are small.
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
    fn is_transient(&self) -> bool {
        matches!(self, Self::Operation(error) if error.is_transient())
    }
}

/// How all of them ended.
pub enum End {
    /// They are through.
    Done,
    /// Ctrl-C.
    Interrupted,
    /// One could not go on; the others stopped at their next page.
    Failed(StepError),
}

/// What came of all of them.
pub struct Passed {
    /// How they ended.
    pub end: End,
    /// What they came to, together.
    pub counts: Counts,
    /// What they consumed.
    pub usage: Usage,
    /// How long they took.
    pub took: Duration,
    /// Whether somebody can go on where they ended: all cursors were saved.
    pub saved: bool,
}

/// Passes on their way.
struct Run<'a> {
    worker: &'a Worker,
    rule: &'static dyn DynProjection,
    /// Whether cursors are saved.
    keeps: bool,
    pace: Pace,
    stop: watch::Sender<bool>,
    /// What each came to so far.
    counts: Vec<Cell<Counts>>,
}

impl Pass<'_> {
    async fn step(&mut self) -> Result<bool, StepError> {
        match self {
            Self::Segment(pass) => Ok(pass.step(Deadline::NONE).await?),
            Self::Recent(pass) => Ok(pass.step(Deadline::NONE).await?),
            Self::Export(pass) => pass.step().await,
        }
    }

    /// Whether it can be told to go on after a failure.
    fn can_retry(&self) -> bool {
        !matches!(self, Self::Export(_))
    }

    fn counts(&self) -> Counts {
        match self {
            Self::Segment(pass) => pass.counts(),
            Self::Recent(pass) => pass.counts(),
            Self::Export(pass) => pass.rebuild.counts(),
        }
    }
}

impl ExportPass<'_> {
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

/// Runs passes to their end, and shows how they go on. `items` is about how much there is to read, and `keeps` whether the cursors
/// of segments are saved.
pub async fn run(
    worker: &Worker,
    rule: &'static dyn DynProjection,
    (passes, done_before): (Vec<Pass<'_>>, Counts),
    budget: Budget,
    items: Option<u64>,
    keeps: bool,
) -> Passed {
    let (begun, before) = (Instant::now(), worker.store().usage());
    let counts = passes.iter().map(|pass| Cell::new(pass.counts())).chain([Cell::new(done_before)]).collect();
    let run = Run { worker, rule, keeps, pace: Pace::new(budget, before), stop: watch::Sender::new(false), counts };
    let all = join_all(passes.into_iter().zip(&run.counts).map(|(pass, counts)| run.one(pass, counts)));
    let ended = tokio::select! {
        biased;
        ended = all => ended,
        () = run.on_ctrl_c() => unreachable!("it goes on for ever"),
        () = run.tell(items, begun) => unreachable!("it goes on for ever"),
    };
    let saved = ended.iter().all(|(_, saved)| *saved);
    let through = ended.into_iter().map(|(through, _)| through).try_fold(true, |all, through| Ok(all && through?));
    let end = match through {
        Ok(true) => End::Done,
        Ok(false) => End::Interrupted,
        Err(failed) => End::Failed(failed),
    };
    Passed { end, counts: run.total(), usage: worker.store().usage() - before, took: begun.elapsed(), saved }
}

impl Run<'_> {
    /// One pass as far as it goes: whether it is through, and whether its cursor was saved at last.
    async fn one(&self, mut pass: Pass<'_>, counts: &Cell<Counts>) -> (Result<bool, StepError>, bool) {
        let (mut tries, mut saved_at) = (0, Instant::now());
        let through = loop {
            if self.or_stop(self.pace.wait(|| self.worker.store().usage())).await.is_none() {
                break Ok(false);
            }
            let stepped = pass.step().await;
            counts.set(pass.counts());
            match stepped {
                Ok(true) => tries = 0,
                Ok(false) => break Ok(true),
                Err(failed) => {
                    tries += 1;
                    if tries == TRIES || !pass.can_retry() || !failed.is_transient() {
                        self.stop.send_replace(true);
                        break Err(failed);
                    }
                    tracing::warn!("tried again: {failed}");
                    // Whoever stops it here has its cursor, too.
                    self.or_stop(tokio::time::sleep(TRY_AGAIN_AFTER * tries)).await;
                }
            }
            if saved_at.elapsed() >= SAVE_EVERY {
                self.save(&pass, false).await;
                saved_at = Instant::now();
            }
        };
        let saved = self.save(&pass, matches!(through, Ok(true))).await;
        (through, saved)
    }

    /// What comes first: the end of this, or somebody who stops all of it.
    async fn or_stop<T>(&self, what: impl Future<Output = T>) -> Option<T> {
        let mut stop = self.stop.subscribe();
        tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => None,
            done = what => Some(done),
        }
    }

    /// Returns whether it is saved. If not, the pass goes on all the same: the next time may be better.
    async fn save(&self, pass: &Pass<'_>, done: bool) -> bool {
        let Pass::Segment(pass) = pass else { return false };
        if !self.keeps {
            return false;
        }
        let Resume { cursor, counts } = pass.resume();
        let saved = SavedCursor { cursor, counts, done, ..SavedCursor::beginning(pass.segment()) };
        let result = self.worker.store().save_cursor(self.rule, &saved, Deadline::NONE).await;
        if let Err(error) = &result {
            tracing::warn!("the cursor of segment {} was not saved: {error}", pass.segment().number());
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
        // Where no signal can be waited for, none comes.
        if tokio::signal::ctrl_c().await.is_ok() {
            eprintln!("interrupted: the pages under way are brought to their end");
            self.stop.send_replace(true);
        }
        std::future::pending::<()>().await;
    }

    /// Shows progress on a terminal; elsewhere tells it in a line of JSON now and then.
    async fn tell(&self, items: Option<u64>, begun: Instant) {
        let shown = io::stderr().is_terminal();
        let before = self.total();
        let bar = terminal::progress_of_items(items, items_of(before));
        let mut ticks = tokio::time::interval(if shown { SHOW_EVERY } else { TELL_EVERY });
        // The first is at once.
        ticks.tick().await;
        loop {
            ticks.tick().await;
            let counts = self.total();
            if shown {
                bar.set_position(items_of(counts));
                bar.set_message(format!("{} rows written", written(counts)));
                continue;
            }
            let elapsed = begun.elapsed().as_secs_f64();
            #[allow(clippy::cast_precision_loss, reason = "a rate, shown with one digit")]
            let rate = ((counts.events - before.events) as f64 / elapsed * 10.0).round() / 10.0;
            eprintln!("{}", json!({ "elapsedSeconds": elapsed, "eventsPerSecond": rate, "items": items, "counts": counts }));
        }
    }
}

/// Of the items of an event store each event is one, and each aggregate has another with its version.
fn items_of(counts: Counts) -> u64 {
    counts.events + counts.aggregates
}

fn written(counts: Counts) -> u64 {
    counts.replaced + counts.created + counts.caught_up
}
