//! Splits a text into JSON documents. A document may have its own line, span several lines or share a line with others.
//!
//! The buffer holds the text that is read but not yet returned. If it ends within a document, it is doubled before the next
//! attempt to parse: that keeps the work linear in the size of the file, and the buffer below twice the largest document.

use std::io::{self, BufRead, Read};
use std::path::Path;
use std::sync::Arc;

use serde_json::value::RawValue;

use super::{InputError, Origin};
use crate::sources::envelope::newlines;

/// Ten times the largest document of AWS: a Lambda event has at most 6 MB, a `GetRecords` answer 1 MB.
/// <https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html>
const DOCUMENT_BYTES_MAX: usize = 64 << 20;

/// A line is read in pieces of this size, because a file may be one huge line of many documents.
const READ_BYTES_MAX: u64 = 1 << 20;

const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// A JSON object or list, and where it starts.
pub(super) struct Document {
    pub json: Box<RawValue>,
    pub at: Origin,
}

pub(super) struct Documents<R> {
    reader: R,
    file: Arc<Path>,
    bytes_max: usize,
    buffer: Vec<u8>,
    /// Everything before it in the buffer has been returned.
    start: usize,
    /// The 1-based line of `start`, and the number of bytes before it on that line.
    line: u64,
    column: usize,
    ended: bool,
    /// Kept until all complete documents before the damage have been returned.
    damage: Option<io::Error>,
}

/// What a text starts with.
enum Look {
    Document(Box<RawValue>, usize),
    Unfinished,
    Malformed { column: usize },
}

impl<R: BufRead> Documents<R> {
    pub(super) fn new(reader: R, file: Arc<Path>) -> Self {
        Self { reader, file, bytes_max: DOCUMENT_BYTES_MAX, buffer: Vec::new(), start: 0, line: 1, column: 0, ended: false, damage: None }
    }

    /// Discards the rest.
    pub(super) fn stop(&mut self) {
        self.ended = true;
        self.damage = None;
        self.buffer.clear();
        self.start = 0;
    }

    /// Reads until the buffer holds this many bytes and ends with a complete line or piece, or the text ends.
    fn read_to(&mut self, bytes: usize) {
        self.buffer.drain(..self.start);
        self.start = 0;
        while self.buffer.len() < bytes && !self.ended {
            let mut piece = (&mut self.reader).take(READ_BYTES_MAX);
            match piece.read_until(b'\n', &mut self.buffer) {
                Ok(read) => self.ended = read == 0,
                Err(error) => {
                    self.ended = true;
                    self.damage = Some(error);
                }
            }
        }
    }

    fn rest(&self) -> &[u8] {
        &self.buffer[self.start..]
    }

    fn advance(&mut self, bytes: usize) {
        let passed = &self.buffer[self.start..self.start + bytes];
        self.line += newlines(passed);
        self.column = match passed.iter().rposition(|byte| *byte == b'\n') {
            Some(end) => bytes - end - 1,
            None => self.column + bytes,
        };
        self.start += bytes;
    }

    /// The length of the line at `from`, including its end. `None` if it is longer than the longest document.
    fn line_len(&mut self, from: usize) -> Option<usize> {
        loop {
            let line = &self.rest()[from..];
            if let Some(end) = line.iter().position(|byte| *byte == b'\n') {
                return Some(end + 1);
            }
            if self.ended {
                return Some(line.len());
            }
            if line.len() > self.bytes_max {
                return None;
            }
            self.read_to(2 * self.rest().len().max(1));
        }
    }

    /// The error for an unreadable document: a single bad line, or a broken document after which nothing can be read.
    fn refuse(&mut self, at: Origin) -> InputError {
        let Some(line_len) = self.line_len(0) else {
            return self.too_long(at);
        };
        let passed = self.column;
        let column = match look(&self.rest()[..line_len]) {
            Look::Malformed { column } => passed + column,
            // The line may be the start of a longer document, unless the next line is a complete document (then this one is
            // truncated) or this is the last line.
            Look::Unfinished if self.is_last_or_before_a_document(line_len) => passed + line_len,
            Look::Unfinished | Look::Document(..) => {
                self.stop();
                return InputError::BrokenDocument { at };
            }
        };
        self.advance(line_len);
        InputError::MalformedLine { at, column }
    }

    fn is_last_or_before_a_document(&mut self, mut next: usize) -> bool {
        loop {
            let Some(len) = self.line_len(next) else {
                return false;
            };
            let line = self.rest()[next..next + len].trim_ascii();
            if len == 0 {
                return true;
            }
            if !line.is_empty() {
                return matches!(look(line), Look::Document(_, end) if end == line.len());
            }
            next += len;
        }
    }

    fn too_long(&mut self, at: Origin) -> InputError {
        self.stop();
        let bytes_max = self.bytes_max;
        InputError::DocumentTooLong { at, bytes_max }
    }
}

impl<R: BufRead> Iterator for Documents<R> {
    type Item = Result<Document, InputError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            self.advance(blank_len(self.rest()));
            let at = Origin { file: Arc::clone(&self.file), line: self.line, record: None };
            let unread = self.rest().len();
            if unread == 0 && !self.ended {
                self.read_to(1);
                continue;
            }
            if unread == 0 {
                let source = self.damage.take()?;
                return Some(Err(InputError::Damaged { at, source }));
            }
            match look(self.rest()) {
                Look::Document(_, len) if len > self.bytes_max => {
                    return Some(Err(self.too_long(at)));
                }
                Look::Document(json, len) => {
                    self.advance(len);
                    return Some(Ok(Document { json, at }));
                }
                Look::Unfinished if unread > self.bytes_max => {
                    return Some(Err(self.too_long(at)));
                }
                Look::Unfinished if !self.ended => self.read_to(2 * unread),
                // The damage is the cause and is reported next.
                Look::Unfinished if self.damage.is_some() => self.advance(unread),
                Look::Unfinished | Look::Malformed { .. } => return Some(Err(self.refuse(at))),
            }
        }
    }
}

/// Nesting takes no stack here: a raw value is skipped, not built.
fn look(text: &[u8]) -> Look {
    // A number or a word is JSON, too, but not a capture, and prose is full of them.
    if !matches!(text.first(), Some(b'{' | b'[')) {
        return Look::Malformed { column: 1 };
    }
    let mut values = serde_json::Deserializer::from_slice(text).into_iter::<Box<RawValue>>();
    match values.next() {
        Some(Ok(json)) => Look::Document(json, values.byte_offset()),
        Some(Err(error)) if !error.is_eof() => Look::Malformed { column: error.column() },
        Some(Err(_)) | None => Look::Unfinished,
    }
}

fn blank_len(text: &[u8]) -> usize {
    let mut rest = text;
    loop {
        let next = rest.trim_ascii_start();
        let next = next.strip_prefix(BYTE_ORDER_MARK).unwrap_or(next);
        if next.len() == rest.len() {
            return text.len() - rest.len();
        }
        rest = next;
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::read;
    use super::*;

    const RECORD: &str = r#"{"dynamodb":{}}"#;

    fn within(bytes_max: usize, text: &str) -> Vec<Result<Document, InputError>> {
        let mut documents = Documents::new(text.as_bytes(), Path::new("f").into());
        documents.bytes_max = bytes_max;
        documents.collect()
    }

    #[test]
    fn a_malformed_line_is_reported_by_number_and_the_others_are_read() {
        for bad in ["{\"dynamodb\":", "{\"dynam", "oops", "}", "{\"a\":1,}", "5"] {
            let items = read(format!("{RECORD}\n{bad}\n\n{RECORD}"));
            assert_eq!(items.len(), 3, "{bad} {items:?}");
            assert_eq!(items[0], format!("f:1 = {RECORD}"));
            assert!(items[1].starts_with("f:2 is not JSON from"), "{bad}");
            assert_eq!(items[2], format!("f:4 = {RECORD}"));
        }
    }

    #[test]
    fn a_truncated_last_line_is_a_malformed_line() {
        let items = read(format!("{RECORD}\n{{\"dynamodb\":{{"));
        assert_eq!(items.len(), 2);
        assert!(items[1].starts_with("f:2 is not JSON from column 13 on"));
        let items = read(format!("{RECORD}{{\"dynamodb\":{{"));
        assert!(items[1].starts_with("f:1 is not JSON from column 28 on"));
    }

    #[test]
    fn text_after_a_document_on_its_line_is_reported_with_its_column() {
        let items = read(format!("{RECORD}{RECORD} oops\n{RECORD}"));
        assert_eq!(items.len(), 4);
        assert!(items[2].starts_with("f:1 is not JSON from column 32 on"));
        assert_eq!(items[3], format!("f:2 = {RECORD}"));
    }

    #[test]
    fn documents_over_many_lines_and_single_lines_can_follow_each_other() {
        let pretty = "{\n\"Records\": [\n  {\"dynamodb\":{}},\n  {\"dynamodb\":{}}\n]\n}";
        let items = read(format!("{RECORD}\n{pretty}\n{pretty}{RECORD}\n"));
        let places: Vec<_> = items.iter().filter_map(|item| item.split(" = ").next()).collect();
        let expected = "f:1|f:4 (record 1)|f:5 (record 2)|f:10 (record 1)|f:11 (record 2)|f:13";
        assert_eq!(places.join("|"), expected);
    }

    #[test]
    fn a_broken_document_over_many_lines_is_fatal_and_earlier_ones_are_delivered() {
        // This rest is so long that it is still unread when the document turns out to be broken.
        let unread = "{}\n".repeat(1000);
        for end in ["oops\n]}", &format!("oops\n{unread}"), "{}"] {
            let items = read(format!("{RECORD}\n{{\n  \"Records\": [\n    {end}\n"));
            assert_eq!(items.len(), 2, "{items:?}");
            assert!(items[1].starts_with("fatal: the JSON document that starts at f:2 is"));
        }
        let items = read(format!("{{\"Records\":[\n{RECORD},\noops\n{RECORD}\n]}}"));
        assert_eq!(items.len(), 1, "{items:?}");
    }

    #[test]
    fn text_that_is_not_utf_8_is_a_malformed_line() {
        let items = read(b"{\"dynamodb\":\"\xff\"}\n{\"dynamodb\":{}}".to_vec());
        assert!(items[0].starts_with("f:1 is not JSON"), "{items:?}");
        assert_eq!(items[1], format!("f:2 = {RECORD}"));
    }

    #[test]
    fn a_document_over_the_limit_is_fatal_on_one_line_and_on_many() {
        let line = format!("[{}1]", "1,".repeat(40));
        let many = format!("[{}1]", "1,\n".repeat(40));
        for long in [line, many, "[".repeat(1000)] {
            let items = within(60, &format!("{RECORD}\n{long}\n{RECORD}"));
            assert_eq!(items.len(), 2);
            let error = items[1].as_ref().err().map(ToString::to_string);
            let start = "the JSON document at f:2 is longer than 60 bytes";
            assert!(error.is_some_and(|error| error.starts_with(start)), "{long}");
        }
    }

    #[test]
    fn a_line_of_many_documents_may_be_longer_than_the_limit() {
        assert_eq!(within(60, &RECORD.repeat(1000)).len(), 1000);
    }

    #[test]
    fn an_endless_line_is_not_read_to_its_end() {
        for byte in [b'x', b'['] {
            let long = io::repeat(byte).take(4 * READ_BYTES_MAX);
            let mut documents = Documents::new(io::BufReader::new(long), Path::new("f").into());
            documents.bytes_max = 1000;
            let error = documents.next().and_then(Result::err);
            assert!(matches!(error, Some(InputError::DocumentTooLong { .. })));
            assert!(documents.next().is_none());
            assert!(documents.reader.get_ref().limit() > 2 * READ_BYTES_MAX);
        }
    }

    #[test]
    fn deep_nesting_takes_no_stack() {
        let deep = "[".repeat(100_000);
        let closed = format!("{deep}{}", "]".repeat(100_000));
        let record = format!("{{\"dynamodb\":{closed}}}");
        assert_eq!(read(record.clone()), [format!("f:1 = {record}")]);
        assert_eq!(read(closed).len(), 1);
        let items = read(format!("{RECORD}\n{deep}\n{RECORD}"));
        assert!(items[1].starts_with("f:2 is not JSON"));
        assert_eq!(items[2], format!("f:3 = {RECORD}"));
    }
}
