//! DynamoDB's expressions, as far as the worker uses them: parsed, and evaluated on an item.
//!
//! <https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Expressions.html>

use std::{
    cell::RefCell,
    cmp::Ordering,
    collections::{HashMap, HashSet},
    rc::Rc,
};

use aws_sdk_dynamodb::types::AttributeValue;
use projection_vocabulary::Decimal;

/// An item in the SDK's types.
pub type Item = HashMap<String, AttributeValue>;
/// The attribute names of placeholders such as `#0`.
pub type Names = HashMap<String, String>;
/// The values of placeholders such as `:0`.
pub type Values = HashMap<String, AttributeValue>;

/// A `ValidationException` of DynamoDB, with a message like its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invalid(pub &'static str);

/// One clause of an update expression.
#[derive(Debug, PartialEq)]
enum Clause {
    Set(String, Operand),
    Add(String, String),
    Remove(String),
}

#[derive(Debug, PartialEq)]
enum Operand {
    Value(String),
    IfNotExists(String, String),
}

#[derive(Debug, PartialEq)]
enum Condition {
    Any(Vec<Self>),
    All(Vec<Self>),
    Not(Box<Self>),
    Test(Test),
}

#[derive(Debug, PartialEq)]
enum Test {
    Exists(String, bool),
    Compare(String, &'static str, String),
    Between(String, String, String),
    BeginsWith(String, String),
    Contains(String, String),
}

thread_local! {
    // The worker's expressions differ in the values of their placeholders and hardly ever in their text.
    static UPDATES: RefCell<HashMap<String, Rc<Vec<Clause>>>> = RefCell::default();
    static CONDITIONS: RefCell<HashMap<String, Rc<Condition>>> = RefCell::default();
}

/// Checks that DynamoDB makes without reading a table: invalid values, expressions that cannot be parsed, paths written twice,
/// placeholders of a condition that are missing, and unused ones.
///
/// # Errors
/// [`Invalid`].
pub fn check(update: Option<&str>, condition: Option<&str>, names: &Names, values: &Values) -> Result<(), Invalid> {
    values.values().try_for_each(valid)?;
    let update = update.map(|update| cached(&UPDATES, update, parse_update)).transpose()?;
    let condition = condition.map(|condition| cached(&CONDITIONS, condition, parse_condition)).transpose()?;
    let mut used = Vec::with_capacity(names.len() + values.len());
    for test in condition.iter().flat_map(|condition| condition.tests()) {
        for token in test.tokens() {
            if token.starts_with(':') {
                value(token, values)?;
            } else {
                name(token, names)?;
            }
            used.push(token);
        }
    }
    let mut written = Vec::new();
    for clause in update.iter().flat_map(|clauses| clauses.iter()) {
        used.extend(clause.tokens());
        let path = name(clause.path(), names).unwrap_or_default();
        if written.contains(&path) {
            return Err(Invalid("Two document paths overlap with each other"));
        }
        written.push(path);
    }
    if names.keys().chain(values.keys()).any(|placeholder| !used.contains(&placeholder.as_str())) {
        return Err(Invalid("Value provided in ExpressionAttributeNames or ExpressionAttributeValues unused in expressions"));
    }
    Ok(())
}

/// Checks of an update that do not depend on the item: missing placeholders and invalid amounts.
///
/// # Errors
/// [`Invalid`].
pub fn check_update(update: &str, names: &Names, values: &Values) -> Result<(), Invalid> {
    for clause in &*cached(&UPDATES, update, parse_update)? {
        for token in clause.tokens() {
            if token.starts_with(':') {
                value(token, values)?;
            } else {
                name(token, names)?;
            }
        }
        if let Clause::Add(_, added) = clause
            && !matches!(value(added, values)?, AttributeValue::N(_) | AttributeValue::Ss(_))
        {
            return Err(Invalid("Incorrect operand type for operator or function; operator: ADD"));
        }
    }
    Ok(())
}

/// Checks that DynamoDB has such a value.
///
/// # Errors
/// [`Invalid`].
pub fn valid(value: &AttributeValue) -> Result<(), Invalid> {
    match value {
        AttributeValue::N(text) if whole(text).is_none() && text.parse::<Decimal>().is_err() => {
            Err(Invalid("The parameter cannot be converted to a numeric value"))
        }
        AttributeValue::Ss(members) if members.is_empty() => Err(Invalid("An string set may not be empty")),
        AttributeValue::Ss(members) if (1..members.len()).any(|at| members[..at].contains(&members[at])) => {
            Err(Invalid("Input collection contains duplicates"))
        }
        AttributeValue::L(members) => members.iter().try_for_each(valid),
        AttributeValue::M(members) => members.values().try_for_each(valid),
        _ => Ok(()),
    }
}

/// Whether the item meets the condition. An absent item has no attributes.
///
/// # Errors
/// [`Invalid`].
pub fn holds(condition: &str, item: Option<&Item>, names: &Names, values: &Values) -> Result<bool, Invalid> {
    cached(&CONDITIONS, condition, parse_condition)?.holds(item, names, values)
}

/// The item after the update. Operands are taken from the item as it was.
///
/// # Errors
/// [`Invalid`].
pub fn updated(update: &str, item: &Item, keys: [Option<&str>; 2], names: &Names, values: &Values) -> Result<Item, Invalid> {
    let clauses = cached(&UPDATES, update, parse_update)?;
    let mut after = item.clone();
    for clause in &*clauses {
        let path = name(clause.path(), names)?;
        if keys.contains(&Some(path)) {
            return Err(Invalid("Cannot update attribute. This attribute is part of the key"));
        }
        match clause {
            Clause::Set(_, Operand::Value(placeholder)) => _ = after.insert(path.to_owned(), value(placeholder, values)?.clone()),
            Clause::Set(_, Operand::IfNotExists(other, placeholder)) => {
                let present = item.get(name(other, names)?).unwrap_or(value(placeholder, values)?);
                after.insert(path.to_owned(), present.clone());
            }
            Clause::Add(_, placeholder) => _ = after.insert(path.to_owned(), sum(item.get(path), value(placeholder, values)?)?),
            Clause::Remove(_) => _ = after.remove(path),
        }
    }
    Ok(after)
}

/// A partition, and the bounds of the sort key.
pub type KeyRange<'a> = (&'a str, Bounds<'a>);

/// The bounds of a sort key.
#[derive(Clone, Copy)]
pub enum Bounds<'a> {
    /// None.
    All,
    /// Above this one.
    Above(&'a str),
    /// Between these two, both included.
    Between(&'a str, &'a str),
}

/// Parses a key condition.
///
/// # Errors
/// [`Invalid`].
pub fn key_range<'a>(
    condition: &str,
    (partition, sort): (&str, Option<&str>),
    names: &Names,
    values: &'a Values,
) -> Result<KeyRange<'a>, Invalid> {
    let parsed = cached(&CONDITIONS, condition, parse_condition)?;
    let text = |placeholder: &str| value(placeholder, values)?.as_s().map(String::as_str).map_err(|_| Invalid("key of another type"));
    let (mut key, mut bounds) = (None, Bounds::All);
    for test in parsed.conjunction().ok_or(Invalid("Query key condition not supported"))? {
        match test {
            Test::Compare(path, "=", placeholder) if name(path, names)? == partition => key = Some(text(placeholder)?),
            Test::Between(path, low, high) if Some(name(path, names)?) == sort => bounds = Bounds::Between(text(low)?, text(high)?),
            Test::Compare(path, ">", low) if Some(name(path, names)?) == sort => bounds = Bounds::Above(text(low)?),
            _ => return Err(Invalid("Query key condition not supported")),
        }
    }
    key.map(|key| (key, bounds)).ok_or(Invalid("Query condition missed key schema element"))
}

/// A number as DynamoDB returns it.
#[must_use]
pub fn normal(value: AttributeValue) -> AttributeValue {
    match value {
        AttributeValue::N(text) if whole(&text).is_none() => {
            AttributeValue::N(text.parse::<Decimal>().map_or(text, |number| number.to_string()))
        }
        AttributeValue::M(members) => AttributeValue::M(members.into_iter().map(|(name, value)| (name, normal(value))).collect()),
        AttributeValue::L(members) => AttributeValue::L(members.into_iter().map(normal).collect()),
        other => other,
    }
}

fn cached<T, F: Fn(&[&str]) -> Result<T, Invalid>>(
    cache: &'static std::thread::LocalKey<RefCell<HashMap<String, Rc<T>>>>,
    text: &str,
    parse: F,
) -> Result<Rc<T>, Invalid> {
    if let Some(parsed) = cache.with_borrow(|cache| cache.get(text).cloned()) {
        return Ok(parsed);
    }
    let parsed = Rc::new(parse(&tokens(text))?);
    cache.with_borrow_mut(|cache| cache.insert(text.to_owned(), parsed.clone()));
    Ok(parsed)
}

const KEYWORDS: [&str; 7] = ["SET", "ADD", "REMOVE", "AND", "OR", "NOT", "BETWEEN"];

/// Words, comparators, and every other character by itself.
fn tokens(text: &str) -> Vec<&str> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let word = rest.find(|c: char| !(c.is_alphanumeric() || "_#:".contains(c))).unwrap_or(rest.len());
        let two = ["<=", ">=", "<>"].iter().any(|two| rest.starts_with(two));
        let len = if word > 0 {
            word
        } else if two {
            2
        } else {
            first.len_utf8()
        };
        let (token, after) = rest.split_at(len);
        // Keywords are case-insensitive, names and functions are not.
        tokens.push(KEYWORDS.into_iter().find(|keyword| keyword.eq_ignore_ascii_case(token)).unwrap_or(token));
        rest = after.trim_start();
    }
    tokens
}

const SYNTAX: Invalid = Invalid("Invalid expression: syntax error");

fn parse_update(tokens: &[&str]) -> Result<Vec<Clause>, Invalid> {
    let (mut clauses, mut verbs, mut verb, mut rest) = (Vec::new(), Vec::new(), "", tokens);
    while !rest.is_empty() {
        if let ["SET" | "ADD" | "REMOVE", after @ ..] = rest {
            verb = rest[0];
            if verbs.contains(&verb) {
                return Err(Invalid("The section can only be used once in an update expression"));
            }
            verbs.push(verb);
            rest = after;
        }
        let (clause, after) = match (verb, rest) {
            ("SET", [path, "=", "if_not_exists", "(", other, ",", value, ")", after @ ..]) => {
                (Clause::Set(owned(path), Operand::IfNotExists(owned(other), owned(value))), after)
            }
            ("SET", [path, "=", value, after @ ..]) => (Clause::Set(owned(path), Operand::Value(owned(value))), after),
            ("ADD", [path, value, after @ ..]) => (Clause::Add(owned(path), owned(value)), after),
            ("REMOVE", [path, after @ ..]) => (Clause::Remove(owned(path)), after),
            _ => return Err(SYNTAX),
        };
        clauses.push(clause);
        rest = match after {
            [",", after @ ..] if !matches!(after, [] | ["SET" | "ADD" | "REMOVE", ..]) => after,
            [] | ["SET" | "ADD" | "REMOVE", ..] => after,
            _ => return Err(SYNTAX),
        };
    }
    if clauses.is_empty() { Err(Invalid("The expression can not be empty")) } else { Ok(clauses) }
}

fn parse_condition(tokens: &[&str]) -> Result<Condition, Invalid> {
    match any_of(tokens)? {
        (condition, []) => Ok(condition),
        _ => Err(SYNTAX),
    }
}

/// What follows is the rest of the tokens.
type Parsed<'a, 'b> = Result<(Condition, &'a [&'b str]), Invalid>;

fn any_of<'a, 'b>(tokens: &'a [&'b str]) -> Parsed<'a, 'b> {
    let (first, mut rest) = all_of(tokens)?;
    let mut any = vec![first];
    while let ["OR", after @ ..] = rest {
        let (next, after) = all_of(after)?;
        any.push(next);
        rest = after;
    }
    Ok((if any.len() == 1 { any.remove(0) } else { Condition::Any(any) }, rest))
}

fn all_of<'a, 'b>(tokens: &'a [&'b str]) -> Parsed<'a, 'b> {
    let (first, mut rest) = negated(tokens)?;
    let mut all = vec![first];
    while let ["AND", after @ ..] = rest {
        let (next, after) = negated(after)?;
        all.push(next);
        rest = after;
    }
    Ok((if all.len() == 1 { all.remove(0) } else { Condition::All(all) }, rest))
}

fn negated<'a, 'b>(tokens: &'a [&'b str]) -> Parsed<'a, 'b> {
    match tokens {
        ["NOT", rest @ ..] => negated(rest).map(|(condition, rest)| (Condition::Not(Box::new(condition)), rest)),
        ["(", rest @ ..] => match any_of(rest)? {
            (condition, [")", rest @ ..]) => Ok((condition, rest)),
            _ => Err(SYNTAX),
        },
        _ => test(tokens).map(|(test, rest)| (Condition::Test(test), rest)),
    }
}

fn test<'a, 'b>(tokens: &'a [&'b str]) -> Result<(Test, &'a [&'b str]), Invalid> {
    Ok(match tokens {
        ["attribute_exists", "(", path, ")", rest @ ..] => (Test::Exists(owned(path), true), rest),
        ["attribute_not_exists", "(", path, ")", rest @ ..] => (Test::Exists(owned(path), false), rest),
        ["begins_with", "(", path, ",", value, ")", rest @ ..] => (Test::BeginsWith(owned(path), owned(value)), rest),
        ["contains", "(", path, ",", value, ")", rest @ ..] => (Test::Contains(owned(path), owned(value)), rest),
        [path, "BETWEEN", low, "AND", high, rest @ ..] => (Test::Between(owned(path), owned(low), owned(high)), rest),
        [path, comparator, value, rest @ ..] => {
            let comparator = ["=", "<>", "<=", ">=", "<", ">"].into_iter().find(|known| known == comparator).ok_or(SYNTAX)?;
            (Test::Compare(owned(path), comparator, owned(value)), rest)
        }
        _ => return Err(SYNTAX),
    })
}

fn owned(token: &str) -> String {
    token.to_owned()
}

fn name<'a>(token: &'a str, names: &'a Names) -> Result<&'a str, Invalid> {
    if token.starts_with('#') {
        return names
            .get(token)
            .map(String::as_str)
            .ok_or(Invalid("An expression attribute name used in the document path is not defined"));
    }
    Ok(token)
}

fn value<'a>(token: &str, values: &'a Values) -> Result<&'a AttributeValue, Invalid> {
    values.get(token).ok_or(Invalid("An expression attribute value used in expression is not defined"))
}

impl Clause {
    /// The path that it writes.
    fn path(&self) -> &str {
        match self {
            Self::Set(path, _) | Self::Add(path, _) | Self::Remove(path) => path,
        }
    }

    fn tokens(&self) -> impl Iterator<Item = &str> {
        let operands = match self {
            Self::Set(_, Operand::IfNotExists(other, value)) => [Some(other), Some(value)],
            Self::Set(_, Operand::Value(value)) | Self::Add(_, value) => [Some(value), None],
            Self::Remove(_) => [None, None],
        };
        std::iter::once(self.path()).chain(operands.into_iter().flatten().map(String::as_str))
    }
}

impl Condition {
    fn tests(&self) -> Vec<&Test> {
        match self {
            Self::Any(parts) | Self::All(parts) => parts.iter().flat_map(Self::tests).collect(),
            Self::Not(inner) => inner.tests(),
            Self::Test(test) => vec![test],
        }
    }

    /// The tests, if all of them must hold and nothing else.
    fn conjunction(&self) -> Option<Vec<&Test>> {
        match self {
            Self::All(parts) => parts.iter().map(|part| if let Self::Test(test) = part { Some(test) } else { None }).collect(),
            Self::Test(test) => Some(vec![test]),
            Self::Any(_) | Self::Not(_) => None,
        }
    }

    fn holds(&self, item: Option<&Item>, names: &Names, values: &Values) -> Result<bool, Invalid> {
        let of = |part: &Self| part.holds(item, names, values);
        match self {
            Self::Any(parts) => parts.iter().try_fold(false, |met, part| Ok(of(part)? || met)),
            Self::All(parts) => parts.iter().try_fold(true, |met, part| Ok(of(part)? && met)),
            Self::Not(inner) => of(inner).map(|met| !met),
            Self::Test(test) => test.holds(item, names, values),
        }
    }
}

impl Test {
    fn tokens(&self) -> impl Iterator<Item = &str> {
        let tokens = match self {
            Self::Exists(path, _) => [Some(path), None, None],
            Self::Compare(path, _, value) | Self::BeginsWith(path, value) | Self::Contains(path, value) => [Some(path), Some(value), None],
            Self::Between(path, low, high) => [Some(path), Some(low), Some(high)],
        };
        tokens.into_iter().flatten().map(String::as_str)
    }

    fn holds(&self, item: Option<&Item>, names: &Names, values: &Values) -> Result<bool, Invalid> {
        let present = |path: &str| Ok(item.and_then(|item| item.get(name(path, names).ok()?)));
        Ok(match self {
            Self::Exists(path, wanted) => present(path)?.is_some() == *wanted,
            Self::Compare(path, comparator, placeholder) => {
                let wanted = value(placeholder, values)?;
                let present = present(path)?;
                if *comparator == "<>" {
                    // An absent attribute as well.
                    return Ok(present.is_none_or(|present| !equal(present, wanted)));
                }
                present.is_some_and(|present| match *comparator {
                    "=" => equal(present, wanted),
                    _ => order(present, wanted).is_some_and(|order| match *comparator {
                        "<" => order.is_lt(),
                        "<=" => order.is_le(),
                        ">" => order.is_gt(),
                        _ => order.is_ge(),
                    }),
                })
            }
            Self::BeginsWith(path, placeholder) => {
                let AttributeValue::S(begin) = value(placeholder, values)? else { return Err(TYPE) };
                matches!(present(path)?, Some(AttributeValue::S(text)) if text.starts_with(begin))
            }
            Self::Contains(path, placeholder) => match (present(path)?, value(placeholder, values)?) {
                (Some(AttributeValue::S(text)), AttributeValue::S(part)) => text.contains(part),
                (Some(AttributeValue::Ss(members)), AttributeValue::S(member)) => members.contains(member),
                _ => false,
            },
            Self::Between(path, low, high) => {
                let (low, high) = (value(low, values)?, value(high, values)?);
                present(path)?.is_some_and(|present| {
                    order(present, low).is_some_and(Ordering::is_ge) && order(present, high).is_some_and(Ordering::is_le)
                })
            }
        })
    }
}

/// DynamoDB's equality: numbers by value, sets in any order.
#[must_use]
pub fn equal(one: &AttributeValue, two: &AttributeValue) -> bool {
    match (one, two) {
        (AttributeValue::N(_), AttributeValue::N(_)) => order(one, two) == Some(Ordering::Equal),
        (AttributeValue::Ss(one), AttributeValue::Ss(two)) => one.iter().collect::<HashSet<_>>() == two.iter().collect::<HashSet<_>>(),
        _ => one == two,
    }
}

/// Only values of one type have an order.
#[must_use]
pub fn order(one: &AttributeValue, two: &AttributeValue) -> Option<Ordering> {
    match (one, two) {
        (AttributeValue::S(one), AttributeValue::S(two)) => Some(one.as_bytes().cmp(two.as_bytes())),
        (AttributeValue::N(one), AttributeValue::N(two)) if whole(one).is_some() && whole(two).is_some() => {
            Some(whole(one).cmp(&whole(two)))
        }
        (AttributeValue::N(one), AttributeValue::N(two)) => Some(one.parse::<Decimal>().ok()?.cmp(&two.parse().ok()?)),
        _ => None,
    }
}

/// A small whole number in its normal form, which is faster than an exact decimal and fits nearly all.
fn whole(text: &str) -> Option<i64> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let normal = digits == "0" && digits.len() == text.len() || !digits.starts_with('0');
    (normal && digits.len() <= 18 && digits.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok()).flatten()
}

const TYPE: Invalid = Invalid("An operand in the update expression has an incorrect data type");

fn sum(present: Option<&AttributeValue>, added: &AttributeValue) -> Result<AttributeValue, Invalid> {
    match (present, added) {
        (None, AttributeValue::N(_) | AttributeValue::Ss(_)) => Ok(added.clone()),
        (Some(AttributeValue::N(present)), AttributeValue::N(added)) => {
            if let (Some(present), Some(added)) = (whole(present), whole(added)) {
                return Ok(AttributeValue::N((present + added).to_string()));
            }
            let mut sum: Decimal = present.parse().map_err(|_| TYPE)?;
            sum += &added.parse::<Decimal>().map_err(|_| TYPE)?;
            sum.check().map_err(|_| Invalid("Attempting to store more than 38 significant digits in a Number"))?;
            Ok(AttributeValue::N(sum.to_string()))
        }
        (Some(AttributeValue::Ss(present)), AttributeValue::Ss(added)) => {
            let mut members = present.clone();
            members.extend(added.iter().filter(|member| !present.contains(member)).cloned());
            Ok(AttributeValue::Ss(members))
        }
        _ => Err(TYPE),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn n(number: &str) -> AttributeValue {
        AttributeValue::N(number.to_owned())
    }

    fn set(members: &[&str]) -> AttributeValue {
        AttributeValue::Ss(members.iter().map(ToString::to_string).collect())
    }

    fn map<const N: usize>(pairs: [(&str, AttributeValue); N]) -> HashMap<String, AttributeValue> {
        pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }

    fn checked(update: Option<&str>, condition: Option<&str>, values: &Values) -> Result<(), Invalid> {
        check(update, condition, &Names::new(), values)
    }

    #[test]
    fn words_and_signs_are_tokens_whether_or_not_there_is_space_between_them() {
        assert_eq!(tokens("SET #0=if_not_exists(#0,:0)"), ["SET", "#0", "=", "if_not_exists", "(", "#0", ",", ":0", ")"]);
        assert_eq!(tokens(" a<=:0  and b <> :1 "), ["a", "<=", ":0", "AND", "b", "<>", ":1"]);
        assert_eq!(tokens("  "), [""; 0]);
    }

    #[test]
    fn an_update_has_each_section_once_and_in_any_order() {
        let remove = |name: &str| Clause::Remove(name.to_owned());
        let clauses = parse_update(&tokens("REMOVE a, b ADD c :0 SET d = :1")).unwrap();
        let add = Clause::Add("c".to_owned(), ":0".to_owned());
        assert_eq!(clauses, [remove("a"), remove("b"), add, Clause::Set("d".to_owned(), Operand::Value(":1".to_owned()))]);
        for wrong in ["", "a = :0", "SET", "SET a :0", "SET a = :0,", "SET a = :0, ADD b :1", "SET a = :0 b = :1", "REMOVE a REMOVE b"] {
            assert!(parse_update(&tokens(wrong)).is_err(), "{wrong}");
        }
    }

    #[test]
    fn and_binds_closer_than_or() {
        let item = map([("a", n("1")), ("b", n("2"))]);
        let values = map([(":1", n("1")), (":2", n("2"))]);
        let met = |condition: &str| holds(condition, Some(&item), &Names::new(), &values).unwrap();
        assert!(met("a = :1 OR a = :2 AND b = :1"));
        assert!(met("a = :2 AND b = :1 OR b = :2"));
        assert!(!met("a = :2 OR a = :1 AND b = :1"));
        for wrong in ["", "a", "a = :1 AND", "a = :1 b = :2", "AND a = :1"] {
            assert!(holds(wrong, Some(&item), &Names::new(), &values).is_err(), "{wrong}");
        }
    }

    #[test]
    fn not_binds_closer_than_and_and_parentheses_closest() {
        let item = map([("a", n("1")), ("s", set(&["x"])), ("t", AttributeValue::S("sum@1".to_owned()))]);
        let values = map([
            (":1", n("1")),
            (":2", n("2")),
            (":x", AttributeValue::S("x".to_owned())),
            (":sum", AttributeValue::S("sum@".to_owned())),
        ]);
        let met = |condition: &str| holds(condition, Some(&item), &Names::new(), &values).unwrap();
        assert!(met("NOT a = :2 AND a = :1") && met("NOT (a = :2 AND a = :1)") && !met("NOT (a = :1)"));
        assert!(met("a = :1 AND (a = :2 OR a = :1)") && !met("a = :2 AND (a = :2 OR a = :1)"));
        assert!(met("contains(s, :x)") && !met("contains(s, :sum)") && met("NOT contains(u, :x)") && met("contains(t, :sum)"));
        assert!(met("begins_with(t, :sum)") && !met("begins_with(t, :x)") && !met("begins_with(u, :x)"));
        for wrong in ["(a = :1", "a = :1)", "NOT", "()", "contains(a)"] {
            assert!(holds(wrong, Some(&item), &Names::new(), &values).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_absent_attribute_differs_from_every_value_and_is_less_than_none() {
        let values = map([(":1", n("1"))]);
        let met = |condition: &str| holds(condition, None, &Names::new(), &values).unwrap();
        assert!(met("a <> :1"));
        assert!(!met("a = :1") && !met("a < :1") && !met("a >= :1"));
    }

    #[test]
    fn operands_are_taken_from_the_item_as_it_was() {
        let item = map([("a", n("1")), ("b", n("5"))]);
        let values = map([(":2", n("2")), (":s", set(&["x"]))]);
        let after = updated("SET a = :2, c = if_not_exists(a, :2) ADD s :s REMOVE b", &item, [None; 2], &Names::new(), &values).unwrap();
        assert_eq!(after, map([("a", n("2")), ("c", n("1")), ("s", set(&["x"]))]));
    }

    #[test]
    fn a_sum_has_at_most_38_digits() {
        let nines = n(&"9".repeat(38));
        assert_eq!(sum(Some(&nines), &n("-1")), Ok(n(&format!("{}8", "9".repeat(37)))));
        assert_eq!(sum(Some(&nines), &n("1")), Ok(n(&format!("1{}", "0".repeat(38)))));
        assert!(sum(Some(&nines), &n("0.1")).is_err());
        assert!(sum(Some(&AttributeValue::S("1".to_owned())), &n("1")).is_err());
    }

    #[test]
    fn what_is_wrong_whatever_the_item_is_is_found_without_it() {
        let one = map([(":0", n("1"))]);
        assert_eq!(checked(Some("ADD a :0"), Some("b = :0"), &one), Ok(()));
        assert!(checked(Some("SET a = :0 ADD a :0"), None, &one).is_err(), "one path twice");
        assert!(checked(Some("REMOVE a"), None, &one).is_err(), "a value that is not used");
        assert!(checked(None, Some("b = :0 OR b = :1"), &one).is_err(), "a value that is not there");
        assert!(checked(None, Some("#b = :0"), &one).is_err(), "a name that is not there");
        for wrong in [n("1E+126"), n("one"), set(&[]), set(&["x", "x"]), AttributeValue::L(vec![n("")])] {
            assert!(checked(Some("SET a = :0"), None, &map([(":0", wrong.clone())])).is_err(), "{wrong:?}");
        }
        let text = map([(":0", AttributeValue::S(String::new()))]);
        assert!(check_update("ADD a :0", &Names::new(), &text).is_err(), "no amount");
    }
}
