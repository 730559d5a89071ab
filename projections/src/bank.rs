//! Bank accounts: what a balance is.

pub mod account_statement;
pub mod account_summary;
pub(crate) mod sample;
