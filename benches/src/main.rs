//! Measures the worker. Each subject is a file and prints its tables; `README.md` says how to read them.

#![allow(
    clippy::cast_precision_loss,
    clippy::unchecked_time_subtraction,
    reason = "counts are far below 2^53, and a clock that goes back should end a measurement"
)]

mod batches;
mod commands;
mod decode;
mod growth;
mod histories;
mod hot_row;
mod measure;
mod operations;
mod order;
mod plot;
mod redelivery;
mod rules;
mod shared_rows;
mod table;
mod takes_all;
mod world;

use std::path::PathBuf;

/// A name, what measures it, and what that tells.
type Subject = (&'static str, fn(&Options), &'static str);

/// What can be measured, in the order of the documentation.
const SUBJECTS: &[Subject] = &[
    ("decode", decode::run, "records into requests, against one parse of the same bytes"),
    ("batches", batches::run, "whole batches, against one ADD for each record"),
    ("redelivery", redelivery::run, "a batch that is delivered again"),
    ("shared-rows", shared_rows::run, "topics and the category that they share"),
    ("hot-row", hot_row::run, "a category that several workers write at once"),
    ("growth", growth::run, "CPU time against the size of a batch; --plot FILE draws it"),
    ("operations", operations::run, "import, rebuild, verify, catch-up, export; --events N, 100,000 by default"),
    ("commands", commands::run, "commands with short and long histories, and reads"),
    ("order", order::run, "an order through its process"),
];

/// What the subjects can be told.
struct Options {
    /// The events of `operations`.
    events: usize,
    /// Where `growth` draws its plot.
    plot: Option<PathBuf>,
}

fn main() {
    let mut options = Options { events: 100_000, plot: None };
    let (mut wanted, mut arguments) = (Vec::new(), std::env::args().skip(1));
    while let Some(argument) = arguments.next() {
        let known = argument == "all" || SUBJECTS.iter().any(|(name, ..)| *name == argument);
        match argument.as_str() {
            "--events" => options.events = arguments.next().and_then(|events| events.parse().ok()).unwrap_or_else(|| usage()),
            "--plot" => options.plot = Some(arguments.next().unwrap_or_else(|| usage()).into()),
            _ if known => wanted.push(argument),
            _ => usage(),
        }
    }
    if wanted.is_empty() {
        usage();
    }
    for (name, run, _) in SUBJECTS {
        if wanted.iter().any(|wanted| wanted == name || wanted == "all") {
            println!("## {name}\n");
            run(&options);
        }
    }
}

fn usage() -> ! {
    println!("cargo measure SUBJECT...\n");
    for (name, _, about) in SUBJECTS {
        println!("  {name:<12} {about}");
    }
    println!("  {:<12} each of them", "all");
    std::process::exit(2);
}
