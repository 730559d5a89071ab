//! Saves what happened as a fixture: the stream as captured, and the rows that a replay of it must make.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use projection_vocabulary::{AggregateId, Version};
use serde_json::Value as Json;

use super::{Console, arrived};
use crate::{
    snapshot::{self, Snapshot},
    sources::{
        stream::{Begin, StreamError, StreamReader},
        stream_json::{LambdaEvent, new_file},
    },
    store::StoreError,
};

/// The longest name of a fixture.
const NAME_MAX: usize = 64;

/// Why a fixture was not saved.
#[derive(Debug, thiserror::Error)]
pub enum FixtureError {
    /// The name could lead out of the folder, or is hard to type.
    #[error("a fixture is named with a to z, 0 to 9 and -, at most {NAME_MAX} of them")]
    Name,
    /// Rows and stream do not fit together yet.
    #[error("records are still under way: wait until nothing is, and stop the traffic")]
    Busy,
    /// A replay would begin in the middle.
    #[error("the stream no longer has the beginning of {0}, so a replay would find no rows: begin with an empty database")]
    NoBeginning(AggregateId),
    /// It is there already.
    #[error("{} exists: choose another name", .0.display())]
    Exists(PathBuf),
    /// It cannot be written.
    #[error("cannot write to {}: {error}", path.display())]
    Write {
        /// Where.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The stream cannot be read.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// The rows cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The rows cannot be printed.
    #[error("the rows cannot be printed: {0}")]
    Print(#[from] anyhow::Error),
}

impl Console {
    /// Saves the stream and the rows under this name. Returns the folder and the number of records.
    pub(super) async fn save_fixture(&self, name: &str) -> Result<(PathBuf, usize), FixtureError> {
        let valid =
            !name.is_empty() && name.len() <= NAME_MAX && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if !valid {
            return Err(FixtureError::Name);
        }
        let folder = self.fixtures.join(name);
        if folder.exists() {
            return Err(FixtureError::Exists(folder));
        }
        if !self.ours_mapping.standing().idle {
            return Err(FixtureError::Busy);
        }
        let before = self.journal.totals().events;
        let failed = |error| FixtureError::Write { path: folder.clone(), error };
        let pages = self.pages().await?;
        let snapshot = self.snapshot().await?.to_json()?;
        // What came meanwhile is in one and not in the other.
        if self.journal.totals().events != before || !self.ours_mapping.standing().idle {
            return Err(FixtureError::Busy);
        }
        fs::create_dir_all(&folder).map_err(failed)?;
        let records = write(&folder, pages, &snapshot).map_err(failed)?;
        Ok((folder, records))
    }

    /// The records of the stream, page by page.
    async fn pages(&self) -> Result<Vec<Vec<Json>>, FixtureError> {
        let Some(arn) = self.store.event_store_stream().await? else { return Ok(Vec::new()) };
        let mut reader = StreamReader::new(self.embedded.streams_client(), arn, Begin::Oldest);
        let (mut pages, mut first): (Vec<_>, BTreeMap<AggregateId, Version>) = (Vec::new(), BTreeMap::new());
        while let Some(page) = reader.next_page().await? {
            for event in page.iter().filter_map(|record| arrived(record).event) {
                first.entry(event.aggregate.clone()).or_insert(event.version);
            }
            pages.push(page);
        }
        match first.into_iter().find(|(_, version)| *version > Version::NONE.next()) {
            Some((aggregate, _)) => Err(FixtureError::NoBeginning(aggregate)),
            None => Ok(pages),
        }
    }

    async fn snapshot(&self) -> Result<Snapshot, FixtureError> {
        let mut rows = Vec::new();
        for rule in self.registry.read_models() {
            rows.push((rule, snapshot::rows(rule, &self.store.visible_rows(rule).await?)));
        }
        let parked = self.store.parked().await?;
        Ok(Snapshot::of(rows, parked))
    }
}

/// Writes both files, readable by their owner alone, and returns the number of records.
fn write(folder: &Path, pages: Vec<Vec<Json>>, snapshot: &str) -> io::Result<usize> {
    let mut stream = new_file(&folder.join("stream.jsonl"))?;
    let mut number = 0;
    for records in pages {
        number += records.len();
        serde_json::to_writer(&mut stream, &LambdaEvent { records })?;
        stream.write_all(b"\n")?;
    }
    stream.flush()?;
    let mut expected = new_file(&folder.join("expected.json"))?;
    expected.write_all(snapshot.as_bytes())?;
    expected.flush()?;
    Ok(number)
}
