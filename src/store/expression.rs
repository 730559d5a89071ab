//! Builds update expressions: every name and value goes in by placeholder.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::AttributeValue;

/// An update expression in the making.
#[derive(Default)]
pub struct Expression {
    pub names: HashMap<String, String>,
    pub values: HashMap<String, AttributeValue>,
    sets: Vec<String>,
    adds: Vec<String>,
    removes: Vec<String>,
}

impl Expression {
    /// The placeholder of a name.
    pub fn name(&mut self, name: &str) -> String {
        let placeholder = format!("#{}", self.names.len());
        self.names.insert(placeholder.clone(), name.to_owned());
        placeholder
    }

    /// The placeholder of a value.
    pub fn value(&mut self, value: AttributeValue) -> String {
        let placeholder = format!(":{}", self.values.len());
        self.values.insert(placeholder.clone(), value);
        placeholder
    }

    pub fn set(&mut self, name: &str, value: AttributeValue) {
        let clause = format!("{} = {}", self.name(name), self.value(value));
        self.sets.push(clause);
    }

    /// Sets the attribute unless it is there.
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

    /// The condition that a mark is still the one that was read; an empty one is none.
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

    /// The values, as the SDK takes them: none rather than an empty map, which DynamoDB refuses.
    pub fn some_values(&self) -> Option<HashMap<String, AttributeValue>> {
        (!self.values.is_empty()).then(|| self.values.clone())
    }
}
