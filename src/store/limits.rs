//! DynamoDB's limits, and our own for what is read at once.

/// The most actions in one transaction.
/// <https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_TransactWriteItems.html>
pub const TRANSACTION_ACTIONS_MAX: usize = 100;
/// The most keys in one BatchGetItem.
/// <https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_BatchGetItem.html>
pub const BATCH_GET_KEYS_MAX: usize = 100;
/// The most items that are read at one instant.
/// <https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_TransactGetItems.html>
pub const TRANSACT_GET_MAX: usize = 100;
/// As many items as a page of 1 MB may hold, and more: DynamoDB ends a page by its size. The embedded one reads what it is not told to
/// leave, and throws it away.
pub const SCAN_ITEMS_MAX: i32 = 5_000;
