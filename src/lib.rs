#![doc = include_str!("../README.md")]

mod breaker;
#[cfg(feature = "cli")]
pub mod capture;
pub mod catch_up;
#[cfg(feature = "cli")]
pub mod cli;
#[cfg(any(feature = "cli", feature = "runtime"))]
pub mod clients;
pub mod decode;
#[cfg(feature = "cli")]
pub mod doctor;
#[cfg(feature = "cli")]
pub mod embedded;
#[cfg(feature = "cli")]
pub mod export;
#[cfg(feature = "cli")]
pub mod input;
pub mod item;
#[cfg(feature = "runtime")]
pub mod lambda;
mod lane;
mod pass;
mod plan;
pub mod rebuild;
pub mod redrive;
pub mod report;
mod reproject;
pub mod retry;
#[cfg(feature = "cli")]
pub mod status;
pub mod store;
#[cfg(feature = "cli")]
mod stream_json;
pub mod sweep;
pub mod verify;
mod worker;

pub use worker::Worker;
