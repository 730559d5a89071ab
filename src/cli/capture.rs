//! `projector capture`: records the event store's stream into files that `replay` reads.

use std::{
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context as _, bail};
use clap::Args;
use flate2::{Compression, write::GzEncoder};
use serde_json::Value as Json;

use super::{
    Context, EXIT_INTERRUPTED, EXIT_OK, stores, terminal,
    text::{count, count_of},
};
use crate::sources::{
    stream::{Begin, StreamReader},
    stream_json::{LambdaEvent, new_file},
};

/// How long to wait at the end of the stream. A shard allows five reads per second, shared by its two readers
/// (<https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_streams_GetRecords.html>).
const POLL_EVERY: Duration = Duration::from_secs(1);
/// A file that is easy to open and to copy.
const FILE_MB_DEFAULT: u64 = 64;
const FILE_PREFIX: &str = "stream-";

/// What to capture, and where to.
#[derive(Args)]
pub struct Options {
    /// The folder to write to, created if missing; it must not contain a capture
    #[arg(long, value_name = "FOLDER")]
    out: PathBuf,
    /// Continue at the end of the stream until Ctrl-C
    #[arg(long)]
    follow: bool,
    /// Begin with new records instead of the oldest record in the stream
    #[arg(long, requires = "follow")]
    latest: bool,
    /// Compress each file
    #[arg(long)]
    gzip: bool,
    /// Begin another file after N MB, uncompressed
    #[arg(long, value_name = "N", default_value_t = FILE_MB_DEFAULT, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    file_mb: u64,
}

/// `capture`
pub async fn run(options: &Options, cx: &mut Context) -> anyhow::Result<u8> {
    let (store, client) = stores::open_with_streams(&cx.store, cx.registry).await?;
    let arn = store.event_store_stream().await?.context("the event store has no stream: enable one with new images")?;
    let begin = if options.latest { Begin::Latest } else { Begin::Oldest };
    let mut capture = StreamReader::new(client, arn, begin);
    let mut files = Files::new(options)?;
    let progress = terminal::spinner("reading the stream");
    let mut interrupt = std::pin::pin!(tokio::signal::ctrl_c());
    // Ctrl-C interrupts a read, which is repeated next time, and never the writing of a page.
    let result = loop {
        let page = tokio::select! {
            biased;
            _ = &mut interrupt => break Ok(true),
            page = capture.next_page() => page,
        };
        match page {
            Ok(Some(records)) => files.write(records)?,
            Ok(None) if !options.follow => break Ok(false),
            Ok(None) => tokio::select! {
                _ = &mut interrupt => break Ok(true),
                () = tokio::time::sleep(POLL_EVERY) => {}
            },
            Err(error) => break Err(error),
        }
    };
    progress.finish_and_clear();
    files.end()?;
    let (records, number) = (count_of(files.records, "record"), count(files.number, "file"));
    cx.out.line(format_args!("{records} in {number} in {}", options.out.display()));
    let interrupted = result?;
    // Ctrl-C is how following ends.
    Ok(if interrupted && !options.follow { EXIT_INTERRUPTED } else { EXIT_OK })
}

/// Files of a limited size with JSON Lines, each line a Lambda event with one page of records.
struct Files {
    folder: PathBuf,
    gzip: bool,
    bytes_max: u64,
    open: Option<Output>,
    bytes: u64,
    /// The number of files begun.
    number: u32,
    records: usize,
}

enum Output {
    Plain(BufWriter<File>),
    Gzip(GzEncoder<BufWriter<File>>),
}

impl Files {
    fn new(options: &Options) -> anyhow::Result<Self> {
        let folder = options.out.clone();
        fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let unread = || format!("cannot read {}", folder.display());
        for entry in fs::read_dir(&folder).with_context(unread)? {
            let name = entry.with_context(unread)?.file_name();
            // One folder holds one capture: two captures of one stream would replay as if every record had been delivered twice.
            if name.to_string_lossy().starts_with(FILE_PREFIX) {
                bail!("{} contains a capture: choose another folder", folder.display());
            }
        }
        Ok(Self { folder, gzip: options.gzip, bytes_max: options.file_mb * 1_000_000, open: None, bytes: 0, number: 0, records: 0 })
    }

    fn write(&mut self, records: Vec<Json>) -> anyhow::Result<()> {
        let count = records.len();
        let mut line = serde_json::to_vec(&LambdaEvent { records })?;
        line.push(b'\n');
        let mut output = match self.open.take() {
            Some(output) => output,
            None => self.begin()?,
        };
        // Flushed page by page, so that a reader of the file sees whole lines.
        output.write(&line).with_context(|| format!("cannot write to {}", self.folder.display()))?;
        self.open = Some(output);
        self.records += count;
        self.bytes += line.len() as u64;
        if self.bytes >= self.bytes_max {
            self.end()?;
        }
        Ok(())
    }

    fn begin(&mut self) -> anyhow::Result<Output> {
        let packed = if self.gzip { ".gz" } else { "" };
        let path = self.folder.join(format!("{FILE_PREFIX}{:05}.jsonl{packed}", self.number + 1));
        // Never overwrites a file: its records may no longer be in the stream.
        let file = new_file(&path).with_context(|| format!("cannot begin {}", path.display()))?;
        (self.number, self.bytes) = (self.number + 1, 0);
        Ok(if self.gzip { Output::Gzip(GzEncoder::new(file, Compression::default())) } else { Output::Plain(file) })
    }

    /// Ends the current file.
    fn end(&mut self) -> anyhow::Result<()> {
        let ended = match self.open.take() {
            None => Ok(()),
            Some(Output::Plain(mut file)) => file.flush(),
            Some(Output::Gzip(packed)) => packed.finish().and_then(|mut file| file.flush()),
        };
        ended.with_context(|| format!("cannot write to {}", self.folder.display()))
    }
}

impl Output {
    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        let output: &mut dyn Write = match self {
            Self::Plain(file) => file,
            Self::Gzip(packed) => packed,
        };
        output.write_all(line)?;
        output.flush()
    }
}
