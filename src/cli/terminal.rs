//! The terminal: how much is said on the standard error output, in which colours, and how tables and progress look.

use std::{
    env,
    fmt::{self, Display},
    io::{self, IsTerminal as _, Write as _},
    panic,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use comfy_table::{Cell, ContentArrangement, Table, presets::UTF8_BORDERS_ONLY};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressFinish, ProgressState, ProgressStyle, WeakProgressBar};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::{
    Layer as _,
    filter::{LevelFilter, Targets},
    fmt::{FmtContext, FormatEvent, FormatFields, format::Writer},
    layer::SubscriberExt as _,
    registry::LookupSpan,
    util::SubscriberInitExt as _,
};

use crate::escape;

const SPIN_EVERY: Duration = Duration::from_millis(200);
/// Columns to use where no terminal reports how many it has.
const COLUMNS_DEFAULT: u16 = 80;
/// Columns below which nothing is laid out: a table as narrow as this is unreadable in any case.
const COLUMNS_MIN: usize = 40;

/// Whether only errors are shown. Like the log's level, it is set once, for the whole process.
static QUIET: AtomicBool = AtomicBool::new(false);

/// The progress bar that is drawn now, if any. Lines on the same output must not be printed into it.
static BAR: Mutex<Option<WeakProgressBar>> = Mutex::new(None);

/// Sets how much is shown on the standard error output: errors alone, or the log from a level on. Without either flag the log has
/// warnings, or what `RUST_LOG` names.
pub fn set_up(quiet: bool, verbose: u8) {
    QUIET.store(quiet, Relaxed);
    let level = match (quiet, verbose) {
        (true, _) => LevelFilter::ERROR,
        (false, 0) => env::var("RUST_LOG").ok().and_then(|level| level.parse().ok()).unwrap_or(LevelFilter::WARN),
        (false, 1) => LevelFilter::INFO,
        (false, _) => LevelFilter::DEBUG,
    };
    let lines = tracing_subscriber::fmt::layer().event_format(LogLine { styled: is_styled(io::stderr().is_terminal()) });
    // A log that nobody can take is lost quietly: to report that would fail in the same way.
    let lines = lines.with_writer(|| StandardError).log_internal_errors(false);
    // Below INFO, the SDK logs whole requests and answers, with event data.
    let targets = Targets::new().with_target(env!("CARGO_CRATE_NAME"), level).with_default(level.min(LevelFilter::INFO));
    tracing_subscriber::registry().with(lines.with_filter(targets)).init();
    // The place only: a panic's message may quote event data.
    panic::set_hook(Box::new(|panic| {
        let place = panic.location().map_or_else(|| "an unknown place".to_owned(), ToString::to_string);
        error(format_args!("panicked at {place}: a bug in the worker or in a rule"));
    }));
}

/// A line of the log: its level, its message and its fields.
struct LogLine {
    styled: bool,
}

impl<S, N> FormatEvent<S, N> for LogLine
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut line: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut fields = String::new();
        context.field_format().format_fields(Writer::new(&mut fields), event)?;
        let (level, fields) = (*event.metadata().level(), escape::line(&fields));
        let colour = match level {
            Level::ERROR => "31",
            Level::WARN => "33",
            _ => "2",
        };
        if self.styled { writeln!(line, "\u{1b}[{colour}m{level:>5}\u{1b}[0m {fields}") } else { writeln!(line, "{level:>5} {fields}") }
    }
}

/// Whether to use colours and bold type on an output: on terminals that know how, unless `NO_COLOR` is set (<https://no-color.org>).
fn is_styled(is_terminal: bool) -> bool {
    is_terminal && !is_dumb() && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Whether the terminal can only append text.
fn is_dumb() -> bool {
    env::var_os("TERM").is_some_and(|term| term == "dumb")
}

/// Prints a remark on the standard error output, unless only errors are wanted.
pub fn note(remark: impl Display) {
    if !QUIET.load(Relaxed) {
        print_error_line(remark);
    }
}

/// Says that a command reads what is typed, if it does: it would seem to hang.
pub fn note_waiting(reads_standard_input: bool) {
    if reads_standard_input && io::stdin().is_terminal() {
        note("reading from the terminal; end with Ctrl-D on a line of its own");
    }
}

/// Asks a question on the standard error output. Only `y` and `yes` agree.
pub fn confirm(question: impl Display) -> anyhow::Result<bool> {
    if !io::stdin().is_terminal() {
        anyhow::bail!("this needs an answer: run it in a terminal, or add --yes");
    }
    let _ = StandardError.write_all(format!("{question} [y/N] ").as_bytes());
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}

/// Prints an error on the standard error output.
pub fn error(error: impl Display) {
    print_error_line(format_args!("error: {error}"));
}

fn print_error_line(line: impl Display) {
    // If the standard error output is closed there is nowhere left to say so.
    let _ = StandardError.write_all((escape::line(&line.to_string()) + "\n").as_bytes());
}

/// The standard error output, by whole lines that are escaped already. A progress bar makes room for them.
struct StandardError;

impl io::Write for StandardError {
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        let bar = BAR.lock().ok().and_then(|bar| bar.as_ref()?.upgrade());
        match bar.filter(|bar| !bar.is_finished()) {
            Some(bar) => bar.suspend(|| io::stderr().write_all(lines))?,
            None => io::stderr().write_all(lines)?,
        }
        Ok(lines.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// How many columns there are to print tables in: those of the terminal, else what `COLUMNS` says, else 80.
pub fn columns() -> usize {
    let of_terminal = Table::new().width();
    let asked_for = || env::var("COLUMNS").ok()?.parse().ok();
    usize::from(of_terminal.or_else(asked_for).unwrap_or(COLUMNS_DEFAULT)).max(COLUMNS_MIN)
}

/// Where progress is drawn: on a terminal that can move its cursor.
fn draw_target() -> ProgressDrawTarget {
    if QUIET.load(Relaxed) || is_dumb() { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() }
}

/// A progress bar that makes room for other lines.
fn new_bar(length: Option<u64>, template: &str) -> (ProgressBar, ProgressStyle) {
    let bar = ProgressBar::with_draw_target(length, draw_target());
    if let Ok(mut current) = BAR.lock() {
        *current = Some(bar.downgrade());
    }
    (bar, ProgressStyle::with_template(template).expect("the template is valid"))
}

/// Whether progress is drawn.
pub fn shows_progress() -> bool {
    !draw_target().is_hidden()
}

/// A progress bar over a number of bytes, if it is known.
pub fn progress_of_bytes(bytes: Option<u64>) -> ProgressBar {
    let template = match bytes {
        Some(_) => "{bar:30} {bytes}/{total_bytes} {msg} {eta} left",
        None => "{spinner} {bytes} {msg}",
    };
    let (bar, style) = new_bar(bytes, template);
    bar.set_style(style);
    bar
}

/// Something that moves while there is nothing else to show.
pub fn spinner(what: &'static str) -> ProgressBar {
    let (bar, style) = new_bar(None, "{spinner} {msg} {elapsed}");
    bar.set_style(style);
    bar.set_message(what);
    bar.enable_steady_tick(SPIN_EVERY);
    bar
}

/// A progress bar over about this number of items, some of them done before. It disappears when it is dropped.
pub fn progress_of_items(items: Option<u64>, done_before: u64) -> ProgressBar {
    let template = match items {
        Some(_) => "{bar:30} {human_pos}/~{human_len} items {rate} {msg} {eta} left",
        None => "{spinner} {human_pos} items {rate} {msg}",
    };
    let (bar, style) = new_bar(items, template);
    bar.set_style(style.with_key("rate", |state: &ProgressState, text: &mut dyn fmt::Write| {
        // Work does not stop because its bar cannot be drawn.
        let _ = write!(text, "{:.0}/s", state.per_sec());
    }));
    bar.with_position(done_before).with_finish(ProgressFinish::AndClear)
}

/// The head of a table.
pub fn header<'a>(names: impl IntoIterator<Item = &'a str>) -> impl Iterator<Item = Cell> {
    names.into_iter().map(|name| Cell::new(escape::line(name)))
}

/// An empty table.
pub fn table() -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_BORDERS_ONLY);
    // Cells stay whole: names and amounts cut in two are hard to read.
    table.set_content_arrangement(ContentArrangement::Disabled);
    table
}

/// A table as a text, with two spaces between columns instead of three: on 80 columns each counts.
pub fn drawn(mut table: Table) -> String {
    let last = table.column_count().saturating_sub(1);
    for (number, column) in table.column_iter_mut().enumerate() {
        column.set_padding((1, u16::from(number == last)));
    }
    table.to_string()
}
