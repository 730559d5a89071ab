//! The history of an instance, for people.

use super::{Instance, ProcessEvent};
use crate::{RecordedEvent, Value};

/// What an event of an instance says, for people: `sent reserve to stock tea: {"Reserve":...}`. It contains event data.
#[must_use]
pub fn told<S>(event: &RecordedEvent, instance: &Instance<S>) -> String {
    let named = |of: &u64| {
        instance.requests().get(of).map_or_else(
            || format!("request {of}"),
            |request| {
                if request.undoes.is_some() { format!("the undo of {}", request.name) } else { request.name.clone() }
            },
        )
    };
    let Ok(Some(known)) = ProcessEvent::read(&event.event_type, &event.data) else {
        return format!("recorded {} {}", event.event_type, event.data);
    };
    match known {
        ProcessEvent::ProcessReceived { from, event_type, .. } => format!("received {event_type} of {from}"),
        ProcessEvent::ProcessSent { name, to, undoes, again, .. } => {
            let (undo, again) = (if undoes.is_some() { "the undo of " } else { "" }, if again.is_some() { " again" } else { "" });
            format!("sent {undo}{name}{again} to {}: {}", to.place(), to.content())
        }
        ProcessEvent::ProcessUndoAdded { name, undo } => format!("would undo {name} by {}: {}", undo.place(), undo.content()),
        ProcessEvent::ProcessAccepted { of, answer: Value::Null, .. } => format!("accepted {}", named(&of)),
        ProcessEvent::ProcessAccepted { of, answer, .. } => format!("accepted {}: {answer}", named(&of)),
        ProcessEvent::ProcessRefused { of, message, .. } => format!("refused {}: {message}", named(&of)),
        ProcessEvent::ProcessTried { of, tries, error } => format!("no answer to {}, try {tries}: {error}", named(&of)),
        ProcessEvent::ProcessScheduled { name, after_ms } => format!("timer {name} runs out after {} s", after_ms / 1_000),
        ProcessEvent::ProcessCancelled { name } => format!("timer {name} stopped"),
        ProcessEvent::ProcessTimedOut { name, .. } => format!("timer {name} ran out"),
        ProcessEvent::ProcessFailed { why } => format!("failed: {why}"),
        ProcessEvent::ProcessStuck { why, .. } => format!("stuck: {why}"),
        ProcessEvent::ProcessRetried { note } => format!("retried: {note}"),
        ProcessEvent::ProcessResumed { .. } => "no longer stuck".to_owned(),
        ProcessEvent::ProcessResolved { note } => format!("resolved: {note}"),
        ProcessEvent::ProcessCompleted {} => "completed".to_owned(),
        ProcessEvent::ProcessUndone {} => "undone".to_owned(),
    }
}
