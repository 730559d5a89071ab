//! `account-statement`: the movements of each bank account, and its balance after each.
//!
//! | attribute | account's row | movement (child row) |
//! |---|---|---|
//! | `accountId` | the account: the key | the account: the key |
//! | `movement` | `!` | the version of its event, in 10 digits: the sort key, so the oldest comes first |
//! | `amount` | | what was deposited, or as a negative number what was withdrawn |
//! | `balance` | the balance now | the balance after it |
//! | `at` | | when it happened |
//! | `closedAt` | when the account was closed, and keeps its movements | |

use projection_vocabulary::{Change, Decimal, Projection, Recorded, Refusal, Value, child, own};

use super::Event;

/// The rule. A balance depends on the one before it, so the rule reads it from the account's row.
pub struct AccountStatement;

impl Projection for AccountStatement {
    type Event = Event;
    const NAME: &str = "account-statement";
    const KEY: &str = "accountId";
    const CHILDREN: Option<&str> = Some("movement");
    const READS_ROW: bool = true;

    fn project(&self, event: &Recorded<'_, Event>) -> Result<Change, Refusal> {
        let amount: Decimal = match &event.event {
            Event::AccountOpened { initial_deposit } => initial_deposit.clone(),
            Event::MoneyDeposited { amount } => amount.clone(),
            Event::MoneyWithdrawn { amount } => -amount,
            Event::AccountClosed {} => return Ok(own().set("closedAt", event.timestamp).into()),
        };
        let mut balance = event.row().get("balance").and_then(Value::as_number).cloned().unwrap_or_default();
        balance += &amount;
        let movement = child(format!("{:010}", event.version.0)).set("amount", amount).set("balance", &balance).set("at", event.timestamp);
        Ok(own().set("balance", balance).and(movement))
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use projection_vocabulary::{data, testkit::given};

    use super::AccountStatement;

    #[test]
    fn each_movement_shows_the_balance_after_it_and_a_closed_account_keeps_them() {
        let rows = given(&AccountStatement)
            .event("alice", "AccountOpened", data! { initialDeposit: 100 })
            .event("bob", "AccountOpened", data! { initialDeposit: 0 })
            .event("alice", "MoneyDeposited", data! { amount: 0.10 })
            .event("alice", "MoneyWithdrawn", data! { amount: 100.10 })
            .event("alice", "AccountClosed", data! {})
            .rows();
        expect![[r#"
            alice: balance=0 closedAt=2026-01-01T00:00:05.000Z version=4
            alice/0000000001: amount=100 at=2026-01-01T00:00:01.000Z balance=100
            alice/0000000002: amount=0.1 at=2026-01-01T00:00:03.000Z balance=100.1
            alice/0000000003: amount=-100.1 at=2026-01-01T00:00:04.000Z balance=0
            bob: balance=0 version=1
            bob/0000000001: amount=0 at=2026-01-01T00:00:02.000Z balance=0
        "#]]
        .assert_eq(&rows);
    }

    #[test]
    fn a_balance_of_more_than_38_digits_is_refused() {
        let refusal = given(&AccountStatement)
            .event("alice", "AccountOpened", data! { initialDeposit: 99999999999999999999999999999999999999 })
            .event("alice", "MoneyDeposited", data! { amount: 0.1 })
            .refusal();
        expect!["alice 2: the sum is a number of 39 significant digits; DynamoDB holds at most 38"].assert_eq(&refusal);
    }
}
