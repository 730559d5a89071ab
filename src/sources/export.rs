//! Reads an export of the event store to S3 and returns its events, ordered by aggregate and version.
//!
//! An export holds a table's items in the order of their partition hashes, with one file per partition. Folding an aggregate needs its
//! events in sequence, so they are sorted first; an export may be larger than memory, so they are sorted in a file. No event is
//! returned before the whole export has been checked against its manifest.
//!
//! The format: <https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/S3DataExport.Output.html>

mod data_file;
mod error;
mod manifest;
mod sorted;

use std::path::Path;

use data_file::DataFile;
pub use error::ExportError;
use manifest::Summary;
use sorted::Spill;
pub use sorted::{PAGE_BYTES_MAX, Sorted};

/// A full export in DynamoDB JSON, copied to a folder, with valid manifests and all of its files.
#[derive(Debug)]
pub struct Export {
    summary: Summary,
    files: Vec<DataFile>,
}

impl Export {
    /// Opens the one export in a folder: a copy of the export's own folder, of `AWSDynamoDB`, of the prefix or of the bucket.
    ///
    /// # Errors
    /// [`ExportError`], if there is no export or more than one, if it is of another kind, or if a manifest is damaged or a data
    /// file missing.
    pub fn open(folder: &Path) -> Result<Self, ExportError> {
        let (summary, files) = manifest::read(&manifest::find(folder)?)?;
        Ok(Self { summary, files })
    }

    /// The number of items in the table, including those that are not events.
    #[must_use]
    pub fn items(&self) -> u64 {
        self.summary.item_count
    }

    /// The compressed size of all data files, as on disk.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// The table that was exported.
    #[must_use]
    pub fn table_arn(&self) -> &str {
        &self.summary.table_arn
    }

    /// The moment whose state the export shows, as written in the manifest: RFC 3339.
    #[must_use]
    pub fn exported_at(&self) -> &str {
        &self.summary.export_time
    }

    /// Reads and checks all files and sorts their events. It blocks the thread: about ten seconds for a million events.
    ///
    /// The events are sorted in a file in `spill_folder`, or in the system's temporary folder. The file takes about one and a half
    /// times the size of the uncompressed events, and is removed with [`Sorted`] or at the end of the process.
    ///
    /// `progress` is called with the number of bytes read so far, up to [`Export::bytes`].
    ///
    /// # Errors
    /// [`ExportError`], if a file is damaged or cannot be read, or if there is not enough disk space to sort.
    pub fn sort(&self, spill_folder: Option<&Path>, mut progress: impl FnMut(u64)) -> Result<Sorted, ExportError> {
        let mut spill = Spill::new(spill_folder)?;
        let mut bytes_before = 0;
        for file in &self.files {
            file.read(|bytes| progress(bytes_before + bytes), |aggregate, version, item| spill.put(aggregate, version, item))?;
            bytes_before += file.bytes;
        }
        spill.finish()
    }
}

#[cfg(test)]
mod tests;
