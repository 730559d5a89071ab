//! JSON Lines that a command takes as its input.

use std::{
    fs::File,
    io::{self, BufRead, BufReader},
    path::Path,
};

use anyhow::Context as _;

use super::terminal;

/// The lines of a file that are not blank, or those of the standard input for `-`, each with its number from 1.
///
/// # Errors
/// The file cannot be opened; or, in place of a line, it cannot be read further.
pub fn lines(path: &Path) -> anyhow::Result<impl Iterator<Item = anyhow::Result<(u64, String)>>> {
    let input: Box<dyn BufRead> = if path == Path::new("-") {
        terminal::note_waiting(true);
        Box::new(io::stdin().lock())
    } else {
        Box::new(BufReader::new(File::open(path).with_context(|| format!("cannot open {}", path.display()))?))
    };
    let numbered = input.lines().zip(1_u64..).filter(|(line, _)| line.as_ref().map_or(true, |line| !line.trim().is_empty()));
    Ok(numbered.map(move |(line, number)| Ok((number, line.with_context(|| format!("cannot read {}", path.display()))?))))
}
