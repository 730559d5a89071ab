//! Errors in a capture, and what to do about each.

use std::io;
use std::mem::{Discriminant, discriminant};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Origin;
use crate::sources::envelope::Refused;

/// Why a capture, or a part of it, cannot be read. A fatal error ends the file; after any other error the reader continues
/// with the next document, so count it and continue.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say what the fields are")]
#[non_exhaustive]
pub enum InputError {
    /// Fatal.
    #[error("cannot open {}; check that it exists and that you may read it", file.display())]
    Unopened { file: Arc<Path>, source: io::Error },
    /// Fatal: the medium failed, or a gzip file is truncated. All complete documents before it were delivered.
    #[error("cannot continue reading at {at}; the file is damaged or truncated, copy it again")]
    Damaged { at: Origin, source: io::Error },
    /// Fatal.
    #[error("no capture in folder {}; captures end in .json, .jsonl or .ndjson, optionally with .gz", folder.display())]
    EmptyFolder { folder: PathBuf },
    /// Fatal; the source is the first unreadable line.
    #[error("nothing in {} can be read as JSON; give stream records as UTF-8 JSON or JSON Lines, plain or gzipped", file.display())]
    NotJson {
        file: Arc<Path>,
        #[source]
        first: Box<InputError>,
    },
    /// Fatal: after a broken document that spans several lines, the start of the next one is unknown.
    #[error("the JSON document that starts at {at} is broken or truncated; capture it again or remove it")]
    BrokenDocument { at: Origin },
    /// Fatal.
    #[error("the JSON document at {at} is longer than {bytes_max} bytes; split it, preferably into one record per line")]
    DocumentTooLong { at: Origin, bytes_max: usize },
    /// The other lines are read.
    #[error("{at} is not JSON from column {column} on; repair or remove the line")]
    MalformedLine { at: Origin, column: usize },
    /// Fatal: a file of another kind. The source is the first thing in it that is not a stream record.
    #[error("no stream record at the start of {}: {first}", file.display())]
    NoRecords { file: Arc<Path>, first: Box<InputError> },
    /// Fatal: not even an empty list. A capture that was broken off before its first byte looks like this.
    #[error("{} is empty; capture it again or leave it out", file.display())]
    Empty { file: Arc<Path> },
    /// The other documents are read, except after [`Refused::TooMany`].
    #[error("{at} {refused}")]
    Refused { at: Origin, refused: Refused },
}

/// What errors of one kind have in common.
pub type ErrorKind = (Discriminant<InputError>, Option<Discriminant<Refused>>);

impl InputError {
    /// Whether the error ends the file.
    #[must_use]
    pub fn is_fatal(&self) -> bool {
        match self {
            Self::Unopened { .. }
            | Self::Damaged { .. }
            | Self::EmptyFolder { .. }
            | Self::NotJson { .. }
            | Self::NoRecords { .. }
            | Self::Empty { .. }
            | Self::BrokenDocument { .. }
            | Self::DocumentTooLong { .. }
            | Self::Refused { refused: Refused::TooMany, .. } => true,
            Self::MalformedLine { .. } | Self::Refused { .. } => false,
        }
    }

    /// The kind, to tell many errors of one kind from many kinds.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        let refused = if let Self::Refused { refused, .. } = self { Some(discriminant(refused)) } else { None };
        (discriminant(self), refused)
    }
}
