//! The only retry layer, and the only user of `backoff`. The SDK's own retries are off; otherwise the two would multiply.

use std::{
    future::Future,
    time::{Duration, Instant},
};

use backoff::{ExponentialBackoff, ExponentialBackoffBuilder, backoff::Backoff};

/// The first pause: DynamoDB's conflicts and bursts of throttling pass in tens of milliseconds.
const PAUSE_FIRST: Duration = Duration::from_millis(25);
/// The longest pause, because a Lambda pays for waiting.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// Pauses are randomly longer or shorter by up to this fraction, so that workers that conflicted once do not conflict again.
const JITTER: f64 = 0.5;
/// How long one operation is retried if there is no deadline.
const PATIENCE: Duration = Duration::from_secs(30);

/// After this percentage of an invocation's time, no new work begins. The rest is for attempts in progress, for the response and for
/// a slow machine: if Lambda ends the invocation, the whole batch is delivered again.
#[cfg(any(feature = "cli", feature = "lambda"))]
pub(crate) const WORKING_PERCENT: u32 = 80;

/// The time after which no new work begins.
#[derive(Clone, Copy, Debug)]
pub struct Deadline(Option<Instant>);

impl Deadline {
    /// No deadline: each operation is retried for half a minute.
    pub const NONE: Self = Self(None);

    /// A deadline at this instant.
    #[must_use]
    pub fn at(instant: Instant) -> Self {
        Self(Some(instant))
    }

    /// Whether there is a deadline.
    #[must_use]
    pub fn is_some(self) -> bool {
        self.0.is_some()
    }

    /// A deadline that is earlier by this time.
    #[must_use]
    pub(crate) fn earlier_by(self, time: Duration) -> Self {
        Self(self.0.map(|instant| instant.checked_sub(time).unwrap_or(instant)))
    }

    /// Fails once no new work may begin.
    ///
    /// # Errors
    /// [`DeadlineExceeded`].
    pub fn check(self) -> Result<(), DeadlineExceeded> {
        if self.passed() { Err(DeadlineExceeded) } else { Ok(()) }
    }

    /// Whether no new work may begin.
    #[must_use]
    pub fn passed(self) -> bool {
        self.0.is_some_and(|instant| instant <= now())
    }

    /// The time that is left; `None` if there is no deadline.
    #[must_use]
    pub(crate) fn left(self) -> Option<Duration> {
        self.0.map(|instant| instant.saturating_duration_since(now()))
    }

    /// The instant, if there is a deadline.
    #[cfg(feature = "queries")]
    pub(crate) fn instant(self) -> Option<Instant> {
        self.0
    }

    fn end(self) -> Instant {
        self.0.unwrap_or_else(|| now() + PATIENCE)
    }
}

/// The invocation's time is used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeadlineExceeded;

/// The outcome of one attempt.
pub enum Attempt<T, E> {
    /// Decisive: a success or an error that no retry can change.
    Decided(T),
    /// Worth another attempt, with the error to return if there is none.
    Again(E),
}

/// Repeats attempts, with growing pauses, until one is decisive or the deadline would pass. If another attempt follows one, `on_retry`
/// receives the error of the one that failed.
///
/// # Errors
/// The error of the last attempt.
pub async fn retry<T, E, F: Future<Output = Attempt<T, E>>>(
    deadline: Deadline,
    mut attempt: impl FnMut() -> F,
    mut on_retry: impl FnMut(&E),
) -> Result<T, E> {
    let growing = ExponentialBackoffBuilder::new()
        .with_initial_interval(PAUSE_FIRST)
        .with_max_interval(PAUSE_MAX)
        .with_multiplier(2.0)
        .with_randomization_factor(0.0)
        .with_max_elapsed_time(None)
        .build();
    let tried = || {
        let next = attempt();
        async move {
            match next.await {
                Attempt::Decided(decided) => Ok(decided),
                Attempt::Again(error) => Err(backoff::Error::transient(error)),
            }
        }
    };
    backoff::future::retry_notify(Pauses { growing, end: deadline.end() }, tried, |error, _| on_retry(&error)).await
}

/// The runtime's time, which a simulation can move forward.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Growing pauses that do not extend past the end. They are randomised by `fastrand`, because `backoff`'s own randomness cannot be
/// seeded, and a simulation must be repeatable.
struct Pauses {
    growing: ExponentialBackoff,
    end: Instant,
}

impl Backoff for Pauses {
    fn reset(&mut self) {
        self.growing.reset();
    }

    fn next_backoff(&mut self) -> Option<Duration> {
        let pause = self.growing.next_backoff()?.mul_f64(1.0 + JITTER * (2.0 * fastrand::f64() - 1.0));
        (now() + pause < self.end).then_some(pause)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn attempts_are_repeated_until_one_is_decisive() {
        let (tries, retries) = (Cell::new(0), Cell::new(0));
        let attempt = || async {
            tries.set(tries.get() + 1);
            if tries.get() < 4 { Attempt::Again("busy") } else { Attempt::Decided(tries.get()) }
        };
        let decided = retry(Deadline::NONE, attempt, |_| retries.set(retries.get() + 1)).await;
        assert_eq!((decided, retries.get()), (Ok(4), 3));
    }

    #[tokio::test]
    async fn after_the_deadline_there_is_one_attempt() {
        let tries = Cell::new(0);
        let attempt = || async {
            tries.set(tries.get() + 1);
            Attempt::Again("busy")
        };
        let gave_up: Result<(), _> = retry(Deadline::at(Instant::now()), attempt, |_| panic!("no attempt follows the only one")).await;
        assert_eq!((gave_up, tries.get()), (Err("busy"), 1));
    }
}
