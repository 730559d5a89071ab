//! Made-up, valid histories of bank accounts.

use projection_vocabulary::{
    AggregateId, Decimal, Value,
    sample::{Fact, Pick},
};

use crate::samples::{below, fields};

/// Amounts are whole cents, at most this many.
const AMOUNT_CENTS_MAX: u64 = 100_000;

/// A history of about this many accounts: `facts` facts in the order in which they happen.
pub(crate) fn history(pick: &mut Pick<'_>, facts: usize, accounts: usize) -> Vec<Fact> {
    /// A closed account is replaced by a new one.
    struct Account {
        id: AggregateId,
        /// The balance; `None` until the account is opened.
        cents: Option<u64>,
    }

    let mut opened = 0;
    let mut fresh = || {
        opened += 1;
        Account { id: format!("account-{opened:06}").as_str().into(), cents: None }
    };
    let mut open: Vec<Account> = (0..accounts.max(1)).map(|_| fresh()).collect();
    let mut history = Vec::with_capacity(facts);
    while history.len() < facts {
        let at = below(pick, open.len());
        let account = &mut open[at];
        let amount = 1 + pick(AMOUNT_CENTS_MAX);
        let (event_type, data) = match (account.cents, pick(100)) {
            (None, _) => {
                account.cents = Some(amount);
                ("AccountOpened", fields([("initialDeposit", dollars(amount))]))
            }
            (Some(0), 0..50) => {
                let closed = std::mem::replace(account, fresh());
                history.push(Fact { aggregate: closed.id, event_type: "AccountClosed", data: fields([]) });
                continue;
            }
            (Some(cents), 0..40) if cents > 0 => {
                let amount = amount.min(cents);
                account.cents = Some(cents - amount);
                ("MoneyWithdrawn", fields([("amount", dollars(amount))]))
            }
            (Some(cents), _) => {
                account.cents = Some(cents + amount);
                ("MoneyDeposited", fields([("amount", dollars(amount))]))
            }
        };
        history.push(Fact { aggregate: account.id.clone(), event_type, data });
    }
    history
}

fn dollars(cents: u64) -> Value {
    let amount: Decimal = format!("{}.{:02}", cents / 100, cents % 100).parse().expect("cents make a decimal");
    amount.into()
}
