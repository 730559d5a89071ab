//! From an event's data to a rule's own type.
//!
//! A rule's events are an `enum` whose variants are event types: `eventType` picks the variant and `eventData` fills it.
//! The same `enum` says which event types the rule handles, so the list is written once.

use std::{fmt, sync::Arc};

use serde::{
    de::{self, DeserializeOwned, DeserializeSeed, Deserializer, IntoDeserializer, Visitor, value},
    forward_to_deserialize_any,
};

use crate::{Value, decimal::NEWTYPE};

/// Why an event's data does not fit a rule's type: a sentence that names attributes and kinds of value, never a value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Misfit(String);

impl de::Error for Misfit {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self(message.to_string())
    }

    // serde's own words quote the value, and messages must never carry an event's data.
    fn invalid_type(unexpected: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self(format!("{} where {expected} belongs", kind_of(unexpected)))
    }

    fn invalid_value(unexpected: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self(format!("{} that is not {expected}", kind_of(unexpected)))
    }

    fn unknown_variant(_: &str, expected: &'static [&'static str]) -> Self {
        Self(format!("not one of {}", expected.join(", ")))
    }
}

fn kind_of(unexpected: de::Unexpected<'_>) -> &'static str {
    match unexpected {
        de::Unexpected::Bool(_) => "a flag",
        de::Unexpected::Unsigned(_) | de::Unexpected::Signed(_) | de::Unexpected::Float(_) => "a number",
        de::Unexpected::Char(_) | de::Unexpected::Str(_) => "a text",
        de::Unexpected::Bytes(_) => "bytes",
        de::Unexpected::Unit | de::Unexpected::Option => "nothing",
        de::Unexpected::Seq => "a list",
        de::Unexpected::Map => "a map",
        _ => "something",
    }
}

/// The event types that `E` has a variant for.
#[must_use]
pub fn variants_of<E: DeserializeOwned>() -> &'static [&'static str] {
    /// Answers every question with an error, after noting the names of an enum's variants.
    struct Ask<'a>(&'a mut &'static [&'static str]);

    impl<'de> Deserializer<'de> for Ask<'_> {
        type Error = value::Error;

        fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, value::Error> {
            Err(de::Error::custom("not an enum"))
        }

        fn deserialize_enum<V: Visitor<'de>>(
            self,
            _: &'static str,
            variants: &'static [&'static str],
            _: V,
        ) -> Result<V::Value, value::Error> {
            *self.0 = variants;
            Err(de::Error::custom("only asked"))
        }

        forward_to_deserialize_any! {
            bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
            newtype_struct seq tuple tuple_struct map struct identifier ignored_any
        }
    }

    let mut variants: &'static [&'static str] = &[];
    let _ = E::deserialize(Ask(&mut variants));
    variants
}

/// Reads `data` as the variant of `E` that is named `event_type`.
///
/// # Errors
/// [`Misfit`] if there is no such variant, or the data does not fit it: the event is poison to this rule.
pub fn event<E: DeserializeOwned>(event_type: &str, data: &Value) -> Result<E, Misfit> {
    struct Event<'a>(&'a str, &'a Value);

    impl<'de> Deserializer<'de> for Event<'_> {
        type Error = Misfit;

        fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
            let entry = std::iter::once((self.0, Borrowed(self.1)));
            visitor.visit_enum(value::MapAccessDeserializer::new(value::MapDeserializer::new(entry)))
        }

        forward_to_deserialize_any! {
            bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
            newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
        }
    }

    E::deserialize(Event(event_type, data))
}

/// A value as a source for serde, without a copy of it.
#[derive(Clone, Copy)]
struct Borrowed<'a>(&'a Value);

impl IntoDeserializer<'_, Misfit> for Borrowed<'_> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

/// A map that names the member which does not fit.
struct Members<'a>(std::collections::btree_map::Iter<'a, String, Value>, Option<(&'a str, &'a Value)>);

impl<'de> de::MapAccess<'de> for Members<'_> {
    type Error = Misfit;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Misfit> {
        self.1 = self.0.next().map(|(name, member)| (name.as_str(), member));
        self.1.map(|(name, _)| seed.deserialize(name.into_deserializer())).transpose()
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Misfit> {
        let (name, member) = self.1.take().expect("serde asks for a value only after its key");
        seed.deserialize(Borrowed(member)).map_err(|misfit| Misfit(format!("`{name}`: {misfit}")))
    }
}

impl<'de> Deserializer<'de> for Borrowed<'_> {
    type Error = Misfit;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        match self.0 {
            Value::Null => visitor.visit_unit(),
            Value::Bool(flag) => visitor.visit_bool(*flag),
            Value::Number(number) => match number.to_i128() {
                Some(whole) if u64::try_from(whole).is_ok() => visitor.visit_u64(u64::try_from(whole).expect("just checked")),
                Some(whole) if i64::try_from(whole).is_ok() => visitor.visit_i64(i64::try_from(whole).expect("just checked")),
                _ => Err(Misfit("a number that only a `Decimal` holds exactly".into())),
            },
            Value::Text(text) => visitor.visit_str(text),
            Value::Bytes(bytes) => visitor.visit_bytes(bytes),
            Value::TextSet(texts) => visitor.visit_seq(value::SeqDeserializer::new(texts.iter().map(|text: &Arc<str>| -> &str { text }))),
            Value::List(elements) => visitor.visit_seq(value::SeqDeserializer::new(elements.iter().map(Borrowed))),
            Value::Map(members) => visitor.visit_map(Members(members.iter(), None)),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        match self.0 {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, Misfit> {
        match self.0 {
            Value::Number(number) if name == NEWTYPE => visitor.visit_str(&number.to_string()),
            // A text that looks like a number is not one: the writer of the event has a bug that must not go by unseen.
            Value::Text(_) if name == NEWTYPE => Err(Misfit("a text where an exact number belongs".into())),
            _ => visitor.visit_newtype_struct(self),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Misfit> {
        match self.0 {
            Value::Text(text) => (&**text).into_deserializer().deserialize_enum(name, variants, visitor),
            Value::Map(members) if members.len() == 1 => {
                visitor.visit_enum(value::MapAccessDeserializer::new(Members(members.iter(), None)))
            }
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        self.deserialize_f64(visitor)
    }

    fn deserialize_f64<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Misfit> {
        Err(Misfit("a float field: take a `Decimal`, floats are not exact".into()))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 char str string bytes byte_buf unit unit_struct
        seq tuple tuple_struct map struct identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;
    use crate::{Decimal, data};

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(rename_all_fields = "camelCase")]
    enum Bank {
        AccountOpened { initial_deposit: Decimal, note: Option<String> },
        Counted { times: u32 },
        Closed {},
    }

    #[derive(Debug, Deserialize)]
    enum Floating {
        #[allow(dead_code, reason = "it is the refusal that is tested")]
        Paid { amount: f64 },
    }

    #[test]
    fn the_enum_says_which_event_types_it_handles() {
        assert_eq!(variants_of::<Bank>(), ["AccountOpened", "Counted", "Closed"]);
        assert_eq!(variants_of::<String>(), [""; 0]);
    }

    #[test]
    fn event_type_picks_the_variant_and_data_fills_it_exactly() {
        let opened = event::<Bank>("AccountOpened", &data! { initialDeposit: 1234567890123456789.0123456789012345678, more: 1 });
        let initial_deposit = "1234567890123456789.0123456789012345678".parse().expect("valid");
        assert_eq!(opened, Ok(Bank::AccountOpened { initial_deposit, note: None }));
        assert_eq!(event("Closed", &data! {}), Ok(Bank::Closed {}));
        assert_eq!(event("Counted", &data! { times: 3 }), Ok(Bank::Counted { times: 3 }));
    }

    #[test]
    fn a_misfit_names_the_attribute_and_never_its_value() {
        let misfit = |event_type, data: &Value| event::<Bank>(event_type, data).expect_err("does not fit").to_string();
        assert_eq!(misfit("AccountOpened", &data! { initialDeposit: "4711" }), "`initialDeposit`: a text where an exact number belongs");
        assert_eq!(misfit("AccountOpened", &data! {}), "missing field `initialDeposit`");
        assert_eq!(misfit("Counted", &data! { times: "4711" }), "`times`: a text where u32 belongs");
        assert_eq!(misfit("Counted", &data! { times: 4711.5 }), "`times`: a number that only a `Decimal` holds exactly");
        assert_eq!(misfit("Counted", &data! { times: 99999999999 }), "`times`: a number that is not u32");
        assert_eq!(misfit("Secret", &data! {}), "not one of AccountOpened, Counted, Closed");
    }

    #[test]
    fn a_float_field_is_refused() {
        let refused = event::<Floating>("Paid", &data! { amount: 1 }).expect_err("floats are refused");
        assert_eq!(refused.to_string(), "`amount`: a float field: take a `Decimal`, floats are not exact");
    }
}
