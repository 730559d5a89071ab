//! Finds the files to read, and tracks the progress of each.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{InputError, Items, Records};

/// The path that stands for the standard input.
const STDIN: &str = "-";

/// File name endings of captures in a folder, optionally followed by `.gz`.
const CAPTURE_ENDINGS: [&str; 3] = [".json", ".jsonl", ".ndjson"];

/// The expected rows of a folder of fixtures: next to its captures, but not a capture.
const EXPECTED_ROWS: &str = "expected.json";

/// Expands files, folders and `-` (the standard input) into sources, in the given order; the files of a folder in order of their names.
///
/// # Errors
/// A path does not exist, or a folder does not directly contain a capture.
pub fn sources(paths: &[PathBuf]) -> Result<Vec<Source>, InputError> {
    let mut sources = Vec::new();
    for path in paths {
        if path.as_os_str() == STDIN {
            sources.push(Source::new(path, None));
            continue;
        }
        let metadata = fs::metadata(path).map_err(|error| unopened(path, error))?;
        if metadata.is_dir() {
            sources.extend(folder(path)?);
        } else {
            // A pipe has no size.
            let bytes_total = metadata.is_file().then_some(metadata.len());
            sources.push(Source::new(path, bytes_total));
        }
    }
    Ok(sources)
}

fn folder(folder: &Path) -> Result<Vec<Source>, InputError> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(|error| unopened(folder, error))? {
        let entry = entry.map_err(|error| unopened(folder, error))?;
        if !is_capture(&entry.file_name().to_string_lossy()) {
            continue;
        }
        let path = entry.path();
        // This follows links: captures in a folder often are links.
        let metadata = fs::metadata(&path).map_err(|error| unopened(&path, error))?;
        if metadata.is_file() {
            found.push((path, metadata.len()));
        }
    }
    if found.is_empty() {
        let folder = folder.to_owned();
        return Err(InputError::EmptyFolder { folder });
    }
    found.sort();
    let sources = found.iter().map(|(path, bytes)| Source::new(path, Some(*bytes)));
    Ok(sources.collect())
}

fn is_capture(name: &str) -> bool {
    let plain = name.strip_suffix(".gz").unwrap_or(name);
    !name.starts_with('.') && name != EXPECTED_ROWS && CAPTURE_ENDINGS.iter().any(|ending| plain.ends_with(ending))
}

fn unopened(path: &Path, source: io::Error) -> InputError {
    let file = path.into();
    InputError::Unopened { file, source }
}

/// One file, or the standard input, that has not been opened yet.
#[derive(Debug)]
pub struct Source {
    file: Arc<Path>,
    bytes_total: Option<u64>,
    bytes_read: Arc<AtomicU64>,
}

impl Source {
    fn new(path: &Path, bytes_total: Option<u64>) -> Self {
        Self { file: path.into(), bytes_total, bytes_read: Arc::default() }
    }

    /// Whether it is the standard input.
    #[must_use]
    pub fn is_standard_input(&self) -> bool {
        self.file.as_os_str() == STDIN
    }

    /// The path as given; `-` is the standard input.
    #[must_use]
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// The file's size on disk, compressed if it is gzipped; `None` for a pipe.
    #[must_use]
    pub fn bytes_total(&self) -> Option<u64> {
        self.bytes_total
    }

    /// The number of bytes read from the file so far, comparable with [`Source::bytes_total`]. Keep a copy for the progress
    /// bar before [`Source::records`] consumes the source.
    #[must_use]
    pub fn bytes_read(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.bytes_read)
    }

    /// Opens the source. The records are in the order of the file and are read on demand.
    ///
    /// # Errors
    /// The file cannot be opened. Errors within the file are items of the iterator.
    pub fn records(self) -> Result<Records, InputError> {
        self.open(Items::Refuse)
    }

    /// Opens the source. Items of a scan or an export are taken, too, each as the record of its insertion: they say what the event store
    /// holds, in no order.
    ///
    /// # Errors
    /// The file cannot be opened. Errors within the file are items of the iterator.
    pub fn records_and_items(self) -> Result<Records, InputError> {
        self.open(Items::Take)
    }

    fn open(self, items: Items) -> Result<Records, InputError> {
        let inner: Box<dyn Read + Send> = if self.is_standard_input() {
            Box::new(io::stdin())
        } else {
            Box::new(File::open(&self.file).map_err(|error| unopened(&self.file, error))?)
        };
        let bytes_read = self.bytes_read;
        let content = Counted { inner, bytes_read };
        Records::new(Arc::clone(&self.file), content, items).map_err(|error| unopened(&self.file, error))
    }
}

struct Counted {
    inner: Box<dyn Read + Send>,
    bytes_read: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.inner.read(buffer)?;
        // Only a progress bar reads it, so it needs no ordering.
        self.bytes_read.fetch_add(bytes as u64, Ordering::Relaxed);
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder_of(names: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for name in names {
            fs::write(folder.path().join(name), "{\"dynamodb\":{}}\n").unwrap();
        }
        folder
    }

    fn names(sources: &[Source]) -> Vec<&str> {
        let names = sources.iter().map(|source| source.file().file_name());
        names.map(|name| name.unwrap().to_str().unwrap()).collect()
    }

    #[test]
    fn a_folder_gives_its_captures_in_order_of_their_names_and_nothing_else() {
        let captures = ["10.jsonl.gz", "2.ndjson.gz", "a.json.gz", "a.jsonl", "b.json", "c.ndjson"];
        let others = ["expected.json", ".hidden.json", "notes.txt", "json", "a.gz", "a.json.bak"];
        let mut all = [captures, others].concat();
        all.reverse();
        let folder = folder_of(&all);
        let within = folder.path().join("within.json");
        fs::create_dir(&within).unwrap();
        fs::write(within.join("deep.json"), "").unwrap();
        let found = sources(&[folder.path().into()]).unwrap();
        assert_eq!(names(&found), captures);
    }

    #[test]
    fn paths_keep_their_order_and_a_named_file_needs_no_ending() {
        let folder = folder_of(&["z.txt", "expected.json", "b.json", "a.json"]);
        let path = |name: &str| folder.path().join(name);
        let paths = [path("z.txt"), path(""), "-".into(), path("expected.json")];
        let found = sources(&paths).unwrap();
        let expected = ["z.txt", "a.json", "b.json", "-", "expected.json"];
        assert_eq!(names(&found), expected);
        assert_eq!(found[3].bytes_total(), None);
        assert_eq!(found[4].bytes_total(), Some(16));
    }

    #[test]
    fn a_folder_without_captures_is_an_error_that_names_it() {
        let folder = folder_of(&["expected.json", "notes.txt"]);
        let error = sources(&[folder.path().into()]).unwrap_err();
        assert!(error.is_fatal());
        let start = format!("no capture in folder {};", folder.path().display());
        assert!(error.to_string().starts_with(&start));
    }

    #[test]
    fn a_missing_file_is_a_fatal_error_that_names_it() {
        let error = sources(&["no/such.jsonl".into()]).unwrap_err();
        assert!(error.is_fatal());
        let expected = "cannot open no/such.jsonl; check that it exists and that you may read it";
        assert_eq!(error.to_string(), expected);
        // It may also disappear between the listing and the reading.
        let folder = folder_of(&["a.json"]);
        let source = sources(&[folder.path().into()]).unwrap().remove(0);
        drop(folder);
        assert!(source.records().is_err_and(|error| error.is_fatal()));
    }

    #[test]
    fn the_bytes_read_reach_the_size_of_the_file_only_at_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.jsonl");
        fs::write(&path, "{\"dynamodb\":{}}\n".repeat(20_000)).unwrap();
        let source = sources(&[path]).unwrap().remove(0);
        let (total, read) = (source.bytes_total().unwrap(), source.bytes_read());
        let mut records = source.records().unwrap();
        records.next().unwrap().unwrap();
        let first = read.load(Ordering::Relaxed);
        assert!(0 < first && first < total / 10, "{first} of {total}");
        assert_eq!(records.flatten().count(), 19_999);
        assert_eq!(read.load(Ordering::Relaxed), total);
    }
}
