//! Keeping within a budget of capacity units per second, so that a long run leaves the rest of the tables' capacity to the worker.

use std::{cell::RefCell, time::Duration};

use clap::Args;
use tokio::time::Instant;

use crate::store::Usage;

/// How much a command may consume.
#[derive(Args, Clone, Copy, Default)]
pub struct Budget {
    /// Write at most U capacity units per second on average
    #[arg(long, value_name = "U", value_parser = clap::value_parser!(u32).range(1..))]
    max_write_units: Option<u32>,
    /// Read at most U capacity units per second on average
    #[arg(long, value_name = "U", value_parser = clap::value_parser!(u32).range(1..))]
    max_read_units: Option<u32>,
}

/// A token bucket for each kind of unit. The cost of a page is known once the store's meter has counted it, so it is paid afterwards.
pub struct RateLimit {
    write: Option<RefCell<Bucket>>,
    read: Option<RefCell<Bucket>>,
}

/// It holds at most one second's units, and may be overdrawn.
struct Bucket {
    units_per_second: f64,
    left: f64,
    filled_at: Instant,
    /// The meter's reading at that time.
    paid: f64,
}

impl RateLimit {
    /// A limit from now on, with this reading of the meter.
    pub fn new(budget: Budget, usage: Usage) -> Self {
        let bucket = |units: Option<u32>, paid| {
            units.map(f64::from).map(|units| RefCell::new(Bucket { units_per_second: units, left: units, filled_at: Instant::now(), paid }))
        };
        Self { write: bucket(budget.max_write_units, usage.write_units), read: bucket(budget.max_read_units, usage.read_units) }
    }

    /// Waits until every budget has something left.
    pub async fn wait(&self, usage: impl Fn() -> Usage) {
        loop {
            let usage = usage();
            let owed = |bucket: &Option<RefCell<Bucket>>, shown| bucket.as_ref().and_then(|bucket| bucket.borrow_mut().owed(shown));
            let Some(owed) = owed(&self.write, usage.write_units).max(owed(&self.read, usage.read_units)) else { return };
            tokio::time::sleep(owed).await;
        }
    }
}

impl Bucket {
    /// How long it takes until something is left, with this reading of the meter.
    fn owed(&mut self, shown: f64) -> Option<Duration> {
        let now = Instant::now();
        let filled = self.left + now.duration_since(self.filled_at).as_secs_f64() * self.units_per_second;
        self.left = filled.min(self.units_per_second) - (shown - self.paid);
        (self.filled_at, self.paid) = (now, shown);
        // A millisecond more, for the clock's ticks: otherwise it would be asked again for nothing.
        (self.left <= 0.0).then(|| Duration::from_secs_f64(-self.left / self.units_per_second) + Duration::from_millis(1))
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn budget(max_write_units: Option<u32>, max_read_units: Option<u32>) -> Budget {
        Budget { max_write_units, max_read_units }
    }

    fn used(write_units: f64, read_units: f64) -> Usage {
        Usage { write_units, read_units, ..Usage::default() }
    }

    #[tokio::test(start_paused = true)]
    async fn consumed_units_are_paid_before_the_next_page() {
        let limit = RateLimit::new(budget(Some(100), None), used(1_000.0, 0.0));
        let begun = Instant::now();
        limit.wait(|| used(1_099.0, 9_999.0)).await;
        assert_eq!(begun.elapsed(), Duration::ZERO, "one is left, and reading is free");
        limit.wait(|| used(1_350.0, 9_999.0)).await;
        assert_eq!(begun.elapsed().as_millis(), 2_501, "250 are owed");
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_second_is_the_most_that_can_be_saved_up() {
        let limit = RateLimit::new(budget(None, Some(10)), used(0.0, 0.0));
        tokio::time::advance(Duration::from_mins(10)).await;
        let begun = Instant::now();
        limit.wait(|| used(0.0, 30.0)).await;
        assert_eq!(begun.elapsed().as_millis(), 2_001);
    }

    #[tokio::test(start_paused = true)]
    async fn many_segments_share_one_budget() {
        let (read, begun) = (Cell::new(0.0), Instant::now());
        let limit = RateLimit::new(budget(Some(1), Some(100)), used(0.0, 0.0));
        let segment = async || {
            for _ in 0..20 {
                limit.wait(|| used(0.0, read.get())).await;
                read.set(read.get() + 50.0);
            }
        };
        tokio::join!(segment(), segment(), segment());
        // 3,000 units, less the first second's and those that are owed at the end.
        let seconds = begun.elapsed().as_secs_f64();
        assert!((27.0..=30.0).contains(&seconds), "{seconds}");
    }
}
