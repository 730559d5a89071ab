//! Proves that no fault makes a row wrong: the real worker on a simulated DynamoDB, under a seeded scheduler.

pub mod books;
pub mod choices;
pub mod database;
pub mod expression;
pub mod far;
pub mod faults;
pub mod network;
pub mod oracle;
pub mod plan;
pub mod purses;
pub mod rules;
pub mod run;
pub mod schedules;
pub mod shrink;
pub mod stream;
pub mod transfers;
