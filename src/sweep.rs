//! Catching up with many aggregates: those that a pass has found behind, or those that the index by event type has events of.

use std::{collections::BTreeMap, str::FromStr, time::Duration};

use futures::{StreamExt as _, stream};
use projection_vocabulary::{AggregateId, Rule, Timestamp, Version};

use crate::{
    catch_up::{CaughtUp, Failed, IfStuck, Standing},
    lane::newer_revision,
    rebuild::Counts,
    retry::Deadline,
    store::{events::IndexCursor, now},
    worker::{CONCURRENCY, Worker},
};

/// So many aggregates are collected before their rows are looked at: ten requests' worth.
const AGGREGATES_AT_ONCE: usize = 1_000;

/// A pass over what has happened since a time, by the index by event type: it finds the aggregates that are behind without reading the
/// event store from end to end. It goes by the events' own timestamps, so it does not see what was imported with older ones; nor, as
/// every index is a moment late, the events of the last seconds.
pub struct Recent<'a> {
    worker: &'a Worker,
    rule: &'static dyn Rule,
    since: Timestamp,
    /// The event types that are left, the present one last.
    types: Vec<&'static str>,
    /// Where the query of the present one goes on.
    next: Option<IndexCursor>,
    /// The highest version met of each aggregate that was not looked at yet.
    met: BTreeMap<AggregateId, Version>,
    counts: Counts,
}

impl<'a> Recent<'a> {
    /// A pass over the events of a rule since a time.
    #[must_use]
    pub fn new(worker: &'a Worker, rule: &'static dyn Rule, since: Timestamp) -> Self {
        let types = rule.event_types().iter().rev().copied().collect();
        Self { worker, rule, since, types, next: None, met: BTreeMap::new(), counts: Counts::default() }
    }

    /// What it came to so far. An aggregate counts as often as it was looked at.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Does the next page of the index. Returns whether there is another.
    ///
    /// # Errors
    /// [`Failed`]: another step goes on there.
    pub async fn step(&mut self, deadline: Deadline) -> Result<bool, Failed> {
        if let Some(event_type) = self.types.last() {
            let (page, next) = self.worker.store().keys_since(event_type, &self.since, self.next.as_ref(), deadline).await?;
            self.counts.events += page.len() as u64;
            for (aggregate, version) in page {
                let met = self.met.entry(aggregate).or_default();
                *met = version.max(*met);
            }
            self.next = next;
            if self.next.is_none() {
                self.types.pop();
            }
        }
        if self.types.is_empty() || self.met.len() >= AGGREGATES_AT_ONCE {
            self.look(deadline).await?;
        }
        Ok(!self.types.is_empty())
    }

    /// Reads the rows of those that were met, and advances those behind.
    async fn look(&mut self, deadline: Deadline) -> Result<(), Failed> {
        let met: Vec<_> = self.met.keys().cloned().collect();
        let rows = self.worker.store().read_rows(self.rule, &met, deadline).await?;
        let mut behind = Vec::new();
        let (mut counts, revision) = (self.counts, self.rule.revision());
        for (id, version) in &self.met {
            let row = rows.get(id).cloned().unwrap_or_default();
            if row.revision > revision {
                return Err(Failed(newer_revision(self.rule, row.revision)));
            }
            counts.aggregates += 1;
            let stale = row.version > Version::NONE && row.revision < revision;
            if row.parked_at.is_some() {
                counts.parked += 1;
            } else if stale || row.version < *version {
                behind.push(id.clone());
            }
        }
        if let Err(failed) = sweep_all(self.worker, self.rule, &behind, IfStuck::AskBreaker, &mut counts, deadline).await {
            self.counts = self.counts.with_done_of(counts);
            return Err(failed);
        }
        self.counts = counts;
        self.met.clear();
        Ok(())
    }
}

/// Advances aggregates to the heads of their histories, and counts what came of it.
pub(crate) async fn sweep_all(
    worker: &Worker,
    rule: &'static dyn Rule,
    behind: &[AggregateId],
    if_stuck: IfStuck,
    counts: &mut Counts,
    deadline: Deadline,
) -> Result<(), Failed> {
    let each = behind.iter().map(|id| worker.sweep(rule, id, if_stuck, deadline));
    let swept: Vec<Result<CaughtUp, Failed>> = stream::iter(each).buffer_unordered(CONCURRENCY).collect().await;
    let mut failure = None;
    for swept in swept {
        match swept {
            // Another may have been quicker.
            Ok(CaughtUp { standing: Standing::Head, applied, reprojected }) => counts.caught_up += u64::from(applied > 0 || reprojected),
            Ok(_) if if_stuck == IfStuck::Leave => counts.stopped += 1,
            Ok(_) => counts.parked += 1,
            Err(failed) => failure = Some(failed),
        }
    }
    failure.map_or(Ok(()), Err)
}

/// A span of time as people write it: a whole number of `s`, `m`, `h` or `d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Age(Duration);

/// The text is no span of time.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a whole number of seconds, minutes, hours or days, such as 90s, 45m, 26h or 7d")]
pub struct NotAnAge;

impl FromStr for Age {
    type Err = NotAnAge;

    fn from_str(text: &str) -> Result<Self, NotAnAge> {
        let (number, unit) = text.split_at_checked(text.len().saturating_sub(1)).ok_or(NotAnAge)?;
        let seconds = match unit {
            "s" => 1,
            "m" => 60,
            "h" => 60 * 60,
            "d" => 24 * 60 * 60,
            _ => return Err(NotAnAge),
        };
        // A sign is no digit, and more than 32 bits of days are older than any event.
        let number: u32 = number.parse().ok().filter(|_| number.bytes().all(|byte| byte.is_ascii_digit())).ok_or(NotAnAge)?;
        Ok(Self(Duration::from_secs(u64::from(number) * seconds)))
    }
}

impl Age {
    /// The time that was so long ago, or the first that a timestamp can tell.
    #[must_use]
    pub fn before_now(self) -> Timestamp {
        let age_ms = i64::try_from(self.0.as_millis()).unwrap_or(i64::MAX);
        let then = Timestamp::from_epoch_ms(now().epoch_ms().saturating_sub(age_ms));
        then.unwrap_or_else(|| Timestamp::parse("0000-01-01T00:00:00Z").expect("it is one"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_is_a_whole_number_and_its_unit() {
        for (text, seconds) in [("90s", 90), ("45m", 2_700), ("26h", 93_600), ("7d", 604_800), ("0s", 0)] {
            assert_eq!(text.parse(), Ok(Age(Duration::from_secs(seconds))), "{text}");
        }
        for text in ["", "h", "26", "-1h", "+1h", "1.5h", "1w", "26 h", "1ü", "99999999999d"] {
            assert_eq!(text.parse::<Age>(), Err(NotAnAge), "{text}");
        }
    }

    #[test]
    fn an_age_is_counted_back_from_now_and_not_beyond_all_time() {
        let hour: Age = "1h".parse().unwrap();
        let apart_ms = now().epoch_ms() - hour.before_now().epoch_ms();
        assert!((3_600_000..3_601_000).contains(&apart_ms), "{apart_ms}");
        let ages: Age = "4294967295d".parse().unwrap();
        assert_eq!(ages.before_now().as_str(), "0000-01-01T00:00:00.000Z");
    }
}
