//! How the worker's CPU time grows: each line doubles one thing, alone. The plot goes into the documentation.

use std::time::Duration;

use projection_vocabulary::{DynProjection, RecordedEvent};

use crate::{
    Options,
    histories::{accounts, journey, payload, rounds_of_topics},
    measure::{measure_async, runtime},
    plot::{self, Line},
    rules::{ACCOUNTS, FORUM, JOURNEYS},
    table,
    world::{World, process},
};

const LARGEST: usize = 10_000;
const DOUBLINGS: usize = 6;
/// A line that has come to this is not drawn further.
const LONGEST: Duration = Duration::from_secs(20);
/// Below this, a ratio says more about the machine.
const SHORTEST: Duration = Duration::from_millis(4);

/// What grows, the rules that take it, and a batch with so many of it.
struct Subject {
    name: &'static str,
    rules: &'static [&'static dyn DynProjection],
    batch: fn(usize) -> Vec<RecordedEvent>,
}

const SUBJECTS: &[Subject] = &[
    Subject { name: "events, 10 of each aggregate", rules: ACCOUNTS, batch: |n| accounts(n / 10, 10) },
    Subject { name: "aggregates with one event each", rules: ACCOUNTS, batch: |n| accounts(n, 1) },
    Subject { name: "events of one aggregate", rules: ACCOUNTS, batch: |n| accounts(1, n) },
    Subject { name: "aggregates of one shared row", rules: FORUM, batch: |n| rounds_of_topics(1, n, 1).remove(0) },
    Subject { name: "shared rows of one aggregate", rules: JOURNEYS, batch: |n| journey(n, "Visited") },
    Subject { name: "moves of one aggregate", rules: JOURNEYS, batch: |n| journey(n, "Moved") },
];

pub fn run(options: &Options) {
    let lines: Vec<_> = SUBJECTS.iter().map(line).collect();
    let rows = lines.iter().map(|Line { name, points }| {
        let at = |n| points.iter().find(|(size, _)| *size == n).map_or_else(|| "-".to_owned(), |(_, took)| ms(*took));
        [name.to_string(), at(LARGEST >> 4), at(LARGEST >> 2), at(LARGEST), worst(points)]
    });
    table::print(
        "CPU time of one batch, in ms, without the database's; and the worst factor of a doubling.",
        ["n", "625", "2,500", "10,000", "twice the n"],
        rows,
    );
    if let Some(path) = &options.plot {
        let drawn = plot::draw("CPU time of one batch", "n", &lines);
        std::fs::write(path, drawn).expect("the plot is written");
        println!("The plot is in {}.\n", path.display());
    }
}

fn line(subject: &Subject) -> Line {
    let mut points = Vec::new();
    for doubling in (0..=DOUBLINGS).rev() {
        let n = LARGEST >> doubling;
        let payload = payload(&(subject.batch)(n), 1);
        let took = (0..3).map(|_| once(subject, &payload)).min().expect("at least once");
        points.push((n, took));
        if took > LONGEST {
            break;
        }
    }
    Line { name: subject.name, points }
}

fn once(subject: &Subject, payload: &[u8]) -> Duration {
    let runtime = runtime();
    let world = runtime.block_on(World::new(subject.rules, Duration::ZERO));
    let beyond = world.network.beyond();
    let (_, cost) = measure_async(&runtime, process(&world.worker, payload));
    cost.cpu - (world.network.beyond() - beyond)
}

fn worst(points: &[(usize, Duration)]) -> String {
    let factors = points.windows(2).filter(|pair| pair[0].1 >= SHORTEST).map(|pair| pair[1].1.as_secs_f64() / pair[0].1.as_secs_f64());
    factors.reduce(f64::max).map_or_else(|| "-".to_owned(), |worst| format!("x {worst:.2}"))
}

fn ms(time: Duration) -> String {
    format!("{:.1}", time.as_secs_f64() * 1e3)
}
