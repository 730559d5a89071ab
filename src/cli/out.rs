//! The standard output of a command. Nothing else in the command line writes to it.

use std::{
    fmt::Display,
    io::{self, ErrorKind, Write},
};

use crate::escape;

/// Takes all that a command prints, and remembers the first failure instead of reporting it at once.
///
/// The work of a command does not depend on its output: a redrive that prints a line for each aggregate is completed, even if the
/// reader of those lines (`| head -1`) has gone or the disk is full. A command whose only work is printing asks
/// [`is_open`](Self::is_open) and stops early.
pub struct Out {
    to: Box<dyn Write + Send>,
    failed: Option<io::Error>,
}

impl Out {
    /// The standard output of this process.
    pub fn stdout() -> Self {
        Self { to: Box::new(io::stdout()), failed: None }
    }

    /// Prints a line.
    pub fn line(&mut self, line: impl Display) {
        self.verbatim(&(escape::line(&line.to_string()) + "\n"));
    }

    /// Prints a text that brings its own line ends.
    pub fn text(&mut self, text: &str) {
        self.verbatim(&escape::lines(text));
    }

    /// Prints a text in which nothing comes from outside this program: what is printed otherwise is escaped.
    pub fn verbatim(&mut self, text: &str) {
        if self.failed.is_none() {
            self.failed = self.to.write_all(text.as_bytes()).err();
        }
    }

    /// Whether everything printed so far was taken.
    pub fn is_open(&self) -> bool {
        self.failed.is_none()
    }

    /// Reports the first failure. A pipe that its reader has closed is not one: the reader has what it wanted.
    pub fn finish(mut self) -> io::Result<()> {
        let failed = self.failed.take().or_else(|| self.to.flush().err());
        failed.filter(|error| error.kind() != ErrorKind::BrokenPipe).map_or(Ok(()), Err)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes one write and fails the others.
    struct Failing(ErrorKind, u32);

    impl Write for Failing {
        fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
            self.1 += 1;
            if self.1 == 1 { Ok(buffer.len()) } else { Err(self.0.into()) }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn after_three_lines(kind: ErrorKind) -> Out {
        let mut out = Out { to: Box::new(Failing(kind, 0)), failed: None };
        out.line("taken");
        assert!(out.is_open());
        out.line("lost");
        out.line("not even tried");
        assert!(!out.is_open());
        out
    }

    #[test]
    fn a_closed_pipe_is_not_an_error() {
        after_three_lines(ErrorKind::BrokenPipe).finish().expect("the reader has what it wanted");
    }

    #[test]
    fn a_full_disk_is_reported_once_at_the_end() {
        let error = after_three_lines(ErrorKind::StorageFull).finish().expect_err("lines are lost");
        assert_eq!(error.kind(), ErrorKind::StorageFull);
    }
}
