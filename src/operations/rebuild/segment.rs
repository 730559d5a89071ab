//! Rebuilds one segment of the event store, and knows from where another process can continue.

use projection_vocabulary::{AggregateId, DynProjection, Version};

use crate::{
    engine::worker::Worker,
    operations::{
        error::OperationError,
        rebuild::{Rebuild, Task},
    },
    progress::Counts,
    retry::Deadline,
    store::segment::{Cursor, Segment},
};

/// A rebuild of one segment of the event store, page by page.
pub struct SegmentRebuild<'a> {
    rebuild: Rebuild<'a>,
    segment: Segment,
    /// Where the scan continues.
    next: Option<Cursor>,
    /// Where another process would have to continue: before the aggregate that is open.
    resume: Resume,
}

/// From where a segment can be continued.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resume {
    /// Where the scan continues; `None` for the beginning.
    pub cursor: Option<Cursor>,
    /// The counts up to there.
    pub counts: Counts,
}

impl Resume {
    /// Moves to this cursor, up to which these are the counts. At the same cursor they stay: what was counted since will be counted again.
    fn move_to(&mut self, cursor: Option<Cursor>, counts: Counts) {
        if cursor != self.cursor {
            *self = Self { cursor, counts };
        }
    }
}

impl<'a> SegmentRebuild<'a> {
    /// A rebuild that continues from there.
    #[must_use]
    pub fn new(worker: &'a Worker, rule: &'static dyn DynProjection, task: Task, segment: Segment, from: Resume) -> Self {
        let rebuild = Rebuild { counts: from.counts, ..Rebuild::new(worker, rule, task) };
        Self { rebuild, segment, next: from.cursor.clone(), resume: from }
    }

    /// The segment.
    #[must_use]
    pub fn segment(&self) -> Segment {
        self.segment
    }

    /// The counts so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.rebuild.counts()
    }

    /// From where another process can continue.
    #[must_use]
    pub fn resume(&self) -> Resume {
        Resume { cursor: self.resume.cursor.clone(), counts: self.resume.counts.with_done_of(self.counts()) }
    }

    /// Processes the next page. Returns whether there is another.
    ///
    /// # Errors
    /// [`OperationError`]: the next step continues at [`SegmentRebuild::resume`].
    pub async fn step(&mut self, deadline: Deadline) -> Result<bool, OperationError> {
        let stepped = self.try_step(deadline).await;
        if stepped.is_err() {
            self.rewind();
        }
        stepped
    }

    async fn try_step(&mut self, deadline: Deadline) -> Result<bool, OperationError> {
        let store = self.rebuild.worker.store();
        let (page, next) = store.scan_events(self.segment, self.next.as_ref(), deadline).await?;
        let was_open = self.rebuild.histories.open().cloned();
        let keys: Vec<_> = page.iter().map(|(id, stored)| (id.clone(), stored.version())).collect();
        self.rebuild.page(page, deadline).await?;
        let Some(next) = next else {
            self.rebuild.end(deadline).await?;
            self.resume.counts = self.counts();
            return Ok(false);
        };
        let page = ScannedPage { keys: &keys, start: self.next.as_ref(), end: &next };
        let cursor = page.resume_cursor(was_open.as_ref(), self.rebuild.histories.open(), self.resume.cursor.as_ref());
        self.resume.move_to(cursor, self.counts());
        self.next = Some(next);
        Ok(true)
    }

    /// Applies the open aggregate as if its history ended with the last page, so that others can continue after that page. The rest of
    /// its history is caught up with when it is met, at the price of reading the history twice.
    ///
    /// # Errors
    /// [`OperationError`], as for a step.
    pub async fn close(&mut self, deadline: Deadline) -> Result<(), OperationError> {
        if let Err(error) = self.rebuild.end(deadline).await {
            self.rewind();
            return Err(error);
        }
        self.resume = Resume { cursor: self.next.clone(), counts: self.counts() };
        Ok(())
    }

    fn rewind(&mut self) {
        let Resume { cursor, counts } = self.resume();
        self.next = cursor;
        self.rebuild = Rebuild { counts, ..Rebuild::new(self.rebuild.worker, self.rebuild.rule, self.rebuild.task) };
    }
}

/// A page of a scan: its events, and the cursors before and after it.
pub(in crate::operations) struct ScannedPage<'a> {
    pub(in crate::operations) keys: &'a [(AggregateId, Version)],
    pub(in crate::operations) start: Option<&'a Cursor>,
    pub(in crate::operations) end: &'a Cursor,
}

impl ScannedPage<'_> {
    /// From where another process can continue after this page without splitting the history that is open: the aggregate `was_open`
    /// before the page and `open` is after it, and `before` was the answer before.
    pub(in crate::operations) fn resume_cursor(
        &self,
        was_open: Option<&AggregateId>,
        open: Option<&AggregateId>,
        before: Option<&Cursor>,
    ) -> Option<Cursor> {
        match self.keys.iter().rposition(|(id, _)| Some(id) != open) {
            Some(at) => Some(Cursor::after(&self.keys[at].0, self.keys[at].1)),
            // The page has no event of another aggregate.
            None if open.is_none() => Some(self.end.clone()),
            None if was_open == open => before.cloned(),
            None => self.start.cloned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cursor(id: &str, version: u64) -> Cursor {
        Cursor::after(&id.into(), Version(version))
    }

    fn resume_cursor(keys: &[(&str, u64)], was_open: Option<&str>, open: Option<&str>) -> Option<Cursor> {
        let keys: Vec<_> = keys.iter().map(|(id, version)| (AggregateId::from(*id), Version(*version))).collect();
        let page = ScannedPage { keys: &keys, start: Some(&cursor("start", 1)), end: &cursor("end", 1) };
        let id = |id: Option<&str>| id.map(AggregateId::from);
        page.resume_cursor(id(was_open).as_ref(), id(open).as_ref(), Some(&cursor("before", 1)))
    }

    #[test]
    fn the_counts_are_those_up_to_the_cursor() {
        let counts = |events| Counts { events, ..Counts::default() };
        let mut resume = Resume::default();
        for (cursor, events, expected) in
            [(None, 3, 0), (Some(cursor("a", 1)), 5, 5), (Some(cursor("a", 1)), 7, 5), (Some(cursor("b", 1)), 9, 9)]
        {
            resume.move_to(cursor.clone(), counts(events));
            assert_eq!(resume, Resume { cursor, counts: counts(expected) });
        }
    }

    #[test]
    fn it_resumes_after_the_last_event_of_an_aggregate_that_is_closed() {
        let resumed = resume_cursor(&[("a", 1), ("a", 2), ("b", 1), ("b", 2)], Some("a"), Some("b"));
        assert_eq!(resumed, Some(cursor("a", 2)), "b may continue on the next page");
    }

    #[test]
    fn a_page_within_one_history_moves_nothing() {
        assert_eq!(resume_cursor(&[("a", 7), ("a", 8)], Some("a"), Some("a")), Some(cursor("before", 1)));
    }

    #[test]
    fn a_page_that_begins_the_open_history_resumes_at_its_start() {
        assert_eq!(resume_cursor(&[("b", 1), ("b", 2)], Some("a"), Some("b")), Some(cursor("start", 1)));
        assert_eq!(resume_cursor(&[("b", 1), ("b", 2)], None, Some("b")), Some(cursor("start", 1)));
    }

    #[test]
    fn a_page_without_events_resumes_at_its_end_or_before_the_open_history() {
        assert_eq!(resume_cursor(&[], None, None), Some(cursor("end", 1)));
        assert_eq!(resume_cursor(&[], Some("a"), Some("a")), Some(cursor("before", 1)));
    }
}
