//! Verifications and rebuilds that somebody asked for, one at a time, with their progress.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use projection_vocabulary::DynProjection;
use tokio::sync::Notify;

use super::{Console, DevError};
use crate::{
    operations::{
        error::OperationError,
        rebuild::{
            Task,
            segment::{Resume, SegmentRebuild},
        },
        settle::settle,
        verify::{
            self, Repair, Verified,
            parts::{Finding, Part, Progress, WrongCell},
        },
    },
    progress::Counts,
    retry::Deadline,
    store::segment::Segment,
};

/// How many findings are named.
const NAMED_MAX: usize = 50;

/// What to do with the rows of a projection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Compare them with the event store.
    Verify,
    /// The same, and repair what is found.
    Repair,
    /// Write those anew that another revision of the rule wrote.
    Rebuild,
}

impl Kind {
    /// All of them, with the name of each.
    pub const ALL: [(Self, &'static str); 3] = [(Self::Verify, "verify"), (Self::Repair, "repair"), (Self::Rebuild, "rebuild")];

    /// Its name.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(kind, _)| *kind == self).expect("it is one of all").1
    }
}

/// A check, running or done.
#[derive(Clone, Debug)]
pub struct Check {
    /// What was asked for.
    pub kind: Kind,
    /// Of which projection.
    pub projection: &'static str,
    /// How far it has come.
    pub progress: String,
    /// What came of it; `None` while it runs.
    pub result: Option<Outcome>,
}

/// What came of a check.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Whether all is well.
    pub is_clean: bool,
    /// In a sentence.
    pub summary: String,
    /// The first findings.
    pub findings: Vec<String>,
}

/// The checks since the console was started.
#[derive(Default)]
pub struct Checks {
    all: Mutex<Vec<Check>>,
    /// The check that was asked for and has not begun.
    asked: Mutex<Option<(Kind, &'static dyn DynProjection)>>,
    wake: Notify,
}

impl Checks {
    /// The checks, the newest first.
    pub fn all(&self) -> Vec<Check> {
        self.lock().iter().rev().cloned().collect()
    }

    /// Whether one runs.
    pub fn is_running(&self) -> bool {
        runs(&self.lock())
    }

    /// Asks for a check. `false` if another one runs.
    pub fn ask(&self, kind: Kind, rule: &'static dyn DynProjection) -> bool {
        let mut all = self.lock();
        if runs(&all) {
            return false;
        }
        all.push(Check { kind, projection: rule.name(), progress: String::new(), result: None });
        *self.asked.lock().unwrap_or_else(PoisonError::into_inner) = Some((kind, rule));
        self.wake.notify_one();
        true
    }

    fn next(&self) -> Option<(Kind, &'static dyn DynProjection)> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn update(&self, change: impl FnOnce(&mut Check)) {
        if let Some(check) = self.lock().last_mut() {
            change(check);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Check>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn runs(checks: &[Check]) -> bool {
    checks.last().is_some_and(|check| check.result.is_none())
}

impl Console {
    /// Carries out what is asked for, one check after the other, for as long as the future is polled.
    pub(super) async fn run_checks(self: Arc<Self>) -> Result<(), DevError> {
        loop {
            let Some((kind, rule)) = self.checks.next() else {
                self.checks.wake.notified().await;
                continue;
            };
            let outcome = match kind {
                Kind::Verify => self.verify(rule).await,
                Kind::Repair => self.repair(rule).await,
                Kind::Rebuild => self.rebuild(rule).await,
            };
            let failed = |error: OperationError| Outcome { is_clean: false, summary: error.to_string(), findings: Vec::new() };
            self.checks.update(|check| check.result = Some(outcome.unwrap_or_else(failed)));
            self.journal.touch();
        }
    }

    fn progress(&self, progress: String) {
        self.checks.update(|check| check.progress = progress);
        self.journal.touch();
    }

    async fn verify(&self, rule: &'static dyn DynProjection) -> Result<Outcome, OperationError> {
        let mut part = Part::new(&self.operator, rule, Progress::start(1, None), Deadline::NONE);
        let mut findings = Vec::new();
        while !part.progress().is_done() {
            let found = part.step().await?;
            findings.extend(found.iter().filter_map(named).take(NAMED_MAX - findings.len().min(NAMED_MAX)));
            let totals = &part.progress().totals;
            self.progress(format!("{} events, {} rows", totals.events, totals.rows));
        }
        let totals = &part.progress().totals;
        let found = totals.found();
        let read = format!("{} events of {} aggregates, {} rows", totals.events, totals.aggregates, totals.rows);
        let summary = if found == 0 { format!("{read}: every row is right") } else { format!("{read}: {found} findings") };
        Ok(Outcome { is_clean: found == 0, summary, findings })
    }

    async fn repair(&self, rule: &'static dyn DynProjection) -> Result<Outcome, OperationError> {
        let options = verify::Options { segments: 1, sample: None, repair: Repair::Findings };
        let verified = verify::verify(&self.operator, rule, options, Deadline::NONE).await?;
        let Verified { home, shared, children, repaired, doubt, .. } = &verified;
        let found = verified.found();
        let summary = match doubt {
            Some(doubt) => format!("nothing was repaired: {doubt}"),
            None if found == 0 => "every row is right".to_owned(),
            None => format!("{repaired} of {found} findings were repaired"),
        };
        let home = home.iter().map(|(id, finding)| format!("{id}: {}", finding.text()));
        let shared = shared.iter().map(|((row, attribute), finding)| format!("{row} {attribute}: {}", finding.text()));
        let children = children.iter().map(|(id, finding)| format!("{id}: {}", finding.text()));
        Ok(Outcome { is_clean: verified.is_clean(), summary, findings: home.chain(shared).chain(children).take(NAMED_MAX).collect() })
    }

    async fn rebuild(&self, rule: &'static dyn DynProjection) -> Result<Outcome, OperationError> {
        let mut segment = SegmentRebuild::new(&self.operator, rule, Task::Rebuild, Segment::ALL, Resume::default());
        while segment.step(Deadline::NONE).await? {
            self.progress(format!("{} events, {} rows written", segment.counts().events, segment.counts().written()));
        }
        settle(self.operator.store(), rule, Deadline::NONE).await?;
        let counts = segment.counts();
        let Counts { events, aggregates, changed, parked, stopped, .. } = counts;
        let summary = format!("{events} events of {aggregates} aggregates: {} rows written, {changed} of them changed", counts.written());
        let waiting = if parked + stopped > 0 { format!("; {} wait", parked + stopped) } else { String::new() };
        Ok(Outcome { is_clean: parked + stopped == 0, summary: summary + &waiting, findings: Vec::new() })
    }
}

fn named(finding: &Finding) -> Option<String> {
    Some(match finding {
        Finding::Home { id, finding, .. } => format!("{id}: {}", finding.text()),
        Finding::Child(id, finding) => format!("{id}: {}", finding.text()),
        Finding::Shared(WrongCell { cell: (row, attribute), finding, .. }) => format!("{row} {attribute}: {}", finding.as_ref()?.text()),
    })
}
