//! How things look on a terminal.

use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
    io::{self, IsTerminal as _},
    time::Duration,
};

use comfy_table::{Attribute, Cell, CellAlignment, ContentArrangement, Table, presets::UTF8_BORDERS_ONLY};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressFinish, ProgressState, ProgressStyle};
use projection_vocabulary::{Attributes, DynProjection, RowKey, Value};
use tracing_subscriber::filter::LevelFilter;

use crate::engine::report::{Report, Tally};

const SPIN_EVERY: Duration = Duration::from_millis(200);
/// Columns that a projection's name gets in a summary: with the others 80, up to ten million records.
const NAME_COLUMNS: usize = 24;

/// Shows warnings, or what `RUST_LOG` names, on the standard error output.
pub fn log_to_stderr() {
    let level = std::env::var("RUST_LOG").ok().and_then(|level| level.parse().ok()).unwrap_or(LevelFilter::WARN);
    let log = tracing_subscriber::fmt().with_max_level(level).with_writer(io::stderr).with_target(false).without_time();
    log.with_ansi(io::stderr().is_terminal()).init();
}

/// A progress bar over bytes; it shows only on a terminal.
pub fn progress(bytes: Option<u64>) -> ProgressBar {
    let template = match bytes {
        Some(_) => "{bar:30} {bytes}/{total_bytes} {msg} {eta} left",
        None => "{spinner} {bytes} {msg}",
    };
    let bar = ProgressBar::with_draw_target(bytes, ProgressDrawTarget::stderr());
    bar.set_style(ProgressStyle::with_template(template).expect("the template is valid"));
    bar
}

/// Something that moves on a terminal as long as there is nothing else to show.
pub fn spinner(what: &'static str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    bar.set_style(ProgressStyle::with_template("{spinner} {msg} {elapsed}").expect("the template is valid"));
    bar.set_message(what);
    bar.enable_steady_tick(SPIN_EVERY);
    bar
}

/// A progress bar over about so many items, from some that were done before; it shows only on a terminal, and goes with its value.
pub fn progress_of_items(items: Option<u64>, done_before: u64) -> ProgressBar {
    let template = match items {
        Some(_) => "{bar:30} {human_pos}/~{human_len} items {rate} {msg} {eta} left",
        None => "{spinner} {human_pos} items {rate} {msg}",
    };
    let bar = ProgressBar::with_draw_target(items, ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template(template).expect("the template is valid");
    bar.set_style(style.with_key("rate", |state: &ProgressState, text: &mut dyn fmt::Write| {
        // A bar that cannot be drawn is no reason to stop.
        let _ = write!(text, "{:.0}/s", state.per_sec());
    }));
    bar.with_position(done_before).with_finish(ProgressFinish::AndClear)
}

/// What became of the records, in a few lines of at most 80 columns.
pub fn summary(report: &Report, unreadable: u64, took: Duration) -> String {
    let mut table = table();
    table.set_header(header(["projection", "applied", "duplicate", "healed", "parked", "failed"]));
    let mut row = |name: &str, tally: &Tally| {
        let Tally { applied, duplicate, healed, parked, failed, gaps: _, reprojected: _, oldest_ms: _ } = tally;
        let counts = [applied, duplicate, healed, parked, failed].map(|count| Cell::new(count).set_alignment(CellAlignment::Right));
        table.add_row(std::iter::once(Cell::new(shortened(name, NAME_COLUMNS))).chain(counts));
    };
    for (name, tally) in &report.projections {
        row(name, tally);
    }
    row("all records", &report.total);
    let mut text = format!("{table}\n");
    let Report { records, usage, .. } = report;
    let mut line = |line: String| writeln!(text, "{line}").expect("a String takes all");
    line(format!("{records} records in {:.2} s, {} ignored", took.as_secs_f64(), report.ignored_total()));
    for (reason, count) in &report.ignored {
        line(format!("  {count} {reason}"));
    }
    if unreadable > 0 {
        line(format!("{unreadable} pieces of the input unreadable"));
    }
    if report.total.gaps > 0 {
        line(format!("{} reads of the event store for what was missing", report.total.gaps));
    }
    if report.total.reprojected > 0 {
        line(format!("{} aggregates projected anew by a newer revision of their rule", report.total.reprojected));
    }
    for (reason, count) in &report.reasons {
        line(format!("failed: {count}: {reason}"));
    }
    #[allow(clippy::cast_precision_loss, reason = "shown with three digits")]
    let each = |amount: f64| if *records == 0 { 0.0 } else { amount / *records as f64 };
    #[allow(clippy::cast_precision_loss, reason = "shown with three digits")]
    let requests = usage.requests as f64;
    line(format!(
        "{requests} requests ({:.3} a record), {} write units ({:.3} a record)",
        each(requests),
        usage.write_units,
        each(usage.write_units)
    ));
    if usage.read_units > 0.0 {
        line(format!("{} read units", usage.read_units));
    }
    if usage.retries > 0 {
        line(format!("{} of the requests were retries, {} after a conflict", usage.retries, usage.conflicts));
    }
    text
}

/// The first rows of a projection. Rows with the same attributes stand in one table, or in lines if the terminal is too narrow.
pub fn rows(rule: &dyn DynProjection, rows: &BTreeMap<RowKey, Attributes>, show: usize) -> String {
    let mut text = String::new();
    let mut shapes: BTreeMap<Vec<&str>, Vec<(&RowKey, &Attributes)>> = BTreeMap::new();
    for (key, row) in rows.iter().take(show) {
        shapes.entry(row.keys().map(String::as_str).collect()).or_default().push((key, row));
    }
    let shown = rows.len().min(show);
    let more = if shown < rows.len() { format!(", the first {shown}") } else { String::new() };
    let mut line = |line: String| writeln!(text, "{line}").expect("a String takes all");
    line(format!("{}: {} rows{more}", rule.name(), rows.len()));
    for (names, rows) in shapes {
        let mut table = table();
        let mut lines = String::new();
        table.set_header(header(std::iter::once(rule.key()).chain(names.iter().copied())));
        for (key, row) in rows {
            write!(lines, "  {key}:").expect("a String takes all");
            for (name, value) in row {
                write!(lines, " {name}={value}").expect("a String takes all");
            }
            lines.push('\n');
            let cells = row.values().map(|value| {
                let alignment = if matches!(value, Value::Number(_)) { CellAlignment::Right } else { CellAlignment::Left };
                Cell::new(value).set_alignment(alignment)
            });
            table.add_row(std::iter::once(Cell::new(key)).chain(cells));
        }
        let drawn = table.to_string();
        let columns = drawn.lines().next().map_or(0, |border| border.chars().count());
        let fits = table.width().is_none_or(|terminal| columns <= usize::from(terminal));
        line(if fits { drawn } else { lines.trim_end().to_owned() });
    }
    text
}

/// A text that does nothing to a terminal but stand there, in one line: controls are written out.
pub fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for char in text.chars() {
        if is_control(char) { shown.extend(char.escape_default()) } else { shown.push(char) }
    }
    shown
}

/// Whether a character moves the cursor, ends a line or turns the direction of what follows.
pub fn is_control(char: char) -> bool {
    char.is_control() || matches!(char, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// A printable text that is cut in its middle if it has more columns: ids often differ at either end.
pub fn shortened(text: &str, columns: usize) -> String {
    let shown = printable(text);
    // What is not ASCII may be two columns wide.
    let width = |char: char| if char.is_ascii() { 1 } else { 2 };
    if shown.chars().map(width).sum::<usize>() <= columns {
        return shown;
    }
    let half = |chars: &mut dyn Iterator<Item = char>, mut left: usize| -> Vec<char> {
        chars.take_while(|char| left.checked_sub(width(*char)).map(|rest| left = rest).is_some()).collect()
    };
    let half_columns = (columns - 2) / 2;
    let begins = half(&mut shown.chars(), half_columns);
    let ends = half(&mut shown.chars().rev(), half_columns);
    begins.into_iter().chain(['…']).chain(ends.into_iter().rev()).collect()
}

/// The head of a table.
pub fn header<'a>(names: impl IntoIterator<Item = &'a str>) -> impl Iterator<Item = Cell> {
    names.into_iter().map(|name| Cell::new(name).add_attribute(Attribute::Bold))
}

/// An empty table.
pub fn table() -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_BORDERS_ONLY);
    // Cells stay whole: names and amounts cut in two are hard to read.
    table.set_content_arrangement(ContentArrangement::Disabled);
    table
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{printable, shortened, summary};
    use crate::{
        engine::report::{Report, Tally},
        store::Usage,
    };

    #[test]
    fn the_summary_of_ten_million_records_fits_80_columns() {
        let most =
            Tally { applied: 9_999_999, duplicate: 9_999_999, healed: 9_999_999, parked: 999_999, failed: 999_999, ..Tally::default() };
        let usage =
            Usage { requests: 9_999_999, write_units: 9_999_999.5, read_units: 9_999_999.5, retries: 9_999_999, conflicts: 9_999_999 };
        let projections = [("a-projection-of-some-length", most)].into();
        let report = Report { records: 9_999_999, projections, total: most, usage, ..Report::default() };
        let text = summary(&report, 9_999_999, Duration::from_secs(99_999));
        assert!(text.lines().count() > 8 && text.lines().all(|line| line.chars().count() <= 80), "{text}");
    }

    #[test]
    fn controls_are_written_out_and_letters_of_all_scripts_stay() {
        assert_eq!(printable("a\n\u{1b}[2J\u{9b}\u{7f}\u{202e}"), r"a\n\u{1b}[2J\u{9b}\u{7f}\u{202e}");
        assert_eq!(printable(r#"é日本\"'"#), r#"é日本\"'"#);
    }

    #[test]
    fn a_long_text_keeps_both_ends() {
        assert_eq!(shortened("0123456789", 10), "0123456789");
        assert_eq!(shortened("0123456789a", 10), "0123…789a");
        assert_eq!(shortened("日本日本日本", 10), "日本…日本");
    }
}
