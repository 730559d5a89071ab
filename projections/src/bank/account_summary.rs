//! `account-summary`: one row for each bank account.
//!
//! | attribute | holds |
//! |---|---|
//! | `accountId` | the account: the key |
//! | `balance` | deposits minus withdrawals, as an exact number in the account's currency |
//! | `status` | `ACTIVE` or `CLOSED` |
//! | `createdAt` | when it was opened |
//! | `updatedAt` | when its latest event happened |

use projection_vocabulary::{Change, Projection, Recorded, Refusal, own};

use super::Event;

/// The rule. The deposits and withdrawals of a span merge into one `ADD`.
pub struct AccountSummary;

impl Projection for AccountSummary {
    type Event = Event;
    const NAME: &str = "account-summary";
    const KEY: &str = "accountId";

    fn project(&self, event: &Recorded<'_, Event>) -> Result<Change, Refusal> {
        let row = match &event.event {
            Event::AccountOpened { initial_deposit } => {
                own().add("balance", initial_deposit).set("status", "ACTIVE").set("createdAt", event.timestamp)
            }
            Event::MoneyDeposited { amount } => own().add("balance", amount),
            Event::MoneyWithdrawn { amount } => own().add("balance", -amount),
            Event::AccountClosed {} => own().set("status", "CLOSED"),
        };
        Ok(row.set("updatedAt", event.timestamp).into())
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use projection_vocabulary::{data, testkit::given};

    use super::AccountSummary;

    #[test]
    fn deposits_and_withdrawals_add_up_exactly() {
        let rows = given(&AccountSummary)
            .event("alice", "AccountOpened", data! { initialDeposit: 100 })
            .event("alice", "MoneyDeposited", data! { amount: 0.10 })
            .event("bob", "AccountOpened", data! { initialDeposit: 0 })
            .event("alice", "MoneyWithdrawn", data! { amount: 30.55 })
            .event("bob", "MoneyDeposited", data! { amount: 12345678901234567890123456789.012345678 })
            .rows();
        expect![[r#"
            alice: balance=69.55 createdAt=2026-01-01T00:00:01.000Z status=ACTIVE updatedAt=2026-01-01T00:00:04.000Z version=3
            bob: balance=12345678901234567890123456789.012345678 createdAt=2026-01-01T00:00:03.000Z status=ACTIVE updatedAt=2026-01-01T00:00:05.000Z version=2
        "#]]
        .assert_eq(&rows);
    }

    #[test]
    fn a_closed_account_keeps_its_row() {
        let rows = given(&AccountSummary)
            .event("alice", "AccountOpened", data! { initialDeposit: 5 })
            .event("alice", "MoneyWithdrawn", data! { amount: 5 })
            .event("alice", "AccountClosed", data! {})
            .rows();
        expect![[r#"
            alice: balance=0 createdAt=2026-01-01T00:00:01.000Z status=CLOSED updatedAt=2026-01-01T00:00:03.000Z version=3
        "#]]
        .assert_eq(&rows);
    }

    #[test]
    fn an_amount_stored_as_a_string_is_refused() {
        let refusal = given(&AccountSummary)
            .event("alice", "AccountOpened", data! { initialDeposit: 5 })
            .event("alice", "MoneyDeposited", data! { amount: "5" })
            .refusal();
        expect!["alice 2: cannot read the event's data: `amount`: expected an exact number, found a string"].assert_eq(&refusal);
    }
}
