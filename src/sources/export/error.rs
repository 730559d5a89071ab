//! Errors in an export, and what to do about each.

use std::{
    error::Error,
    io,
    path::{Path, PathBuf},
};

/// Why an export cannot be used. Retrying does not help: report the error and stop. Messages say where, and never show an item's data.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say what the fields are")]
#[non_exhaustive]
pub enum ExportError {
    /// A file or folder cannot be read.
    #[error("cannot read {}; check that it exists and that you may read it", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    /// There is no export, or DynamoDB has not finished it: it writes the summary last.
    #[error("no manifest-summary.json in folder {}; give a folder with a copy of a finished export", folder.display())]
    NoExport { folder: PathBuf },
    /// The message lists their folders, which end in the export id.
    #[error("several exports in folder {}: {}; give the folder of one of them", folder.display(), list(exports))]
    SeveralExports { folder: PathBuf, exports: Vec<PathBuf> },
    /// Amazon Ion, for example.
    #[error("{} belongs to an export in format {format}; export the table in DYNAMODB_JSON", summary.display())]
    OtherFormat { summary: PathBuf, format: String },
    /// It holds the changes between two moments, not the table.
    #[error("{} belongs to an export of type {export_type}; export the whole table, as FULL_EXPORT", summary.display())]
    NotFull { summary: PathBuf, export_type: String },
    /// Truncated, or in an unknown format.
    #[error("{}:{line} is not a valid manifest line; copy the file again", manifest.display())]
    BrokenManifest { manifest: PathBuf, line: usize },
    /// The manifests belong to different exports, or one is truncated.
    #[error("{} lists {listed} items but the manifest-summary.json next to it states {stated}; copy both again", manifest.display())]
    OtherTotal { manifest: PathBuf, listed: u64, stated: u64 },
    /// The first missing file, and the number of others.
    #[error("{}{}; copy the export again, with all of its files", file.display(), missing(*more))]
    Missing { file: PathBuf, more: usize },
    /// Its MD5 is wrong: it was truncated, changed or damaged on the way.
    #[error("{} is damaged or truncated: its MD5 is not the one in {}; copy both again", file.display(), stated_in.display())]
    Damaged { file: PathBuf, stated_in: PathBuf },
    /// The file is as DynamoDB wrote it, according to its MD5.
    #[error("{} holds {found} items but its manifest states {stated}; export the table again", file.display())]
    OtherCount { file: PathBuf, found: u64, stated: u64 },
    /// The file is as DynamoDB wrote it, according to its MD5.
    #[error("{}:{line} {problem}; export the table again", file.display())]
    Unexpected { file: PathBuf, line: u64, problem: &'static str },
    /// Most often, the disk is full.
    #[error("cannot sort in folder {}; free twice the uncompressed size of the export or name another folder", folder.display())]
    Spill { folder: PathBuf, source: Box<dyn Error + Send + Sync> },
}

impl ExportError {
    pub(super) fn unreadable(path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Unreadable { path: path.into(), source }
    }
}

fn list(exports: &[PathBuf]) -> String {
    exports.iter().map(|export| export.display().to_string()).collect::<Vec<_>>().join(", ")
}

fn missing(more: usize) -> String {
    if more == 0 { " is missing".into() } else { format!(" and {more} more are missing") }
}
