//! A small domain that uses every feature of rules, in several deployments.

use std::cmp::max;

use projection_vocabulary::{
    Change, Decimal, DynProjection, Projection, Recorded, Refusal, RowKey, Value, child, nothing, own,
    process::{ProcessRule, ProcessStatus},
    retract, shared, transfer,
};
use serde::Deserialize;

use crate::transfers::Transfers;

/// How a deployment differs from the first one.
pub const FAULTY: u8 = 0;
/// `Flawed` is accepted.
pub const FIXED: u8 = 1;
/// Every event is refused.
pub const BROKEN: u8 = 2;

/// Deployments of the worker, by their rules.
pub static DEPLOYMENTS: [&[&dyn DynProjection]; 4] = [
    &[&Ledger::<FAULTY>, &Shelves::<1>, &Peak],
    &[&Ledger::<FIXED>, &Shelves::<1>, &Peak],
    &[&Ledger::<BROKEN>, &Shelves::<1>, &Peak],
    &[&Ledger::<FIXED>, &Shelves::<2>, &Peak],
];
/// The same, with a process.
pub static WITH_PROCESS: [&[&dyn DynProjection]; 4] = [
    &[&Ledger::<FAULTY>, &Shelves::<1>, &Peak, &ProcessStatus, &ProcessRule(Transfers::<FAULTY, 1>)],
    &[&Ledger::<FIXED>, &Shelves::<1>, &Peak, &ProcessStatus, &ProcessRule(Transfers::<FIXED, 1>)],
    &[&Ledger::<BROKEN>, &Shelves::<1>, &Peak, &ProcessStatus, &ProcessRule(Transfers::<BROKEN, 1>)],
    &[&Ledger::<FIXED>, &Shelves::<2>, &Peak, &ProcessStatus, &ProcessRule(Transfers::<FIXED, 2>)],
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

/// The sort key of the child rows of [`Shelves`].
pub const PART: &str = "part";

/// Writes to shared rows, some of which are home rows as well, in every way there is; moves and retracts contributions. Its child rows are
/// made, changed, removed and made again, some of them by many events.
pub struct Shelves<const REVISION: u32>;

/// The events that concern [`Shelves`].
#[derive(Deserialize)]
#[allow(missing_docs, reason = "the names say everything")]
pub enum ShelvesEvent {
    Opened {},
    Stamped {},
    Put {
        shelf: String,
        count: Decimal,
    },
    Moved {
        from: String,
        to: String,
    },
    Cleared {},
    /// Writes to this many shared rows.
    Spread {
        rows: u32,
        count: Decimal,
    },
    /// Makes this many child rows.
    Filed {
        pages: u32,
    },
    /// Removes the child rows of the event before.
    Shredded {},
}

impl<const REVISION: u32> Projection for Shelves<REVISION> {
    type Event = ShelvesEvent;
    const NAME: &str = "shelves";
    const KEY: &str = "id";
    const CHILDREN: Option<&str> = Some(PART);
    const REVISION: u32 = REVISION;

    fn project(&self, event: &Recorded<'_, ShelvesEvent>) -> Result<Change, Refusal> {
        // The next revision has another key for one of the shared rows, and every attribute changes its meaning in some way.
        let next = REVISION == 2;
        let key = |shelf: &str| RowKey::from(if next && shelf == "north" { "top" } else { shelf });
        let renamed = if next { "placed" } else { "put" };
        let giver = event.aggregate.as_str();
        let change: Change = match &event.event {
            ShelvesEvent::Opened {} if next => own().set("openedAt", event.timestamp).into(),
            ShelvesEvent::Opened {} => own().set("openedAt", event.timestamp).set("toShared", 10).into(),
            // Added to before and after it changes hands.
            ShelvesEvent::Stamped {} if next => own().add("stamps", 1).add("fromShared", 1).into(),
            ShelvesEvent::Stamped {} => own().add("stamps", 1).add("toShared", 1).into(),
            ShelvesEvent::Put { shelf: on, count } => {
                let put = shared(key(on)).add("count", count).max("lastAt", event.timestamp);
                let put = if next {
                    let put = put.add("weight", count).add("weight", count).add("kind", 1).add("toShared", count);
                    // Fewer members, and a lower maximum.
                    if *count > 2.into() { put } else { put.insert("givers", giver).max("largest", count) }
                } else {
                    put.add("ended", 1).max("kind", count).add("fromShared", count).insert("givers", giver).max("largest", count)
                };
                own().add(renamed, count).and(put)
            }
            ShelvesEvent::Moved { from, to } => own().add("moves", 1).and(transfer(key(from), key(to))),
            ShelvesEvent::Cleared {} => own().remove(renamed).and(retract()),
            ShelvesEvent::Spread { rows, count } => (0..*rows).fold(own().add("spreads", 1).into(), |all, row| {
                let slot = shared(format!("slot-{row}")).add("count", count);
                all.and(if next { slot.max("largest", count) } else { slot })
            }),
            ShelvesEvent::Filed { .. } | ShelvesEvent::Shredded {} => nothing(),
        };
        Ok(change.and(listed(event, next)))
    }
}

/// What an event does to child rows. The next revision moves some to other sort keys, lacks some, and gives others other attributes.
fn listed(event: &Recorded<'_, ShelvesEvent>, next: bool) -> Change {
    let part = |version: u64, page: u32| format!("{}{version:03}-{page:03}", if next && page % 4 == 1 { "moved-" } else { "" });
    let version = event.version.0;
    match &event.event {
        ShelvesEvent::Put { shelf, .. } if next && shelf == "north" => nothing(),
        ShelvesEvent::Put { shelf, count } if next => child(part(version, 0)).set("shelf", shelf).set("weight", count).into(),
        ShelvesEvent::Put { shelf, count } => child(part(version, 0)).set("shelf", shelf).set("count", count).into(),
        // One row that many events change, and that begins anew after it was removed.
        ShelvesEvent::Stamped {} => child("stamps").set(&format!("at{}", version % 3), event.timestamp).into(),
        ShelvesEvent::Moved { to, .. } => child("stamps").set("to", to).into(),
        ShelvesEvent::Cleared {} => child("stamps").remove(),
        ShelvesEvent::Filed { pages } => {
            let page = |page| child(part(version, page)).set("page", i64::from(page));
            let kept = (0..*pages).filter(|page| !(next && page % 3 == 2));
            kept.fold(nothing(), |all, at| all.and(if next && at % 2 == 0 { page(at).set("even", true) } else { page(at) }))
        }
        ShelvesEvent::Shredded {} => (0..3).fold(nothing(), |all, page| all.and(child(part(version - 1, page)).remove())),
        ShelvesEvent::Opened {} | ShelvesEvent::Spread { .. } => nothing(),
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
