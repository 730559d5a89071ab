//! One file of an export: gzipped lines, each `{"Item": ...}` in DynamoDB JSON.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read},
    path::PathBuf,
};

use aws_smithy_types::base64;
use flate2::bufread::MultiGzDecoder;
use md5::{Digest, Md5};
use projection_vocabulary::{AggregateId, Version};
use serde::Deserialize;
use serde_dynamo::Item;
use serde_json::value::RawValue;

use super::ExportError;
use crate::store::item::{Key, key_of};

/// An item has at most 400 KB, and a byte of it takes at most 14 bytes of JSON (`{"NULL":true},`): 6 MB, rounded up to a power of two.
/// <https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Constraints.html>
const LINE_BYTES_MAX: u64 = 8 << 20;

/// A file as the manifest describes it.
#[derive(Debug)]
pub(super) struct DataFile {
    pub file: PathBuf,
    /// Its size on disk.
    pub bytes: u64,
    pub items: u64,
    /// Of the compressed file, as base64.
    pub md5: String,
    pub stated_in: PathBuf,
}

/// A line of the file, with the item's JSON unchanged.
#[derive(Deserialize)]
struct Line<'a> {
    #[serde(rename = "Item", borrow)]
    item: &'a RawValue,
}

impl DataFile {
    /// Passes each event's item to `event`. The file is known to be undamaged only once this has returned `Ok`.
    pub(super) fn read(
        &self,
        progress: impl FnMut(u64),
        event: impl FnMut(&AggregateId, Version, &str) -> Result<(), ExportError>,
    ) -> Result<(), ExportError> {
        let unreadable = || ExportError::unreadable(&self.file);
        let content = File::open(&self.file).map_err(unreadable())?;
        let mut packed = BufReader::new(Watched { content, md5: Md5::new(), bytes: 0, progress });
        // The file of an empty partition may be empty itself.
        let empty = packed.fill_buf().map_err(unreadable())?.is_empty();
        let read = if empty { self.counted(0) } else { self.events(&mut packed, event) };
        // Read on to the end even after an error: if the checksum differs, the file is damaged, whatever the first symptom was.
        io::copy(&mut packed, &mut io::sink()).map_err(unreadable())?;
        if base64::encode(packed.into_inner().md5.finalize()) != self.md5 {
            return Err(ExportError::Damaged { file: self.file.clone(), stated_in: self.stated_in.clone() });
        }
        read
    }

    fn events(
        &self,
        packed: &mut impl BufRead,
        mut event: impl FnMut(&AggregateId, Version, &str) -> Result<(), ExportError>,
    ) -> Result<(), ExportError> {
        let mut lines = BufReader::new(MultiGzDecoder::new(packed));
        let mut line = Vec::new();
        let mut found = 0;
        loop {
            let unexpected = |problem| ExportError::Unexpected { file: self.file.clone(), line: found + 1, problem };
            let malformed = |_| unexpected("is not an item in DynamoDB JSON");
            line.clear();
            lines.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line).map_err(|_| unexpected("cannot be decompressed"))?;
            if line.is_empty() {
                return self.counted(found);
            }
            if line.len() as u64 == LINE_BYTES_MAX {
                return Err(unexpected("is longer than any item"));
            }
            let json = serde_json::from_slice::<Line>(&line).map_err(malformed)?.item.get();
            let item: Item = serde_json::from_str(json).map_err(malformed)?;
            // An item without a valid event key belongs to no version, so no row needs it.
            if let Ok(Key::Event(aggregate, version)) = key_of(&item) {
                event(&aggregate, version, json)?;
            }
            found += 1;
        }
    }

    fn counted(&self, found: u64) -> Result<(), ExportError> {
        if found == self.items { Ok(()) } else { Err(ExportError::OtherCount { file: self.file.clone(), found, stated: self.items }) }
    }
}

/// Computes the checksum and reports the progress of a file while it is read.
struct Watched<P> {
    content: File,
    md5: Md5,
    bytes: u64,
    progress: P,
}

impl<P: FnMut(u64)> Read for Watched<P> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.content.read(buffer)?;
        self.md5.update(&buffer[..bytes]);
        self.bytes += bytes as u64;
        (self.progress)(self.bytes);
        Ok(bytes)
    }
}
