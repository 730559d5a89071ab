//! `projector completions` and `projector man`: from the same definition as the command line itself.

use std::{fs, path::PathBuf};

use anyhow::Context as _;
use clap::Args;
use clap_complete::Shell;

use super::{Context, EXIT_OK};

/// For which shell.
#[derive(Args)]
pub struct CompletionsOptions {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

/// Where to write manual pages.
#[derive(Args)]
pub struct ManOptions {
    /// The folder to write to, created if missing
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// `completions`
pub fn completions(options: &CompletionsOptions, mut command: clap::Command, cx: &mut Context) -> anyhow::Result<u8> {
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(options.shell, &mut command, name, &mut script);
    cx.out.verbatim(&String::from_utf8(script).context("the script is not UTF-8")?);
    Ok(EXIT_OK)
}

/// `man`
pub fn man(options: &ManOptions, command: clap::Command, cx: &mut Context) -> anyhow::Result<u8> {
    let out = &options.out;
    fs::create_dir_all(out).with_context(|| format!("cannot create {}", out.display()))?;
    let name = command.get_name().to_owned();
    clap_mangen::generate_to(command, out).with_context(|| format!("cannot write to {}", out.display()))?;
    cx.out.line(format_args!("manual pages written; to read the first one: man {}", out.join(name).with_extension("1").display()));
    Ok(EXIT_OK)
}
