//! What a failure of the file below the emulator means, and what to do about it.
//!
//! The emulator calls every failure of SQLite an internal server error, which on AWS passes by itself. A full disk does not: a client that
//! retried it would seem to hang. So each gets a name of its own, under which no client retries it.

use dynoxide::DynoxideError;

/// A failure that a retry cannot help: what SQLite says (<https://www.sqlite.org/rescode.html>), its name as an error of DynamoDB, and
/// what to do.
struct Failure {
    says: &'static [&'static str],
    name: &'static str,
    advice: &'static str,
}

const FAILURES: [Failure; 6] = [
    Failure {
        says: &["disk is full", "database is full"],
        name: "DiskFull",
        advice: "the disk with the --data file is full: free some space, then run the command again",
    },
    Failure {
        says: &["malformed", "is not a database", "database corruption"],
        name: "DamagedFile",
        advice: "the --data file is damaged: restore it from a copy, or import and replay into a new one",
    },
    Failure {
        says: &["is locked"],
        name: "LockedFile",
        advice: "another program holds a lock on the --data file: close it, then run the command again",
    },
    Failure {
        says: &["readonly database", "authorization denied", "access permission"],
        name: "ReadOnlyFile",
        advice: "the --data file cannot be written: check the permissions of the file and of its folder",
    },
    Failure {
        says: &["unable to open"],
        name: "UnopenedFile",
        advice: "the --data file cannot be opened: check the permissions of the file and of its folder",
    },
    Failure {
        says: &["disk i/o error"],
        name: "DiskError",
        advice: "the disk with the --data file fails, or limits the size of files: check it, then run the command again",
    },
];

/// The failure of the file that is behind an error; `None` if something else is.
fn of(error: &DynoxideError) -> Option<&'static Failure> {
    if !matches!(error, DynoxideError::SqliteError(_) | DynoxideError::InternalServerError(_)) {
        return None;
    }
    let message = error.to_string().to_ascii_lowercase();
    FAILURES.iter().find(|failure| failure.says.iter().any(|says| message.contains(says)))
}

/// Its name as an error of DynamoDB.
pub(super) fn name(error: &DynoxideError) -> Option<&'static str> {
    of(error).map(|failure| failure.name)
}

/// Why a file cannot be opened, and what to do.
pub(super) fn reason(error: &DynoxideError) -> &'static str {
    of(error).map_or("SQLite refuses it: restore it from a copy, or choose another file", |failure| failure.advice)
}

/// What to do about an error of this name; `None` if the file is not its cause.
#[must_use]
pub fn advice(name: &str) -> Option<&'static str> {
    FAILURES.iter().find(|failure| failure.name == name).map(|failure| failure.advice)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As SQLite itself words them.
    fn sqlite(code: i32) -> DynoxideError {
        let error = rusqlite::ffi::Error::new(code);
        let text = rusqlite::ffi::code_to_str(code).to_owned();
        DynoxideError::SqliteError(rusqlite::Error::SqliteFailure(error, Some(text)))
    }

    #[test]
    fn each_failure_of_the_file_has_its_own_name() {
        use rusqlite::ffi::{SQLITE_BUSY, SQLITE_CANTOPEN, SQLITE_CORRUPT, SQLITE_FULL, SQLITE_IOERR, SQLITE_NOTADB, SQLITE_READONLY};
        let names = [SQLITE_FULL, SQLITE_CORRUPT, SQLITE_NOTADB, SQLITE_BUSY, SQLITE_READONLY, SQLITE_CANTOPEN, SQLITE_IOERR]
            .map(|code| name(&sqlite(code)).unwrap_or("none"));
        assert_eq!(names, ["DiskFull", "DamagedFile", "DamagedFile", "LockedFile", "ReadOnlyFile", "UnopenedFile", "DiskError"]);
        assert_eq!(name(&DynoxideError::ValidationException("the disk is full".into())), None);
    }
}
