//! Keeping within a budget of capacity units a second, so that a pass leaves the tables to the worker.

use std::{cell::RefCell, time::Duration};

use clap::Args;
use tokio::time::Instant;

use crate::store::Usage;

/// How much a command may consume.
#[derive(Args, Clone, Copy, Default)]
pub struct Budget {
    /// Write at most U capacity units a second, on average: the next page waits until they are paid
    #[arg(long, value_name = "U", value_parser = clap::value_parser!(u32).range(1..))]
    max_write_units: Option<u32>,
    /// Read at most U capacity units a second, on average
    #[arg(long, value_name = "U", value_parser = clap::value_parser!(u32).range(1..))]
    max_read_units: Option<u32>,
}

/// A token bucket for each kind of unit. A page costs what the store's meter says that it has cost, so it is paid afterwards.
pub struct Pace {
    write: Option<RefCell<Bucket>>,
    read: Option<RefCell<Bucket>>,
}

/// It holds at most what comes in a second, and may be overdrawn.
struct Bucket {
    units_a_second: f64,
    left: f64,
    filled_at: Instant,
    /// What the meter showed then.
    paid: f64,
}

impl Pace {
    /// A pace from now on, where the meter shows this.
    pub fn new(budget: Budget, usage: Usage) -> Self {
        let bucket = |units: Option<u32>, paid| {
            units.map(f64::from).map(|units| RefCell::new(Bucket { units_a_second: units, left: units, filled_at: Instant::now(), paid }))
        };
        Self { write: bucket(budget.max_write_units, usage.write_units), read: bucket(budget.max_read_units, usage.read_units) }
    }

    /// Waits until something is left of every budget.
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
    /// How long it takes until something is left, where the meter shows this.
    fn owed(&mut self, shown: f64) -> Option<Duration> {
        let now = Instant::now();
        let filled = self.left + now.duration_since(self.filled_at).as_secs_f64() * self.units_a_second;
        self.left = filled.min(self.units_a_second) - (shown - self.paid);
        (self.filled_at, self.paid) = (now, shown);
        // A millisecond more, for the clock's ticks: or it would be asked again for nothing.
        (self.left <= 0.0).then(|| Duration::from_secs_f64(-self.left / self.units_a_second) + Duration::from_millis(1))
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
    async fn what_was_consumed_is_paid_before_the_next_page() {
        let pace = Pace::new(budget(Some(100), None), used(1_000.0, 0.0));
        let begun = Instant::now();
        pace.wait(|| used(1_099.0, 9_999.0)).await;
        assert_eq!(begun.elapsed(), Duration::ZERO, "one is left, and reading is free");
        pace.wait(|| used(1_350.0, 9_999.0)).await;
        assert_eq!(begun.elapsed().as_millis(), 2_501, "250 are owed");
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_idles_saves_up_no_more_than_a_second() {
        let pace = Pace::new(budget(None, Some(10)), used(0.0, 0.0));
        tokio::time::advance(Duration::from_mins(10)).await;
        let begun = Instant::now();
        pace.wait(|| used(0.0, 30.0)).await;
        assert_eq!(begun.elapsed().as_millis(), 2_001);
    }

    #[tokio::test(start_paused = true)]
    async fn many_segments_share_one_budget() {
        let (read, begun) = (Cell::new(0.0), Instant::now());
        let pace = Pace::new(budget(Some(1), Some(100)), used(0.0, 0.0));
        let segment = async || {
            for _ in 0..20 {
                pace.wait(|| used(0.0, read.get())).await;
                read.set(read.get() + 50.0);
            }
        };
        tokio::join!(segment(), segment(), segment());
        // 3,000 units, less the first second's and those that are owed at the end.
        let seconds = begun.elapsed().as_secs_f64();
        assert!((27.0..=30.0).contains(&seconds), "{seconds}");
    }
}
