//! Whether a command prints for people or for programs.

use clap::{Args, ValueEnum};

/// How to print.
#[derive(Args, Clone, Copy)]
pub struct Format {
    /// Print for people or for programs
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = Output::Table)]
    output: Output,
    /// The same as `--output json`
    #[arg(long, conflicts_with = "output")]
    json: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Table,
    Json,
}

impl Format {
    /// Whether to print JSON.
    pub fn is_json(self) -> bool {
        self.json || self.output == Output::Json
    }
}
