//! The faults that a run injects, by name and count.

use std::ops::AddAssign;

macro_rules! faults {
    ($($fault:ident $text:literal,)*) => {
        /// A fault that a run can inject.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Fault {
            $(#[doc = $text] $fault,)*
        }

        impl Fault {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$fault,)*];

            /// Its description.
            #[must_use]
            pub fn text(self) -> &'static str {
                match self {
                    $(Self::$fault => $text,)*
                }
            }
        }
    };
}

faults! {
    DuplicateDelivery "a record delivered that had been delivered before",
    ReorderedAcross "a batch delivered before an older one of another partition or shard",
    ReorderedInside "an aggregate's event streamed before one of lower version",
    Crash "an invocation killed at an await",
    OperatorKilled "a redrive, a catch-up, a rebuild or a verification killed at an await",
    WriterKilled "an event writer killed at an await",
    ClientKilled "a sender of commands killed at an await",
    CommandResent "a command sent again with its id",
    Throttled "a request throttled",
    TimeoutBefore "a request timed out that never arrived",
    AnswerLost "a request applied whose answer was lost",
    ServerError "a request failed with 5xx, applied or not",
    Conflict "a transaction conflict",
    MixedCancellation "a transaction cancelled for mixed reasons",
    Zombie "a request that arrived after its caller had given up",
    StaleRead "a read answered after what it read had changed",
    ShortPage "an answer cut into pages",
    Poison "an event that its rule refuses",
    Malformed "an event that cannot be read",
    PoisonFixed "a poison event fixed and redriven",
    Deployed "a rule changed while batches were under way",
    Rebuilt "a rebuild while the worker was running",
    Verified "rows verified and repaired while the worker was running",
    BadDeployment "a deployment that refuses every event",
    Discarded "a record discarded after its retries",
    Restored "an aggregate's history set back in the event store",
    Overwritten "an event overwritten in the event store by another one",
    RowLost "a home row lost",
    ParkingDown "a write to the parking table refused while it is unavailable",
    OutOfTime "an invocation that ran out of time",
    CallLost "a call of a process without an answer, carried out or not",
    CallLate "a call that arrived after its caller had given up",
    TickedLate "a time-out of a timer that ran no more",
    Helped "a stuck instance retried or resolved",
    OlderProcess "an older revision of a process at an instance of a newer one",
}

/// How often each fault was injected.
#[derive(Clone, Debug)]
pub struct Counts(Vec<u64>);

impl Default for Counts {
    fn default() -> Self {
        Self(vec![0; Fault::ALL.len()])
    }
}

impl Counts {
    /// Counts one.
    pub fn add(&mut self, fault: Fault) {
        self.0[fault as usize] += 1;
    }

    /// How often.
    #[must_use]
    pub fn of(&self, fault: Fault) -> u64 {
        self.0[fault as usize]
    }
}

impl AddAssign<&Self> for Counts {
    fn add_assign(&mut self, other: &Self) {
        self.0.iter_mut().zip(&other.0).for_each(|(sum, count)| *sum += count);
    }
}
