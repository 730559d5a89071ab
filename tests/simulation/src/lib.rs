//! What surrounds the worker, as pure state machines that a test drives.

pub mod poller;
