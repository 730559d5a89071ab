#![doc = include_str!("../README.md")]

#[cfg(any(feature = "cli", feature = "lambda"))]
mod age;
#[cfg(feature = "cli")]
pub mod cli;
#[cfg(any(feature = "cli", feature = "lambda"))]
mod clients;
mod commands;
mod config;
#[cfg(feature = "cli")]
mod dev;
#[cfg(feature = "cli")]
mod doctor;
#[cfg(feature = "cli")]
mod embedded;
mod engine;
#[cfg(any(feature = "cli", feature = "lambda"))]
mod escape;
#[cfg(feature = "lambda")]
pub mod lambda;
mod operations;
#[cfg(feature = "cli")]
mod plural;
mod progress;
#[cfg(feature = "queries")]
mod queries;
mod retry;
#[cfg(feature = "cli")]
mod snapshot;
#[cfg(any(feature = "cli", feature = "lambda"))]
mod sources;
mod store;

// What a team needs that runs the engine inside a program of its own. For the two usual programs, `cli::run` and `lambda::run` are all.
pub use commands::{AnyCommand, AnyHandled, AnyRefusal, CommandError, Commands, Handled, HandledTogether, Loaded, To, Together};
pub use config::{ConfigError, ConfigProblem};
pub use engine::{
    calls::{CallError, Calls},
    decode::{Ignored, SequenceNumber},
    report::{Checkpoint, Outcome, Report, Tally},
    worker::Worker,
};
#[cfg(feature = "cache")]
pub use queries::LocalCache;
#[cfg(feature = "queries")]
pub use queries::{
    CacheKey, CachedRow, ChildRows, Get, IndexRows, PAGE_ROWS_MAX, Page, PageToken, PageTokenError, Queries, QueryError, Read, Row,
    RowCache, Rows, Selection, TokenKey,
};
pub use retry::Deadline;
pub use store::{Dynamo, Store, StoreError, TableNames, Usage};

/// What this repository's own tests see of the crate. Not part of the public API: it changes without notice.
#[doc(hidden)]
pub mod internals {
    #[cfg(feature = "cli")]
    pub mod doctor {
        pub use crate::doctor::*;
    }
    #[cfg(feature = "cli")]
    pub mod dev {
        pub use crate::dev::*;
    }
    #[cfg(feature = "cli")]
    pub mod embedded {
        pub use crate::embedded::*;
    }
    pub mod engine {
        pub use crate::engine::*;
    }
    #[cfg(feature = "lambda")]
    pub mod lambda {
        /// Asks for every environment variable that the Lambda reads when it starts.
        ///
        /// # Errors
        /// One message for all variables that are missing or wrong.
        pub fn read_environment(
            registry: projection_vocabulary::Registry,
            var: impl Fn(&str) -> Option<String>,
        ) -> Result<(), crate::config::ConfigError> {
            crate::lambda::read_environment(registry, var)
        }
    }
    pub mod operations {
        pub use crate::operations::*;
    }
    pub mod progress {
        pub use crate::progress::*;
    }
    pub mod retry {
        pub use crate::retry::*;
    }
    #[cfg(any(feature = "cli", feature = "lambda"))]
    pub mod sources {
        pub use crate::sources::*;
    }
    pub mod store {
        pub use crate::store::*;
    }
    #[cfg(any(feature = "cli", feature = "lambda"))]
    pub mod clients {
        pub use crate::clients::*;
    }
}
