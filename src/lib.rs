//! placeholder docs
pub mod decode;
#[cfg(feature = "cli")]
pub mod embedded;
#[cfg(feature = "cli")]
pub mod input;
pub mod item;
mod lane;
mod plan;
pub mod report;
pub mod retry;
pub mod store;
mod worker;

pub use worker::Worker;
