//! The domains of this repository: aggregates that decide commands, projections that turn events into rows, and processes that react to
//! events with commands.
//!
//! To add one, write a file in its domain's folder and add a line to [`ALL`]. The author's guide,
//! [`projection_vocabulary::guide`], shows how.

pub mod bank;
pub mod forum;
pub mod samples;
pub mod shop;

use projection_vocabulary::{
    DynDecider, DynProjection,
    process::{ProcessRule, ProcessStatus},
};

/// Every projection and every process that the worker runs.
pub const ALL: &[&dyn DynProjection] = &[
    &bank::account_summary::AccountSummary, //
    &bank::account_statement::AccountStatement,
    &forum::forum_counters::ForumCounters,
    &forum::topic_posts::TopicPosts,
    &shop::users_and_orders::UsersAndOrders,
    &ProcessRule(bank::transfers::Transfers),
    &ProcessRule(shop::order_fulfilment::OrderFulfilment),
    &ProcessStatus,
];

/// Every kind of aggregate that commands are for.
pub const AGGREGATES: &[&dyn DynDecider] = &[
    &bank::account::Account, //
    &bank::transfer::Transfer,
    &forum::category::Category,
    &forum::topic::Topic,
    &shop::user::User,
    &shop::order::Order,
    &shop::stock::Stock,
    &shop::shipment::Shipment,
];
