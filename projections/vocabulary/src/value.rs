//! The values in events and rows: DynamoDB's types without DynamoDB.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::value::RawValue;

use crate::{AggregateId, Decimal, Timestamp};

/// The name by which our serialiser and deserialiser know a [`Value`] inside another type: they pass it on whole.
pub(crate) const NEWTYPE: &str = "projection_vocabulary::Value";

/// The deepest nesting that DynamoDB allows.
/// <https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Constraints.html>
pub const DEPTH_MAX: usize = 32;

/// One value, with exact numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the names are self-explanatory")]
pub enum Value {
    #[default]
    Null,
    Bool(bool),
    Number(Decimal),
    Text(Arc<str>),
    Bytes(Vec<u8>),
    /// A set of strings. DynamoDB does not allow an empty one.
    TextSet(BTreeSet<Arc<str>>),
    List(Vec<Value>),
    Map(BTreeMap<String, Value>),
}

/// Why JSON is not a [`Value`].
#[derive(Debug, thiserror::Error)]
pub enum NotAValue {
    /// The text is not JSON.
    #[error("not valid JSON")]
    Json(#[from] serde_json::Error),
    /// DynamoDB cannot hold a number exactly.
    #[error(transparent)]
    Number(#[from] crate::DecimalError),
    /// Nested deeper than DynamoDB allows.
    #[error("nested deeper than 32 levels")]
    TooDeep,
}

impl Value {
    /// Reads JSON and keeps every digit of its numbers (`serde_json::Value` would turn them into floats).
    ///
    /// # Errors
    /// [`NotAValue`] if the text is not valid JSON or DynamoDB cannot hold its content.
    pub fn from_json(json: &RawValue) -> Result<Self, NotAValue> {
        Self::from_json_at(json, 0)
    }

    fn from_json_at(json: &RawValue, depth: usize) -> Result<Self, NotAValue> {
        if depth > DEPTH_MAX {
            return Err(NotAValue::TooDeep);
        }
        let text = json.get();
        Ok(match text.as_bytes().first() {
            Some(b'{') => {
                let members: BTreeMap<String, &RawValue> = serde_json::from_str(text)?;
                let read = |(name, member)| Ok((name, Self::from_json_at(member, depth + 1)?));
                Self::Map(members.into_iter().map(read).collect::<Result<_, NotAValue>>()?)
            }
            Some(b'[') => {
                let elements: Vec<&RawValue> = serde_json::from_str(text)?;
                Self::List(elements.into_iter().map(|e| Self::from_json_at(e, depth + 1)).collect::<Result<_, _>>()?)
            }
            Some(b'"') => Self::Text(serde_json::from_str::<String>(text)?.into()),
            Some(b't' | b'f') => Self::Bool(serde_json::from_str(text)?),
            Some(b'n') => Self::Null,
            _ => Self::Number(text.parse()?),
        })
    }

    /// The value as JSON, with every digit of its numbers. A set becomes a list; bytes become a list of numbers.
    #[must_use]
    pub fn to_json(&self) -> Box<RawValue> {
        let raw = |text: String| RawValue::from_string(text).expect("a rendered value is valid JSON");
        match self {
            Self::Number(number) => raw(number.to_string()),
            Self::Null => raw("null".into()),
            Self::Bool(flag) => raw(flag.to_string()),
            Self::Text(text) => to_raw(text),
            Self::Bytes(bytes) => to_raw(bytes),
            Self::TextSet(texts) => to_raw(texts),
            Self::List(elements) => to_raw(&elements.iter().map(Self::to_json).collect::<Vec<_>>()),
            Self::Map(members) => to_raw(&members.iter().map(|(name, member)| (name, member.to_json())).collect::<BTreeMap<_, _>>()),
        }
    }

    /// About how many bytes of an item it takes, and not less than DynamoDB counts.
    /// <https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/CapacityUnitCalculations.html>
    #[must_use]
    pub fn bytes(&self) -> usize {
        match self {
            Self::Null | Self::Bool(_) => 1,
            // Two digits a byte, and at most 38 digits.
            Self::Number(_) => 21,
            Self::Text(text) => text.len(),
            Self::Bytes(bytes) => bytes.len(),
            Self::TextSet(texts) => texts.iter().map(|text| 1 + text.len()).sum(),
            Self::List(elements) => 3 + elements.iter().map(|element| 1 + element.bytes()).sum::<usize>(),
            Self::Map(members) => 3 + members.iter().map(|(name, member)| 1 + name.len() + member.bytes()).sum::<usize>(),
        }
    }

    /// How many lists and maps stand within each other: 0 for a number, 1 for a list of numbers.
    pub(crate) fn depth(&self) -> usize {
        match self {
            Self::List(elements) => 1 + elements.iter().map(Self::depth).max().unwrap_or_default(),
            Self::Map(members) => 1 + members.values().map(Self::depth).max().unwrap_or_default(),
            _ => 0,
        }
    }

    /// The string, if this is one.
    #[must_use]
    pub fn as_text(&self) -> Option<&str> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }

    /// The number, if this is one.
    #[must_use]
    pub fn as_number(&self) -> Option<&Decimal> {
        if let Self::Number(number) = self { Some(number) } else { None }
    }
}

fn to_raw(value: &(impl serde::Serialize + ?Sized)) -> Box<RawValue> {
    serde_json::value::to_raw_value(value).expect("strings, lists and maps with string keys always serialise")
}

/// As tests and terminals show it: numbers and strings bare, everything else as JSON.
impl std::fmt::Display for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            other => f.write_str(other.to_json().get()),
        }
    }
}

/// For a field of an event or a command that may hold anything. A set becomes a list, and bytes become a list of numbers.
impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // JSON, except for another [`Value`], which holds it as it is.
        serializer.serialize_newtype_struct(NEWTYPE, self.to_json().get())
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Json;

        impl<'de> de::Visitor<'de> for Json {
            type Value = Value;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a value")
            }

            fn visit_newtype_struct<D: Deserializer<'de>>(self, inner: D) -> Result<Value, D::Error> {
                inner.deserialize_str(self)
            }

            fn visit_str<E: de::Error>(self, json: &str) -> Result<Value, E> {
                let json = RawValue::from_string(json.to_owned()).map_err(|_| E::custom("not valid JSON"))?;
                Value::from_json(&json).map_err(E::custom)
            }
        }

        deserializer.deserialize_newtype_struct(NEWTYPE, Json)
    }
}

macro_rules! value_from {
    ($($type:ty => |$from:ident| $to:expr;)*) => {
        $(impl From<$type> for Value {
            fn from($from: $type) -> Self {
                $to
            }
        })*
    };
}

value_from! {
    bool => |flag| Self::Bool(flag);
    Decimal => |number| Self::Number(number);
    &Decimal => |number| Self::Number(number.clone());
    u64 => |whole| Self::Number(whole.into());
    i64 => |whole| Self::Number(whole.into());
    i32 => |whole| Self::Number(whole.into());
    &str => |text| Self::Text(text.into());
    String => |text| Self::Text(text.into());
    &String => |text| Self::Text(text.as_str().into());
    &Timestamp => |instant| Self::Text(instant.as_str().into());
    &AggregateId => |id| Self::Text(id.as_str().into());
}

/// Makes an event's data: `data! { amount: 30.50, note: "rent" }`.
///
/// Numbers are taken from the source text, so they keep every digit.
#[macro_export]
macro_rules! data {
    ($($name:ident : $value:tt),* $(,)?) => {
        $crate::Value::Map(::std::collections::BTreeMap::from([
            $((::std::string::String::from(stringify!($name)), $crate::literal(stringify!($value)))),*
        ]))
    };
}

/// The value of one literal in [`data!`].
///
/// # Panics
/// If the literal is not valid JSON: a mistake in the test's source.
#[doc(hidden)]
#[must_use]
pub fn literal(source: &str) -> Value {
    let json = RawValue::from_string(source.to_owned()).expect("a literal of data! is JSON");
    Value::from_json(&json).expect("a literal of data! is a value that DynamoDB can hold")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(text: &str) -> Result<Value, NotAValue> {
        Value::from_json(&RawValue::from_string(text.to_owned()).expect("valid JSON"))
    }

    #[test]
    fn json_keeps_every_digit_both_ways() {
        let text = r#"{"amount":1234567890123456789.0123456789012345678,"list":[true,null,"a\"b"]}"#;
        assert_eq!(json(text).expect("valid").to_json().get(), text);
    }

    #[test]
    fn nesting_is_bounded() {
        let nested = |depth: usize| json(&format!("{}1{}", "[".repeat(depth), "]".repeat(depth)));
        assert!(nested(DEPTH_MAX).is_ok());
        assert!(matches!(nested(DEPTH_MAX + 1), Err(NotAValue::TooDeep)));
    }

    #[test]
    fn data_reads_numbers_from_the_source_text() {
        let data = data! { amount: 0.10000000000000000000000000000000000001, note: "rent", big: 99999999999999999999999999999999999999 };
        assert_eq!(
            data.to_json().get(),
            r#"{"amount":0.10000000000000000000000000000000000001,"big":99999999999999999999999999999999999999,"note":"rent"}"#
        );
    }
}
