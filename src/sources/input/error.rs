//! What can be wrong with a capture, and what to do about it.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Origin;

/// Why a capture, or a piece of it, cannot be read. After a fatal one nothing more comes from that file; after any
/// other the reader goes on with the next document, so count it and carry on.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say what the fields are")]
#[non_exhaustive]
pub enum InputError {
    /// Fatal.
    #[error("cannot open {}; check that it exists and may be read", file.display())]
    Unopened { file: Arc<Path>, source: io::Error },
    /// Fatal: the medium failed, or a gzip file is cut short. All whole documents before this place were delivered.
    #[error("cannot read on at {at}; the file is damaged or cut short, copy it again")]
    Damaged { at: Origin, source: io::Error },
    /// Fatal.
    #[error("no capture in folder {}; it needs files ending in .json, .jsonl or .ndjson, or these with .gz", folder.display())]
    EmptyFolder { folder: PathBuf },
    /// Fatal; the source is the first unreadable line.
    #[error("nothing in {} can be read as JSON; give stream records as UTF-8 JSON or JSON Lines, plain or gzipped", file.display())]
    NotJson {
        file: Arc<Path>,
        #[source]
        first: Box<InputError>,
    },
    /// Fatal: behind a broken document that spans several lines there is no telling where the next one starts.
    #[error("the JSON document that starts at {at} is broken or cut short; capture it again or remove it")]
    BrokenDocument { at: Origin },
    /// Fatal.
    #[error("the JSON document at {at} is longer than {bytes_max} bytes; split it, best into one record per line")]
    DocumentTooLong { at: Origin, bytes_max: usize },
    /// The other lines are read.
    #[error("{at} is not JSON from column {column} on; repair or remove the line")]
    MalformedLine { at: Origin, column: usize },
    /// The other documents are read.
    #[error("{at} is neither a stream record nor an event with Records; remove it or give another file")]
    NotStreamData { at: Origin },
    /// The other documents are read.
    #[error("the Records member at {at} is not a list; capture the event again")]
    RecordsNotAList { at: Origin },
    /// The other documents are read.
    #[error("the on-failure object at {at} has no payload; only the S3 destination keeps the payload, replay what it holds")]
    NoPayload { at: Origin },
    /// The other documents are read.
    #[error("the payload at {at} is not an event with Records; copy the on-failure object again")]
    MalformedPayload { at: Origin },
}

impl InputError {
    /// Whether the file can be read no further.
    #[must_use]
    pub fn is_fatal(&self) -> bool {
        match self {
            Self::Unopened { .. }
            | Self::Damaged { .. }
            | Self::EmptyFolder { .. }
            | Self::NotJson { .. }
            | Self::BrokenDocument { .. }
            | Self::DocumentTooLong { .. } => true,
            Self::MalformedLine { .. }
            | Self::NotStreamData { .. }
            | Self::RecordsNotAList { .. }
            | Self::NoPayload { .. }
            | Self::MalformedPayload { .. } => false,
        }
    }
}
