//! A small domain that uses every feature of rules, in several deployments.

use std::cmp::max;

use projection_vocabulary::{Change, Decimal, DynProjection, Projection, Recorded, Refusal, RowKey, Value, own, retract, shared, transfer};
use serde::Deserialize;

/// How a deployment differs from the first one.
pub const FAULTY: u8 = 0;
/// `Flawed` is accepted.
pub const FIXED: u8 = 1;
/// Every event is refused.
pub const BROKEN: u8 = 2;

/// Attributes that are added to on shared rows.
pub const SHARED_SUMS: [&str; 2] = ["count", "weight"];

/// Deployments of the worker, by their rules.
pub static DEPLOYMENTS: [&[&dyn DynProjection]; 4] = [
    &[&Ledger::<FAULTY>, &Shelves::<1>, &Peak],
    &[&Ledger::<FIXED>, &Shelves::<1>, &Peak],
    &[&Ledger::<BROKEN>, &Shelves::<1>, &Peak],
    &[&Ledger::<FIXED>, &Shelves::<2>, &Peak],
];
/// Refuses `Flawed`.
pub const FIRST: usize = 0;
/// Refuses nothing.
pub const REPAIRED: usize = 1;
/// Refuses everything.
pub const BAD: usize = 2;
/// Refuses nothing, and has a new rule for the shelves.
pub const NEXT: usize = 3;

/// Sums up on its own row and ignores events of other types.
pub struct Ledger<const MODE: u8>;

/// The events that concern [`Ledger`].
#[derive(Deserialize)]
#[allow(missing_docs, reason = "the names say everything")]
pub enum LedgerEvent {
    Opened { amount: Decimal },
    Added { amount: Decimal },
    Flawed {},
}

impl<const MODE: u8> Projection for Ledger<MODE> {
    type Event = LedgerEvent;
    const NAME: &str = "ledger";
    const KEY: &str = "id";

    fn project(&self, event: &Recorded<'_, LedgerEvent>) -> Result<Change, Refusal> {
        if MODE == BROKEN {
            return Err(Refusal::Rule("a bad deployment"));
        }
        match &event.event {
            LedgerEvent::Opened { amount } => Ok(own().set("status", "OPEN").add("balance", amount).into()),
            LedgerEvent::Added { amount } => Ok(own().add("balance", amount).into()),
            LedgerEvent::Flawed {} if MODE == FAULTY => Err(Refusal::Rule("flawed")),
            LedgerEvent::Flawed {} => Ok(own().remove("status").add("fixed", 1).into()),
        }
    }
}

/// Sums up on shared rows, some of which are home rows as well; moves and retracts contributions.
pub struct Shelves<const REVISION: u32>;

/// The events that concern [`Shelves`].
#[derive(Deserialize)]
#[allow(missing_docs, reason = "the names say everything")]
pub enum ShelvesEvent {
    Opened {},
    Put { shelf: String, count: Decimal },
    Moved { from: String, to: String },
    Cleared {},
}

impl<const REVISION: u32> Projection for Shelves<REVISION> {
    type Event = ShelvesEvent;
    const NAME: &str = "shelves";
    const KEY: &str = "id";
    const REVISION: u32 = REVISION;

    fn project(&self, event: &Recorded<'_, ShelvesEvent>) -> Result<Change, Refusal> {
        // The next revision has a new counter, a renamed attribute and another key for one of the shared rows.
        let (renamed, twice) = if REVISION == 1 { ("put", false) } else { ("placed", true) };
        let key = |shelf: &str| RowKey::from(if REVISION == 2 && shelf == "north" { "top" } else { shelf });
        Ok(match &event.event {
            ShelvesEvent::Opened {} => own().set("openedAt", event.timestamp).into(),
            ShelvesEvent::Put { shelf, count } => {
                let adds = shared(key(shelf)).add("count", count);
                let adds = if twice { adds.add("weight", count).add("weight", count) } else { adds };
                own().add(renamed, count).and(adds.max("lastAt", event.timestamp).insert("givers", event.aggregate.as_str()))
            }
            ShelvesEvent::Moved { from, to } => own().add("moves", 1).and(transfer(key(from), key(to))),
            ShelvesEvent::Cleared {} => own().remove(renamed).and(retract()),
        })
    }
}

/// Reads the row that it changes.
pub struct Peak;

/// The events that concern [`Peak`].
#[derive(Deserialize)]
#[allow(missing_docs, reason = "the names say everything")]
pub enum PeakEvent {
    Opened { amount: Decimal },
    Added { amount: Decimal },
}

impl Projection for Peak {
    type Event = PeakEvent;
    const NAME: &str = "peak";
    const KEY: &str = "id";
    const READS_ROW: bool = true;

    fn project(&self, event: &Recorded<'_, PeakEvent>) -> Result<Change, Refusal> {
        let (PeakEvent::Opened { amount } | PeakEvent::Added { amount }) = &event.event;
        let present = |name: &str| event.row().get(name).and_then(Value::as_number).cloned().unwrap_or_default();
        let mut balance = present("balance");
        balance += amount;
        Ok(own().set("peak", max(present("peak"), balance.clone())).set("balance", balance).into())
    }
}
