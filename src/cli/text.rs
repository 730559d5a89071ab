//! Texts for a terminal: safe to print, of a known width, in plain English.

use std::fmt;

use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

use crate::escape;
pub use crate::plural::{count, count_of, plural};

/// An amount of capacity: `1 write unit`, `2.5 write units`.
pub fn units(amount: f64, what: &str) -> String {
    let (amount, unit) = (amount.to_string(), format!("{what} unit"));
    if amount == "1" { format!("1 {unit}") } else { format!("{amount} {}", plural(&unit)) }
}

/// `once`, or `3 times`.
pub fn times(number: u64) -> String {
    if number == 1 { "once".to_owned() } else { format!("{number} times") }
}

/// A text in one line that leaves the terminal alone, for those who lay it out. All that is printed is escaped anyway.
pub fn printable(text: &str) -> String {
    escape::line(text)
}

/// How many columns of a terminal a printable text takes.
pub fn width(text: &str) -> usize {
    text.width()
}

/// A printable text that loses its middle if it has more columns: ids often differ at either end.
pub fn shortened(text: &str, columns: usize) -> String {
    let shown = printable(text);
    if width(&shown) <= columns {
        return shown;
    }
    let half = |chars: &mut dyn Iterator<Item = char>, mut left: usize| -> Vec<char> {
        let width = |char: char| char.width().unwrap_or_default();
        chars.take_while(|char| left.checked_sub(width(*char)).map(|rest| left = rest).is_some()).collect()
    };
    let half_columns = (columns - 1) / 2;
    let begins = half(&mut shown.chars(), half_columns);
    let ends = half(&mut shown.chars().rev(), half_columns);
    begins.into_iter().chain(['…']).chain(ends.into_iter().rev()).collect()
}

/// A timestamp of the event store to the minute: `2026-01-05 09:00`, which is UTC.
pub fn to_the_minute(timestamp: &str) -> String {
    cut(timestamp, "2026-01-05T09:00".len())
}

/// A timestamp of the event store to the second: `2026-01-05 09:00:00`, which is UTC.
pub fn to_the_second(timestamp: &str) -> String {
    cut(timestamp, "2026-01-05T09:00:00".len())
}

fn cut(timestamp: &str, bytes: usize) -> String {
    printable(timestamp.get(..bytes).unwrap_or(timestamp)).replacen('T', " ", 1)
}

/// Lines of an output, put together.
#[derive(Default)]
pub struct Lines(String);

impl Lines {
    /// Adds a line.
    pub fn add(&mut self, line: impl fmt::Display) {
        self.0 += &escape::line(&line.to_string());
        self.0.push('\n');
    }

    /// Adds lines that are laid out already.
    pub fn drawn(&mut self, lines: &str) {
        self.0 += &escape::lines(lines);
        self.0.push('\n');
    }

    /// Adds a paragraph that is wrapped between words; the second and later lines are indented.
    pub fn paragraph(&mut self, first: &str, words: &str, indent: &str, columns: usize) {
        // A word that is long, or has hyphens, may be an id or a pattern to copy: it stays whole.
        let options = textwrap::Options::new(columns).initial_indent(first).subsequent_indent(indent).break_words(false);
        let options = options.word_splitter(textwrap::WordSplitter::NoHyphenation);
        self.drawn(&textwrap::fill(&escape::line(words), options));
    }

    /// All of them, each with its line end.
    pub fn into_text(self) -> String {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_keeps_both_ends() {
        assert_eq!(shortened("0123456789", 10), "0123456789");
        assert_eq!(shortened("0123456789a", 10), "0123…789a");
        assert_eq!(shortened("日本日本日本", 10), "日本…日本");
        assert_eq!(shortened("ééééééééééé", 10), "éééé…éééé", "a letter beyond ASCII is one column wide");
    }

    #[test]
    fn a_timestamp_is_cut_and_what_is_none_stays_printable() {
        assert_eq!(to_the_minute("2026-01-05T09:00:30.000Z"), "2026-01-05 09:00");
        assert_eq!(to_the_second("2026-01-05T09:00:30.000Z"), "2026-01-05 09:00:30");
        assert_eq!(to_the_second("soon\u{1b}"), r"soon\u001b");
    }
}
