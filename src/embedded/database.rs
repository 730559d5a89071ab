//! Opens the emulator's database, in memory or in a file, with the indexes that keep it fast and the lock that keeps it exclusive.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use dynoxide::{Database, DynoxideError};

use super::{EmbeddedError, failure};

/// What marks a file as ours, in the place that SQLite's format has for it (<https://www.sqlite.org/fileformat.html#application_id>):
/// `prjw`.
const APPLICATION_ID: u32 = 0x7072_6a77;
const APPLICATION_ID_AT: usize = 68;
/// How long to wait for a lock of another program.
const LOCK_WITHIN: Duration = Duration::from_millis(500);
/// The header of an SQLite file, and how it begins.
const HEADER_BYTES: usize = 100;
const MAGIC: &[u8] = b"SQLite format 3\0";

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

/// What to do about a file that does not exist.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum IfMissing {
    Create,
    Refuse,
}

/// The database in the file at `path`, with its indexes, and the lock to hold while it is open.
///
/// # Errors
/// See [`Embedded::file`](super::Embedded::file).
pub(super) fn open_file(path: &Path, if_missing: IfMissing) -> Result<(Database, File), EmbeddedError> {
    // Absolute, so that no path looks like one of SQLite's `file:` URIs.
    let location = std::path::absolute(path)
        .ok()
        .and_then(|absolute| absolute.into_os_string().into_string().ok())
        .ok_or_else(|| EmbeddedError::Path { path: path.into() })?;

    // Before anything is written, the lock included: a mistyped path must leave no trace.
    match owner_of(path)? {
        Owner::Nobody if if_missing == IfMissing::Refuse => return Err(EmbeddedError::Missing { path: path.into() }),
        Owner::Nobody | Owner::Us | Owner::EarlierVersion => {}
        Owner::Other(what) => return Err(EmbeddedError::Foreign { path: path.into(), what }),
    }
    // By one name, whichever of its links was given.
    let lock = lock(&fs::canonicalize(path).unwrap_or_else(|_| path.into()))?;
    let open = |cause: DynoxideError| EmbeddedError::Open { path: path.into(), why: failure::reason(&cause), cause };
    // Again, now that no other process can create it.
    match owner_of(path)? {
        Owner::Nobody => create(path)?,
        Owner::EarlierVersion => set_owner(path).map_err(|error| open(error.into()))?,
        Owner::Us | Owner::Other(_) => {}
    }
    check_writable(&location).map_err(|error| open(error.into()))?;
    Ok((open_fast(&location).map_err(open)?, lock))
}

/// Whose file it is.
enum Owner {
    /// It does not exist.
    Nobody,
    Us,
    /// Version 0.1.0, which left no mark of its own.
    EarlierVersion,
    Other(&'static str),
}

/// Tells from the header alone whose file it is. SQLite itself must not open a foreign file: it might repair or convert it.
fn owner_of(path: &Path) -> Result<Owner, EmbeddedError> {
    let unreadable = |cause| EmbeddedError::Unreadable { path: path.into(), cause };
    let metadata = match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Owner::Nobody),
        metadata => metadata.map_err(unreadable)?,
    };
    if !metadata.is_file() {
        return Ok(Owner::Other(if metadata.is_dir() { "a folder" } else { "no regular file" }));
    }
    let mut header = [0; HEADER_BYTES];
    match File::open(path).and_then(|mut file| file.read_exact(&mut header)) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            return Ok(Owner::Other(if metadata.len() == 0 { "an empty file" } else { "no database" }));
        }
        Err(error) => return Err(unreadable(error)),
    }
    Ok(if !header.starts_with(MAGIC) {
        Owner::Other("no database")
    } else if header[APPLICATION_ID_AT..][..4] == APPLICATION_ID.to_be_bytes() {
        Owner::Us
    } else if header[APPLICATION_ID_AT..][..4] == [0; 4] && has_emulator_tables(path) {
        Owner::EarlierVersion
    } else {
        Owner::Other("the database of another program")
    })
}

/// Whether a database without a mark has the emulator's own tables.
fn has_emulator_tables(path: &Path) -> bool {
    let count = || {
        let connection = rusqlite::Connection::open_with_flags(path, rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        connection.query_row("SELECT count(*) FROM sqlite_master WHERE name IN ('_config', '_tables', '_stream_records')", [], |row| {
            row.get::<_, u32>(0)
        })
    };
    count().is_ok_and(|tables| tables == 3)
}

/// Creates a database that is ours from its first moment, whenever the process may be killed: it gets its name last. Only its owner may
/// read it, for it will hold event data; SQLite gives its `-wal` and `-shm` files the same permissions.
fn create(path: &Path) -> Result<(), EmbeddedError> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let failed = |cause| EmbeddedError::Create { path: path.into(), cause };
    let file = tempfile::Builder::new().prefix(".projector-").tempfile_in(folder).map_err(failed)?;
    set_owner(file.path()).map_err(|error| {
        let cause = DynoxideError::from(error);
        EmbeddedError::Open { path: path.into(), why: failure::reason(&cause), cause }
    })?;
    file.persist_noclobber(path).map_err(|error| failed(error.error))?;
    Ok(())
}

fn set_owner(path: &Path) -> rusqlite::Result<()> {
    rusqlite::Connection::open(path)?.pragma_update(None, "application_id", APPLICATION_ID)
}

/// Fails at once if another program holds SQLite's lock, for which the emulator would wait, or if the file cannot be written.
fn check_writable(location: &str) -> rusqlite::Result<()> {
    let connection = rusqlite::Connection::open(location)?;
    connection.busy_timeout(LOCK_WITHIN)?;
    connection.execute_batch("BEGIN IMMEDIATE; ROLLBACK")
}

/// SQLite lets several processes open a file, but the emulator caches table descriptions in memory and would not notice that
/// another process has changed them. The lock file is never removed: otherwise a process that had just opened the old file
/// and a process that created a new one could both hold a lock.
fn lock(path: &Path) -> Result<File, EmbeddedError> {
    let mut lock_path = path.as_os_str().to_owned();
    lock_path.push(".lock");

    let lock = |cause| EmbeddedError::Lock { path: path.into(), cause };
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
