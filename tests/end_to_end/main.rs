//! End to end: the real SDK against the embedded DynamoDB, and the real programs.
//!
//! It is one binary, linked once. Each folder has one subject; `support` holds the helpers that several files share.

mod support {
    pub mod console;
    pub mod export;
    /// Of the measurements: what is measured there is counted here.
    #[path = "../../../benches/src/histories.rs"]
    #[allow(dead_code, reason = "the measurements need more of it")]
    pub mod histories;
    pub mod large_rows;
    pub mod malformed_records;
    pub mod metrics;
    pub mod payouts;
    pub mod processes;
    pub mod programs;
    pub mod projections;
    pub mod projector;
    pub mod proxy;
    pub mod records;
    pub mod runtime_api;
    pub mod stays;
    pub mod stream;
    #[path = "../../../benches/src/takes_all.rs"]
    pub mod takes_all;
    pub mod template;
    pub mod world;
}

/// A batch of records becomes exact rows, whatever the batch and whatever fails.
mod engine {
    mod decisions;
    mod faults;
    mod laws;
    mod malformed_records;
    mod rewritten_events;
    mod sizes;
}

/// The event store's appends, imports and reads, and the tables.
mod store {
    mod event_store;
    mod tables;
}

/// Commands: decided by aggregates, appended exactly once.
mod commands;

/// Processes: what instances receive, send and undo.
mod processes;

/// What fixed work costs, to the last request.
mod costs;

/// Records from outside: the event store's stream.
mod sources {
    mod stream;
}

/// Operations on a worker: rebuild, redrive, verify.
mod operations {
    mod aggregates;
    mod brakes;
    mod bulk;
    mod changed_rules;
    mod child_rows;
    mod corrections;
    mod explain;
    mod preview;
    mod rebuild;
    mod recent;
    mod redrive;
    mod verify;
    mod verify_parts;
}

/// Typed reads of rows.
mod queries {
    mod cache;
    mod children;
    mod fresh;
    mod pages;
    mod rows;
    mod shards;
    mod waiting;
}

/// The Lambda as a process, under a Runtime API.
mod lambda {
    mod deliveries;
    mod invocations;
    mod metrics;
    mod orders;
    mod processes;
    mod tasks;
    mod ticks;
    #[cfg(feature = "opentelemetry")]
    mod traces;
}

/// The template in `infra` and the code agree.
mod infrastructure;

/// The development console, over HTTP.
mod dev {
    mod faults;
    mod pages;
    mod safety;
}

/// `projector` as a process, as an operator runs it.
mod cli {
    mod capture;
    mod captures;
    mod command;
    mod doctor;
    mod escapes;
    mod events;
    mod explain;
    mod help;
    mod output;
    mod parked;
    mod preview;
    mod process;
    mod readme;
    mod rebuild;
    mod rebuild_processes;
    mod replay;
    mod rows;
    mod serve;
    mod status;
    mod stores;
}

/// The size of a test that kills or searches at random: the first number before every change, the second under `.ci/nightly`.
fn size(gate: usize, nightly: usize) -> usize {
    if std::env::var_os("PROOF").is_some_and(|proof| proof == "nightly") { nightly } else { gate }
}
