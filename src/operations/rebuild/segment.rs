//! A pass over one segment of the event store, with the checkpoint at which another process can continue.

use projection_vocabulary::DynProjection;

use crate::{
    engine::worker::Worker,
    operations::{
        catch_up::Failed,
        rebuild::{Rebuild, Task},
    },
    progress::Counts,
    retry::Deadline,
    store::segment::{Cursor, Segment},
};

/// A pass over one segment of the event store, page by page.
pub struct SegmentRebuild<'a> {
    rebuild: Rebuild<'a>,
    segment: Segment,
    /// Where the scan goes on.
    next: Option<Cursor>,
    /// Where another would have to go on: in front of the aggregate that is open.
    settled: Option<Cursor>,
    /// What it had come to there.
    settled_counts: Counts,
}

impl<'a> SegmentRebuild<'a> {
    /// A pass that begins behind a cursor, and counts on from there.
    #[must_use]
    pub fn new(
        worker: &'a Worker,
        rule: &'static dyn DynProjection,
        task: Task,
        segment: Segment,
        (from, counts): (Option<Cursor>, Counts),
    ) -> Self {
        let rebuild = Rebuild { counts, ..Rebuild::new(worker, rule, task) };
        Self { rebuild, segment, next: from.clone(), settled: from, settled_counts: counts }
    }

    /// The segment.
    #[must_use]
    pub fn segment(&self) -> Segment {
        self.segment
    }

    /// What it came to so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.rebuild.counts()
    }

    /// Where another can go on, and what to count on from: no cursor if nothing is done yet.
    #[must_use]
    pub fn checkpoint(&self) -> (Option<&Cursor>, Counts) {
        (self.settled.as_ref(), self.settled_counts.with_done_of(self.counts()))
    }

    /// Does the next page. Returns whether there is another.
    ///
    /// # Errors
    /// [`Failed`]: the next step goes on at the checkpoint.
    pub async fn step(&mut self, deadline: Deadline) -> Result<bool, Failed> {
        let stepped = self.try_step(deadline).await;
        if stepped.is_err() {
            self.rewind();
        }
        stepped
    }

    async fn try_step(&mut self, deadline: Deadline) -> Result<bool, Failed> {
        let store = self.rebuild.worker.store();
        let (page, next) = store.scan_events(self.segment, self.next.as_ref(), deadline).await?;
        let was_open = self.rebuild.pass.open().cloned();
        let keys: Vec<_> = page.iter().map(|(id, stored)| (id.clone(), stored.version())).collect();
        self.rebuild.page(page, deadline).await?;
        let Some(next) = next else {
            self.rebuild.end(deadline).await?;
            self.settled_counts = self.counts();
            return Ok(false);
        };
        let open = self.rebuild.pass.open();
        let before_open = match keys.iter().rposition(|(id, _)| Some(id) != open) {
            Some(at) => Some(Cursor::behind(&keys[at].0, keys[at].1)),
            None if open.is_none() => Some(next.clone()),
            None if was_open.as_ref() == open => self.settled.clone(),
            None => self.next.clone(),
        };
        if before_open != self.settled {
            self.settled = before_open;
            self.settled_counts = self.counts();
        }
        self.next = Some(next);
        Ok(true)
    }

    /// Settles the aggregate that is open as if its history ended with the last page, so that others go on behind that page. What
    /// follows is caught up with when it is met, at the price of reading it twice.
    ///
    /// # Errors
    /// [`Failed`], as for a step.
    pub async fn close(&mut self, deadline: Deadline) -> Result<(), Failed> {
        if let Err(failed) = self.rebuild.end(deadline).await {
            self.rewind();
            return Err(failed);
        }
        self.settled.clone_from(&self.next);
        self.settled_counts = self.counts();
        Ok(())
    }

    fn rewind(&mut self) {
        let (cursor, counts) = self.checkpoint();
        self.next = cursor.cloned();
        self.rebuild = Rebuild { counts, ..Rebuild::new(self.rebuild.worker, self.rebuild.rule, self.rebuild.task) };
    }
}
