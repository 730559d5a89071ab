//! What the function does beside working the stream: a segment of a rebuild, catching up with what happened of late, verifying.
//!
//! Each works for an invocation's time and answers how far it came. A state machine invokes it with `{"rebuild": <its answer>}` until
//! that says `done`, one such loop for each segment; a schedule invokes it with `{"catchUp": ...}`.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use lambda_runtime::Diagnostic;
use projection_vocabulary::DynProjection;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;

use super::metrics::Done;
use crate::{
    Worker,
    age::Age,
    operations::{
        catch_up::Failed,
        rebuild::{Task, segment::SegmentRebuild},
        recent::Recent,
        verify::{Finding, Options},
    },
    progress::Counts,
    retry::Deadline,
    store::segment::{Cursor, Segment},
};

/// An aggregate that took one in so many parts of an invocation's time to scan, and is not through, is settled as far as it was
/// scanned. Each invocation would else begin with it anew, and none come further. There must be time left to settle it.
const OPEN_FOR_A_PART_IN: u32 = 3;
/// How many parts of the event store are read at once to verify: one page of each is in memory.
const VERIFIED_AT_ONCE: u32 = 8;

/// A segment of a rebuild: the task, and the answer.
#[derive(Serialize, Deserialize)]
pub struct Rebuild {
    projection: String,
    #[serde(default)]
    segment: u32,
    #[serde(default = "one")]
    segments: u32,
    /// Where to go on; null at the beginning, and when it is done.
    #[serde(default)]
    cursor: Option<Cursor>,
    #[serde(default)]
    done: bool,
    /// What it came to, over all invocations.
    #[serde(default)]
    counts: Counts,
}

fn one() -> u32 {
    1
}

/// What to catch up with.
#[derive(Deserialize)]
pub struct CatchUp {
    projection: String,
    since: String,
}

/// What to verify.
#[derive(Deserialize)]
pub struct Verify {
    projection: String,
    #[serde(default)]
    sample: Option<u32>,
}

/// What that found. Which rows they are, `projector verify` tells.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Verified {
    projection: String,
    clean: bool,
    events: u64,
    aggregates: u64,
    /// Home rows, by what is wrong with them.
    findings: BTreeMap<&'static str, u64>,
    /// Attributes of shared rows.
    shared: usize,
}

/// How far that came.
#[derive(Serialize)]
pub struct CaughtUp {
    projection: String,
    done: bool,
    counts: Counts,
}

/// An answer, and what the metrics of its projection are told.
pub type Told<T> = (T, (&'static str, Done));

/// Reads a task. The parser's own words may quote what somebody sent by mistake.
pub fn read<T: DeserializeOwned>(task: &RawValue) -> Result<T, Diagnostic> {
    let shape = r#"{"rebuild": {"projection", "segment", "segments", "cursor", "counts"}} or {"catchUp": {"projection", "since"}} or {"verify": {"projection"}}"#;
    // A map first, for a derived reader would also take a list.
    let members: Result<serde_json::Map<_, _>, _> = serde_json::from_str(task.get());
    let read = members.and_then(|members| serde_json::from_value(serde_json::Value::Object(members)));
    read.map_err(|_| invalid(format!("the event is no task as this function knows them: {shape}")))
}

/// Rebuilds a segment for a time.
pub async fn rebuild(worker: &Worker, task: Rebuild, time: Duration) -> Result<Told<Rebuild>, Diagnostic> {
    let rule = rule(worker, &task.projection)?;
    let segment = Segment::new(task.segment, task.segments).map_err(|error| invalid(error.to_string()))?;
    let told = |before: &Counts, now: &Counts| {
        let rows = |counts: &Counts| counts.replaced + counts.created;
        // What was counted before comes with the task, and may be anything.
        (rule.name(), Done::Rebuilt(rows(now).saturating_sub(rows(before))))
    };
    if task.done {
        let told = told(&task.counts, &task.counts);
        return Ok((task, told));
    }
    let (deadline, close_after) = (Deadline::at(Instant::now() + time), Instant::now() + time / OPEN_FOR_A_PART_IN);
    let mut pass = SegmentRebuild::new(worker, rule, Task::Rebuild, segment, (task.cursor.clone(), task.counts));
    let has_moved = |pass: &SegmentRebuild| pass.checkpoint().0 != task.cursor.as_ref();
    let done = loop {
        let stepped = async {
            let more = pass.step(deadline).await?;
            if more && !has_moved(&pass) && Instant::now() >= close_after {
                pass.close(deadline).await?;
            }
            Ok(more)
        };
        match stepped.await {
            Ok(true) if !deadline.passed() => {}
            Ok(more) => break !more,
            Err(failed) if has_moved(&pass) => {
                tracing::warn!("a page is left for the next invocation: {failed}");
                break false;
            }
            Err(failed) => return Err(unfinished(&failed, deadline)),
        }
    };
    let (cursor, counts) = pass.checkpoint();
    let cursor = cursor.filter(|_| !done).cloned();
    tracing::info!(projection = rule.name(), segment = task.segment, segments = task.segments, done, ?counts, "rebuild");
    let told = told(&task.counts, &counts);
    Ok((Rebuild { cursor, done, counts, ..task }, told))
}

/// Catches up for a time.
pub async fn catch_up(worker: &Worker, CatchUp { projection, since }: CatchUp, time: Duration) -> Result<Told<CaughtUp>, Diagnostic> {
    let rule = rule(worker, &projection)?;
    let since: Age = since.parse().map_err(|error| invalid(format!("`since` is {error}")))?;
    let deadline = Deadline::at(Instant::now() + time);
    let mut recent = Recent::new(worker, rule, since.before_now());
    let done = loop {
        match recent.step(deadline).await {
            Ok(true) if !deadline.passed() => {}
            Ok(more) => break !more,
            Err(_) if deadline.passed() => break false,
            Err(failed) => return Err(unfinished(&failed, deadline)),
        }
    };
    let counts = recent.counts();
    tracing::info!(projection, done, ?counts, "catch-up");
    Ok((CaughtUp { projection, done, counts }, (rule.name(), Done::CaughtUp(counts.caught_up))))
}

/// Verifies, and repairs nothing.
pub async fn verify(worker: &Worker, Verify { projection, sample }: Verify, time: Duration) -> Result<Told<Verified>, Diagnostic> {
    let rule = rule(worker, &projection)?;
    if sample.is_some_and(|percent| !(1..=100).contains(&percent)) {
        return Err(invalid("`sample` is no percentage from 1 to 100".to_owned()));
    }
    let deadline = Deadline::at(Instant::now() + time);
    let options = Options { segments: VERIFIED_AT_ONCE, sample, repair: false };
    let verified = worker.verify(rule, options, deadline).await.map_err(|failed| {
        let short = "the function's time is too short to verify all rows: take a sample, or verify by `projector verify`";
        Diagnostic {
            error_type: "Unfinished".to_owned(),
            error_message: if deadline.passed() { short.to_owned() } else { failed.to_string() },
        }
    })?;
    let findings: BTreeMap<_, _> = Finding::ALL.iter().map(|finding| (finding.text(), verified.count(*finding))).collect();
    let (clean, shared) = (verified.is_clean(), verified.shared.len());
    tracing::info!(projection, clean, ?findings, shared, "verification");
    let told = (rule.name(), Done::Verified((verified.home.len() + shared) as u64));
    Ok((Verified { projection, clean, events: verified.events, aggregates: verified.aggregates, findings, shared }, told))
}

fn rule(worker: &Worker, projection: &str) -> Result<&'static dyn DynProjection, Diagnostic> {
    worker.registry().get(projection).ok_or_else(|| invalid(worker.unknown_projection(projection).to_string()))
}

fn invalid(error_message: String) -> Diagnostic {
    Diagnostic { error_type: "InvalidTask".to_owned(), error_message }
}

/// Not one page was done.
fn unfinished(failed: &Failed, deadline: Deadline) -> Diagnostic {
    let error_message = if deadline.passed() {
        "the function's time is too short for a page of the event store: raise its timeout; what was done is done".to_owned()
    } else {
        failed.to_string()
    };
    Diagnostic { error_type: "Unfinished".to_owned(), error_message }
}
