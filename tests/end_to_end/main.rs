//! End to end: the real SDK against the embedded store, and the real programs.

mod support {
    pub mod export;
    pub mod malformed_records;
    pub mod metrics;
    pub mod programs;
    pub mod projections;
    pub mod projector;
    pub mod proxy;
    pub mod records;
    pub mod runtime_api;
    pub mod stays;
    pub mod stream;
    pub mod world;
}

mod engine {
    mod decisions;
    mod faults;
    mod laws;
    mod malformed_records;
    mod sizes;
}

mod store {
    mod event_store;
}

mod sources {
    mod stream;
}

mod operations {
    mod rebuild;
    mod redrive;
    mod verify;
}

mod lambda {
    mod invocations;
    mod metrics;
    mod processes;
    mod tasks;
    #[cfg(feature = "opentelemetry")]
    mod traces;
}

mod cli {
    mod capture;
    mod doctor;
    mod parked;
    mod rebuild;
    mod rebuild_processes;
    mod replay;
    mod status;
}

/// The size of a test that kills or searches at random: the first number before every change, the second under `.ci/nightly`.
fn size(gate: usize, nightly: usize) -> usize {
    if std::env::var_os("PROOF").is_some_and(|proof| proof == "nightly") { nightly } else { gate }
}
