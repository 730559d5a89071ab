//! The result of a rebuild or a catch-up: in sentences or as JSON, and as an exit code.

use projection_vocabulary::DynProjection;
use serde::Serialize;

use super::{
    EXIT_FINDINGS, EXIT_INTERRUPTED, EXIT_OK,
    out::Out,
    runner::{End, RunSummary},
    stores::Named,
    terminal,
    text::{count, printable, units},
};
use crate::{operations::rebuild::Task, progress::Counts};

/// What is printed about a run.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Summary<'a> {
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
    r#in: &'a Named,
}

impl<'a> Summary<'a> {
    /// Of a run of this task over a number of segments.
    pub fn new(
        rule: &'a dyn DynProjection,
        task: Task,
        segments: usize,
        run: &RunSummary,
        into: Option<&'a str>,
        store: &'a Named,
    ) -> Self {
        Self {
            projection: rule.name(),
            revision: rule.revision(),
            task: match task {
                Task::Rebuild => "rebuild",
                Task::IntoTable => "intoTable",
                Task::DryRun => "dryRun",
                Task::CatchUp => "catchUp",
            },
            into,
            segments,
            end: match run.end {
                End::Done => "done",
                End::Interrupted => "interrupted",
                End::Failed(_) => "failed",
            },
            counts: run.counts,
            requests: run.usage.requests,
            write_units: run.usage.write_units,
            read_units: run.usage.read_units,
            seconds: run.took.as_secs_f64(),
            r#in: store,
        }
    }

    /// Prints it and, on the error output, how to continue if it is not done. Returns the exit code.
    pub fn print(&self, json: bool, run: &RunSummary, how_to_continue: &str, out: &mut Out) -> anyhow::Result<u8> {
        if json {
            out.line(serde_json::to_string(self)?);
        } else {
            out.text(&self.r#in.text());
            out.text(&(self.sentences() + "\n"));
        }
        Ok(match &run.end {
            End::Interrupted => {
                terminal::note(format_args!("interrupted: {how_to_continue}"));
                EXIT_INTERRUPTED
            }
            End::Failed(failed) => {
                terminal::error(printable(&failed.to_string()));
                terminal::note(format_args!("fix the cause; then {how_to_continue}"));
                EXIT_FINDINGS
            }
            End::Done if self.counts.parked + self.counts.stopped > 0 => EXIT_FINDINGS,
            End::Done => EXIT_OK,
        })
    }

    fn sentences(&self) -> String {
        let Counts { events, aggregates, replaced, created, changed, caught_up, parked, stopped } = self.counts;
        let Self { projection, revision, task, end, .. } = self;
        let mut lines = Vec::new();
        lines.push(match (*task, *end) {
            ("catchUp", "done") if self.counts.nothing_done() && parked == 0 => {
                format!("{projection}: no row is behind: nothing to do")
            }
            (_, "done") if self.counts.nothing_done() && parked + stopped == 0 => {
                format!("{projection}: every row is at revision {revision} already: nothing to do")
            }
            ("catchUp", _) => format!("{projection}: {} caught up", count(caught_up, "aggregate")),
            _ => {
                let would = if *task == "dryRun" { "would be " } else { "" };
                format!(
                    "{projection}: {} {would}replaced and {created} created at revision {revision}, {changed} of them changed; \
                     {} {would}caught up",
                    count(replaced, "row"),
                    count(caught_up, "aggregate"),
                )
            }
        });
        if parked > 0 {
            let are = if parked == 1 { "is" } else { "are" };
            lines.push(format!(
                "{} {are} parked; for the reasons: `projector parked list --projection {projection}`",
                count(parked, "aggregate")
            ));
        }
        if stopped > 0 {
            let (have, rows) = if stopped == 1 { ("has", "its row stops") } else { ("have", "their rows stop") };
            lines.push(format!("{} {have} an event that cannot be applied: {rows} just before it", count(stopped, "aggregate")));
        }
        let Self { requests, write_units, read_units, seconds, .. } = self;
        lines.push(format!("{} of {} checked in {seconds:.2} s", count(events, "event"), count(aggregates, "aggregate")));
        let (written, read) = (units(*write_units, "write"), units(*read_units, "read"));
        lines.push(format!("{}, {written}, {read}", count(*requests, "request")));
        lines.join("\n")
    }
}
