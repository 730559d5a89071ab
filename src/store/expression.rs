//! Builds update expressions in which every name and value is a placeholder.

use std::{
    collections::HashMap,
    fmt::{self, Write as _},
};

use aws_sdk_dynamodb::types::AttributeValue;

/// The names of an expression, by their placeholders.
pub type Names = HashMap<String, String>;
/// The values of an expression, by their placeholders.
pub type Values = HashMap<String, AttributeValue>;

/// An update expression under construction.
#[derive(Clone)]
pub struct Expression {
    pub names: Names,
    pub values: Values,
    sets: String,
    adds: String,
    removes: String,
}

/// The placeholder of a name.
#[derive(Clone, Copy)]
pub struct Name(usize);

/// The placeholder of a value.
#[derive(Clone, Copy)]
pub struct Value(usize);

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, ":{}", self.0)
    }
}

/// How many names, and values, the expressions of most writes have at most: room from the start costs less than growing to it.
const USUAL: usize = 14;

impl Default for Expression {
    fn default() -> Self {
        let (names, values) = (HashMap::with_capacity(USUAL), HashMap::with_capacity(USUAL));
        Self { names, values, sets: String::new(), adds: String::new(), removes: String::new() }
    }
}

impl Expression {
    /// Adds a name, and returns its placeholder.
    pub fn name(&mut self, name: &str) -> Name {
        let placeholder = Name(self.names.len());
        self.names.insert(placeholder.to_string(), name.to_owned());
        placeholder
    }

    /// Adds a value, and returns its placeholder.
    pub fn value(&mut self, value: AttributeValue) -> Value {
        let placeholder = Value(self.values.len());
        self.values.insert(placeholder.to_string(), value);
        placeholder
    }

    pub fn set(&mut self, name: &str, value: AttributeValue) {
        let (name, value) = (self.name(name), self.value(value));
        clause(&mut self.sets, "SET ", format_args!("{name} = {value}"));
    }

    /// Sets the attribute if it is absent.
    pub fn set_once(&mut self, name: &str, value: AttributeValue) {
        let (name, value) = (self.name(name), self.value(value));
        clause(&mut self.sets, "SET ", format_args!("{name} = if_not_exists({name}, {value})"));
    }

    pub fn add(&mut self, name: &str, value: AttributeValue) {
        let (name, value) = (self.name(name), self.value(value));
        clause(&mut self.adds, "ADD ", format_args!("{name} {value}"));
    }

    pub fn remove(&mut self, name: &str) {
        let name = self.name(name);
        clause(&mut self.removes, "REMOVE ", format_args!("{name}"));
    }

    /// The condition that a mark is unchanged since it was read. An empty mark means that there was none.
    pub fn unchanged(&mut self, name: &str, mark: &str) -> String {
        let name = self.name(name);
        if mark.is_empty() {
            return format!("attribute_not_exists({name})");
        }
        format!("{name} = {}", self.value(AttributeValue::S(mark.to_owned())))
    }

    /// The update expression.
    pub fn update(&self) -> String {
        let parts = [&self.sets, &self.adds, &self.removes].into_iter().filter(|part| !part.is_empty());
        parts.map(String::as_str).collect::<Vec<_>>().join(" ")
    }

    /// The values for the SDK; `None` if there are none, because DynamoDB refuses an empty map.
    pub fn some_values(&self) -> Option<Values> {
        (!self.values.is_empty()).then(|| self.values.clone())
    }

    /// The names and the values for the SDK; `None` if there are none, because DynamoDB refuses an empty map.
    pub fn into_names_and_values(self) -> (Option<Names>, Option<Values>) {
        (Some(self.names).filter(|names| !names.is_empty()), Some(self.values).filter(|values| !values.is_empty()))
    }
}

/// Adds a clause to one of the parts of an update expression.
fn clause(part: &mut String, verb: &str, clause: fmt::Arguments<'_>) {
    part.push_str(if part.is_empty() { verb } else { ", " });
    part.write_fmt(clause).expect("a text takes everything");
}
