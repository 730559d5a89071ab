//! Random operations of the kinds that the worker uses, on so few keys that they meet.

use aws_sdk_dynamodb::{
    operation::{
        batch_get_item::BatchGetItemInput, get_item::GetItemInput, put_item::PutItemInput, query::QueryInput, scan::ScanInput,
        transact_get_items::TransactGetItemsInput, transact_write_items::TransactWriteItemsInput, update_item::UpdateItemInput,
    },
    types::{
        AttributeValue, ConditionCheck, Delete, Get, KeysAndAttributes, Put, ReturnValuesOnConditionCheckFailure, TransactGetItem,
        TransactWriteItem, Update,
    },
};
use fastrand::Rng;
use simulation::expression::{Item, Names, Values};

use crate::answer::Operation;

/// A table with a partition key only, `id`.
pub const ROWS: &str = "rows";
/// A table with a partition key and a sort key, `PK` and `SK`.
pub const EVENTS: &str = "events";

const ATTRIBUTES: [&str; 8] = ["version", "count", "amount", "status", "givers", "parkedAt", "contributed#count#north", "data"];
/// Numbers that DynamoDB accepts: the widest, the greatest, the least, and some in unusual notation.
const NUMBERS: [&str; 22] = [
    "0",
    "-0",
    "0.0",
    "0E+5",
    "+7",
    "007",
    "1.50",
    "-0.1",
    "0.1",
    ".5",
    "5.",
    "1E+2",
    "1e-3",
    "12E0",
    "12345678901234567890.123456789012345678",
    "99999999999999999999999999999999999999",
    "-99999999999999999999999999999999999999",
    "0.00000000000000000000000000000000000001",
    "1E+125",
    "9.9999999999999999999999999999999999999E+125",
    "1E-130",
    "-1E-130",
];
/// Numbers that it refuses.
const NO_NUMBERS: [&str; 7] =
    ["", "abc", "1.2.3", "1E+126", "1E-131", "123456789012345678901234567890123456789", "1.00000000000000000000000000000000000001"];

/// Few, so that they meet: one number in several notations, and two whose sum does not fit 38 digits.
const AMOUNTS: [&str; 5] = ["1.5", "1.50", "15E-1", "99999999999999999999999999999999999999", "0.1"];

/// The greatest depth of nested lists and maps.
const NESTED_MAX: u8 = 2;

/// An operation, and the tables whose contents it may change.
#[derive(Clone, Debug)]
pub struct Step {
    /// The operation.
    pub operation: Operation,
    /// Tables to read afterwards, with the page size.
    pub then_read: Vec<(&'static str, Option<i32>)>,
}

/// A sequence of operations, the same for the same seed.
pub fn sequence(seed: u64, length: usize) -> Vec<Step> {
    let mut random = Random { rng: Rng::with_seed(seed), transactions: Vec::new() };
    // Transactional reads have random choices of their own, so that they do not change the other operations.
    let mut reader = Random { rng: Rng::with_seed(!seed), transactions: Vec::new() };
    (0..length).map(|at| if at % 12 == 11 { reader.read_together() } else { random.step() }).collect()
}

struct Random {
    rng: Rng,
    /// Transactions with tokens, to be sent again.
    transactions: Vec<(String, Vec<TransactWriteItem>)>,
}

/// The placeholders of an expression.
#[derive(Default)]
struct Placeholders {
    names: Names,
    values: Values,
}

impl Placeholders {
    fn name(&mut self, name: &str) -> String {
        let placeholder = format!("#{}", self.names.len());
        self.names.insert(placeholder.clone(), name.to_owned());
        placeholder
    }

    fn value(&mut self, value: AttributeValue) -> String {
        let placeholder = format!(":{}", self.values.len());
        self.values.insert(placeholder.clone(), value);
        placeholder
    }

    fn some(self) -> (Option<Names>, Option<Values>) {
        (Some(self.names).filter(|names| !names.is_empty()), Some(self.values).filter(|values| !values.is_empty()))
    }
}

fn s(text: &str) -> AttributeValue {
    AttributeValue::S(text.to_owned())
}

fn n(number: &(impl ToString + ?Sized)) -> AttributeValue {
    AttributeValue::N(number.to_string())
}

impl Random {
    fn one_in(&mut self, of: u32) -> bool {
        self.rng.u32(..of) == 0
    }

    fn of<'a>(&mut self, texts: &[&'a str]) -> &'a str {
        texts[self.rng.usize(..texts.len())]
    }

    fn step(&mut self) -> Step {
        let table = self.table();
        let mut writes = vec![table];
        let operation = match self.rng.u8(..20) {
            0..7 => self.update_item(table),
            7..9 => self.put_item(table),
            9..14 => {
                writes = vec![ROWS, EVENTS];
                self.transaction()
            }
            14 | 15 => {
                writes.clear();
                let key = self.any_key(table);
                Operation::GetItem(GetItemInput::builder().table_name(table).set_key(Some(key)).consistent_read(true))
            }
            16 => {
                writes.clear();
                self.batch_get()
            }
            17 | 18 => {
                writes.clear();
                self.query()
            }
            _ => {
                writes.clear();
                Operation::Scan(ScanInput::builder().table_name(table))
            }
        };
        writes.retain(|table| [ROWS, EVENTS].contains(table));
        let then_read = writes.into_iter().map(|table| (table, self.limit())).collect();
        Step { operation, then_read }
    }

    fn read_together(&mut self) -> Step {
        let gets = (0..self.rng.usize(..5)).map(|_| {
            let table = self.table();
            let get = Get::builder().table_name(table).set_key(Some(self.key(table))).build().expect("table and key are given");
            TransactGetItem::builder().get(get).build()
        });
        let gets = gets.collect();
        Step { operation: Operation::TransactGetItems(TransactGetItemsInput::builder().set_transact_items(Some(gets))), then_read: vec![] }
    }

    fn table(&mut self) -> &'static str {
        match self.rng.u8(..40) {
            0 => "absent",
            1..26 => ROWS,
            _ => EVENTS,
        }
    }

    fn limit(&mut self) -> Option<i32> {
        (!self.one_in(2)).then(|| self.rng.i32(1..6))
    }

    /// Mostly a key of the table.
    fn any_key(&mut self, table: &str) -> Item {
        let mut key = self.key(table);
        match self.rng.u8(..40) {
            0 => _ = key.insert("extra".into(), s("x")),
            1 => key = Item::new(),
            2 => key = self.key(if table == ROWS { EVENTS } else { ROWS }),
            3 => key.values_mut().for_each(|value| *value = s("")),
            4 => key.values_mut().for_each(|value| *value = n(&1)),
            _ => {}
        }
        key
    }

    fn key(&mut self, table: &str) -> Item {
        if table == EVENTS {
            let sort = self.of(&["EVENT#000000000001", "EVENT#000000000002", "EVENT#000000000003", "VERSION"]);
            Item::from([("PK".into(), s(self.of(&["a", "b"]))), ("SK".into(), s(sort))])
        } else {
            Item::from([("id".into(), s(self.of(&["a", "b", "c"])))])
        }
    }

    fn number(&mut self) -> AttributeValue {
        match self.rng.u8(..60) {
            0 => n(self.of(&NO_NUMBERS)),
            1..10 => n(self.of(&NUMBERS)),
            10..20 => {
                let digits: String = (0..self.rng.usize(1..39)).map(|_| self.rng.digit(10)).collect();
                let point = self.rng.usize(..=digits.len());
                let sign = if self.rng.bool() { "-" } else { "" };
                let (whole, fraction) = digits.split_at(point);
                let whole = if whole.is_empty() { "0" } else { whole };
                n(&if fraction.is_empty() { format!("{sign}{whole}") } else { format!("{sign}{whole}.{fraction}") })
            }
            _ => n(&self.rng.i32(-2..6)),
        }
    }

    /// Sometimes empty or with a duplicate member, which is not a valid set.
    fn set(&mut self, faulty: bool) -> AttributeValue {
        if faulty && self.one_in(20) {
            return AttributeValue::Ss(vec![]);
        }
        let mut members: Vec<_> = (0..self.rng.usize(1..4)).map(|_| self.of(&["x", "y", "z", "é", ""]).to_owned()).collect();
        if !faulty || !self.one_in(20) {
            members.sort();
            members.dedup();
        }
        AttributeValue::Ss(members)
    }

    fn value(&mut self, depth: u8) -> AttributeValue {
        match self.rng.u8(..if depth == 0 { 14 } else { 17 }) {
            0..7 => self.number(),
            7..10 => s(self.of(&["", "x", "y", "2020-01-01T00:00:00Z", "é"])),
            10 | 11 => self.set(depth == NESTED_MAX),
            12 => AttributeValue::Bool(self.rng.bool()),
            13 => AttributeValue::Null(true),
            14 => AttributeValue::L((0..self.rng.usize(..3)).map(|_| self.value(depth - 1)).collect()),
            15 => AttributeValue::M((0..self.rng.usize(..3)).map(|at| (format!("m{at}"), self.value(depth - 1))).collect()),
            _ => AttributeValue::B(vec![self.rng.u8(..3)].into()),
        }
    }

    /// The usual value of an attribute of this name.
    fn value_of(&mut self, attribute: &str) -> AttributeValue {
        match attribute {
            _ if self.one_in(12) => self.value(NESTED_MAX),
            "status" | "parkedAt" => s(self.of(&["OPEN", "CLOSED", ""])),
            "givers" => self.set(true),
            "data" => self.value(NESTED_MAX),
            "amount" if self.rng.bool() => n(self.of(&AMOUNTS)),
            _ => self.number(),
        }
    }

    fn item(&mut self, table: &str) -> Item {
        let mut item = self.any_key(table);
        for _ in 0..self.rng.usize(..4) {
            let attribute = self.of(&ATTRIBUTES);
            item.insert(attribute.to_owned(), self.value_of(attribute));
        }
        item
    }

    /// Expressions like the worker's, and others of the same parts.
    fn update_expression(&mut self, placeholders: &mut Placeholders) -> String {
        let (mut sets, mut adds, mut removes, mut written) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for _ in 0..self.rng.usize(1..5) {
            let attribute = match self.rng.u8(..60) {
                0 => self.of(&["id", "PK", "SK"]),
                _ => self.of(&ATTRIBUTES),
            };
            if written.contains(&attribute) && !self.one_in(15) {
                continue;
            }
            written.push(attribute);
            let name = placeholders.name(attribute);
            match self.rng.u8(..10) {
                0..4 => sets.push(format!("{name} = {}", placeholders.value(self.value_of(attribute)))),
                4 => {
                    let other = if self.one_in(4) { placeholders.name(self.of(&ATTRIBUTES)) } else { name.clone() };
                    sets.push(format!("{name} = if_not_exists({other}, {})", placeholders.value(self.value_of(attribute))));
                }
                5..8 => {
                    let value = if self.one_in(15) { AttributeValue::L(Vec::new()) } else { self.value_of(attribute) };
                    adds.push(format!("{name} {}", placeholders.value(value)));
                }
                _ => removes.push(name),
            }
        }
        let part =
            |verb: &str, clauses: &[String]| if clauses.is_empty() { String::new() } else { format!("{verb} {} ", clauses.join(", ")) };
        let text = format!("{}{}{}", part("SET", &sets), part("ADD", &adds), part("REMOVE", &removes));
        match self.rng.u8(..150) {
            0 => String::new(),
            1 => format!("{text} {}", part("SET", &["#unknown = :0".to_owned()])),
            2 => text.replacen(":0", ":unknown", 1),
            3 => format!("{text},"),
            4 => text.replacen('=', "", 1),
            5 => text.replace("SET", "set").replace("ADD", "add"),
            _ => text,
        }
    }

    /// A disjunction of conjunctions.
    fn condition(&mut self, table: &str, placeholders: &mut Placeholders) -> Option<String> {
        if self.one_in(4) {
            return None;
        }
        if self.one_in(6) {
            // A key's name is written out.
            let key = if table == EVENTS { "PK" } else { "id" };
            return Some(format!("attribute_not_exists({key})"));
        }
        if self.one_in(3) {
            // Two conditions of the worker in which one number decides: equal, or less.
            let attribute = self.of(&["version", "amount"]);
            let (name, value) = (placeholders.name(attribute), placeholders.value(self.value_of(attribute)));
            return Some(if self.rng.bool() {
                format!("{name} = {value}")
            } else {
                format!("attribute_not_exists({name}) OR {name} < {value}")
            });
        }
        let mut any = Vec::new();
        for _ in 0..=self.rng.usize(..3) / 2 {
            let mut all = Vec::new();
            for _ in 0..self.rng.usize(1..4) {
                let attribute = self.of(&ATTRIBUTES);
                let name = placeholders.name(attribute);
                all.push(match self.rng.u8(..12) {
                    0..4 => format!("attribute_not_exists({name})"),
                    4 => format!("attribute_exists({name})"),
                    at => {
                        let comparator = ["=", "=", "=", "<", "<", "<>"][usize::from(at - 5) % 6];
                        let value = match self.rng.u8(..20) {
                            0 => AttributeValue::Null(true),
                            1 => AttributeValue::Bool(true),
                            _ => self.value_of(attribute),
                        };
                        format!("{name} {comparator} {}", placeholders.value(value))
                    }
                });
            }
            any.push(all.join(" AND "));
        }
        let text = any.join(" OR ");
        Some(match self.rng.u8(..150) {
            0 => String::new(),
            1 => format!("{text} AND"),
            2 => format!("{text} AND #unknown = :unknown"),
            _ => text,
        })
    }

    fn all_old(&mut self) -> Option<ReturnValuesOnConditionCheckFailure> {
        self.rng.bool().then_some(ReturnValuesOnConditionCheckFailure::AllOld)
    }

    /// Sometimes adds a placeholder that no expression uses. Without any expression, regions differ in whether they refuse it.
    fn spare(&mut self, placeholders: &mut Placeholders) {
        match self.rng.u8(..100) {
            0 => _ = placeholders.name("spare"),
            1 => _ = placeholders.value(s("spare")),
            _ => {}
        }
    }

    fn update(&mut self, table: &str) -> Update {
        let mut placeholders = Placeholders::default();
        let update = Update::builder()
            .table_name(table)
            .set_key(Some(self.any_key(table)))
            .update_expression(self.update_expression(&mut placeholders))
            .set_condition_expression(self.condition(table, &mut placeholders))
            .set_return_values_on_condition_check_failure(self.all_old());
        self.spare(&mut placeholders);
        let (names, values) = placeholders.some();
        update.set_expression_attribute_names(names).set_expression_attribute_values(values).build().expect("all is given")
    }

    fn put(&mut self, table: &str) -> Put {
        let mut placeholders = Placeholders::default();
        let put = Put::builder()
            .table_name(table)
            .set_item(Some(self.item(table)))
            .set_condition_expression(self.condition(table, &mut placeholders))
            .set_return_values_on_condition_check_failure(self.all_old());
        if put.get_condition_expression().is_some() {
            self.spare(&mut placeholders);
        }
        let (names, values) = placeholders.some();
        put.set_expression_attribute_names(names).set_expression_attribute_values(values).build().expect("all is given")
    }

    fn delete(&mut self, table: &str) -> Delete {
        let mut placeholders = Placeholders::default();
        let delete = Delete::builder()
            .table_name(table)
            .set_key(Some(self.any_key(table)))
            .set_condition_expression(self.condition(table, &mut placeholders))
            .set_return_values_on_condition_check_failure(self.all_old());
        let (names, values) = placeholders.some();
        delete.set_expression_attribute_names(names).set_expression_attribute_values(values).build().expect("all is given")
    }

    /// A condition is required here.
    fn condition_check(&mut self, table: &str) -> ConditionCheck {
        let mut placeholders = Placeholders::default();
        let key = if table == EVENTS { "PK" } else { "id" };
        let condition = self.condition(table, &mut placeholders).unwrap_or_else(|| format!("attribute_exists({key})"));
        self.spare(&mut placeholders);
        let (names, values) = placeholders.some();
        ConditionCheck::builder()
            .table_name(table)
            .set_key(Some(self.any_key(table)))
            .condition_expression(condition)
            .set_expression_attribute_names(names)
            .set_expression_attribute_values(values)
            .set_return_values_on_condition_check_failure(self.all_old())
            .build()
            .expect("all is given")
    }

    fn update_item(&mut self, table: &str) -> Operation {
        let update = self.update(table);
        Operation::UpdateItem(
            UpdateItemInput::builder()
                .table_name(update.table_name)
                .set_key(Some(update.key))
                .update_expression(update.update_expression)
                .set_condition_expression(update.condition_expression)
                .set_expression_attribute_names(update.expression_attribute_names)
                .set_expression_attribute_values(update.expression_attribute_values)
                .set_return_values_on_condition_check_failure(update.return_values_on_condition_check_failure),
        )
    }

    fn put_item(&mut self, table: &str) -> Operation {
        let put = self.put(table);
        Operation::PutItem(
            PutItemInput::builder()
                .table_name(put.table_name)
                .set_item(Some(put.item))
                .set_condition_expression(put.condition_expression)
                .set_expression_attribute_names(put.expression_attribute_names)
                .set_expression_attribute_values(put.expression_attribute_values)
                .set_return_values_on_condition_check_failure(put.return_values_on_condition_check_failure),
        )
    }

    fn action(&mut self) -> TransactWriteItem {
        let table = self.table();
        let action = TransactWriteItem::builder();
        match self.rng.u8(..8) {
            0 => action.put(self.put(table)),
            1 => action.delete(self.delete(table)),
            2 | 3 => action.condition_check(self.condition_check(table)),
            _ => action.update(self.update(table)),
        }
        .build()
    }

    fn transaction(&mut self) -> Operation {
        if !self.transactions.is_empty() && self.one_in(8) {
            let again = self.rng.usize(..self.transactions.len());
            if self.one_in(3) {
                // Without other errors, now and later: the order in which DynamoDB finds two errors is not documented.
                self.transactions[again].1 = vec![self.counted(0)];
            }
            let (token, actions) = self.transactions[again].clone();
            let again = TransactWriteItemsInput::builder().set_transact_items(Some(actions));
            return Operation::TransactWriteItems(again.client_request_token(token));
        }
        let actions = self.actions();
        let transaction = TransactWriteItemsInput::builder().set_transact_items(Some(actions.clone()));
        Operation::TransactWriteItems(if self.one_in(4) {
            let token = format!("{:032x}", self.rng.u128(..));
            self.transactions.push((token.clone(), actions));
            transaction.client_request_token(token)
        } else {
            transaction
        })
    }

    fn actions(&mut self) -> Vec<TransactWriteItem> {
        match self.rng.u8(..50) {
            0 => Vec::new(),
            at @ (1 | 2) => (0..99 + usize::from(at)).map(|at| self.counted(at)).collect(),
            _ => (0..self.rng.usize(1..4)).map(|_| self.action()).collect(),
        }
    }

    /// An action on an item of its own.
    fn counted(&mut self, at: usize) -> TransactWriteItem {
        let put = Put::builder().table_name(ROWS).item("id", s(&format!("many{}", at % 101))).item("count", n(&self.rng.u8(..)));
        TransactWriteItem::builder().put(put.build().expect("all is given")).build()
    }

    fn batch_get(&mut self) -> Operation {
        let mut request = BatchGetItemInput::builder();
        // On one table, because the order of the tables decides which of two errors is found first.
        let tables = if self.one_in(20) { vec!["absent"] } else { vec![ROWS, EVENTS] };
        for table in tables {
            if self.one_in(3) {
                continue;
            }
            let mut keys: Vec<Item> = Vec::new();
            for _ in 0..self.rng.usize(1..5) {
                let key = self.any_key(table);
                if !keys.contains(&key) || self.one_in(8) {
                    keys.push(key);
                }
            }
            if self.one_in(25) {
                keys = (0..101).map(|at| Item::from([("id".into(), s(&format!("many{at}")))])).collect();
            }
            let wanted = KeysAndAttributes::builder().set_keys(Some(keys)).consistent_read(true);
            request = request.request_items(table, wanted.build().expect("keys are given"));
        }
        Operation::BatchGetItem(request)
    }

    fn query(&mut self) -> Operation {
        let partition = self.of(&["a", "b", "b", "nobody"]);
        let request = QueryInput::builder().consistent_read(true).set_limit(self.limit());
        if self.one_in(4) {
            let request = request.table_name(ROWS).key_condition_expression("id = :id");
            return Operation::Query(request.expression_attribute_values(":id", s(partition)));
        }
        let mut request = request.table_name(if self.one_in(30) { "absent" } else { EVENTS });
        request = request.expression_attribute_values(":pk", s(partition));
        let (mut low, mut high) = (0, 999);
        match self.rng.u8(..4) {
            0 | 1 => {
                (low, high) = (self.rng.u8(..4), self.rng.u16(..4));
                if !self.one_in(10) && u16::from(low) > high {
                    (low, high) = (0, 3);
                }
                let bound = |version: u16| s(&format!("EVENT#{version:012}"));
                request = request
                    .key_condition_expression("PK = :pk AND SK BETWEEN :first AND :last")
                    .expression_attribute_values(":first", bound(low.into()))
                    .expression_attribute_values(":last", bound(high));
            }
            2 => {
                // Like child rows: everything above.
                low = self.rng.u8(1..4);
                request = request
                    .key_condition_expression("#pk = :pk AND #sk > :first")
                    .expression_attribute_names("#pk", "PK")
                    .expression_attribute_names("#sk", "SK")
                    .expression_attribute_values(":first", s(&format!("EVENT#{:012}", low - 1)));
            }
            _ => request = request.key_condition_expression("PK = :pk"),
        }
        request = request.scan_index_forward(self.rng.bool());
        if self.one_in(3) {
            // Like the worker's next page: after an item within the bounds, which may have been deleted meanwhile.
            let version = self.rng.u16(u16::from(low).min(high)..=high.min(3).max(u16::from(low).min(high)));
            let from = [("PK".to_owned(), s(partition)), ("SK".to_owned(), s(&format!("EVENT#{version:012}")))];
            request = request.set_exclusive_start_key(Some(from.into()));
        }
        match self.rng.u8(..60) {
            0 => request = request.key_condition_expression("PK = :unknown"),
            1 => request = request.key_condition_expression("SK = :pk"),
            2 => request = request.limit(0),
            _ => {}
        }
        Operation::Query(request)
    }
}
