//! Captured stream JSON, from files to raw records.
//!
//! A capture comes in many shapes: a Lambda event, the output of `get-records`, JSON Lines, an object from Lambda's on-failure
//! bucket, any of them gzipped. The shape is recognised by the content, never by the name, and a file is read in pieces, so
//! that a capture larger than memory can be replayed. What a record *means* is decided downstream.

mod documents;
mod envelope;
mod error;
mod source;

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::path::Path;
use std::sync::Arc;

use flate2::bufread::MultiGzDecoder;
use serde_json::value::RawValue;

use documents::Documents;
pub use error::InputError;
pub use source::{Source, sources};

/// A file that starts with this many unreadable lines is not a capture: one error reports that, instead of one per line.
const UNREADABLE_LINES_MAX: usize = 16;

/// One captured stream record, not decoded yet. It may not even be an object.
pub struct RawRecord {
    /// The record itself.
    pub json: Box<RawValue>,
    /// Where it was found.
    pub origin: Origin,
}

/// Shows where the record comes from but not its content: data does not belong in logs.
impl fmt::Debug for RawRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RawRecord").field("origin", &self.origin).finish_non_exhaustive()
    }
}

/// Where a record was found; shown as `stream.jsonl:12`, or `event.json:1 (record 3)` when it is one of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The path as given; `-` is the standard input.
    pub file: Arc<Path>,
    /// 1-based; in the uncompressed text.
    pub line: u64,
    /// 1-based, within the list that holds the record; `None` for a single record.
    pub record: Option<usize>,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.line)?;
        self.record.map_or(Ok(()), |record| write!(f, " (record {record})"))
    }
}

/// The records of one source, in the order of the file. Ends after the first fatal error.
pub struct Records {
    documents: Documents<Box<dyn BufRead + Send>>,
    file: Arc<Path>,
    ready: VecDeque<Result<RawRecord, InputError>>,
    /// Until it is set, errors are held back: they may be bad lines, or the whole file may not be a capture.
    found_json: bool,
}

impl Records {
    fn new(file: Arc<Path>, content: impl Read + Send + 'static) -> io::Result<Self> {
        Ok(Self { documents: Documents::new(decompressed(content)?, Arc::clone(&file)), file, ready: VecDeque::new(), found_json: false })
    }

    /// The one error for a file without JSON. `None` if there were no unreadable lines either: the file is empty.
    fn not_json(&mut self) -> Option<InputError> {
        let first = Box::new(self.ready.pop_front()?.err()?);
        self.ready.clear();
        self.documents.stop();
        let file = Arc::clone(&self.file);
        Some(InputError::NotJson { file, first })
    }
}

impl Iterator for Records {
    type Item = Result<RawRecord, InputError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if self.found_json
                && let Some(item) = self.ready.pop_front()
            {
                return Some(item);
            }
            match self.documents.next() {
                Some(Ok(document)) => {
                    self.found_json = true;
                    self.ready.extend(envelope::open(document));
                }
                Some(Err(error)) => {
                    // A fatal error says enough about the file.
                    self.found_json |= error.is_fatal();
                    self.ready.push_back(Err(error));
                    if !self.found_json && self.ready.len() >= UNREADABLE_LINES_MAX {
                        return self.not_json().map(Err);
                    }
                }
                None => return self.not_json().map(Err),
            }
        }
    }
}

/// No JSON text starts with these two bytes.
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

fn decompressed(content: impl Read + Send + 'static) -> io::Result<Box<dyn BufRead + Send>> {
    let mut content = BufReader::new(content);
    let mut start = Vec::new();
    // A pipe may deliver its first bytes one at a time, so peeking into the buffer is not enough.
    (&mut content).take(GZIP_MAGIC.len() as u64).read_to_end(&mut start)?;
    let gzipped = start == GZIP_MAGIC;
    let whole = Cursor::new(start).chain(content);
    if gzipped { Ok(Box::new(BufReader::new(MultiGzDecoder::new(whole)))) } else { Ok(Box::new(whole)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use std::error::Error;
    use std::io::Write;

    fn records(content: impl Into<Vec<u8>>) -> Records {
        Records::new(Path::new("f").into(), Cursor::new(content.into())).unwrap()
    }

    /// One line per item: its origin and content, or the error.
    pub(super) fn read(content: impl Into<Vec<u8>>) -> Vec<String> {
        let shown = records(content).map(|item| match item {
            Ok(record) => format!("{} = {}", record.origin, record.json),
            Err(error) if error.is_fatal() => format!("fatal: {error}"),
            Err(error) => error.to_string(),
        });
        shown.collect()
    }

    fn gzip(content: &str) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(content.as_bytes()).unwrap();
        encoder.finish().unwrap()
    }

    /// One example of each accepted shape. All hold the same record.
    const SHAPES: [&str; 9] = [
        r#"{"dynamodb":{}}"#,
        r#"{"Records":[{"dynamodb":{}}]}"#,
        "{\n  \"Records\": [\n    {\"dynamodb\":{}}\n  ]\n}\n",
        r#"{"Records":[{"dynamodb":{}}],"NextShardIterator":"a"}"#,
        r#"[{"dynamodb":{}}]"#,
        r#"[{"Records":[{"dynamodb":{}}]},{"Records":[]}]"#,
        r#"{"DDBStreamBatchInfo":{},"payload":{"Records":[{"dynamodb":{}}]}}"#,
        r#"{"DDBStreamBatchInfo":{},"payload":"{\"Records\":[{\"dynamodb\":{}}]}"}"#,
        "\u{feff}\r\n{\"dynamodb\":{}}\r\n\r\n",
    ];

    #[test]
    fn every_shape_plain_or_gzipped_gives_its_record() {
        for shape in SHAPES {
            for content in [shape.as_bytes().to_vec(), gzip(shape)] {
                let found: Vec<_> = records(content).map(|item| item.unwrap().json).collect();
                assert_eq!(found.len(), 1, "{shape}");
                assert_eq!(found[0].get(), r#"{"dynamodb":{}}"#, "{shape}");
            }
        }
    }

    #[test]
    fn all_shapes_in_one_file_give_all_records_however_they_are_joined_and_compressed() {
        for separator in ["", "\n", "\r\n\r\n", " "] {
            let joined = SHAPES.join(separator);
            let members = SHAPES.iter().flat_map(|shape| gzip(shape)).collect();
            for content in [joined.clone().into_bytes(), gzip(&joined), members] {
                let found: Result<Vec<_>, _> = records(content).collect();
                assert_eq!(found.unwrap().len(), SHAPES.len());
            }
        }
    }

    #[test]
    fn an_empty_file_and_an_empty_event_give_nothing() {
        for content in ["", "\n \r\n", "\u{feff}", r#"{"Records":[]}"#, "[]"] {
            assert!(read(content).is_empty(), "{content:?}");
            assert!(read(gzip(content)).is_empty(), "{content:?}");
        }
    }

    #[test]
    fn a_file_without_json_is_one_fatal_error_that_names_the_first_bad_line() {
        let one_bad_line = "\n{\"dynamodb\":tru}".into();
        let prose = "2026 was a year\n".repeat(1000).into_bytes();
        let utf_16 = b"\xff\xfe{\0}\0".to_vec();
        let nested = "[".repeat(100_000).into_bytes();
        for (content, first) in [
            (one_bad_line, "f:2 is not JSON from column 16 on"),
            (prose, "f:1 is not JSON from column 1 on"),
            (utf_16, "f:1 is not JSON from column 1 on"),
            (nested, "f:1 is not JSON from column 100000 on"),
        ] {
            let errors: Vec<_> = records(content).map(Result::unwrap_err).collect();
            assert_eq!(errors.len(), 1);
            assert!(errors[0].is_fatal());
            assert!(errors[0].to_string().starts_with("nothing in f can be"));
            let source = errors[0].source().unwrap().to_string();
            assert!(source.starts_with(first), "{source}");
        }
    }

    #[test]
    fn bad_lines_at_the_start_of_json_lines_are_reported_and_skipped() {
        let bad = "cut\":1}\n".repeat(UNREADABLE_LINES_MAX - 1);
        let items = read(format!("{bad}{{\"dynamodb\":{{}}}}"));
        assert_eq!(items.len(), UNREADABLE_LINES_MAX);
        assert!(items[0].starts_with("f:1 is not JSON"));
        assert!(items[14].starts_with("f:15 is not JSON"));
        assert_eq!(items[15], r#"f:16 = {"dynamodb":{}}"#);
        let items = read(format!("{bad}}}\n{{\"dynamodb\":{{}}}}"));
        assert_eq!(items.len(), 1);
        assert!(items[0].starts_with("fatal: nothing in f can be"));
    }

    #[test]
    fn a_truncated_gzip_gives_the_records_before_the_end_and_one_fatal_error() {
        // These numbers hardly compress, so half of the bytes hold about half of the lines.
        let line = |n: u64| {
            let noise = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            format!("{{\"dynamodb\":{}}}\n", noise ^ (noise >> 31))
        };
        // The encoder's blocks are smaller than half of this text.
        let packed = gzip(&(0..20_000).map(line).collect::<String>());
        let items: Vec<_> = records(&packed[..packed.len() / 2]).collect();
        let (last, before) = items.split_last().unwrap();
        assert!((8_000..12_000).contains(&before.len()), "{}", before.len());
        for (n, item) in (0..).zip(before) {
            assert_eq!(item.as_ref().unwrap().json.get(), line(n).trim_ascii());
        }
        let place = format!("cannot continue reading at f:{};", before.len() + 1);
        let error = last.as_ref().unwrap_err();
        assert!(error.is_fatal());
        assert!(error.to_string().starts_with(&place), "{error}");
    }

    #[test]
    fn a_gzip_truncated_anywhere_is_a_fatal_error() {
        let packed = gzip(SHAPES[1]);
        for cut in GZIP_MAGIC.len()..packed.len() {
            let mut items = records(&packed[..cut]);
            assert!(items.any(|item| matches!(item, Err(InputError::Damaged { .. }))));
            assert!(items.next().is_none(), "cut at {cut}");
        }
    }

    #[test]
    fn an_error_and_a_record_in_a_log_never_show_data() {
        let bad = read("{\"dynamodb\":{}}\n{\"secret\":1}\n{\"secret\n");
        assert_eq!(bad.len(), 3);
        assert!(!bad.concat().contains("secret"));
        let mut records = records(r#"{"dynamodb":{"secret":1}}"#);
        let record = records.next().unwrap().unwrap();
        assert!(!format!("{record:?}").contains("secret"));
    }

    #[test]
    fn records_can_move_to_another_thread() {
        fn movable<T: Send>(_: &T) {}
        movable(&records(""));
    }
}
