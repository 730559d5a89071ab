//! A DynamoDB inside this process, for tests and for experiments without an AWS account.
//!
//! The SDK's whole code path runs, from the typed request to the typed error; only the network is missing. Below the SDK's
//! HTTP layer, a connector passes each request to the dynoxide emulator and returns the answer that the service would send.
//!
//! The emulator differs from AWS in ways that tests must not rely on: a stream has one shard, transactions never conflict
//! with each other, and every read is consistent.

mod connector;
mod database;
mod failure;
#[cfg(test)]
mod fixture;
mod operations;
pub mod server;

use std::fmt;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_smithy_runtime_api::client::http::{HttpConnector, SharedHttpConnector, http_client_fn};
use dynoxide::{Database, DynoxideError};

use connector::Connector;
use database::IfMissing;
pub use failure::advice;

/// A DynamoDB inside this process: the dynoxide emulator behind the SDK's own HTTP layer, without a socket.
///
/// A clone is another handle on the same database. The database lives as long as any handle or client made from one.
#[derive(Clone)]
pub struct Embedded {
    // Before `_lock`, because fields drop in this order: the file is closed before another process may open it.
    database: Database,
    // Only held, never read; `None` for a database in memory, which no other process can open.
    _lock: Option<Arc<File>>,
}

impl Embedded {
    /// An empty database in memory, private to the caller. It takes a fraction of a millisecond.
    ///
    /// # Errors
    /// [`EmbeddedError::Memory`] if SQLite cannot create it.
    pub fn memory() -> Result<Self, EmbeddedError> {
        let database = database::open_memory().map_err(|source| EmbeddedError::Memory { source })?;
        Ok(Self { database, _lock: None })
    }

    /// The database in the file at `path`, created if it is missing, for the exclusive use of this handle and its clones.
    ///
    /// Completed writes survive the end of this process at any moment; the last ones may not survive a power failure. SQLite's
    /// `-wal` and `-shm` files and a `.lock` file are next to the file; the `.lock` file is never removed. Only the owner may read a
    /// file that is created here. A file that is not a database of this program is left alone.
    ///
    /// # Errors
    /// [`EmbeddedError::InUse`] while another handle or process has the file open, and the other errors but
    /// [`EmbeddedError::Missing`] if the file cannot be used at all.
    pub fn file(path: &Path) -> Result<Self, EmbeddedError> {
        Self::open(path, IfMissing::Create)
    }

    /// The same, for those who only work on what is there: a missing file is an error, and nothing is created.
    ///
    /// # Errors
    /// [`EmbeddedError::Missing`], and those of [`file`](Self::file).
    pub fn existing_file(path: &Path) -> Result<Self, EmbeddedError> {
        Self::open(path, IfMissing::Refuse)
    }

    fn open(path: &Path, if_missing: IfMissing) -> Result<Self, EmbeddedError> {
        let (database, lock) = database::open_file(path, if_missing)?;
        Ok(Self { database, _lock: Some(Arc::new(lock)) })
    }

    /// A client of this database. It needs no credentials, never retries and never times out.
    #[must_use]
    pub fn client(&self) -> aws_sdk_dynamodb::Client {
        self.client_with(|connector| connector)
    }

    /// A client whose calls pass through the connector that `wrap` puts around this database's own.
    ///
    /// Tests inject faults here: a connector may count a call, answer instead of the database before anything is applied, or
    /// apply the call and drop the answer.
    pub fn client_with<C: HttpConnector + 'static>(&self, wrap: impl FnOnce(SharedHttpConnector) -> C) -> aws_sdk_dynamodb::Client {
        let connector = SharedHttpConnector::new(wrap(self.connector()));
        aws_sdk_dynamodb::Client::from_conf(config!(aws_sdk_dynamodb, connector))
    }

    /// A client of this database's streams, like [`client`](Self::client).
    #[must_use]
    pub fn streams_client(&self) -> aws_sdk_dynamodbstreams::Client {
        let connector = self.connector();
        aws_sdk_dynamodbstreams::Client::from_conf(config!(aws_sdk_dynamodbstreams, connector))
    }

    /// The emulator itself, to serve it over HTTP or to delete expired items.
    ///
    /// A clone of it does not keep a file locked: keep this handle for as long as the clone.
    #[must_use]
    pub fn database(&self) -> &Database {
        &self.database
    }

    fn connector(&self) -> SharedHttpConnector {
        SharedHttpConnector::new(Connector::new(self.clone()))
    }
}

impl fmt::Debug for Embedded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Embedded").finish_non_exhaustive()
    }
}

/// The settings of a client. A macro, because each SDK crate generates its own types of the same names.
macro_rules! config {
    ($sdk:ident, $connector:ident) => {
        $sdk::Config::builder()
            .behavior_version($sdk::config::BehaviorVersion::latest())
            // It is never resolved, but the SDK builds no request without an address or a region.
            .endpoint_url("http://embedded")
            .http_client(http_client_fn(move |_, _| $connector.clone()))
            // Signing takes as long as the call itself, and nothing would check the signature.
            .allow_no_auth()
            // There is no identity to cache, and the default cache would require a timer.
            .identity_cache($sdk::config::IdentityCache::no_cache())
            // The worker has its own retries; a second layer would hide injected faults and multiply attempts.
            .retry_config($sdk::config::retry::RetryConfig::disabled())
            // Without a network nothing can time out, and timers would disturb tests that pause the clock.
            .timeout_config($sdk::config::timeout::TimeoutConfig::disabled())
            .stalled_stream_protection($sdk::config::StalledStreamProtectionConfig::disabled())
            .build()
    };
}
use config;

/// Why an embedded database could not be opened. Retrying does not help: report the error and stop.
#[allow(missing_docs, reason = "the messages say what the fields are")]
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EmbeddedError {
    /// Another handle or process has the file open. Stop it, or use another file.
    #[error("{path} is open elsewhere: stop the process that uses it or choose another file")]
    InUse { path: PathBuf },

    /// The lock file could not be created. Check the directory.
    #[error("cannot lock {path}: {cause}; check that its folder exists and that you may write to {path}.lock")]
    Lock { path: PathBuf, cause: io::Error },

    /// There is no such file. Check the path.
    #[error("{path} does not exist: check the path")]
    Missing { path: PathBuf },

    /// The file belongs to something else, and was left alone. Choose another file.
    #[error("{path} is {what}, not a store of this program: check the path, or choose another file")]
    Foreign { path: PathBuf, what: &'static str },

    /// The file could not be read. Check its permissions.
    #[error("cannot read {path}: {cause}")]
    Unreadable { path: PathBuf, cause: io::Error },

    /// The file could not be created. Check its folder.
    #[error("cannot create {path}: {cause}")]
    Create { path: PathBuf, cause: io::Error },

    /// The file is ours, but SQLite cannot open it. What SQLite says is only for debugging.
    #[error("cannot open {path}: {why}")]
    Open { path: PathBuf, why: &'static str, cause: DynoxideError },

    /// The path is empty or not UTF-8, which the emulator cannot open. Choose another path.
    #[error("{path:?} cannot name an embedded database: choose a path that is plain UTF-8")]
    Path { path: PathBuf },

    /// SQLite could not create a database in memory, most likely for lack of memory.
    #[error("cannot create a database in memory: free some memory and try again")]
    Memory { source: DynoxideError },
}

#[cfg(test)]
mod tests {
    use aws_sdk_dynamodb::types::StreamViewType;
    use aws_sdk_dynamodbstreams::types::{OperationType, Record, ShardIteratorType};

    use super::*;
    use fixture::{create_table, n, s};

    /// All records of the only shard of the only stream, from its beginning.
    async fn stream_records(streams: &aws_sdk_dynamodbstreams::Client) -> Vec<Record> {
        let listed = streams.list_streams().send().await.unwrap();
        let arn = listed.streams()[0].stream_arn().unwrap();
        let described = streams.describe_stream().stream_arn(arn).send().await.unwrap();
        let shard = &described.stream_description().unwrap().shards()[0];
        let iterator = streams
            .get_shard_iterator()
            .stream_arn(arn)
            .shard_id(shard.shard_id().unwrap())
            .shard_iterator_type(ShardIteratorType::TrimHorizon)
            .send()
            .await
            .unwrap();
        let answer = streams.get_records().set_shard_iterator(iterator.shard_iterator).send().await.unwrap();
        answer.records.unwrap()
    }

    #[tokio::test]
    async fn memory_databases_are_independent() {
        let (one, other) = (Embedded::memory().unwrap(), Embedded::memory().unwrap());
        create_table(&one.client(), "rows", None).await;

        let tables = other.client().list_tables().send().await.unwrap();
        assert!(tables.table_names().is_empty());
    }

    #[tokio::test]
    async fn clones_and_clients_share_one_database() {
        let embedded = Embedded::memory().unwrap();
        create_table(&embedded.clone().client(), "rows", None).await;

        let client = embedded.client();
        drop(embedded);
        let tables = client.list_tables().send().await.unwrap();
        assert_eq!(tables.table_names(), ["rows"]);
    }

    #[tokio::test]
    async fn an_insert_reaches_the_stream_with_its_new_image() {
        let embedded = Embedded::memory().unwrap();
        let client = embedded.client();
        create_table(&client, "events", Some(StreamViewType::NewImage)).await;
        client.put_item().table_name("events").item("pk", s("a")).item("amount", n("12.50")).send().await.unwrap();

        let records = stream_records(&embedded.streams_client()).await;
        assert_eq!(records.len(), 1);
        assert_eq!(records[0].event_name(), Some(&OperationType::Insert));
        let change = records[0].dynamodb().unwrap();
        let image = change.new_image().unwrap();
        assert_eq!(image["amount"].as_n().unwrap(), "12.5");
        assert!(change.old_image().is_none());
        assert!(change.sequence_number().is_some());
    }

    #[tokio::test]
    async fn an_expired_item_leaves_the_stream_with_dynamodbs_identity() {
        let embedded = Embedded::memory().unwrap();
        let client = embedded.client();
        create_table(&client, "events", Some(StreamViewType::NewImage)).await;
        let ttl = aws_sdk_dynamodb::types::TimeToLiveSpecification::builder().attribute_name("expires").enabled(true).build().unwrap();
        client.update_time_to_live().table_name("events").time_to_live_specification(ttl).send().await.unwrap();
        // Recent, because DynamoDB ignores items that expired more than five years ago.
        let an_hour_ago = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() - 3600;
        client.put_item().table_name("events").item("pk", s("a")).item("expires", n(&an_hour_ago.to_string())).send().await.unwrap();
        assert_eq!(embedded.database().sweep_ttl().unwrap(), 1);

        let records = stream_records(&embedded.streams_client()).await;
        assert_eq!(records.len(), 2);
        assert!(records[0].user_identity().is_none());
        let identity = records[1].user_identity().unwrap();
        assert_eq!(identity.r#type(), Some("Service"));
        assert_eq!(identity.principal_id(), Some("dynamodb.amazonaws.com"));
    }

    #[tokio::test]
    async fn a_file_keeps_its_items_across_reopening() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store.db");
        let embedded = Embedded::file(&path).unwrap();
        create_table(&embedded.client(), "rows", None).await;
        let put = embedded.client().put_item().table_name("rows");
        put.item("pk", s("a")).item("amount", n("7")).send().await.unwrap();
        drop(embedded);

        let client = Embedded::file(&path).unwrap().client();
        let get = client.get_item().table_name("rows").key("pk", s("a"));
        let item = get.send().await.unwrap().item.unwrap();
        assert_eq!(item["amount"], n("7"));
    }

    #[test]
    fn a_file_has_one_opener_until_its_last_clone_and_client_are_gone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store.db");
        let first = Embedded::file(&path).unwrap();
        let (clone, client) = (first.clone(), first.client());

        drop(first);
        assert!(matches!(Embedded::file(&path), Err(EmbeddedError::InUse { .. })));
        drop(clone);
        let refused = Embedded::file(&path).unwrap_err();
        assert!(matches!(refused, EmbeddedError::InUse { .. }));
        assert!(refused.to_string().contains(path.to_str().unwrap()));

        drop(client);
        Embedded::file(&path).unwrap();
    }

    #[test]
    fn a_file_that_cannot_be_opened_is_named_in_the_error() {
        let directory = tempfile::tempdir().unwrap();
        let missing = directory.path().join("missing/store.db");
        let error = Embedded::file(&missing).unwrap_err();
        assert!(matches!(error, EmbeddedError::Lock { .. }));
        assert!(error.to_string().contains(missing.to_str().unwrap()));

        let text = directory.path().join("notes.txt");
        std::fs::write(&text, "not a database, and long enough to be sure of it\n".repeat(40)).unwrap();
        let error = Embedded::file(&text).unwrap_err();
        assert!(matches!(error, EmbeddedError::Foreign { .. }));
        assert!(error.to_string().contains(text.to_str().unwrap()));

        let error = Embedded::file(Path::new("")).unwrap_err();
        assert!(matches!(error, EmbeddedError::Path { .. }));
    }

    /// The names and contents of all files of a folder.
    fn contents(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
        let paths = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let mut contents: Vec<_> = paths.map(|path| (path.clone(), std::fs::read(&path).unwrap_or_default())).collect();
        contents.sort();
        contents
    }

    #[test]
    fn a_file_that_is_not_ours_is_left_as_it_is_and_has_nothing_put_beside_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        std::fs::write(path("empty"), "").unwrap();
        std::fs::write(path("short"), "SQLite").unwrap();
        std::fs::write(path("text"), "text ".repeat(100)).unwrap();
        std::fs::create_dir(path("folder")).unwrap();
        for (name, id) in [("notes", 0), ("marked", 7)] {
            let connection = rusqlite::Connection::open(path(name)).unwrap();
            connection.execute_batch(&format!("CREATE TABLE notes (body TEXT); PRAGMA application_id = {id};")).unwrap();
        }
        let before = contents(directory.path());
        for name in ["empty", "short", "text", "folder", "notes", "marked"] {
            for opened in [Embedded::file(&path(name)), Embedded::existing_file(&path(name))] {
                assert!(matches!(opened.unwrap_err(), EmbeddedError::Foreign { .. }), "{name}");
            }
        }
        assert!(matches!(Embedded::existing_file(&path("missing")).unwrap_err(), EmbeddedError::Missing { .. }));
        assert_eq!(contents(directory.path()), before);
    }

    #[cfg(unix)]
    #[test]
    fn a_link_to_a_file_shares_its_lock() {
        let directory = tempfile::tempdir().unwrap();
        let (path, link) = (directory.path().join("store.db"), directory.path().join("link.db"));
        std::os::unix::fs::symlink(&path, &link).unwrap();
        let _open = Embedded::file(&path).unwrap();
        assert!(matches!(Embedded::file(&link), Err(EmbeddedError::InUse { .. })));
    }

    #[test]
    fn a_file_that_another_program_has_locked_is_told_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store.db");
        drop(Embedded::file(&path).unwrap());
        let other = rusqlite::Connection::open(&path).unwrap();
        other.execute_batch("BEGIN EXCLUSIVE").unwrap();
        let begun = std::time::Instant::now();
        let refused = Embedded::file(&path).unwrap_err().to_string();
        assert!(refused.contains("another program holds a lock") && begun.elapsed().as_secs() < 4, "{refused}");
        drop(other);
        Embedded::file(&path).unwrap();
    }

    #[test]
    fn a_file_of_version_0_1_0_is_adopted() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store.db");
        // That version let the emulator create the file, which leaves no mark.
        drop(dynoxide::Database::new(path.to_str().unwrap()).unwrap());
        drop(Embedded::existing_file(&path).unwrap());
        let id: u32 = rusqlite::Connection::open(&path).unwrap().query_row("PRAGMA application_id", [], |row| row.get(0)).unwrap();
        assert_eq!(id.to_be_bytes(), *b"prjw");
        drop(Embedded::existing_file(&path).unwrap());
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn only_its_owner_may_read_a_new_file_and_what_sqlite_puts_beside_it() {
        use std::os::unix::fs::PermissionsExt as _;

        let directory = tempfile::tempdir().unwrap();
        let embedded = Embedded::file(&directory.path().join("store.db")).unwrap();
        create_table(&embedded.client(), "rows", None).await;
        let mut data = 0;
        for entry in std::fs::read_dir(directory.path()).unwrap().map(Result::unwrap) {
            let mode = entry.metadata().unwrap().permissions().mode();
            // The lock is always empty.
            if !entry.file_name().to_string_lossy().ends_with(".lock") {
                assert_eq!(mode & 0o077, 0, "{:?}", entry.file_name());
                data += 1;
            }
        }
        assert_eq!(data, 3, "the database, its log and the log's index");
    }
}
