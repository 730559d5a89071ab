//! The functions that processes call: what a team registers for the world outside the event store.

use std::{collections::BTreeMap, fmt, future::Future, pin::Pin, sync::Arc, time::Duration};

use projection_vocabulary::{Unwritable, Value, read_value, to_value};
use serde::{Serialize, de::DeserializeOwned};

/// How long one try of a call may take, unless it says otherwise.
const TIME_MAX: Duration = Duration::from_secs(10);
/// How often a call is tried, unless it says otherwise, before its instance is stuck.
const TRIES_MAX: u32 = 5;

/// The functions that the processes of a program call, by name.
///
/// ```
/// use projection_worker::{CallError, Calls};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Deserialize)]
/// struct Charge {
///     card: String,
///     cents: u64,
/// }
///
/// #[derive(Serialize)]
/// struct Receipt {
///     number: String,
/// }
///
/// let calls = Calls::new().on("charge-card", async |key: String, charge: Charge| {
///     // The provider knows the key, and charges once for it, however often it is asked.
///     if charge.cents > 100_000 {
///         return Err(CallError::refused("the card's limit is exceeded"));
///     }
///     Ok(Receipt { number: format!("{key}/{}", charge.card) })
/// });
/// # let _ = calls;
/// ```
#[derive(Clone, Default)]
pub struct Calls(BTreeMap<String, Registered>);

/// Why a call was not answered as it was meant.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CallError {
    /// The far side refuses, and nothing has happened: the process undoes what it did before.
    #[error("{0}")]
    Refused(String),
    /// Something went wrong on the way, and whether anything has happened is unknown: the call is made again, with the same key. After too
    /// many tries the instance is stuck.
    #[error("{0}")]
    Failed(String),
}

type Answering = Pin<Box<dyn Future<Output = Result<Value, CallError>> + Send>>;

/// Takes the idempotency key and the argument.
type Function = dyn Fn(String, &Value) -> Answering + Send + Sync;

#[derive(Clone)]
pub(crate) struct Registered {
    pub(crate) call: Arc<Function>,
    pub(crate) time_max: Duration,
    pub(crate) tries_max: u32,
}

impl CallError {
    /// The far side refuses, for this reason.
    #[must_use]
    pub fn refused(reason: impl Into<String>) -> Self {
        Self::Refused(reason.into())
    }

    /// Something went wrong on the way.
    #[must_use]
    pub fn failed(reason: impl Into<String>) -> Self {
        Self::Failed(reason.into())
    }
}

impl Calls {
    /// No functions.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a function, which gets the idempotency key and the argument of the call. A try may take 10 seconds, and after 5 tries the
    /// instance is stuck: see [`Calls::within`].
    #[must_use]
    pub fn on<T, R, F>(mut self, name: &str, function: impl Fn(String, T) -> F + Send + Sync + 'static) -> Self
    where
        T: DeserializeOwned,
        R: Serialize,
        F: Future<Output = Result<R, CallError>> + Send + 'static,
    {
        let call = move |key: String, argument: &Value| -> Answering {
            match read_value(argument) {
                Ok(argument) => {
                    let answered = function(key, argument);
                    let written = |unwritable: Unwritable| CallError::Failed(format!("the answer cannot be written: {unwritable}"));
                    Box::pin(async move { to_value(&answered.await?).map_err(written) })
                }
                Err(misfit) => {
                    let failed = CallError::Failed(format!("the argument cannot be read: {misfit}"));
                    Box::pin(async move { Err(failed) })
                }
            }
        };
        self.0.insert(name.to_owned(), Registered { call: Arc::new(call), time_max: TIME_MAX, tries_max: TRIES_MAX });
        self
    }

    /// Says how long one try of a function may take, and after how many tries without an answer the instance is stuck.
    ///
    /// # Panics
    /// If no function of this name was added, or it may not be tried at all.
    #[must_use]
    pub fn within(mut self, name: &str, time_max: Duration, tries_max: u32) -> Self {
        assert!(tries_max > 0, "`{name}` must be tried at least once");
        let registered = self.0.get_mut(name).unwrap_or_else(|| panic!("no function `{name}` was added"));
        (registered.time_max, registered.tries_max) = (time_max, tries_max);
        self
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Registered> {
        self.0.get(name)
    }
}

impl fmt::Debug for Calls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.keys()).finish()
    }
}
