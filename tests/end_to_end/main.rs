//! End to end: the real SDK against the embedded store, and the real programs.

mod support {
    pub mod malformed_records;
    pub mod projections;
    pub mod proxy;
    pub mod runtime_api;
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
    pub mod export;
    pub mod stream;
}

mod operations {
    pub mod rebuild;
    mod redrive;
    mod verify;
}

mod lambda {
    pub mod invocations;
    pub mod metrics;
    mod processes;
    mod tasks;
    #[cfg(feature = "opentelemetry")]
    mod traces;
}

mod cli {
    mod capture;
    mod doctor;
    pub mod parked;
    mod rebuild;
    mod rebuild_processes;
    mod replay;
    mod status;
}
