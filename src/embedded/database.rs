//! Opening the emulator's database, in memory or in a file, with what keeps it fast and exclusive.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use dynoxide::Database;

use super::EmbeddedError;

/// The emulator looks a stream's last sequence number up on every write, and its records up on every read, by an
/// expression that it does not index: without these, each write reads every record before it.
const STREAM_INDEXES: &str = "
    CREATE INDEX IF NOT EXISTS _sr_seq
        ON _stream_records(table_name, CAST(sequence_number AS INTEGER));
    CREATE INDEX IF NOT EXISTS _sr_shard_seq
        ON _stream_records(table_name, shard_id, CAST(sequence_number AS INTEGER));";

/// In `SQLite`'s own in-memory file system, where every connection of this process finds it and nothing is left on disk.
const TEMPLATE: &str = "file:/embedded-template?vfs=memdb";

/// An empty database in memory, with its indexes.
///
/// # Errors
/// Whatever `SQLite` reports, for want of memory.
pub(super) fn open_memory() -> dynoxide::Result<Database> {
    // Indexes need a second connection, and a private database in memory admits none; a copy of a template does without.
    // Kept open for the life of the process, as it vanishes with its last connection.
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
    // Absolute, so that no path reads as one of SQLite's `file:` addresses.
    let location = std::path::absolute(path)
        .ok()
        .and_then(|absolute| absolute.into_os_string().into_string().ok())
        .ok_or_else(|| EmbeddedError::Path { path: path.into() })?;

    let lock = lock_beside(path)?;
    let database = open_fast(&location).map_err(|source| EmbeddedError::Open { path: path.into(), source })?;
    Ok((database, lock))
}

/// `SQLite` admits many processes to a file, but the emulator keeps table descriptions in memory and would go on using
/// those that another process has changed. The lock file is never removed: were it, a process that had just opened the
/// old one and a process that made a new one could both hold a lock.
fn lock_beside(path: &Path) -> Result<File, EmbeddedError> {
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
    // Despite its name this is the emulator's one way to set `synchronous = NORMAL`: some three times the writes per
    // second of a full sync each, and still nothing lost when the process alone dies.
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

    /// As the emulator writes them: the first on every write to a table with a stream, the second in `GetRecords`.
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

        // The only way to look into a private database in memory is a copy of it.
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
