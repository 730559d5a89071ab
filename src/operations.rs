//! What an operator or a schedule asks for. Every operation that writes rows does so through the engine, so it may run while the worker
//! runs.

#[cfg(feature = "cli")]
pub mod aggregates;
#[cfg(feature = "cli")]
pub mod append;
#[cfg(feature = "cli")]
mod bulk;
pub mod catch_up;
pub mod contributions;
#[cfg(feature = "cli")]
pub mod correct;
#[cfg(feature = "cli")]
pub mod differs;
pub mod error;
#[cfg(feature = "cli")]
pub mod explain;
#[cfg(test)]
mod fixture;
pub mod footing;
pub mod histories;
#[cfg(feature = "cli")]
pub mod import;
#[cfg(feature = "cli")]
pub mod preview;
pub mod processes;
pub mod rebuild;
pub mod recent;
pub mod redrive;
pub mod settle;
#[cfg(feature = "cli")]
pub mod status;
pub mod verify;
