//! All known differences. Any other difference fails the test, and so does an entry that no operation meets.

use aws_sdk_dynamodb::types::{AttributeValue, Update};

use crate::{
    Answer,
    answer::{Operation, Reply, Shown},
    emulators::Kind,
};

/// One operation and two different answers.
pub struct Case<'a> {
    /// The operation.
    pub operation: &'a Operation,
    /// The answer of the simulated database.
    pub ours: &'a Answer,
    /// The answer of the emulator.
    pub theirs: &'a Answer,
}

/// A way in which an emulator departs from DynamoDB.
pub struct Difference {
    /// Which emulator.
    pub of: Kind,
    /// What the emulator does, and what DynamoDB does.
    pub what: &'static str,
    /// The source of that.
    pub source: &'static str,
    /// Whether a case is an instance of it.
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
        what: "within a transaction it lets ADD create a list, a map or a Boolean; DynamoDB adds numbers and sets",
        source: UPDATE_ITEM,
        applies: |case| {
            let odd = |value: &AttributeValue| !matches!(value, AttributeValue::N(_) | AttributeValue::Ss(_));
            is_canceled(case.ours) && updates(case).any(|update| added(update).any(odd))
        },
    },
    Difference {
        of: Kind::Moto,
        what: "it accepts most requests that DynamoDB refuses as invalid, or finds another error first: these are not compared",
        source: "https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Programming.Errors.html",
        applies: |case| is_invalid(case.ours),
    },
    Difference {
        of: Kind::Moto,
        what: "an exception in its own code (HTTP 500, TypeError or ValueError): ADD of a number with an exponent, comparison of different types",
        source: MOTO,
        applies: |case| match &case.theirs.reply {
            Reply::Refused(code, _, reasons) => {
                code == "no code" || reasons.iter().any(|(code, _)| code == "TypeError" || code == "ValueError")
            }
            _ => false,
        },
    },
    Difference {
        of: Kind::Moto,
        what: "it cancels a transaction on a missing table, or finds another error first; DynamoDB reports the missing table",
        source: "https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_TransactWriteItems.html",
        applies: |case| {
            let refused = |answer: &Answer, code: &str| matches!(&answer.reply, Reply::Refused(with, ..) if with == code);
            matches!(case.operation, Operation::TransactWriteItems(_))
                && refused(case.ours, "ResourceNotFoundException")
                && (refused(case.theirs, "TransactionCanceledException") || refused(case.theirs, "ValidationException"))
        },
    },
    Difference {
        of: Kind::Moto,
        what: "it keeps a number as it was written (1.50, 1E+2), where DynamoDB removes trailing zeros",
        source: "https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/HowItWorks.NamingRulesDataTypes.html",
        applies: |case| case.ours.map(Shown::normal) == case.theirs.map(Shown::normal),
    },
    Difference {
        of: Kind::Moto,
        what: "a page that ends with the last item has no last key evaluated, where DynamoDB stops at the limit without checking further",
        source: "https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Query.Pagination.html",
        applies: |case| without_end(case.ours.map(Shown::normal)) == case.theirs.map(Shown::normal),
    },
    Difference {
        of: Kind::Moto,
        what: "it rounds sums to 28 digits; DynamoDB keeps 38",
        source: "https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/HowItWorks.NamingRulesDataTypes.html",
        applies: |case| case.ours.reply == Reply::Written && without_end(case.ours.map(rounded)) == case.theirs.map(rounded),
    },
    Difference {
        of: Kind::Moto,
        what: "it ignores tokens: a repeated transaction is executed again",
        source: "https://docs.aws.amazon.com/amazondynamodb/latest/APIReference/API_TransactWriteItems.html",
        applies: |case| case.operation.token().is_some(),
    },
    Difference {
        of: Kind::Moto,
        what: "it treats a missing attribute as NULL, where DynamoDB compares it with nothing",
        source: "https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Expressions.OperatorsAndFunctions.html",
        applies: |case| values(case.operation).any(|value| matches!(value, AttributeValue::Null(_))),
    },
    Difference {
        of: Kind::Moto,
        what: "to it, as to Python, true is 1 and false is 0, in comparisons by < and by =; in DynamoDB they are of different types",
        source: "https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Expressions.OperatorsAndFunctions.html",
        applies: |case| {
            let held = case.ours.contents.iter().flat_map(|contents| contents.items.iter().flat_map(|item| item.values()));
            let is_truth = |value: &Shown| matches!(value, Shown::Other(text) if text.starts_with("Bool"));
            let truth = values(case.operation).any(|value| matches!(value, AttributeValue::Bool(_))) || held.into_iter().any(is_truth);
            let operation = format!("{:?}", case.operation);
            truth && [" < ", " = "].into_iter().any(|comparator| operation.contains(comparator))
        },
    },
];

const MOTO: &str = "moto 5.2.5, moto/dynamodb/models/dynamo_type.py";

fn is_invalid(answer: &Answer) -> bool {
    match &answer.reply {
        Reply::Refused(code, _, reasons) => code == "ValidationException" || reasons.iter().any(|(code, _)| code == "ValidationError"),
        _ => false,
    }
}

/// Without an empty last page, and without the key that leads to it.
fn without_end(mut answer: Answer) -> Answer {
    if let Reply::Page(_, last) = &mut answer.reply {
        *last = None;
    }
    for contents in &mut answer.contents {
        if contents.pages.len() > 1 && contents.pages.last() == Some(&0) {
            contents.pages.pop();
        }
    }
    answer
}

/// To 15 digits.
fn rounded(number: &str) -> String {
    number.parse().map_or_else(|_| number.to_owned(), |number: f64| format!("{number:.14e}"))
}

/// The values of placeholders.
fn values(operation: &Operation) -> impl Iterator<Item = &AttributeValue> {
    let mut maps = Vec::new();
    match operation {
        Operation::UpdateItem(update) => maps.push(update.get_expression_attribute_values()),
        Operation::PutItem(put) => maps.push(put.get_expression_attribute_values()),
        Operation::TransactWriteItems(transaction) => {
            for action in transaction.get_transact_items().iter().flatten() {
                maps.extend(action.update.as_ref().map(|update| &update.expression_attribute_values));
                maps.extend(action.put.as_ref().map(|put| &put.expression_attribute_values));
                maps.extend(action.delete.as_ref().map(|delete| &delete.expression_attribute_values));
                maps.extend(action.condition_check.as_ref().map(|check| &check.expression_attribute_values));
            }
        }
        _ => {}
    }
    maps.into_iter().flatten().flat_map(|values| values.values())
}

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
