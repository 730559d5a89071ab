//! The far side of calls: it knows its idempotency keys, and its answers may be lost.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::channel::oneshot;
use projection_worker::{CallError, Calls};

use crate::transfers::{Fee, PAY, REPAY, Receipt};

/// How often a call is tried before its instance is stuck.
pub const TRIES_MAX: u32 = 2;

/// The far side, and the calls on their way to and from it.
#[derive(Default)]
pub struct Far {
    /// What it has done, by key.
    pub effects: BTreeMap<String, Effect>,
    /// Calls whose callers have no answer yet, oldest first.
    pub under_way: Vec<Ringing>,
}

/// What became of a key.
#[derive(Clone, Debug, PartialEq)]
pub struct Effect {
    /// The function.
    pub function: &'static str,
    /// Its argument.
    pub fee: Fee,
    /// Whether it was carried out.
    pub accepted: bool,
}

/// A call under way.
pub struct Ringing {
    /// The key.
    pub key: String,
    /// The function.
    pub function: &'static str,
    /// Its argument.
    pub fee: Fee,
    /// Whether it has arrived.
    pub arrived: bool,
    reply: Option<oneshot::Sender<Result<Receipt, CallError>>>,
}

/// Locks the far side. No process holds the lock while another one runs.
pub fn lock(far: &Mutex<Far>) -> MutexGuard<'_, Far> {
    far.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The functions of the far side.
#[must_use]
pub fn calls(far: &Arc<Mutex<Far>>) -> Calls {
    let on = |function: &'static str| {
        let far = far.clone();
        move |key: String, fee: Fee| {
            let (reply, answer) = oneshot::channel();
            lock(&far).under_way.push(Ringing { key, function, fee, arrived: false, reply: Some(reply) });
            // Whoever drops the other end has ended the run.
            async { answer.await.unwrap_or_else(|_| Err(CallError::failed("nobody answers"))) }
        }
    };
    let (time, calls) = (Duration::from_secs(2), Calls::new().on(PAY, on(PAY)).on(REPAY, on(REPAY)));
    calls.within(PAY, time, TRIES_MAX).within(REPAY, time, TRIES_MAX)
}

impl Far {
    /// Tells the caller what became of its key. The call is no longer under way.
    pub fn answer(&mut self, at: usize) {
        let Ringing { key, reply, .. } = self.under_way.remove(at);
        let accepted = self.effects.get(&key).is_some_and(|effect| effect.accepted);
        let answer = if accepted { Ok(Receipt { key }) } else { Err(CallError::refused("no")) };
        _ = reply.map(|reply| reply.send(answer));
    }

    /// Lets the caller know nothing. The call is no longer under way.
    pub fn lose(&mut self, at: usize) {
        self.delay(at);
        self.under_way.remove(at);
    }

    /// Lets the caller know nothing, while the call is still on its way.
    pub fn delay(&mut self, at: usize) {
        if let Some(reply) = self.under_way[at].reply.take() {
            _ = reply.send(Err(CallError::failed("the line is dead")));
        }
    }
}

impl Ringing {
    /// Whether the caller no longer waits for the answer.
    #[must_use]
    pub fn is_late(&self) -> bool {
        self.reply.as_ref().is_none_or(oneshot::Sender::is_canceled)
    }
}
