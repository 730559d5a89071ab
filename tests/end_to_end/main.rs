//! End to end: the real SDK against the embedded store, and the real programs.

mod capture;
mod capture_cli;
mod decisions;
mod doctor;
mod event_store;
mod export;
mod faults;
mod lambda;
mod laws;
mod malformed;
mod metrics;
mod odd;
mod parked;
mod parked_cli;
mod processes;
mod proxy;
mod rebuild;
mod rebuild_cli;
mod rebuild_lambda;
mod rebuild_processes;
mod replay;
mod rules;
mod runtime_api;
mod sizes;
mod status;
#[cfg(feature = "opentelemetry")]
mod traces;
mod verify;
mod world;
