//! `cargo simulate`: see `--help`.

use std::{process::ExitCode, time::Instant};

use simulation::{
    choices::Choices,
    faults::Fault,
    run::run,
    schedules::{Wrong, run_all},
    shrink::shrink,
};

// Most of a run's time is spent on allocation.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const HELP: &str = "\
Runs the real worker on a simulated DynamoDB under a seeded scheduler that injects faults.

cargo simulate [--schedules N] [--seed S]   N schedules of the seeds from S on (1,000 from 0)
cargo simulate --seed S --trace             one schedule, printed step by step

Exit codes: 0 all invariants hold, 1 one is violated, 2 usage.";

struct Options {
    schedules: u64,
    seed: u64,
    trace: bool,
    /// Whether a failure is only reported, not shrunk.
    first: bool,
}

fn main() -> ExitCode {
    let Some(options) = options() else {
        eprintln!("{HELP}");
        return ExitCode::from(2);
    };
    // A run catches a panic of the worker and reports it, so the default message would only repeat it.
    std::panic::set_hook(Box::new(|_| {}));
    if options.trace {
        return trace(Choices::of_seed(options.seed));
    }
    simulate(&options)
}

fn options() -> Option<Options> {
    let mut options = Options { schedules: 1_000, seed: 0, trace: false, first: false };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut number = || arguments.next()?.replace('_', "").parse().ok();
        match argument.as_str() {
            "--schedules" => options.schedules = number()?,
            "--seed" => options.seed = number()?,
            "--trace" => options.trace = true,
            "--first" => options.first = true,
            _ => return None,
        }
    }
    Some(options)
}

fn simulate(options: &Options) -> ExitCode {
    let begun = Instant::now();
    let all = run_all(options.seed..options.seed.saturating_add(options.schedules));
    if let Some(Wrong { seed, failure, made }) = all.wrong {
        println!("seed {seed}: {failure}");
        if options.first {
            return ExitCode::FAILURE;
        }
        println!("\nThe shortest failing run found near it:");
        trace(Choices::of_list(shrink(made)));
        println!("\nfailed: seed {seed} after {} s; repeat it with `cargo simulate --seed {seed} --trace`", begun.elapsed().as_secs());
        return ExitCode::FAILURE;
    }
    for fault in Fault::ALL {
        println!("{:>10}  {}", all.counts.of(*fault), fault.text());
    }
    println!("all holds: {} schedules, {} requests, 0 divergences, {} s", options.schedules, all.requests, begun.elapsed().as_secs());
    ExitCode::SUCCESS
}

fn trace(choices: Choices) -> ExitCode {
    let finished = run(choices, true);
    for line in &finished.trace {
        println!("{line}");
    }
    if finished.failure.is_some() {
        return ExitCode::FAILURE;
    }
    println!("all holds");
    ExitCode::SUCCESS
}
