//! Writes a type of ours as a [`Value`]: the data of an event, the state of an aggregate, a command. The inverse of `de`.

use std::{collections::BTreeMap, fmt};

use serde::{
    Serialize,
    ser::{self, Impossible},
};

use crate::{DEPTH_MAX, Value, decimal::NEWTYPE};

/// Why a value cannot be written: a mistake in its type. The message never contains the value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unwritable(String);

impl ser::Error for Unwritable {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self(message.to_string())
    }
}

/// Writes a value.
///
/// # Errors
/// [`Unwritable`] for what DynamoDB cannot hold exactly: floats, integers above 64 bits, maps whose keys are not strings, or data nested
/// deeper than 32 levels.
pub fn to_value<T: Serialize + ?Sized>(value: &T) -> Result<Value, Unwritable> {
    value.serialize(Writer { depth: 0 })
}

/// Writes an event: its type, which is the name of the enum's variant, and its data, a [`Value::Map`].
///
/// # Errors
/// [`Unwritable`] if it is not a variant of an enum, or its content is not a map.
pub fn event<E: Serialize>(event: &E) -> Result<(String, Value), Unwritable> {
    let not_an_event = || Unwritable("an event must be a variant with named fields of an enum, as in `Closed {}`".to_owned());
    match to_value(event)? {
        Value::Map(variant) if variant.len() == 1 => match variant.into_iter().next() {
            Some((event_type, data @ Value::Map(_))) => Ok((event_type, data)),
            _ => Err(not_an_event()),
        },
        _ => Err(not_an_event()),
    }
}

/// Writes one value at this depth.
#[derive(Clone, Copy)]
struct Writer {
    depth: usize,
}

/// The elements of a list, or of a variant's tuple.
struct Elements {
    within: Writer,
    listed: Vec<Value>,
    variant: Option<&'static str>,
}

/// The members of a map, or of a variant's fields.
struct Members {
    within: Writer,
    named: BTreeMap<String, Value>,
    name: Option<String>,
    variant: Option<&'static str>,
}

impl Writer {
    fn deeper(self) -> Result<Self, Unwritable> {
        if self.depth == DEPTH_MAX {
            return Err(Unwritable(format!("nested deeper than {DEPTH_MAX} levels")));
        }
        Ok(Self { depth: self.depth + 1 })
    }

    fn elements(self, variant: Option<&'static str>) -> Result<Elements, Unwritable> {
        let within = if variant.is_some() { self.deeper()?.deeper()? } else { self.deeper()? };
        Ok(Elements { within, listed: Vec::new(), variant })
    }

    fn members(self, variant: Option<&'static str>) -> Result<Members, Unwritable> {
        let within = if variant.is_some() { self.deeper()?.deeper()? } else { self.deeper()? };
        Ok(Members { within, named: BTreeMap::new(), name: None, variant })
    }
}

fn named(variant: Option<&'static str>, content: Value) -> Value {
    match variant {
        Some(name) => Value::Map(BTreeMap::from([(name.to_owned(), content)])),
        None => content,
    }
}

fn float<T>() -> Result<T, Unwritable> {
    Err(Unwritable("floats are not exact: declare the field as `Decimal`".to_owned()))
}

impl ser::Serializer for Writer {
    type Ok = Value;
    type Error = Unwritable;
    type SerializeSeq = Elements;
    type SerializeTuple = Elements;
    type SerializeTupleStruct = Elements;
    type SerializeTupleVariant = Elements;
    type SerializeMap = Members;
    type SerializeStruct = Members;
    type SerializeStructVariant = Members;

    fn serialize_bool(self, flag: bool) -> Result<Value, Unwritable> {
        Ok(flag.into())
    }

    fn serialize_i8(self, number: i8) -> Result<Value, Unwritable> {
        Ok(i64::from(number).into())
    }

    fn serialize_i16(self, number: i16) -> Result<Value, Unwritable> {
        Ok(i64::from(number).into())
    }

    fn serialize_i32(self, number: i32) -> Result<Value, Unwritable> {
        Ok(number.into())
    }

    fn serialize_i64(self, number: i64) -> Result<Value, Unwritable> {
        Ok(number.into())
    }

    fn serialize_u8(self, number: u8) -> Result<Value, Unwritable> {
        Ok(u64::from(number).into())
    }

    fn serialize_u16(self, number: u16) -> Result<Value, Unwritable> {
        Ok(u64::from(number).into())
    }

    fn serialize_u32(self, number: u32) -> Result<Value, Unwritable> {
        Ok(u64::from(number).into())
    }

    fn serialize_u64(self, number: u64) -> Result<Value, Unwritable> {
        Ok(number.into())
    }

    fn serialize_f32(self, _: f32) -> Result<Value, Unwritable> {
        float()
    }

    fn serialize_f64(self, _: f64) -> Result<Value, Unwritable> {
        float()
    }

    fn serialize_char(self, character: char) -> Result<Value, Unwritable> {
        Ok(character.to_string().into())
    }

    fn serialize_str(self, text: &str) -> Result<Value, Unwritable> {
        Ok(text.into())
    }

    fn serialize_bytes(self, bytes: &[u8]) -> Result<Value, Unwritable> {
        Ok(Value::Bytes(bytes.to_vec()))
    }

    fn serialize_none(self) -> Result<Value, Unwritable> {
        Ok(Value::Null)
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<Value, Unwritable> {
        value.serialize(self)
    }

    fn serialize_unit(self) -> Result<Value, Unwritable> {
        Ok(Value::Null)
    }

    fn serialize_unit_struct(self, _: &'static str) -> Result<Value, Unwritable> {
        Ok(Value::Null)
    }

    fn serialize_unit_variant(self, _: &'static str, _: u32, variant: &'static str) -> Result<Value, Unwritable> {
        Ok(variant.into())
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, name: &'static str, value: &T) -> Result<Value, Unwritable> {
        let inner = value.serialize(self)?;
        match inner {
            Value::Text(digits) if name == NEWTYPE => digits.parse().map(Value::Number).map_err(ser::Error::custom),
            Value::Text(json) if name == crate::value::NEWTYPE => {
                let json = serde_json::value::RawValue::from_string(json.to_string()).map_err(ser::Error::custom)?;
                Value::from_json(&json).map_err(ser::Error::custom)
            }
            other => Ok(other),
        }
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<Value, Unwritable> {
        Ok(named(Some(variant), value.serialize(self.deeper()?)?))
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Elements, Unwritable> {
        self.elements(None)
    }

    fn serialize_tuple(self, _: usize) -> Result<Elements, Unwritable> {
        self.elements(None)
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Elements, Unwritable> {
        self.elements(None)
    }

    fn serialize_tuple_variant(self, _: &'static str, _: u32, variant: &'static str, _: usize) -> Result<Elements, Unwritable> {
        self.elements(Some(variant))
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Members, Unwritable> {
        self.members(None)
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Members, Unwritable> {
        self.members(None)
    }

    fn serialize_struct_variant(self, _: &'static str, _: u32, variant: &'static str, _: usize) -> Result<Members, Unwritable> {
        self.members(Some(variant))
    }
}

impl Elements {
    fn push<T: Serialize + ?Sized>(&mut self, element: &T) -> Result<(), Unwritable> {
        self.listed.push(element.serialize(self.within)?);
        Ok(())
    }
}

impl Members {
    fn insert<T: Serialize + ?Sized>(&mut self, name: String, member: &T) -> Result<(), Unwritable> {
        self.named.insert(name, member.serialize(self.within)?);
        Ok(())
    }
}

macro_rules! elements {
    ($($kind:ident $push:ident;)*) => {
        $(impl ser::$kind for Elements {
            type Ok = Value;
            type Error = Unwritable;

            fn $push<T: Serialize + ?Sized>(&mut self, element: &T) -> Result<(), Unwritable> {
                self.push(element)
            }

            fn end(self) -> Result<Value, Unwritable> {
                Ok(named(self.variant, Value::List(self.listed)))
            }
        })*
    };
}

elements! {
    SerializeSeq serialize_element;
    SerializeTuple serialize_element;
    SerializeTupleStruct serialize_field;
    SerializeTupleVariant serialize_field;
}

macro_rules! fields {
    ($($kind:ident;)*) => {
        $(impl ser::$kind for Members {
            type Ok = Value;
            type Error = Unwritable;

            fn serialize_field<T: Serialize + ?Sized>(&mut self, name: &'static str, member: &T) -> Result<(), Unwritable> {
                self.insert(name.to_owned(), member)
            }

            fn end(self) -> Result<Value, Unwritable> {
                Ok(named(self.variant, Value::Map(self.named)))
            }
        })*
    };
}

fields! {
    SerializeStruct;
    SerializeStructVariant;
}

impl ser::SerializeMap for Members {
    type Ok = Value;
    type Error = Unwritable;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Unwritable> {
        self.name = Some(key.serialize(Name)?);
        Ok(())
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, member: &T) -> Result<(), Unwritable> {
        let name = self.name.take().expect("serde writes a value only after its key");
        self.insert(name, member)
    }

    fn end(self) -> Result<Value, Unwritable> {
        Ok(named(self.variant, Value::Map(self.named)))
    }
}

/// Writes the key of a map.
struct Name;

macro_rules! not_a_name {
    ($($method:ident($type:ty);)*) => {
        $(fn $method(self, _: $type) -> Result<String, Unwritable> {
            not_a_name()
        })*
    };
}

fn not_a_name<T>() -> Result<T, Unwritable> {
    Err(Unwritable("the keys of a map must be strings".to_owned()))
}

impl ser::Serializer for Name {
    type Ok = String;
    type Error = Unwritable;
    type SerializeSeq = Impossible<String, Unwritable>;
    type SerializeTuple = Impossible<String, Unwritable>;
    type SerializeTupleStruct = Impossible<String, Unwritable>;
    type SerializeTupleVariant = Impossible<String, Unwritable>;
    type SerializeMap = Impossible<String, Unwritable>;
    type SerializeStruct = Impossible<String, Unwritable>;
    type SerializeStructVariant = Impossible<String, Unwritable>;

    not_a_name! {
        serialize_bool(bool);
        serialize_i8(i8);
        serialize_i16(i16);
        serialize_i32(i32);
        serialize_i64(i64);
        serialize_u8(u8);
        serialize_u16(u16);
        serialize_u32(u32);
        serialize_u64(u64);
        serialize_f32(f32);
        serialize_f64(f64);
        serialize_bytes(&[u8]);
        serialize_unit_struct(&'static str);
    }

    fn serialize_char(self, character: char) -> Result<String, Unwritable> {
        Ok(character.to_string())
    }

    fn serialize_str(self, text: &str) -> Result<String, Unwritable> {
        Ok(text.to_owned())
    }

    fn serialize_none(self) -> Result<String, Unwritable> {
        not_a_name()
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<String, Unwritable> {
        value.serialize(self)
    }

    fn serialize_unit(self) -> Result<String, Unwritable> {
        not_a_name()
    }

    fn serialize_unit_variant(self, _: &'static str, _: u32, variant: &'static str) -> Result<String, Unwritable> {
        Ok(variant.to_owned())
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, name: &'static str, value: &T) -> Result<String, Unwritable> {
        if name == NEWTYPE { not_a_name() } else { value.serialize(self) }
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: &T,
    ) -> Result<String, Unwritable> {
        not_a_name()
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Self::SerializeSeq, Unwritable> {
        not_a_name()
    }

    fn serialize_tuple(self, _: usize) -> Result<Self::SerializeTuple, Unwritable> {
        not_a_name()
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Self::SerializeTupleStruct, Unwritable> {
        not_a_name()
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeTupleVariant, Unwritable> {
        not_a_name()
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Self::SerializeMap, Unwritable> {
        not_a_name()
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Self::SerializeStruct, Unwritable> {
        not_a_name()
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeStructVariant, Unwritable> {
        not_a_name()
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;
    use crate::{Decimal, Timestamp, data, de};

    #[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
    #[serde(rename_all_fields = "camelCase")]
    enum Shape {
        Opened { initial_deposit: Decimal, note: Option<String>, at: Timestamp },
        Counted { times: u64, less: i64, kind: Kind },
        Shared(BTreeMap<String, Decimal>),
        Listed(Vec<Option<bool>>),
        Closed {},
    }

    #[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
    enum Kind {
        Plain,
        Sized(u32),
        Boxed { height: u32, width: u32 },
        Paired(u32, u32),
    }

    fn amount(digits: &str) -> Decimal {
        digits.parse().expect("valid")
    }

    #[test]
    fn what_is_written_is_read_again() {
        let at = Timestamp::parse("2026-01-05T09:00:00Z").expect("valid");
        let kinds = [Kind::Plain, Kind::Sized(1), Kind::Boxed { height: 1, width: 2 }, Kind::Paired(1, 2)];
        let shapes = [
            Shape::Opened { initial_deposit: amount("1234567890123456789.0123456789012345678"), note: None, at: at.clone() },
            Shape::Opened { initial_deposit: amount("-0.10"), note: Some("rent".into()), at },
            Shape::Shared(BTreeMap::from([("ann".to_owned(), amount("1E-130"))])),
            Shape::Listed(vec![Some(true), None]),
            Shape::Closed {},
        ];
        for shape in shapes.into_iter().chain(kinds.map(|kind| Shape::Counted { times: u64::MAX, less: i64::MIN, kind })) {
            let written = to_value(&shape).expect("it can be written");
            assert_eq!(de::value::<Shape>(&written), Ok(shape), "{written}");
        }
    }

    #[test]
    fn an_event_is_its_type_and_its_data() {
        let opened = Shape::Shared(BTreeMap::from([("ann".to_owned(), 5.into())]));
        assert_eq!(event(&opened), Ok(("Shared".to_owned(), data! { ann: 5 })));
        assert_eq!(event(&Shape::Closed {}), Ok(("Closed".to_owned(), data! {})));
        for other in [event(&Kind::Plain), event(&Kind::Paired(1, 2)), event(&Kind::Sized(1)), event(&BTreeMap::from([("a", 1), ("b", 2)]))]
        {
            assert!(other.expect_err("not an event").to_string().starts_with("an event must be"));
        }
    }

    #[test]
    fn what_dynamodb_cannot_hold_is_refused() {
        fn refusal(value: impl Serialize) -> String {
            to_value(&value).expect_err("refused").to_string()
        }
        let floats = "floats are not exact: declare the field as `Decimal`";
        assert_eq!((refusal(0.5_f64), refusal(vec![0.5_f32])), (floats.into(), floats.into()));
        assert_eq!(refusal(BTreeMap::from([(1, 2)])), "the keys of a map must be strings");
        let nested = (0..=DEPTH_MAX).fold(Value::Null, |inner, _| Value::List(vec![inner]));
        assert_eq!(refusal(Nested(&nested)), "nested deeper than 32 levels");
    }

    /// Writes lists within lists.
    struct Nested<'a>(&'a Value);

    impl Serialize for Nested<'_> {
        fn serialize<S: ser::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            match self.0 {
                Value::List(elements) => serializer.collect_seq(elements.iter().map(Nested)),
                _ => serializer.serialize_unit(),
            }
        }
    }
}
