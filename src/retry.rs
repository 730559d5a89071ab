//! The one retry layer. The one user of `backoff`; the SDK's own retries are off, or the two would multiply.

use std::{
    future::Future,
    time::{Duration, Instant},
};

use backoff::{ExponentialBackoff, ExponentialBackoffBuilder, backoff::Backoff};

/// The first pause: DynamoDB's conflicts and bursts of throttling pass in tens of milliseconds.
const PAUSE_FIRST: Duration = Duration::from_millis(25);
/// The longest pause: beyond it a Lambda pays for waiting.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// Randomly up to so much longer or shorter, so that workers which met once do not meet again.
const JITTER: f64 = 0.5;
/// How long one operation is tried where no invocation ends.
const PATIENCE: Duration = Duration::from_secs(30);

/// How much of an invocation's time may pass before no new work begins. The rest is for the attempts under way, the answer
/// and a slow machine: work that Lambda cuts off is delivered again, all of it.
#[cfg(any(feature = "cli", feature = "lambda"))]
pub(crate) const WORKING_PERCENT: u32 = 80;

/// Until when to begin new work.
#[derive(Clone, Copy, Debug)]
pub struct Deadline(Option<Instant>);

impl Deadline {
    /// No invocation ends: each operation is tried for half a minute.
    pub const NONE: Self = Self(None);

    /// At this instant.
    #[must_use]
    pub fn at(instant: Instant) -> Self {
        Self(Some(instant))
    }

    /// Whether there is one.
    #[must_use]
    pub fn is_some(self) -> bool {
        self.0.is_some()
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

    fn end(self) -> Instant {
        self.0.unwrap_or_else(|| now() + PATIENCE)
    }
}

/// The invocation's time is used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeadlineExceeded;

/// The outcome of one attempt.
pub enum Attempt<T, E> {
    /// It is decided, one way or the other.
    Decided(T),
    /// Worth another try, with what to report if there is none.
    Again(E),
}

/// Tries until an attempt is decided or the deadline would pass, with growing pauses. `on_retry` hears what an attempt
/// reported if another follows it.
///
/// # Errors
/// What the last attempt reported.
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

/// The time of the runtime, which a simulation sets forward.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Growing pauses, none of them past the end. Random by `fastrand`, for `backoff`'s own choices cannot be seeded and a
/// simulation must be repeatable.
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
    async fn it_tries_until_decided() {
        let (tries, retries) = (Cell::new(0), Cell::new(0));
        let attempt = || async {
            tries.set(tries.get() + 1);
            if tries.get() < 4 { Attempt::Again("busy") } else { Attempt::Decided(tries.get()) }
        };
        let decided = retry(Deadline::NONE, attempt, |_| retries.set(retries.get() + 1)).await;
        assert_eq!((decided, retries.get()), (Ok(4), 3));
    }

    #[tokio::test]
    async fn a_passed_deadline_means_one_try() {
        let tries = Cell::new(0);
        let attempt = || async {
            tries.set(tries.get() + 1);
            Attempt::Again("busy")
        };
        let gave_up: Result<(), _> = retry(Deadline::at(Instant::now()), attempt, |_| panic!("nothing follows it")).await;
        assert_eq!((gave_up, tries.get()), (Err("busy"), 1));
    }
}
