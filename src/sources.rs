//! Records and events from outside the worker: captured files, DynamoDB exports, the stream itself, and what is around records.

pub mod envelope;
#[cfg(feature = "cli")]
pub mod export;
#[cfg(feature = "cli")]
pub mod input;
#[cfg(feature = "cli")]
pub mod stream;
#[cfg(feature = "cli")]
pub(crate) mod stream_json;
