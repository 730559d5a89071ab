//! Captured stream JSON, from files to raw records.
//!
//! A capture comes in many shapes: a Lambda event, the output of `get-records`, JSON Lines, an object from Lambda's on-failure
//! bucket, any of them in the envelope of another service, any of them gzipped. The shape is recognised by the content, never by the
//! name, and a file is read in pieces, so that a capture larger than memory can be replayed. What a record *means* is decided downstream.

mod documents;
mod error;
mod source;

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::path::Path;
use std::sync::Arc;

use flate2::bufread::MultiGzDecoder;
use serde_json::value::RawValue;

use crate::sources::envelope::{self, Found, Kind, Place, Refused};
use documents::{Document, Documents};
pub use error::{ErrorKind, InputError};
pub use source::{Source, sources};

/// A file that starts with this many things other than records is not a capture: one error reports that, instead of one for each.
const UNREADABLE_MAX: usize = 16;

/// What becomes of items of a scan or an export.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Items {
    /// They are errors: they have no order, and a replay needs one.
    Refuse,
    /// They are records of their insertion.
    Take,
}

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
    items: Items,
    ready: VecDeque<Result<RawRecord, InputError>>,
    /// Until it is set, everything is held back: there may be some bad lines, or the whole file may not be a capture.
    recognised: bool,
}

impl Records {
    fn new(file: Arc<Path>, content: impl Read + Send + 'static, items: Items) -> io::Result<Self> {
        let documents = Documents::new(decompressed(content)?, Arc::clone(&file));
        Ok(Self { documents, file, items, ready: VecDeque::new(), recognised: false })
    }

    fn open(&mut self, document: &Document) {
        let opened = envelope::open(&document.json, &Place::of_document(document.at.line));
        let mut recognised = opened.is_empty();
        for found in opened {
            let (place, found) = match found {
                Ok(Found { kind: Kind::Item, place, .. }) if self.items == Items::Refuse => (place, Err(Refused::Item)),
                Ok(found) => {
                    recognised |= found.kind != Kind::Unknown;
                    (found.place, Ok(found.json))
                }
                Err((place, refused)) => (place, Err(refused)),
            };
            let at = Origin { file: Arc::clone(&self.file), line: place.line, record: place.record };
            self.ready.push_back(match found {
                Ok(json) => Ok(RawRecord { json, origin: at }),
                Err(refused) => Err(InputError::Refused { at, refused }),
            });
        }
        self.recognised |= recognised;
    }

    /// The one error for a file in which nothing was recognised.
    fn not_a_capture(&mut self) -> InputError {
        self.documents.stop();
        self.recognised = true;
        let file = Arc::clone(&self.file);
        let unknown = |item| match item {
            Ok(RawRecord { origin: at, .. }) => InputError::Refused { at, refused: Refused::Unknown },
            Err(error) => error,
        };
        let mut errors = self.ready.drain(..).map(unknown);
        let Some(first) = errors.next() else { return InputError::Empty { file } };
        if !matches!(first, InputError::MalformedLine { .. }) {
            return InputError::NoRecords { file, first: Box::new(first) };
        }
        match errors.find(|error| !matches!(error, InputError::MalformedLine { .. })) {
            Some(json) => InputError::NoRecords { file, first: Box::new(json) },
            None => InputError::NotJson { file, first: Box::new(first) },
        }
    }
}

impl Iterator for Records {
    type Item = Result<RawRecord, InputError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if self.recognised
                && let Some(item) = self.ready.pop_front()
            {
                if item.as_ref().is_err_and(InputError::is_fatal) {
                    self.documents.stop();
                    self.ready.clear();
                }
                return Some(item);
            }
            match self.documents.next() {
                Some(Ok(document)) => self.open(&document),
                Some(Err(error)) => {
                    // A fatal error says enough about the file.
                    self.recognised |= error.is_fatal();
                    self.ready.push_back(Err(error));
                }
                None if self.recognised => return None,
                // The decoder says what is wrong with an element of a list of records.
                None if self.ready.iter().any(Result::is_ok) => self.recognised = true,
                None => return Some(Err(self.not_a_capture())),
            }
            if !self.recognised && self.ready.len() >= UNREADABLE_MAX {
                return Some(Err(self.not_a_capture()));
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
        Records::new(Path::new("f").into(), Cursor::new(content.into()), Items::Refuse).unwrap()
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
    fn an_empty_event_gives_nothing_and_an_empty_file_is_an_error() {
        for content in [r#"{"Records":[]}"#, "[]", "[]\n[]"] {
            assert!(read(content).is_empty(), "{content:?}");
            assert!(read(gzip(content)).is_empty(), "{content:?}");
        }
        for content in ["", "\n \r\n", "\u{feff}"] {
            let expected = "fatal: f is empty; capture it again or leave it out";
            assert_eq!(read(content), [expected], "{content:?}");
            assert_eq!(read(gzip(content)), [expected], "{content:?}");
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
        let bad = "cut\":1}\n".repeat(UNREADABLE_MAX - 1);
        let items = read(format!("{bad}{{\"dynamodb\":{{}}}}"));
        assert_eq!(items.len(), UNREADABLE_MAX);
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
    fn a_record_that_is_not_an_object_is_left_to_the_decoder() {
        let items = read(r#"{"Records":[5, null, {}, [[{"Records":[]}]]]}"#);
        let expected = ["f:1 (record 1) = 5", "f:1 (record 2) = null", "f:1 (record 3) = {}", r#"f:1 (record 4) = [[{"Records":[]}]]"#];
        assert_eq!(items, expected);
    }

    #[test]
    fn a_bare_list_is_read_like_records() {
        let items = read("[null,\n[1], {\"dynamodb\":null,\"Records\":[7]}]");
        let expected = ["f:1 (record 1) = null", "f:2 (record 2) = [1]", r#"f:2 (record 3) = {"dynamodb":null,"Records":[7]}"#];
        assert_eq!(items, expected);
    }

    #[test]
    fn records_that_are_not_a_list_are_an_error_and_the_next_document_is_read() {
        for records in ["null", "5", "{}", r#""[]""#] {
            let items = read(format!("{{\"Records\":{records}}}\n{{\"Records\":[1]}}"));
            let error = "f:1 has a member `Records` that is not a list; capture the event again";
            assert_eq!(items, [error, "f:2 (record 1) = 1"], "{records}");
        }
    }

    #[test]
    fn an_unrelated_object_is_an_error_and_the_next_document_is_read() {
        for other in ["{}", r#"{"Item":5}"#, r#"{"Records":[],"Records":[1]}"#] {
            let items = read(format!("{other}\n{{\"Records\":[1]}}"));
            assert!(items[0].starts_with("f:1 is "), "{items:?}");
            assert_eq!(items[1], "f:2 (record 1) = 1");
        }
    }

    #[test]
    fn a_file_of_another_kind_is_one_fatal_error_that_says_what_it_is() {
        let item = r#"{"Item":{"PK":{"S":"AGGREGATE#a"},"SK":{"S":"EVENT#0000000001"},"note":{"S":"secret"}}}"#;
        let untyped = r#"{"PK":"AGGREGATE#a","SK":"EVENT#0000000001","note":"secret"}"#;
        let event = r#"{"aggregateId":"a","eventType":"secret","eventData":{}}"#;
        let manifest = r#"{"itemCount":1,"dataFileS3Key":"AWSDynamoDB/1/data/1.json.gz"}"#;
        for (line, says) in [
            (item, "is an item of a table, not a stream record"),
            (untyped, "is an item without the types"),
            (event, "is an event without a stream record"),
            (manifest, "is the manifest of an export"),
            ("{}", "is neither a stream record nor"),
            (r#"{"secret":1}"#, "is neither a stream record nor"),
            ("[{},5,[]]", "is neither a stream record nor"),
        ] {
            for lines in [UNREADABLE_MAX, 100_000] {
                let items = read(format!("{line}\n").repeat(lines));
                assert_eq!(items.len(), 1, "{items:?}");
                assert!(items[0].starts_with("fatal: no stream record at the start of f: f:1") && items[0].contains(says), "{items:?}");
                assert!(!items[0].contains("secret"), "{items:?}");
            }
        }
        let items = read(item);
        assert!(items[0].starts_with("fatal: no stream record at the start of f: f:1 is an item of a table"), "{items:?}");
        assert!(read("{}")[0].starts_with("fatal: no stream record at the start of f: f:1 is neither"));
    }

    #[test]
    fn items_among_records_are_errors_and_do_not_end_the_file() {
        let item = r#"{"Item":{"PK":{"S":"a"}}}"#;
        let items = read(format!("{{\"dynamodb\":{{}}}}\n{item}\n{{\"dynamodb\":{{}}}}"));
        assert_eq!(items.len(), 3);
        assert!(items[1].starts_with("f:2 is an item of a table"));
    }

    #[test]
    fn a_document_made_to_exhaust_memory_is_one_fatal_error() {
        for element in ["{}", "[]", "1", r#"{"dynamodb":{}}"#] {
            let packed = gzip(&format!("[{}{element}]\n{{\"dynamodb\":{{}}}}", format!("{element},").repeat(10_000)));
            let last = records(packed).last().unwrap().unwrap_err();
            assert!(last.is_fatal(), "{element}");
            assert!(last.to_string().contains("has more records than its length allows"), "{last}");
        }
    }

    /// An object as Lambda writes it to the bucket, shortened.
    fn on_failure_object(payload: &str) -> String {
        let context = r#""requestContext": {"condition": "RetryAttemptsExhausted"}"#;
        let batch = r#""DDBStreamBatchInfo": {"shardId": "shardId-01", "batchSize": 2}"#;
        format!("{{\n  {context},\n  \"version\": \"1.0\",\n  {batch}{payload}\n}}")
    }

    #[test]
    fn an_on_failure_object_gives_the_event_in_its_payload() {
        let object = ",\n  \"payload\": {\"Records\": [\n1,\n2\n]}";
        let items = read(on_failure_object(object));
        assert_eq!(items, ["f:6 (record 1) = 1", "f:7 (record 2) = 2"]);
        let string = r#", "payload": "{\"Records\":\n[1,\n\"\u20ac\"]}""#;
        let items = read(on_failure_object(string));
        assert_eq!(items, ["f:4 (record 1) = 1", r#"f:4 (record 2) = "€""#]);
    }

    #[test]
    fn an_on_failure_object_without_payload_names_the_destination_that_keeps_it() {
        for payload in ["", ", \"payload\": null"] {
            let items = read(on_failure_object(payload));
            assert_eq!(items.len(), 1);
            assert!(items[0].contains("f:1 is Lambda's message that it gave up 2 records of shard shardId-01"), "{items:?}");
            assert!(items[0].contains("only an S3 destination keeps them"), "{items:?}");
        }
    }

    #[test]
    fn a_payload_that_is_not_an_event_is_an_error() {
        for payload in ["5", "[[1],2,3,4]", r#""""#, r#""{\"Rec""#, r#""[[1],2,3,4]""#, r#"{"payload":{"Records":[]}}"#] {
            let items = read(on_failure_object(&format!(", \"payload\": {payload}")));
            assert_eq!(items.len(), 1, "{payload}");
            assert!(items[0].contains("f:4 has a payload that is not an event with Records"), "{items:?}");
        }
        let items = read(on_failure_object(r#", "payload": {"Records":null}"#));
        assert!(items[0].contains("f:4 has a member `Records` that is not a list"), "{items:?}");
    }

    #[test]
    fn records_can_move_to_another_thread() {
        fn movable<T: Send>(_: &T) {}
        movable(&records(""));
    }
}
