//! DynamoDB's limits, and our own limit for a page.

/// The most actions in one transaction.
/// <https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_TransactWriteItems.html>
pub const TRANSACTION_ACTIONS_MAX: usize = 100;
/// About the most bytes that one transaction may write: DynamoDB's limit of 4 MB, less what the rows are beyond what is written to them.
/// <https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_TransactWriteItems.html>
pub const TRANSACTION_BYTES_MAX: usize = 3_000_000;
/// The most keys in one BatchGetItem.
/// <https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_BatchGetItem.html>
pub const BATCH_GET_KEYS_MAX: usize = 100;
/// The most items in one TransactGetItems, which reads them all at the same instant.
/// <https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_TransactGetItems.html>
pub const TRANSACT_GET_MAX: usize = 100;
/// The most items in a page of a scan: more than 1 MB usually holds, where DynamoDB ends the page anyway. The embedded DynamoDB
/// reads everything that the limit allows and discards what exceeds 1 MB.
pub const SCAN_ITEMS_MAX: i32 = 5_000;
