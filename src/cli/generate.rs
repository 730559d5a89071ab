//! `projector generate`: writes a made-up, valid history as stream JSON, with its expected rows.

use std::{
    fs::{self, File},
    io::{BufWriter, Write as _},
    path::PathBuf,
};

use anyhow::Context as _;
use clap::Args;
use projection_vocabulary::{
    Rows,
    sample::{Sample, record},
};
use rand_chacha::{
    ChaCha8Rng,
    rand_core::{Rng as _, SeedableRng as _},
};

use super::{
    Context, EXIT_OK, terminal,
    text::{count, count_of},
};
use crate::{
    snapshot::{self, Snapshot},
    sources::stream_json::{LambdaEvent, inserted},
};

/// Records in one file.
const BATCH_RECORDS: usize = 1_000;

/// What to generate.
#[derive(Args)]
pub struct Options {
    /// The number of events
    #[arg(long, value_name = "N")]
    events: usize,
    /// The number of aggregates they belong to, approximately
    #[arg(long, value_name = "M", default_value_t = 100)]
    aggregates: usize,
    /// The same seed makes the same files
    #[arg(long, value_name = "S", default_value_t = 1)]
    seed: u64,
    /// The folder to write to, created if missing
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// `generate`
pub fn run(options: &Options, sample: Option<&Sample>, cx: &mut Context) -> anyhow::Result<u8> {
    let sample = sample.context("this program has no sample domain to generate from")?;
    // ChaCha yields the same numbers in every version. The bound is applied by multiplication, so that a library's change to its
    // distributions cannot change the files of a seed.
    let mut random = ChaCha8Rng::seed_from_u64(options.seed);
    let mut pick = |bound: u64| u64::try_from((u128::from(random.next_u64()) * u128::from(bound)) >> 64).expect("below the bound");
    let progress = terminal::spinner("making up events, and their rows");
    let facts = (sample.facts)(&mut pick, options.events, options.aggregates);
    let events: Vec<_> = record(facts).collect();

    let out = &options.out;
    fs::create_dir_all(out).with_context(|| format!("cannot create {}", out.display()))?;
    let positions = (1_u64..).step_by(BATCH_RECORDS);
    let mut files = 0_u64;
    for (batch, position) in events.chunks(BATCH_RECORDS).zip(positions) {
        files += 1;
        let records = batch.iter().zip(position..).map(|(event, position)| inserted(event, position)).collect();
        let path = out.join(format!("batch-{files:05}.json"));
        let mut file = BufWriter::new(File::create(&path).with_context(|| format!("cannot write {}", path.display()))?);
        serde_json::to_writer(&mut file, &LambdaEvent { records })?;
        file.write_all(b"\n")?;
        file.flush()?;
    }

    let mut expected = Vec::new();
    for rule in cx.registry.read_models() {
        let mut rows = Rows::default();
        for event in &events {
            rows.fold(rule, event).with_context(|| format!("`{}` refuses the sample `{}`", rule.name(), sample.name))?;
        }
        expected.push((rule, snapshot::rows(rule, &rows.visible())));
    }
    let expected = Snapshot::of(expected, Vec::new());
    fs::write(out.join("expected.json"), expected.to_json()?).with_context(|| format!("cannot write to {}", out.display()))?;
    progress.finish_and_clear();
    let (events, files) = (count_of(events.len(), "event"), count(files, "file"));
    cx.out.line(format_args!("{events} of the {} domain in {files}, and expected.json, in {}", sample.name, out.display()));
    Ok(EXIT_OK)
}
