//! Errors of commands, by what the caller does next.

use projection_vocabulary::{AggregateId, Misfit, Unwritable, Version};

use crate::store::StoreError;

/// Why a command was not carried out. `R` is the refusal of the decider.
///
/// Nothing was appended, except perhaps after [`CommandError::Store`].
#[derive(Debug, thiserror::Error)]
pub enum CommandError<R> {
    /// A rule of the domain refuses it: tell whoever sent it.
    #[error("{refusal}")]
    Refused {
        /// The refusal.
        refusal: R,
        /// Whether an earlier command with this id got this answer.
        replayed: bool,
    },
    /// Another aggregate holds the value: choose another one.
    #[error("this {kind} is taken: choose another one")]
    Taken {
        /// The kind of the claim.
        kind: String,
        /// Whether an earlier command with this id got this answer.
        replayed: bool,
    },
    /// The aggregate is not at the version that the caller expected: load it, look at what changed, and decide whether to send a command.
    #[error("aggregate {aggregate} is at version {actual}, not {expected}: look at what changed, then send the command for that version")]
    Conflict {
        /// The aggregate.
        aggregate: AggregateId,
        /// The version that the caller expected.
        expected: Version,
        /// The version that it has.
        actual: Version,
    },
    /// Others kept writing to the aggregate until the time was up: send the command again.
    #[error("others keep writing to aggregate {aggregate}: send the command again")]
    Contended {
        /// The aggregate.
        aggregate: AggregateId,
    },
    /// The id belongs to another command: a bug of the caller. Give each command an id of its own.
    #[error("the id belongs to another command: give each command an id of its own")]
    IdReused,
    /// The command cannot be carried out as it is: a bug of the caller or of the decider.
    #[error("{0}")]
    Invalid(String),
    /// The history cannot be read by this deployment: deploy a newer one, or correct the event.
    #[error("aggregate {aggregate} cannot be read at version {version}: {reason}")]
    Unreadable {
        /// The aggregate.
        aggregate: AggregateId,
        /// The version.
        version: Version,
        /// Why.
        reason: String,
    },
    /// A newer deployment has written to the aggregate, and this one cannot know what that means: deploy the newer one again.
    #[error(
        "aggregate {aggregate} was written by revision {revision} of `{kind}`, which is newer than this program's: deploy the newer one"
    )]
    Outdated {
        /// The aggregate.
        aggregate: AggregateId,
        /// The kind of aggregate.
        kind: &'static str,
        /// The newer revision.
        revision: u32,
    },
    /// Whether the command was carried out is unknown. With an id, send it again: it has one effect. Without one, look first.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A refusal whose type is not known: of one of several deciders.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct AnyRefusal {
    /// The aggregate that refuses.
    pub aggregate: AggregateId,
    /// What it says.
    pub message: String,
    pub(super) refusal: projection_vocabulary::Value,
}

impl AnyRefusal {
    /// The refusal.
    #[must_use]
    pub fn refusal(&self) -> &projection_vocabulary::Value {
        &self.refusal
    }

    /// The refusal, as the type of its decider.
    ///
    /// # Errors
    /// [`Misfit`] if it is of another type.
    pub fn read<R: serde::de::DeserializeOwned>(&self) -> Result<R, Misfit> {
        projection_vocabulary::read_value(&self.refusal)
    }
}

/// An error whose refusal's type is not known.
pub type Unhandled = CommandError<AnyRefusal>;

impl Unhandled {
    pub(super) fn of_command(misfit: &Misfit) -> Self {
        Self::Invalid(format!("cannot read the command: {misfit}"))
    }

    pub(super) fn of_type(unwritable: &Unwritable) -> Self {
        Self::Invalid(format!("cannot write what was decided: {unwritable}"))
    }

    /// The same error with the refusal's own type.
    pub(super) fn typed<R: serde::de::DeserializeOwned>(self) -> CommandError<R> {
        match self {
            Self::Refused { refusal, replayed } => match refusal.read() {
                Ok(refusal) => CommandError::Refused { refusal, replayed },
                Err(misfit) => CommandError::Invalid(format!("an older version of the program refused this command: {misfit}")),
            },
            Self::Taken { kind, replayed } => CommandError::Taken { kind, replayed },
            Self::Conflict { aggregate, expected, actual } => CommandError::Conflict { aggregate, expected, actual },
            Self::Contended { aggregate } => CommandError::Contended { aggregate },
            Self::IdReused => CommandError::IdReused,
            Self::Invalid(why) => CommandError::Invalid(why),
            Self::Unreadable { aggregate, version, reason } => CommandError::Unreadable { aggregate, version, reason },
            Self::Outdated { aggregate, kind, revision } => CommandError::Outdated { aggregate, kind, revision },
            Self::Store(error) => CommandError::Store(error),
        }
    }
}
