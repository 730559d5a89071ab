//! Builds update expressions in which every name and value is a placeholder.

use std::{
    borrow::Cow,
    collections::HashMap,
    fmt::{self, Write as _},
};

use aws_sdk_dynamodb::types::AttributeValue;

/// The names of an expression, by their placeholders.
pub type Names = HashMap<String, String>;
/// The values of an expression, by their placeholders.
pub type Values = HashMap<String, AttributeValue>;

/// An update expression under construction. A worker makes one for each write, so it is made of as few texts as possible.
#[derive(Clone, Default)]
pub struct Expression {
    /// In the order of their placeholders.
    names: Vec<String>,
    values: Vec<AttributeValue>,
    sets: String,
    adds: String,
    removes: String,
}

/// The placeholder of a name.
#[derive(Clone, Copy)]
pub struct Name(Placeholder);

/// The placeholder of a value.
#[derive(Clone, Copy)]
pub struct Value(Placeholder);

/// The condition that an attribute is still what was read. See [`Expression::unchanged`].
#[derive(Clone, Copy)]
pub struct Unchanged {
    name: Name,
    mark: Option<Value>,
}

/// Conditions that must all hold. Each write of a worker has some, so they are one text from the start.
#[derive(Default)]
pub struct Conditions(String);

/// A sign and the digits of a number, at the end of the array.
#[derive(Clone, Copy)]
struct Placeholder {
    text: [u8; Self::LENGTH_MAX],
    begin: usize,
}

impl Placeholder {
    const LENGTH_MAX: usize = 8;
    const DIGITS: &[u8; 10] = b"0123456789";

    fn new(sign: u8, mut number: usize) -> Self {
        let (mut text, mut begin) = ([sign; Self::LENGTH_MAX], Self::LENGTH_MAX);
        loop {
            begin -= 1;
            text[begin] = Self::DIGITS[number % 10];
            number /= 10;
            if number == 0 {
                return Self { text, begin: begin - 1 };
            }
        }
    }

    fn as_str(&self) -> &str {
        std::str::from_utf8(&self.text[self.begin..]).expect("a sign and digits")
    }
}

impl Name {
    fn of(at: usize) -> Self {
        Self(Placeholder::new(b'#', at))
    }

    fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl Value {
    fn of(at: usize) -> Self {
        Self(Placeholder::new(b':', at))
    }

    fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for Unchanged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.mark {
            None => write!(f, "attribute_not_exists({})", self.name),
            Some(mark) => write!(f, "{} = {mark}", self.name),
        }
    }
}

impl Conditions {
    /// And this one.
    pub fn and(&mut self, condition: impl fmt::Display) {
        if self.0.is_empty() {
            // For most writes this is enough.
            self.0.reserve(16 * USUAL);
        } else {
            self.0.push_str(" AND ");
        }
        write!(self.0, "{condition}").expect("a text takes all");
    }

    /// The condition.
    pub fn into_text(self) -> String {
        self.0
    }
}

/// How many names, and values, the expressions of most writes have at most: room from the start costs less than growing to it.
const USUAL: usize = 14;

impl Expression {
    /// Adds a name if it is new, and returns its placeholder.
    pub fn name<'a>(&mut self, name: impl Into<Cow<'a, str>>) -> Name {
        let name = name.into();
        if let Some(at) = self.names.iter().position(|known| *known == name) {
            return Name::of(at);
        }
        if self.names.is_empty() {
            self.names.reserve(USUAL);
        }
        self.names.push(name.into_owned());
        Name::of(self.names.len() - 1)
    }

    /// Adds a value, and returns its placeholder.
    pub fn value(&mut self, value: AttributeValue) -> Value {
        if self.values.is_empty() {
            self.values.reserve(USUAL);
        }
        self.values.push(value);
        Value::of(self.values.len() - 1)
    }

    pub fn set<'a>(&mut self, name: impl Into<Cow<'a, str>>, value: AttributeValue) {
        let (name, value) = (self.name(name), self.value(value));
        clause(&mut self.sets, "SET ", &[name.as_str(), " = ", value.as_str()]);
    }

    /// Sets the attribute if it is absent.
    pub fn set_once<'a>(&mut self, name: impl Into<Cow<'a, str>>, value: AttributeValue) {
        let (name, value) = (self.name(name), self.value(value));
        clause(&mut self.sets, "SET ", &[name.as_str(), " = if_not_exists(", name.as_str(), ", ", value.as_str(), ")"]);
    }

    pub fn add<'a>(&mut self, name: impl Into<Cow<'a, str>>, value: AttributeValue) {
        let (name, value) = (self.name(name), self.value(value));
        clause(&mut self.adds, "ADD ", &[name.as_str(), " ", value.as_str()]);
    }

    pub fn remove<'a>(&mut self, name: impl Into<Cow<'a, str>>) {
        let name = self.name(name);
        clause(&mut self.removes, "REMOVE ", &[name.as_str()]);
    }

    /// The condition that a mark is unchanged since it was read. An empty mark means that there was none.
    pub fn unchanged<'a>(&mut self, name: impl Into<Cow<'a, str>>, mark: &str) -> Unchanged {
        let name = self.name(name);
        let mark = (!mark.is_empty()).then(|| self.value(AttributeValue::S(mark.to_owned())));
        Unchanged { name, mark }
    }

    /// The update expression.
    pub fn update(&self) -> String {
        let mut update = String::with_capacity(self.sets.len() + self.adds.len() + self.removes.len() + 2);
        for part in [&self.sets, &self.adds, &self.removes] {
            if !update.is_empty() && !part.is_empty() {
                update.push(' ');
            }
            update.push_str(part);
        }
        update
    }

    /// The names for the SDK; `None` if there are none, because DynamoDB refuses an empty map.
    pub fn names(&self) -> Option<Names> {
        self.clone().into_names_and_values().0
    }

    /// The values for the SDK; `None` if there are none, because DynamoDB refuses an empty map.
    pub fn values(&self) -> Option<Values> {
        self.clone().into_names_and_values().1
    }

    /// Both.
    pub fn into_names_and_values(self) -> (Option<Names>, Option<Values>) {
        let name = |(at, name)| (Name::of(at).as_str().to_owned(), name);
        let value = |(at, value)| (Value::of(at).as_str().to_owned(), value);
        let names = (!self.names.is_empty()).then(|| self.names.into_iter().enumerate().map(name).collect());
        (names, (!self.values.is_empty()).then(|| self.values.into_iter().enumerate().map(value).collect()))
    }
}

/// Adds a clause to one of the parts of an update expression.
fn clause(part: &mut String, verb: &str, clause: &[&str]) {
    if part.is_empty() {
        // For most writes this is enough.
        part.reserve(12 * USUAL);
    }
    part.push_str(if part.is_empty() { verb } else { ", " });
    for piece in clause {
        part.push_str(piece);
    }
}
