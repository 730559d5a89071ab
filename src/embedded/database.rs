//! Opens the emulator's database, in memory or in a file, with the indexes that keep it fast and the lock that keeps it exclusive.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use dynoxide::Database;

use super::EmbeddedError;

/// On every write the emulator looks up a stream's last sequence number, and on every read its records, by an expression that
/// it does not index: without these indexes, each write would read every earlier record.
const STREAM_INDEXES: &str = "
    CREATE INDEX IF NOT EXISTS _sr_seq
        ON _stream_records(table_name, CAST(sequence_number AS INTEGER));
    CREATE INDEX IF NOT EXISTS _sr_shard_seq
        ON _stream_records(table_name, shard_id, CAST(sequence_number AS INTEGER));";

/// In SQLite's own in-memory file system, where every connection of this process finds it and nothing remains on disk.
const TEMPLATE: &str = "file:/embedded-template?vfs=memdb";

/// An empty database in memory, with its indexes.
///
/// # Errors
/// SQLite's error, if it lacks memory.
pub(super) fn open_memory() -> dynoxide::Result<Database> {
    // Creating indexes takes a second connection, which a private database in memory does not support; so it is copied from a
    // template, which is kept open for the life of the process, because it vanishes with its last connection.
    static TEMPLATE_HELD_OPEN: Mutex<Option<Database>> = Mutex::new(None);

    let mut template = TEMPLATE_HELD_OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    if template.is_none() {
        let made = Database::new(TEMPLATE)?;
        add_stream_indexes(TEMPLATE)?;
        *template = Some(made);
    }
    drop(template);

    let database = Database::memory()?;
    database.restore_from(TEMPLATE)?;
    Ok(database)
}

/// The database in the file at `path`, with its indexes, and the lock to hold while it is open.
///
/// # Errors
/// See [`Embedded::file`](super::Embedded::file).
pub(super) fn open_file(path: &Path) -> Result<(Database, File), EmbeddedError> {
    // Absolute, so that no path looks like one of SQLite's `file:` URIs.
    let location = std::path::absolute(path)
        .ok()
        .and_then(|absolute| absolute.into_os_string().into_string().ok())
        .ok_or_else(|| EmbeddedError::Path { path: path.into() })?;

    let lock = lock(path)?;
    let database = open_fast(&location).map_err(|source| EmbeddedError::Open { path: path.into(), source })?;
    Ok((database, lock))
}

/// SQLite lets several processes open a file, but the emulator caches table descriptions in memory and would not notice that
/// another process has changed them. The lock file is never removed: otherwise a process that had just opened the old file
/// and a process that created a new one could both hold a lock.
fn lock(path: &Path) -> Result<File, EmbeddedError> {
    let mut lock_path = path.as_os_str().to_owned();
    lock_path.push(".lock");

    let lock = |source| EmbeddedError::Lock { path: path.into(), source };
    let file = File::options().create(true).truncate(false).write(true).open(PathBuf::from(lock_path)).map_err(lock)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(EmbeddedError::InUse { path: path.into() }),
        Err(TryLockError::Error(source)) => Err(lock(source)),
    }
}

fn open_fast(location: &str) -> dynoxide::Result<Database> {
    let database = Database::new(location)?;
    // Despite its name, this is the emulator's only way to set `synchronous = NORMAL`: about three times as many writes per
    // second as with full syncs, and a crash of the process alone still loses nothing.
    database.disable_bulk_loading()?;
    add_stream_indexes(location)?;
    Ok(database)
}

fn add_stream_indexes(location: &str) -> dynoxide::Result<()> {
    rusqlite::Connection::open(location)?.execute_batch(STREAM_INDEXES)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use aws_sdk_dynamodb::types::{PutRequest, StreamViewType, WriteRequest};

    use super::super::Embedded;
    use super::super::fixture::{create_table, n, s};

    /// The emulator's own queries: the first on every write to a table with a stream, the second in `GetRecords`.
    const STREAM_QUERIES: [(&str, &str); 2] = [
        (
            "SELECT COALESCE(MAX(CAST(sequence_number AS INTEGER)), 0) + 1
             FROM _stream_records WHERE table_name = ?1",
            "_sr_seq ",
        ),
        (
            "SELECT event_name FROM _stream_records
             WHERE table_name = ?1 AND shard_id = ?2 AND CAST(sequence_number AS INTEGER) > ?3
             ORDER BY CAST(sequence_number AS INTEGER) ASC LIMIT ?4",
            "_sr_shard_seq ",
        ),
    ];

    fn query_plan(connection: &rusqlite::Connection, query: &str) -> String {
        let mut plan = connection.prepare(&format!("EXPLAIN QUERY PLAN {query}")).unwrap();
        let steps: Vec<String> = plan.raw_query().mapped(|row| row.get("detail")).collect::<Result<_, _>>().unwrap();
        steps.join("\n")
    }

    fn assert_stream_queries_use_the_indexes(connection: &rusqlite::Connection) {
        for (query, index) in STREAM_QUERIES {
            let plan = query_plan(connection, query);
            assert!(plan.starts_with("SEARCH") && plan.contains(index), "{plan}");
            assert!(!plan.contains("TEMP B-TREE"), "{plan}");
        }
    }

    #[tokio::test]
    async fn a_write_to_a_long_stream_reads_one_record() {
        let directory = tempfile::tempdir().unwrap();
        let copy = directory.path().join("copy.db");
        let embedded = Embedded::memory().unwrap();
        let client = embedded.client();
        create_table(&client, "events", Some(StreamViewType::NewImage)).await;
        for batch in 0..200 {
            let puts = (0..25).map(|i| {
                let put = PutRequest::builder().item("pk", s(&format!("{batch}-{i}")));
                let put = put.item("amount", n("1")).build().unwrap();
                WriteRequest::builder().put_request(put).build()
            });
            let write = client.batch_write_item();
            let write = write.request_items("events", puts.collect());
            write.send().await.unwrap();
        }

        // A private database in memory can only be inspected by copying it.
        let database = embedded.database();
        database.vacuum_into(copy.to_str().unwrap()).unwrap();
        let connection = rusqlite::Connection::open(copy).unwrap();
        let records: i64 = connection.query_row("SELECT count(*) FROM _stream_records", [], |row| row.get(0)).unwrap();
        assert_eq!(records, 5_000);
        assert_stream_queries_use_the_indexes(&connection);
    }

    #[test]
    fn a_file_has_the_stream_indexes_once_however_often_it_is_opened() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store.db");
        drop(Embedded::file(&path).unwrap());
        drop(Embedded::file(&path).unwrap());

        assert_stream_queries_use_the_indexes(&rusqlite::Connection::open(path).unwrap());
    }
}
