//! What is known to differ: the whole list. Everything else that differs fails the test, and so does an entry that nothing meets.

use aws_sdk_dynamodb::types::{AttributeValue, Update};

use crate::{
    Answer,
    answer::{Operation, Reply},
    emulators::Kind,
};

/// One operation, and two answers that are not the same.
pub struct Case<'a> {
    /// What was asked.
    pub operation: &'a Operation,
    /// What the simulated database says.
    pub ours: &'a Answer,
    /// What the emulator says.
    pub theirs: &'a Answer,
}

/// A way in which an emulator departs from DynamoDB.
pub struct Difference {
    /// Which emulator.
    pub of: Kind,
    /// What it does, and what DynamoDB does.
    pub what: &'static str,
    /// Where that is written.
    pub source: &'static str,
    /// Whether a case is one of it.
    pub applies: fn(&Case<'_>) -> bool,
}

const UPDATE_ITEM: &str = "https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_UpdateItem.html";

/// All of them.
pub const KNOWN: &[Difference] = &[
    Difference {
        of: Kind::Embedded,
        what: "within a transaction it lets an update change a key attribute; DynamoDB never does",
        source: UPDATE_ITEM,
        applies: |case| is_canceled(case.ours) && updates(case).any(|update| ["id", "PK", "SK"].into_iter().any(|key| writes(update, key))),
    },
    Difference {
        of: Kind::Embedded,
        what: "within a transaction it lets ADD write a list, a map or a truth value where there was nothing; DynamoDB adds numbers and sets",
        source: UPDATE_ITEM,
        applies: |case| {
            let odd = |value: &AttributeValue| !matches!(value, AttributeValue::N(_) | AttributeValue::Ss(_));
            is_canceled(case.ours) && updates(case).any(|update| added(update).any(odd))
        },
    },
];

fn is_canceled(answer: &Answer) -> bool {
    matches!(&answer.reply, Reply::Refused(code, ..) if code == "TransactionCanceledException")
}

fn updates<'a>(case: &Case<'a>) -> impl Iterator<Item = &'a Update> {
    let actions = match case.operation {
        Operation::TransactWriteItems(transaction) => transaction.get_transact_items().as_deref().unwrap_or_default(),
        _ => &[],
    };
    actions.iter().filter_map(|action| action.update.as_ref())
}

/// The operands of ADD.
fn added(update: &Update) -> impl Iterator<Item = &AttributeValue> {
    let adds =
        update.update_expression.split_once("ADD ").or_else(|| update.update_expression.split_once("add ")).map_or("", |(_, adds)| adds);
    let words = adds.split([' ', ',']).take_while(|word| !word.eq_ignore_ascii_case("remove"));
    words.filter_map(|word| update.expression_attribute_values.as_ref()?.get(word))
}

/// Whether a name that the update knows by a placeholder stands in its update expression.
fn writes(update: &Update, name: &str) -> bool {
    let named = update.expression_attribute_names.iter().flatten().filter(|(_, attribute)| *attribute == name);
    named.into_iter().any(|(placeholder, _)| update.update_expression.split([' ', ',', '(', ')']).any(|word| word == placeholder))
}
