//! Records and events from outside the worker: captured files, DynamoDB exports, the stream itself.

pub mod export;
pub mod input;
pub mod stream;
pub(crate) mod stream_json;
