//! Builds update expressions in which every name and value is a placeholder.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::AttributeValue;

/// An update expression under construction.
#[derive(Default)]
pub struct Expression {
    pub names: HashMap<String, String>,
    pub values: HashMap<String, AttributeValue>,
    sets: Vec<String>,
    adds: Vec<String>,
    removes: Vec<String>,
}

impl Expression {
    /// Adds a name, and returns its placeholder.
    pub fn name(&mut self, name: &str) -> String {
        let placeholder = format!("#{}", self.names.len());
        self.names.insert(placeholder.clone(), name.to_owned());
        placeholder
    }

    /// Adds a value, and returns its placeholder.
    pub fn value(&mut self, value: AttributeValue) -> String {
        let placeholder = format!(":{}", self.values.len());
        self.values.insert(placeholder.clone(), value);
        placeholder
    }

    pub fn set(&mut self, name: &str, value: AttributeValue) {
        let clause = format!("{} = {}", self.name(name), self.value(value));
        self.sets.push(clause);
    }

    /// Sets the attribute if it is absent.
    pub fn set_once(&mut self, name: &str, value: AttributeValue) {
        let name = self.name(name);
        let clause = format!("{name} = if_not_exists({name}, {})", self.value(value));
        self.sets.push(clause);
    }

    pub fn add(&mut self, name: &str, value: AttributeValue) {
        let clause = format!("{} {}", self.name(name), self.value(value));
        self.adds.push(clause);
    }

    pub fn remove(&mut self, name: &str) {
        let clause = self.name(name);
        self.removes.push(clause);
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
        let part =
            |verb: &str, clauses: &[String]| if clauses.is_empty() { String::new() } else { format!("{verb} {} ", clauses.join(", ")) };
        format!("{}{}{}", part("SET", &self.sets), part("ADD", &self.adds), part("REMOVE", &self.removes))
    }

    /// The values for the SDK; `None` if there are none, because DynamoDB refuses an empty map.
    pub fn some_values(&self) -> Option<HashMap<String, AttributeValue>> {
        (!self.values.is_empty()).then(|| self.values.clone())
    }
}
