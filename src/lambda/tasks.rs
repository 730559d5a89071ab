//! The function's tasks other than working the stream: rebuild a segment, settle shared rows, catch up with recent events, verify.
//!
//! Each works for an invocation's time and answers its progress. A state machine invokes the function with `{"rebuild": <the last
//! answer>}` until the answer says `done`, in one such loop per segment; then with `{"verify": <the last answer>}` until that says `done`.
//! Schedules invoke it with `{"catchUp": ...}` and `{"tick": {}}`.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use lambda_runtime::Diagnostic;
use projection_vocabulary::DynProjection;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;

use super::metrics::TaskCount;
use crate::{
    Worker,
    age::Age,
    operations::{
        error::{OperationError, find_projection},
        processes::{self, Ticked, refuse_process},
        rebuild::{
            self,
            segment::{Resume, SegmentRebuild},
        },
        recent::Recent,
        settle,
        verify::{
            RowFinding,
            parts::{Finding, Part, Progress, Totals},
        },
    },
    progress::Counts,
    retry::Deadline,
    sources::envelope::Members,
    store::{
        self,
        segment::{Cursor, Segment},
        verifications::SavedVerification,
    },
};

const REBUILD: &str = "rebuild";
const CATCH_UP: &str = "catchUp";
const SETTLE: &str = "settle";
const VERIFY: &str = "verify";
const TICK: &str = "tick";

/// The names of all tasks.
pub const NAMES: [&str; 5] = [REBUILD, CATCH_UP, SETTLE, VERIFY, TICK];

/// The task that a name in another spelling means: `catchup`, `catch-up`.
pub fn meant(name: &str) -> Option<&'static str> {
    let letters = |name: &str| name.bytes().filter(u8::is_ascii_alphanumeric).map(|byte| byte.to_ascii_lowercase()).collect::<Vec<_>>();
    NAMES.into_iter().find(|task| letters(task) == letters(name))
}

/// If a single aggregate has taken this fraction (one part in so many) of the invocation's time, apply what has been scanned of it so
/// far. Otherwise every invocation would restart that aggregate and never finish it. The rest of the time must suffice to apply it.
const OPEN_FOR_A_PART_IN: u32 = 3;
/// How many segments of the event store a verification reads at once. It holds one page of each in memory.
const VERIFY_SEGMENTS: u32 = 8;
/// How many findings of one invocation the log names.
const NAMED_MAX: usize = 100;
/// How far a verification has come is read and saved within this part (one in so many) of the time that it works, and besides that time:
/// of the fifth of the invocation's time that is kept back, this is a half.
const SAVED_WITHIN_A_PART_IN: u32 = 8;

/// A task, as the payload describes it.
pub enum Task {
    Rebuild(RebuildAnswer),
    CatchUp(CatchUp),
    Settle(Settle),
    Verify(Verify),
    Tick,
}

/// The answer to a task.
#[derive(Serialize)]
#[serde(untagged)]
pub enum Answer {
    Rebuild(RebuildAnswer),
    CatchUp(CatchUpAnswer),
    Settle(SettleAnswer),
    Verify(VerifyAnswer),
    Tick(TickAnswer),
}

/// The answer to a task, and what the metrics of its projections count.
pub struct TaskResult {
    pub answer: Answer,
    pub counts: Vec<(&'static str, TaskCount)>,
    /// How much of it failed, though the task went on.
    pub failed: u64,
}

/// Progress of one segment of a rebuild: the answer of an invocation, and the task of the next.
#[derive(Serialize, Deserialize)]
pub struct RebuildAnswer {
    projection: String,
    #[serde(default)]
    segment: u32,
    #[serde(default = "one")]
    segments: u32,
    /// Where the next invocation continues; null at the beginning and when done.
    #[serde(default)]
    cursor: Option<Cursor>,
    #[serde(default)]
    done: bool,
    /// Totals over all invocations.
    #[serde(default)]
    counts: Counts,
}

fn one() -> u32 {
    1
}

/// Which events to catch up with.
#[derive(Deserialize)]
pub struct CatchUp {
    projection: String,
    since: String,
}

/// Progress of a catch-up.
#[derive(Serialize)]
pub struct CatchUpAnswer {
    projection: String,
    done: bool,
    counts: Counts,
}

/// Which shared rows to settle, after a rebuild has taken contributions to them back.
#[derive(Deserialize)]
pub struct Settle {
    projection: String,
}

/// How many attributes of shared rows were settled.
#[derive(Serialize)]
pub struct SettleAnswer {
    projection: String,
    settled: u64,
}

/// What to verify.
#[derive(Deserialize)]
pub struct Verify {
    projection: String,
    #[serde(default)]
    sample: Option<u32>,
    /// The verification to go on with; null to begin one.
    #[serde(default)]
    run: Option<String>,
}

/// How far a verification has come: the answer of an invocation, and the task of the next.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct VerifyAnswer {
    projection: String,
    sample: Option<u32>,
    /// Identifies a verification that takes more than one invocation. Null if one was enough.
    run: Option<String>,
    done: bool,
    /// Whether it is done and has found nothing.
    clean: bool,
    /// A total over all invocations, as are the following.
    events: u64,
    aggregates: u64,
    /// The number of home rows with each finding.
    findings: BTreeMap<&'static str, u64>,
    /// The number of child rows that differ.
    children: u64,
    /// The number of attributes of shared rows that differ.
    shared: u64,
}

/// What a tick has done.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TickAnswer {
    done: bool,
    due: u64,
    timed_out: u64,
    failed: u64,
}

/// A tick has nothing to say.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Tick {}

impl Task {
    /// The task in a payload; `None` if the payload holds none.
    pub fn read(payload: &RawValue) -> Result<Option<Self>, Diagnostic> {
        let members = Members::of(payload);
        let member = |name: &str| members.as_ref()?.get(name);
        if let Some(task) = member(REBUILD) {
            let shape = r#"{"rebuild": {"projection", "segment", "segments", "cursor", "counts"}}"#;
            Ok(Some(Self::Rebuild(parsed(task, REBUILD, shape)?)))
        } else if let Some(task) = member(CATCH_UP) {
            Ok(Some(Self::CatchUp(parsed(task, CATCH_UP, r#"{"catchUp": {"projection", "since"}}"#)?)))
        } else if let Some(task) = member(SETTLE) {
            Ok(Some(Self::Settle(parsed(task, SETTLE, r#"{"settle": {"projection"}}"#)?)))
        } else if let Some(task) = member(VERIFY) {
            Ok(Some(Self::Verify(parsed(task, VERIFY, r#"{"verify": {"projection", "sample", "run"}}"#)?)))
        } else if let Some(task) = member(TICK) {
            let Tick {} = parsed(task, TICK, r#"{"tick": {}}"#)?;
            Ok(Some(Self::Tick))
        } else {
            Ok(None)
        }
    }

    /// Works on the task for at most this time.
    pub async fn run(self, worker: &Worker, time: Duration) -> Result<TaskResult, Diagnostic> {
        match self {
            Self::Rebuild(task) => rebuild(worker, task, time).await,
            Self::CatchUp(task) => catch_up(worker, task, time).await,
            Self::Settle(task) => settle(worker, task, time).await,
            Self::Verify(task) => verify(worker, task, time).await,
            Self::Tick => tick(worker, time).await,
        }
    }
}

/// The parser's message is dropped: it may quote data that was sent by mistake.
fn parsed<T: DeserializeOwned>(task: &RawValue, name: &str, shape: &str) -> Result<T, Diagnostic> {
    // A map first, because a derived struct would also accept a list.
    let members: Result<serde_json::Map<_, _>, _> = serde_json::from_str(task.get());
    let parsed = members.and_then(|members| serde_json::from_value(serde_json::Value::Object(members)));
    parsed.map_err(|_| invalid(format!("the task `{name}` is malformed: send {shape}")))
}

async fn rebuild(worker: &Worker, task: RebuildAnswer, time: Duration) -> Result<TaskResult, Diagnostic> {
    let rule = rule(worker, &task.projection)?;
    refuse_process(rule).map_err(|error| invalid(error.to_string()))?;
    let segment = Segment::new(task.segment, task.segments).map_err(|error| invalid(error.to_string()))?;
    let result = |answer: RebuildAnswer, before: &Counts| {
        let rows = |counts: &Counts| counts.replaced + counts.created;
        // The earlier counts came with the task and may be any numbers.
        let count = TaskCount::Reprojected(rows(&answer.counts).saturating_sub(rows(before)));
        TaskResult { answer: Answer::Rebuild(answer), counts: vec![(rule.name(), count)], failed: 0 }
    };
    let before = task.counts;
    if task.done {
        return Ok(result(task, &before));
    }
    let mut segment =
        SegmentRebuild::new(worker, rule, rebuild::Task::Rebuild, segment, Resume { cursor: task.cursor.clone(), counts: before });
    let done = advance(&mut segment, task.cursor.as_ref(), time).await?;
    let Resume { cursor, counts } = segment.resume();
    let cursor = cursor.filter(|_| !done);
    let answer = RebuildAnswer { cursor, done, counts, ..task };
    log_progress("rebuild", rule.name(), Some(&answer), done, counts);
    Ok(result(answer, &before))
}

/// Rebuilds a segment until it is done or its time is up. Returns whether it is done.
async fn advance(segment: &mut SegmentRebuild<'_>, start: Option<&Cursor>, time: Duration) -> Result<bool, Diagnostic> {
    let (deadline, close_after) = (Deadline::at(Instant::now() + time), Instant::now() + time / OPEN_FOR_A_PART_IN);
    let has_moved = |segment: &SegmentRebuild| segment.resume().cursor.as_ref() != start;
    loop {
        let stepped = match segment.step(deadline).await {
            Ok(true) if !has_moved(segment) && Instant::now() >= close_after => segment.close(deadline).await.map(|()| true),
            stepped => stepped,
        };
        match stepped {
            Ok(true) if !deadline.passed() => {}
            Ok(more) => return Ok(!more),
            Err(error) if has_moved(segment) => {
                tracing::warn!("a page is left for the next invocation: {error}");
                return Ok(false);
            }
            Err(error) => return Err(no_progress(&error)),
        }
    }
}

async fn catch_up(worker: &Worker, CatchUp { projection, since }: CatchUp, time: Duration) -> Result<TaskResult, Diagnostic> {
    let rule = rule(worker, &projection)?;
    let since: Age = since.parse().map_err(|error| invalid(format!("`since` is {error}")))?;
    let deadline = Deadline::at(Instant::now() + time);
    let mut recent = Recent::new(worker, rule, since.before_now());
    let done = loop {
        match recent.step(deadline).await {
            Ok(true) if !deadline.passed() => {}
            Ok(more) => break !more,
            Err(error) if error.is_deadline() => break false,
            Err(error) => return Err(no_progress(&error)),
        }
    };
    let counts = recent.counts();
    log_progress("catch-up", rule.name(), None, done, counts);
    let answer = Answer::CatchUp(CatchUpAnswer { projection, done, counts });
    Ok(TaskResult { answer, counts: vec![(rule.name(), TaskCount::CaughtUp(counts.caught_up))], failed: 0 })
}

async fn settle(worker: &Worker, Settle { projection }: Settle, time: Duration) -> Result<TaskResult, Diagnostic> {
    let rule = rule(worker, &projection)?;
    let settled = settle::settle(worker.store(), rule, Deadline::at(Instant::now() + time))
        .await
        .map_err(|error| unfinished(&error, "the function's time is too short to read all rows: run `projector verify --repair`"))?;
    tracing::info!(projection, settled, "settle");
    let answer = Answer::Settle(SettleAnswer { projection, settled });
    Ok(TaskResult { answer, counts: vec![(rule.name(), TaskCount::Settled(settled))], failed: 0 })
}

/// Verifies as far as the time allows, and repairs nothing.
async fn verify(worker: &Worker, Verify { projection, sample, run }: Verify, time: Duration) -> Result<TaskResult, Diagnostic> {
    let (rule, store, end) = (rule(worker, &projection)?, worker.store(), Instant::now() + time);
    if sample.is_some_and(|percent| !(1..=100).contains(&percent)) {
        return Err(invalid("`sample` is not a percentage from 1 to 100".to_owned()));
    }
    if run.as_ref().is_some_and(|run| run.len() != 32 || !run.bytes().all(|digit| digit.is_ascii_hexdigit())) {
        return Err(invalid("`run` is not that of an answer: send null to begin a verification".to_owned()));
    }
    let save_by = Deadline::at(end + time / SAVED_WITHIN_A_PART_IN);
    let start = || Progress::start(VERIFY_SEGMENTS, sample);
    let before = match &run {
        None => start(),
        Some(run) => saved(worker, rule, run, save_by).await?.unwrap_or_else(start),
    };
    let mut part = Part::new(worker, rule, before.clone(), Deadline::at(end));
    let mut named = 0;
    let stopped = loop {
        if part.progress().is_done() {
            break None;
        }
        match part.step().await {
            Ok(found) => found.iter().for_each(|finding| log_finding(rule.name(), finding, &mut named)),
            Err(error) => break Some(error),
        }
    };
    let progress = part.end();
    match stopped {
        Some(error) if progress == before => return Err(unfinished(&error, VERIFY_TIME_TOO_SHORT)),
        Some(error) if !error.is_deadline() => tracing::warn!("the rest is left for the next invocation: {error}"),
        _ => {}
    }
    let done = progress.is_done();
    let run = if done && run.is_none() {
        None
    } else {
        let json = serde_json::to_string(&progress).expect("texts and numbers serialise");
        let saved = store.save_verification(rule, run, &json, save_by).await;
        Some(saved.map_err(|error| unfinished(&error.into(), VERIFY_TIME_TOO_SHORT))?)
    };
    let totals = progress.totals;
    log_totals(&projection, done, &totals);
    let findings = RowFinding::ALL.iter().map(|finding| (finding.text(), totals.home_rows(*finding))).collect();
    // It may have begun anew.
    let differing = totals.found().saturating_sub(before.totals.found());
    let clean = done && totals.found() == 0;
    let Totals { events, aggregates, children, shared, .. } = totals;
    let answer = VerifyAnswer { projection, sample, run, done, clean, events, aggregates, findings, children, shared };
    Ok(TaskResult { answer: Answer::Verify(answer), counts: vec![(rule.name(), TaskCount::Differing(differing))], failed: 0 })
}

/// Lets timers run out, and notes how old the oldest open instances are.
async fn tick(worker: &Worker, time: Duration) -> Result<TaskResult, Diagnostic> {
    const TOO_SHORT: &str = "the function's time is too short to read the timers that are due: raise its timeout";
    let (now, deadline) = (store::now(), Deadline::at(Instant::now() + time));
    let ticked = processes::tick(worker, &now, deadline).await.map_err(|error| unfinished(&error, TOO_SHORT))?;
    let mut counts = Vec::new();
    for process in worker.registry().processes() {
        let oldest = processes::oldest_open(worker.store(), process, deadline).await.map_err(|error| unfinished(&error, TOO_SHORT))?;
        let age_s = oldest.map_or(0, |oldest| u64::try_from(now.epoch_ms() - oldest.epoch_ms()).unwrap_or(0) / 1_000);
        let instances = ticked.processes.get(process.name()).copied().unwrap_or_default();
        counts.push((process.name(), TaskCount::Ticked(instances, age_s)));
    }
    let Ticked { done, due, failed, .. } = ticked;
    let timed_out = ticked.processes.values().map(|instances| instances.timed_out).sum();
    tracing::info!(done, due, timed_out, failed, "tick");
    Ok(TaskResult { answer: Answer::Tick(TickAnswer { done, due, timed_out, failed }), counts, failed })
}

const VERIFY_TIME_TOO_SHORT: &str = "the function's time is too short for one page of rows or for one history: raise its timeout; what \
                                     was verified before this invocation counts";

/// How far this verification has come; `None` if it must begin anew.
async fn saved(worker: &Worker, rule: &'static dyn DynProjection, run: &str, deadline: Deadline) -> Result<Option<Progress>, Diagnostic> {
    let saved = worker.store().saved_verification(rule, run, deadline).await;
    let progress = match saved.map_err(|error| unfinished(&error.into(), VERIFY_TIME_TOO_SHORT))? {
        // Another deployment may have saved it.
        SavedVerification::Progress(json) => serde_json::from_str(&json).ok(),
        SavedVerification::Lost => None,
        SavedVerification::Replaced => {
            let why = "has given way to another one that has begun since: wait for that one, or begin again without `run`";
            return Err(invalid(format!("this verification of {} {why}", rule.name())));
        }
    };
    if progress.is_none() {
        tracing::warn!(projection = rule.name(), "the verification begins anew: the parking table does not have how far it had come");
    }
    Ok(progress)
}

/// One line for each of the first findings. Ids of aggregates may be logged. Keys of shared rows and of child rows are data of events.
fn log_finding(projection: &str, finding: &Finding, named: &mut usize) {
    let (aggregate, attribute, finding) = match finding {
        Finding::Home { id, finding, .. } => (Some(id.as_str()), None, finding.text().to_owned()),
        Finding::Child(child, finding) => (Some(child.key.as_str()), None, format!("child {}", finding.text())),
        Finding::Shared(wrong) => {
            let Some(finding) = &wrong.finding else { return };
            (None, Some(&wrong.cell.1), finding.text().to_owned())
        }
    };
    if *named < NAMED_MAX {
        tracing::warn!(projection, aggregate, attribute, finding, "a row differs");
        *named += 1;
    }
}

fn log_totals(projection: &str, done: bool, totals: &Totals) {
    let count = |finding| totals.home_rows(finding);
    tracing::info!(
        projection,
        done,
        events = totals.events,
        aggregates = totals.aggregates,
        missing = count(RowFinding::Missing),
        drifted = count(RowFinding::Drifted),
        ahead = count(RowFinding::Ahead),
        behind = count(RowFinding::Behind),
        outdated = count(RowFinding::Outdated),
        parked = count(RowFinding::Parked),
        orphaned = count(RowFinding::Orphaned),
        children = totals.children,
        shared = totals.shared,
        "verification"
    );
}

fn rule(worker: &Worker, projection: &str) -> Result<&'static dyn DynProjection, Diagnostic> {
    find_projection(worker.registry(), projection).map_err(|error| invalid(error.to_string()))
}

/// One line with the totals so far, and for a rebuild also with its segment.
fn log_progress(task: &'static str, projection: &str, rebuild: Option<&RebuildAnswer>, done: bool, counts: Counts) {
    let (segment, segments) = (rebuild.map(|rebuild| rebuild.segment), rebuild.map(|rebuild| rebuild.segments));
    let Counts { events, aggregates, replaced, created, changed, caught_up, parked, stopped } = counts;
    tracing::info!(
        projection, segment, segments, done, events, aggregates, replaced, created, changed, caught_up, parked, stopped, "{task}"
    );
}

fn invalid(error_message: String) -> Diagnostic {
    Diagnostic { error_type: "InvalidTask".to_owned(), error_message }
}

/// The error of an invocation that did not complete a single page.
fn no_progress(error: &OperationError) -> Diagnostic {
    unfinished(error, "the function's time is too short for one page of the event store: raise its timeout; completed work is kept")
}

/// The error of a task that did not get done: `too_short` says what helps if it ran out of time.
fn unfinished(error: &OperationError, too_short: &str) -> Diagnostic {
    let error_message = if error.is_deadline() { too_short.to_owned() } else { error.to_string() };
    Diagnostic { error_type: "Unfinished".to_owned(), error_message }
}
