//! The outcome of a replay, in sentences and a table of at most 80 columns.

use std::time::Duration;

use comfy_table::{Cell, CellAlignment};

use super::{
    terminal,
    text::{Lines, count, shortened, units},
};
use crate::{
    engine::{
        decode::Ignored,
        report::{Report, Tally},
    },
    store::Usage,
};

/// Columns that a projection's name gets: with the others 80, up to ten million records.
const NAME_COLUMNS: usize = 29;

/// Columns of an event type that no projection handles.
const TYPE_COLUMNS: usize = 60;

/// The report as a text. `unreadable` counts the pieces of the input that are not records.
pub fn text(report: &Report, unreadable: u64, took: Duration) -> String {
    let mut lines = Lines::default();
    let Report { records, total, ignored, unhandled, projections, reasons, usage, store_failures: _, checkpoint: _ } = report;
    let events = records - report.ignored_total();
    let others = report.ignored_total();
    lines.add(format_args!(
        "{} in {:.2} s: {}, {}",
        count(*records, "record"),
        took.as_secs_f64(),
        count(events, "event"),
        if others == 0 { "nothing else".to_owned() } else { format!("{others} with nothing to project:") },
    ));
    for (reason, number) in ignored {
        lines.add(format_args!("  {}", why_ignored(*reason, *number)));
        if *reason == Ignored::UnknownType {
            for (event_type, number) in unhandled.counts() {
                lines.add(format_args!("    {}: {number}", shortened(event_type, TYPE_COLUMNS)));
            }
        }
    }
    if unreadable > 0 {
        lines.add(format_args!("{} of the input cannot be read", count(unreadable, "piece")));
    }

    let mut table = terminal::table();
    table.set_header(terminal::header(["projection", "applied", "duplicate", "healed", "parked", "failed"]));
    let mut row = |name: &str, tally: &Tally| {
        let Tally { applied, duplicate, healed, parked, failed, gaps: _, reprojected: _, instances: _, oldest_ms: _ } = tally;
        let counts = [applied, duplicate, healed, parked, failed].map(|count| Cell::new(count).set_alignment(CellAlignment::Right));
        table.add_row(std::iter::once(Cell::new(shortened(name, NAME_COLUMNS))).chain(counts));
    };
    for (name, tally) in projections {
        row(name, tally);
    }
    row("all events", total);
    lines.add("");
    lines.add("Outcome of the events. Each projection handles its own event types:");
    lines.drawn(&terminal::drawn(table));
    meaning_of(total, &mut lines);
    for (reason, number) in reasons {
        lines.add(format_args!("{} failed: {reason}", count(*number, "event")));
    }
    cost(*records, usage, &mut lines);
    lines.into_text()
}

/// What the columns mean that are not 0, but for the obvious one.
fn meaning_of(total: &Tally, lines: &mut Lines) {
    let Tally { applied: _, duplicate, healed, parked, failed, gaps, reprojected, instances: _, oldest_ms: _ } = *total;
    if duplicate > 0 {
        lines.add("duplicate: delivered again and recognised; counted once");
    }
    if healed > 0 {
        lines.add("healed: missing from the records, read from the event store and applied");
    }
    if parked > 0 {
        lines.add("parked: cannot be applied, or waits behind such an event of its aggregate");
    }
    if failed > 0 {
        lines.add("failed: not applied; to be delivered again");
    }
    if gaps > 0 {
        lines.add(format_args!("{} of the event store for missing events", count(gaps, "read")));
    }
    if reprojected > 0 {
        lines.add(format_args!("{} re-projected because the rule's revision is newer", count(reprojected, "aggregate")));
    }
}

fn why_ignored(reason: Ignored, number: u64) -> String {
    let (is, has, changes) = if number == 1 { ("is", "has", "changes") } else { ("are", "have", "change") };
    match reason {
        Ignored::NotAnEvent => format!("{} other than events: VERSION items, bookkeeping of the event store", count(number, "item")),
        Ignored::UnknownType => format!("{number} {has} an event type that no projection handles"),
        Ignored::Unchanged => format!("{number} {changes} nothing of an event: replication between regions"),
        Ignored::Modified => format!("{number} {changes} an event: the event store must be append-only"),
        Ignored::Removed => format!("{number} {is} the removal of an event: the event store must be append-only"),
        Ignored::Expired => format!("{number} {is} the expiry of an event by time to live"),
    }
}

fn cost(records: u64, usage: &Usage, lines: &mut Lines) {
    let Usage { requests, write_units, read_units, retries, conflicts } = usage;
    #[allow(clippy::cast_precision_loss, reason = "shown with three digits")]
    let per_record = |amount: f64| if records == 0 { 0.0 } else { amount / records as f64 };
    #[allow(clippy::cast_precision_loss, reason = "shown with three digits")]
    let requests_per_record = per_record(*requests as f64);
    lines.add(format_args!(
        "cost: {}, {}; per record {requests_per_record:.3} and {:.3}",
        count(*requests, "request"),
        units(*write_units, "write"),
        per_record(*write_units)
    ));
    if *read_units > 0.0 {
        lines.add(format_args!("      {}", units(*read_units, "read")));
    }
    if *retries > 0 {
        lines.add(format_args!("      {retries} of the requests were retries, {conflicts} after a conflict"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::text::width;

    #[test]
    fn the_report_of_ten_million_records_fits_80_columns() {
        let most =
            Tally { applied: 9_999_999, duplicate: 9_999_999, healed: 9_999_999, parked: 999_999, failed: 999_999, ..Tally::default() };
        let usage =
            Usage { requests: 9_999_999, write_units: 9_999_999.5, read_units: 9_999_999.5, retries: 9_999_999, conflicts: 9_999_999 };
        let projections = [("a-projection-of-some-length", most)].into();
        let ignored = [Ignored::NotAnEvent, Ignored::UnknownType, Ignored::Modified, Ignored::Removed, Ignored::Expired];
        let ignored = ignored.map(|reason| (reason, 999_999)).into();
        let unhandled = [("T".repeat(200), 9_999_999), ("\u{1b}[2J".to_owned(), 1)].into_iter().collect();
        let report = Report { records: 9_999_999, projections, ignored, unhandled, total: most, usage, ..Report::default() };
        let text = text(&report, 9_999_999, Duration::from_secs(99_999));
        assert!(text.lines().count() > 15 && text.lines().all(|line| width(line) <= 80), "{text}");
        assert!(!text.contains('\u{1b}'), "{text}");
    }
}
