//! The events of process instances.

use serde::{Deserialize, Serialize};

use crate::{Misfit, Timestamp, Value, de};

/// What happens to a process instance, besides what the process records for itself. The names are reserved in the whole event store.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all_fields = "camelCase")]
#[allow(missing_docs, reason = "the fields are named by the protocol: see each variant")]
pub enum ProcessEvent {
    /// It received event `version` of the aggregate `from`. `begins` says that the instance was new before, and is at work since.
    ProcessReceived {
        from: String,
        version: u64,
        event_type: String,
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        begins: bool,
    },
    /// It sent a request. `undo` is what undoes it. `undoes` is the version of the request that this one undoes; `again` that of the one
    /// that it repeats.
    ProcessSent {
        name: String,
        to: Target,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        undo: Option<Target>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        undoes: Option<u64>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        again: Option<u64>,
    },
    /// If it fails, this is to be sent.
    ProcessUndoAdded { name: String, undo: Target },
    /// The request of version `of` was accepted. `version` is the version of the commanded aggregate afterwards; `answer` is what the far
    /// side of a call returned.
    ProcessAccepted {
        of: u64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        version: Option<u64>,
        #[serde(default, skip_serializing_if = "is_null")]
        answer: Value,
    },
    /// The request of version `of` was refused by a rule of the domain, or by the far side of a call.
    ProcessRefused { of: u64, message: String, refusal: Value },
    /// A call failed, and what became of it is unknown.
    ProcessTried { of: u64, tries: u32, error: String },
    /// A timer runs out this many milliseconds after this event.
    ProcessScheduled { name: String, after_ms: u64 },
    /// A timer was stopped.
    ProcessCancelled { name: String },
    /// A timer ran out.
    ProcessTimedOut { name: String, due: Timestamp },
    /// It failed: what was done is undone.
    ProcessFailed { why: String },
    /// It cannot go on by itself because of the request of version `of`.
    ProcessStuck { of: u64, why: String },
    /// An operator made it try again what it was stuck at.
    ProcessRetried { note: String },
    /// It is no longer stuck; `undoing` says that it had failed before.
    ProcessResumed {
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        undoing: bool,
    },
    /// An operator ended it.
    ProcessResolved { note: String },
    /// It ended as it should.
    ProcessCompleted {},
    /// It ended, and everything that was done is undone.
    ProcessUndone {},
}

/// Where a request goes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Target {
    /// A command to an aggregate.
    Command {
        /// Its kind.
        kind: String,
        /// Its id.
        aggregate: String,
        /// The command.
        command: Value,
    },
    /// A call of a function that was registered beside the process.
    Call {
        /// The function.
        function: String,
        /// Its argument.
        argument: Value,
    },
}

impl ProcessEvent {
    /// Reads an event; `None` if its type is none of these.
    ///
    /// # Errors
    /// [`Misfit`] if its data is not as the type says.
    pub fn read(event_type: &str, data: &Value) -> Result<Option<Self>, Misfit> {
        let known = de::variants_of::<Self>().contains(&event_type);
        known.then(|| de::event(event_type, data)).transpose()
    }
}

fn is_null(value: &Value) -> bool {
    *value == Value::Null
}

impl Target {
    /// Where it goes, for people: `stock tea` or `call print-label`.
    #[must_use]
    pub fn place(&self) -> String {
        match self {
            Self::Command { kind, aggregate, .. } => format!("{kind} {aggregate}"),
            Self::Call { function, .. } => format!("call {function}"),
        }
    }

    /// What it carries.
    #[must_use]
    pub fn content(&self) -> &Value {
        match self {
            Self::Command { command, .. } => command,
            Self::Call { argument, .. } => argument,
        }
    }
}
