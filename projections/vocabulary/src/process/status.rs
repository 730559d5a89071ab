//! `process-status`: one row for each process instance, and a child row for each timer that runs.
//!
//! | attribute | holds |
//! |---|---|
//! | `id` | the aggregate of the instance, `<process>/<instance>`: the key |
//! | `process` | the process |
//! | `status` | `open`, `undoing`, `stuck`, `completed`, `undone` or `resolved`; absent while it only received events |
//! | `startedAt`, `endedAt` | when it began and ended |
//! | `why` | why it failed |
//! | `stuckAt`, `stuckBecause` | when it got stuck the last time, and why |
//! | `received`, `sent`, `accepted`, `refused`, `timedOut` | how many events, requests, answers and time-outs |
//!
//! A child row is named after its timer: `timersOf` is the process, `due` when it runs out, `startedBy` the version that started it.

use super::{ProcessEvent, instance::due};
use crate::{AggregateId, Change, Index, IndexKey, IndexOf, Projection, Recorded, Refusal, child, own};

/// The projection that lists instances and timers. Whoever runs a process must run it, too.
pub struct ProcessStatus;

impl ProcessStatus {
    /// Instances by process and status, the oldest first.
    pub const BY_STATUS: IndexOf<Self> = IndexOf::new(Index {
        name: "instances-by-status",
        partition: &[IndexKey::Text("process"), IndexKey::Text("status")],
        sort: &[IndexKey::Text("startedAt"), IndexKey::Text("id")],
        include: &["endedAt", "why", "stuckBecause"],
    });
    /// Timers by process, the one that is due first.
    pub const TIMERS: IndexOf<Self> = IndexOf::new(Index {
        name: "timers-by-due",
        partition: &[IndexKey::Text("timersOf")],
        sort: &[IndexKey::Text("due")],
        include: &["startedBy"],
    });
}

impl Projection for ProcessStatus {
    type Event = ProcessEvent;
    const NAME: &str = "process-status";
    const KEY: &str = "id";
    const CHILDREN: Option<&str> = Some("timer");
    const INDEXES: &[Index] = &[Self::BY_STATUS.index(), Self::TIMERS.index()];

    fn project(&self, event: &Recorded<'_, ProcessEvent>) -> Result<Change, Refusal> {
        let (process, at) = (process_of(event.aggregate), event.timestamp);
        Ok(match &event.event {
            ProcessEvent::ProcessReceived { begins: true, .. } => {
                own().add("received", 1).set("process", process).set("status", "open").set("startedAt", at).into()
            }
            ProcessEvent::ProcessReceived { .. } => own().add("received", 1).into(),
            ProcessEvent::ProcessSent { .. } => own().add("sent", 1).into(),
            ProcessEvent::ProcessAccepted { .. } => own().add("accepted", 1).into(),
            ProcessEvent::ProcessRefused { .. } => own().add("refused", 1).into(),
            ProcessEvent::ProcessScheduled { name, after_ms } => {
                let timer = child(name).set("timersOf", process).set("due", &due(at, *after_ms));
                timer.set("startedBy", event.version.0).into()
            }
            ProcessEvent::ProcessCancelled { name } => child(name).remove(),
            ProcessEvent::ProcessTimedOut { name, .. } => own().add("timedOut", 1).and(child(name).remove()),
            ProcessEvent::ProcessFailed { why } => own().set("status", "undoing").set("why", why).into(),
            ProcessEvent::ProcessStuck { why, .. } => own().set("status", "stuck").set("stuckAt", at).set("stuckBecause", why).into(),
            ProcessEvent::ProcessResumed { undoing } => own().set("status", if *undoing { "undoing" } else { "open" }).into(),
            ProcessEvent::ProcessCompleted {} => own().set("status", "completed").set("endedAt", at).into(),
            ProcessEvent::ProcessUndone {} => own().set("status", "undone").set("endedAt", at).into(),
            ProcessEvent::ProcessResolved { .. } => own().set("status", "resolved").set("endedAt", at).into(),
            ProcessEvent::ProcessUndoAdded { .. } | ProcessEvent::ProcessTried { .. } | ProcessEvent::ProcessRetried { .. } => {
                crate::nothing()
            }
        })
    }
}

/// The process of an instance's aggregate.
fn process_of(aggregate: &AggregateId) -> &str {
    aggregate.as_str().split_once('/').map_or(aggregate.as_str(), |(process, _)| process)
}
