//! What can be wrong with an export, and what to do about it.

use std::{
    error::Error,
    io,
    path::{Path, PathBuf},
};

/// Why an export cannot be used. None of these passes by itself: report it and stop. Says where, and never what an item holds.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say what the fields are")]
#[non_exhaustive]
pub enum ExportError {
    /// A file or folder that is there, or was named, and cannot be read.
    #[error("cannot read {}; check that it exists and may be read", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    /// DynamoDB writes the summary last, so an export without one may also be unfinished.
    #[error("no manifest-summary.json in folder {}; give a folder into which a finished export was copied", folder.display())]
    NoExport { folder: PathBuf },
    /// The exports are named by their folders, which end in the id.
    #[error("several exports in folder {}: {}; give the folder of one", folder.display(), list(exports))]
    SeveralExports { folder: PathBuf, exports: Vec<PathBuf> },
    /// Amazon Ion, for example.
    #[error("{} is of an export in format {format}; export the table in DYNAMODB_JSON", summary.display())]
    OtherFormat { summary: PathBuf, format: String },
    /// It holds what changed between two moments, not the table.
    #[error("{} is of an export of type {export_type}; export the whole table, as FULL_EXPORT", summary.display())]
    NotFull { summary: PathBuf, export_type: String },
    /// Cut short, or of another format than is known.
    #[error("{}:{line} is not as DynamoDB writes a manifest; copy the file again", manifest.display())]
    BrokenManifest { manifest: PathBuf, line: usize },
    /// The manifests are not of one export, or one is cut short.
    #[error("{} lists {listed} items and the manifest-summary.json beside it {stated}; copy both again", manifest.display())]
    OtherTotal { manifest: PathBuf, listed: u64, stated: u64 },
    /// The first that is, and how many more are.
    #[error("{}{}; copy the export again, with all of its files", file.display(), missing(*more))]
    Missing { file: PathBuf, more: usize },
    /// Another MD5 than it must have: cut short, changed or damaged on its way.
    #[error("{} is damaged or cut short: its MD5 is not the one in {}; copy both again", file.display(), stated_in.display())]
    Damaged { file: PathBuf, stated_in: PathBuf },
    /// The file is as DynamoDB wrote it, by its MD5.
    #[error("{} holds {found} items and its manifest says {stated}; export the table again", file.display())]
    OtherCount { file: PathBuf, found: u64, stated: u64 },
    /// The file is as DynamoDB wrote it, by its MD5.
    #[error("{}:{line} {problem}; export the table again", file.display())]
    Unexpected { file: PathBuf, line: u64, problem: &'static str },
    /// No room left, most often.
    #[error("cannot sort in folder {}; make room for twice the unpacked export or name another folder", folder.display())]
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
