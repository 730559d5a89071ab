//! Errors in the input, each kind a few times: a file of another kind may hold a million things that are wrong in one way.

use std::{
    collections::HashMap,
    fmt::Display,
    path::{Path, PathBuf},
};

use super::{terminal, text::count};
use crate::sources::input::{ErrorKind, InputError};

/// How many errors of a kind are shown for each file.
const SHOWN_MAX: u64 = 3;

/// What is known of the errors of one kind in one file, and of what kind they are.
type Key = (PathBuf, Kind);

#[derive(PartialEq, Eq, Hash)]
enum Kind {
    Input(ErrorKind),
    Reason(String),
}

/// Shows errors on the standard error output, and counts those that it does not show.
#[derive(Default)]
pub struct Complaints(HashMap<Key, u64>);

impl Complaints {
    /// An error of the reader.
    pub fn of_input(&mut self, file: &Path, error: &InputError) {
        self.add(file, Kind::Input(error.kind()), error);
    }

    /// An error in a record, for this reason.
    pub fn of_record(&mut self, file: &Path, reason: &str, error: impl Display) {
        self.add(file, Kind::Reason(reason.to_owned()), error);
    }

    fn add(&mut self, file: &Path, kind: Kind, error: impl Display) {
        let seen = self.0.entry((file.to_owned(), kind)).or_default();
        *seen += 1;
        if *seen <= SHOWN_MAX {
            terminal::error(error);
        }
    }

    /// Says how many errors were not shown, once all input has been read.
    pub fn sum_up(self) {
        let mut more: HashMap<PathBuf, u64> = HashMap::new();
        for ((file, _), seen) in self.0 {
            *more.entry(file).or_default() += seen.saturating_sub(SHOWN_MAX);
        }
        let mut more: Vec<_> = more.into_iter().filter(|(_, number)| *number > 0).collect();
        more.sort();
        for (file, number) in more {
            terminal::error(format_args!("{} more like these in {}", count(number, "error"), file.display()));
        }
    }
}
