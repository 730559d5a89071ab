//! An export of the event store's table to S3, from files to items in the order of aggregates and versions.
//!
//! An export has a table's items in the order of its partitions' hashes, spread over as many files. To fold an aggregate its
//! events must come one after another, so they are sorted first, in a file, for an export may be larger than memory. Nothing of
//! an export is handed out before all of it has been checked against its manifest.
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

/// A full export in DynamoDB JSON, copied to a folder, whose manifests are in order and whose files are all there.
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

    /// How many items the table had, those that are no events included.
    #[must_use]
    pub fn items(&self) -> u64 {
        self.summary.item_count
    }

    /// The size of all data files as they lie on disk: packed.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// The table that was exported.
    #[must_use]
    pub fn table_arn(&self) -> &str {
        &self.summary.table_arn
    }

    /// The moment at which the table was as the export shows it, as the manifest writes it: RFC 3339.
    #[must_use]
    pub fn exported_at(&self) -> &str {
        &self.summary.export_time
    }

    /// Reads and checks all files and sorts their events. Blocks for as long as that takes: some ten seconds for a million.
    ///
    /// What is to be sorted goes into a file in `spill_folder`, or in the system's folder for temporary files, which takes about
    /// one and a half times the room of the unpacked events. It is gone when [`Sorted`] is, or this process.
    ///
    /// `progress` is told how many bytes were read so far, up to [`Export::bytes`].
    ///
    /// # Errors
    /// [`ExportError`], if a file is damaged or cannot be read, or if there is no room to sort.
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
