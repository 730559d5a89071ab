//! Sorts events with bounded memory, in a file of the SQLite that the embedded DynamoDB includes.

use std::{
    env,
    error::Error,
    fs,
    path::{Path, PathBuf},
};

use projection_vocabulary::{AggregateId, Version};
use rusqlite::{Connection, params};
use tempfile::TempPath;

use super::ExportError;
use crate::store::events::{Stored, stored_of};

/// A page ends with the item that reaches this many bytes of JSON, like a page of DynamoDB.
/// <https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Query.Pagination.html>
pub const PAGE_BYTES_MAX: usize = 1 << 20;

/// Ids sort by their bytes, like keys in DynamoDB. The file is never read after a crash, so it needs no journal; no other process opens
/// it, so one lock is enough. The cache has 32 MB (a negative size counts KB); the rest is written to the file. A larger cache was not
/// faster, nor were larger pages.
const SET_UP: &str = "
    PRAGMA journal_mode = OFF;
    PRAGMA synchronous = OFF;
    PRAGMA locking_mode = EXCLUSIVE;
    PRAGMA cache_size = -32768;
    CREATE TABLE events (aggregate TEXT, version INTEGER, item TEXT NOT NULL, PRIMARY KEY (aggregate, version)) WITHOUT ROWID;
    BEGIN;
";
const PUT: &str = "INSERT OR IGNORE INTO events VALUES (?1, ?2, ?3)";
const NEXT: &str = "SELECT aggregate, item FROM events WHERE (aggregate, version) > (?1, ?2) ORDER BY aggregate, version";

/// Events that are being sorted.
pub(super) struct Spill(Sorted);

impl Spill {
    pub(super) fn new(folder: Option<&Path>) -> Result<Self, ExportError> {
        let folder = folder.map_or_else(env::temp_dir, Path::to_owned);
        let file = tempfile::Builder::new().prefix("projector-").tempfile_in(&folder);
        let file = file.map_err(spill(&folder))?.into_temp_path();
        let database = Connection::open(&file).map_err(spill(&folder))?;
        // An open file without a name disappears with its process, however that ends. Where the system does not allow that, the file
        // is removed when `TempPath` is dropped.
        let _ = fs::remove_file(&file);
        database.execute_batch(SET_UP).map_err(spill(&folder))?;
        // The first page starts after this key: no id is empty.
        Ok(Self(Sorted { database, folder, events: 0, last: (AggregateId::from(""), Version::NONE), _file: file }))
    }

    /// Adds an event's item. Of several with the same key, which a valid export never has, one is kept.
    pub(super) fn put(&mut self, aggregate: &AggregateId, version: Version, item: &str) -> Result<(), ExportError> {
        let Self(Sorted { database, folder, events, .. }) = self;
        let mut put = database.prepare_cached(PUT).map_err(spill(folder))?;
        *events += put.execute(params![aggregate.as_str(), version.0, item]).map_err(spill(folder))? as u64;
        Ok(())
    }

    pub(super) fn finish(self) -> Result<Sorted, ExportError> {
        self.0.database.execute_batch("COMMIT").map_err(spill(&self.0.folder))?;
        Ok(self.0)
    }
}

/// The events of an export, ordered by aggregate (by the bytes of its id) and version.
#[derive(Debug)]
pub struct Sorted {
    // Before `_file`, because fields drop in this order: the file is closed before it is removed.
    database: Connection,
    folder: PathBuf,
    events: u64,
    last: (AggregateId, Version),
    _file: TempPath,
}

impl Sorted {
    /// The number of events in all pages.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.events
    }

    /// The next events: at most `items_max`, with about [`PAGE_BYTES_MAX`] in total, and at least one until the end.
    ///
    /// Gaps in the export stay gaps.
    ///
    /// # Errors
    /// [`ExportError::Spill`]; the same page may be requested again.
    pub fn page(&mut self, items_max: usize) -> Result<Vec<(AggregateId, Stored)>, ExportError> {
        let page = self.read(items_max.max(1)).map_err(spill(&self.folder))?;
        if let Some((aggregate, stored)) = page.last() {
            self.last = (aggregate.clone(), stored.version());
        }
        Ok(page)
    }

    fn read(&self, items_max: usize) -> Result<Vec<(AggregateId, Stored)>, Box<dyn Error + Send + Sync>> {
        let mut next = self.database.prepare_cached(NEXT)?;
        let mut rows = next.query(params![self.last.0.as_str(), self.last.1.0])?;
        let mut page = Vec::new();
        let mut bytes = 0;
        while page.len() < items_max
            && bytes < PAGE_BYTES_MAX
            && let Some(row) = rows.next()?
        {
            let json = row.get_ref(1)?.as_str()?;
            bytes += json.len();
            // The parser's own error would quote the item.
            let item = serde_json::from_str(json).map_err(|_| "an item is not as it was written")?;
            let stored = stored_of(&item).ok_or("an item is not under an event's key")?;
            page.push((row.get_ref(0)?.as_str()?.into(), stored));
        }
        Ok(page)
    }
}

fn spill<E: Into<Box<dyn Error + Send + Sync>>>(folder: &Path) -> impl Fn(E) -> ExportError {
    |source| ExportError::Spill { folder: folder.into(), source: source.into() }
}
