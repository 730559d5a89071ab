//! Sorts events with bounded memory, in a file of SQLite's: the one that comes with the embedded DynamoDB.

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

/// A page ends with the item that reaches so many bytes of JSON, as one of DynamoDB's does.
/// <https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Query.Pagination.html>
pub const PAGE_BYTES_MAX: usize = 1 << 20;

/// The text of an id sorts by its bytes, as a key in DynamoDB does. The file is never read after a crash, so nothing is done for
/// one; nobody else has it, so one lock is enough. The cache has 32 MB, a minus counts KB: what it does not hold is written out.
/// Twice as much was no faster, nor were larger pages.
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

/// Events on their way into the order.
pub(super) struct Spill(Sorted);

impl Spill {
    pub(super) fn new(folder: Option<&Path>) -> Result<Self, ExportError> {
        let folder = folder.map_or_else(env::temp_dir, Path::to_owned);
        let file = tempfile::Builder::new().prefix("projector-").tempfile_in(&folder);
        let file = file.map_err(spill(&folder))?.into_temp_path();
        let database = Connection::open(&file).map_err(spill(&folder))?;
        // An open file that has no name is gone with its process, however that ends. Where the system does not allow it the file
        // goes with its value.
        let _ = fs::remove_file(&file);
        database.execute_batch(SET_UP).map_err(spill(&folder))?;
        // No id is empty.
        Ok(Self(Sorted { database, folder, events: 0, last: (AggregateId::from(""), Version::NONE), _file: file }))
    }

    /// Takes an event's item. Of several with one key, which no export has, one is kept.
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

/// The events of an export in the order of aggregates, by the bytes of their ids, and versions.
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
    /// How many events there are, over all pages.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.events
    }

    /// The next events: at most `items_max`, of about [`PAGE_BYTES_MAX`] together, and at least one until there are no more.
    ///
    /// They are what the export has, holes included.
    ///
    /// # Errors
    /// [`ExportError::Spill`]; the same page may be asked for again.
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
            // The reader's own error would quote the item.
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
