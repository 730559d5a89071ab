//! Bank accounts: how they are used, and what a balance is.

pub mod account;
pub mod account_statement;
pub mod account_summary;
pub(crate) mod sample;
pub mod transfer;
pub mod transfers;

use projection_vocabulary::Decimal;
use serde::{Deserialize, Serialize};

/// What happens to an account. [`account`] writes it, and the projections read it.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all_fields = "camelCase")]
#[allow(missing_docs, reason = "the names are self-explanatory")]
pub enum Event {
    AccountOpened { initial_deposit: Decimal },
    MoneyDeposited { amount: Decimal },
    MoneyWithdrawn { amount: Decimal },
    AccountClosed {},
}
