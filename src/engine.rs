//! The engine: a batch of stream records in, exact rows out, and an account of every record.
//!
//! A record goes one way: [`decode`] -> [`lane`] -> [`plan`] -> [`worker`] (which commits) -> [`report`]. Only the worker awaits,
//! and what a process does on the way: [`act`].

pub mod act;
pub mod breaker;
pub mod calls;
pub mod content;
pub mod decode;
pub mod error;
pub mod lane;
mod mostly_one;
pub mod plan;
pub mod redelivery;
pub mod report;
pub mod reproject;
pub mod shares;
pub mod worker;
