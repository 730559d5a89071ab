//! The cost of the store's requests, counted where the calls are made, so that nothing is free by omission.

use std::{
    ops::{AddAssign, Sub},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use aws_sdk_dynamodb::types::ConsumedCapacity;

use super::StoreError;

/// Requests and capacity units used.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    /// Requests sent, including each retry.
    pub requests: u64,
    /// Write units, including those of failed conditions.
    pub write_units: f64,
    /// Read units.
    pub read_units: f64,
    /// Retries after a transient error: throttling, a conflict, a timeout or a server error.
    pub retries: u64,
    /// Those retries that followed a conflict with another write of the same items.
    pub conflicts: u64,
}

impl Sub for Usage {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            requests: self.requests - before.requests,
            write_units: self.write_units - before.write_units,
            read_units: self.read_units - before.read_units,
            retries: self.retries - before.retries,
            conflicts: self.conflicts - before.conflicts,
        }
    }
}

impl AddAssign for Usage {
    fn add_assign(&mut self, other: Self) {
        self.requests += other.requests;
        self.write_units += other.write_units;
        self.read_units += other.read_units;
        self.retries += other.retries;
        self.conflicts += other.conflicts;
    }
}

/// Counts requests and capacity units. Units come in halves, so whole numbers of halves count them exactly.
#[derive(Default)]
pub struct Meter {
    requests: AtomicU64,
    write_halves: AtomicU64,
    read_halves: AtomicU64,
    retries: AtomicU64,
    conflicts: AtomicU64,
}

impl Meter {
    pub fn request(&self) {
        self.requests.fetch_add(1, Relaxed);
    }

    /// Counts a retry after this error.
    pub fn on_retry(&self, error: &StoreError) {
        self.retries.fetch_add(1, Relaxed);
        self.conflicts.fetch_add(u64::from(error.is_conflict()), Relaxed);
    }

    pub fn wrote<'a>(&self, capacity: impl IntoIterator<Item = &'a ConsumedCapacity>) {
        self.write_halves.fetch_add(halves(capacity), Relaxed);
    }

    pub fn read_rows<'a>(&self, capacity: impl IntoIterator<Item = &'a ConsumedCapacity>) {
        self.read_halves.fetch_add(halves(capacity), Relaxed);
    }

    /// Counts a failed write, which reports no capacity but costs it all the same: one unit for a failed condition, and two for each item
    /// of a cancelled transaction.
    pub fn wasted(&self, write_units: u64) {
        self.write_halves.fetch_add(2 * write_units, Relaxed);
    }

    pub fn read(&self) -> Usage {
        #[allow(clippy::cast_precision_loss, reason = "exact up to 2^53 halves of a unit")]
        let units = |halves: &AtomicU64| halves.load(Relaxed) as f64 / 2.0;
        Usage {
            requests: self.requests.load(Relaxed),
            write_units: units(&self.write_halves),
            read_units: units(&self.read_halves),
            retries: self.retries.load(Relaxed),
            conflicts: self.conflicts.load(Relaxed),
        }
    }
}

fn halves<'a>(capacity: impl IntoIterator<Item = &'a ConsumedCapacity>) -> u64 {
    let units: f64 = capacity.into_iter().filter_map(|consumed| consumed.capacity_units).sum();
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "units are small, not negative, and come in halves")]
    let halves = (units * 2.0).round() as u64;
    halves
}
