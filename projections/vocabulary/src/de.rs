//! Reads an event's data into a rule's own type, and a row into a reader's.
//!
//! A rule's events are an `enum` whose variants are event types: `eventType` picks the variant and `eventData` fills it.
//! The same `enum` lists the event types that the rule handles, so the list is written only once.

use std::{
    collections::{BTreeMap, btree_map},
    fmt,
    sync::Arc,
};

use serde::{
    de::{self, DeserializeOwned, DeserializeSeed, Deserializer, IntoDeserializer, Visitor, value},
    forward_to_deserialize_any,
};

use crate::{Attributes, Value, decimal::NEWTYPE};

/// Why an event's data cannot be read into a rule's type, or a row into a reader's. The message names attributes and kinds of value, never a value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Misfit(String);

impl de::Error for Misfit {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self(message.to_string())
    }

    // serde's own messages quote the value, and a message must never contain event data.
    fn invalid_type(unexpected: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self(format!("expected {expected}, found {}", kind_of(unexpected)))
    }

    fn invalid_value(unexpected: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self(format!("expected {expected}, found {} with an invalid value", kind_of(unexpected)))
    }

    fn unknown_variant(_: &str, expected: &'static [&'static str]) -> Self {
        Self(format!("expected one of {}", expected.join(", ")))
    }

    fn unknown_field(_: &str, expected: &'static [&'static str]) -> Self {
        Self(format!("expected no attribute other than {}", expected.join(", ")))
    }
}

fn kind_of(unexpected: de::Unexpected<'_>) -> &'static str {
    match unexpected {
        de::Unexpected::Bool(_) => "a boolean",
        de::Unexpected::Unsigned(_) | de::Unexpected::Signed(_) | de::Unexpected::Float(_) => "a number",
        de::Unexpected::Char(_) | de::Unexpected::Str(_) => "a string",
        de::Unexpected::Bytes(_) => "bytes",
        de::Unexpected::Unit | de::Unexpected::Option => "nothing",
        de::Unexpected::Seq => "a list",
        de::Unexpected::Map => "a map",
        _ => "another kind of value",
    }
}

/// Ends a deserialisation that has only asked for names. Rules are asked several times for each record, so it carries no message.
#[derive(Debug, thiserror::Error)]
#[error("only the names are needed")]
struct Asked;

impl de::Error for Asked {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self
    }
}

/// The event types that `E` has a variant for.
#[must_use]
pub fn variants_of<E: DeserializeOwned>() -> &'static [&'static str] {
    /// Notes the names of an enum's variants, and then fails.
    struct Ask<'a>(&'a mut &'static [&'static str]);

    impl<'de> Deserializer<'de> for Ask<'_> {
        type Error = Asked;

        fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Asked> {
            Err(Asked)
        }

        fn deserialize_enum<V: Visitor<'de>>(self, _: &'static str, variants: &'static [&'static str], _: V) -> Result<V::Value, Asked> {
            *self.0 = variants;
            Err(Asked)
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

/// The names of the fields that a variant of `E` has; none if it has no named fields.
#[must_use]
pub fn fields_of<E: DeserializeOwned>(variant: &'static str) -> &'static [&'static str] {
    /// Picks the variant, notes the names of its fields, and then fails.
    struct Ask<'a>(&'static str, &'a mut &'static [&'static str]);

    impl<'de> Deserializer<'de> for Ask<'_> {
        type Error = Asked;

        fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Asked> {
            visitor.visit_enum(self)
        }

        forward_to_deserialize_any! {
            bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
            newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
        }
    }

    impl<'de> de::EnumAccess<'de> for Ask<'_> {
        type Error = Asked;
        type Variant = Self;

        fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), Asked> {
            Ok((seed.deserialize(self.0.into_deserializer())?, self))
        }
    }

    impl<'de> de::VariantAccess<'de> for Ask<'_> {
        type Error = Asked;

        fn unit_variant(self) -> Result<(), Asked> {
            Err(Asked)
        }

        fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, _: T) -> Result<T::Value, Asked> {
            Err(Asked)
        }

        fn tuple_variant<V: Visitor<'de>>(self, _: usize, _: V) -> Result<V::Value, Asked> {
            Err(Asked)
        }

        fn struct_variant<V: Visitor<'de>>(self, fields: &'static [&'static str], _: V) -> Result<V::Value, Asked> {
            *self.1 = fields;
            Err(Asked)
        }
    }

    let mut fields: &'static [&'static str] = &[];
    let _ = E::deserialize(Ask(variant, &mut fields));
    fields
}

/// Reads `data` as the variant of `E` that is named `event_type`.
///
/// # Errors
/// [`Misfit`] if there is no such variant or the data does not match it. The worker then parks the aggregate.
pub fn event<E: DeserializeOwned>(event_type: &str, data: &Value) -> Result<E, Misfit> {
    struct Event<'a>(&'a str, &'a Value);

    impl<'de> Deserializer<'de> for Event<'_> {
        type Error = Misfit;

        fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
            visitor.visit_enum(Variant(self.0, Borrowed(self.1)))
        }

        forward_to_deserialize_any! {
            bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
            newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
        }
    }

    E::deserialize(Event(event_type, data))
}

/// Reads a value as a type of ours. Its numbers are exact.
///
/// # Errors
/// [`Misfit`] if the value does not match the type.
pub fn value<T: DeserializeOwned>(value: &Value) -> Result<T, Misfit> {
    T::deserialize(Borrowed(value))
}

/// Reads a row into a reader's own type, which names the attributes that it wants. Numbers stay exact: a field is a [`Decimal`], or an
/// integer that holds the number; floats are refused.
///
/// ```
/// # use projection_vocabulary::{Attributes, Decimal, Value, row};
/// #[derive(serde::Deserialize)]
/// #[serde(rename_all = "camelCase")]
/// struct Account {
///     balance: Decimal,
///     status: String,
///     updated_at: Option<String>,
/// }
///
/// let attributes = Attributes::from([("balance".to_owned(), Value::from(5)), ("status".to_owned(), Value::from("ACTIVE"))]);
/// let account: Account = row(attributes)?;
/// assert_eq!((account.balance, account.updated_at), (5.into(), None));
/// # Ok::<(), projection_vocabulary::Misfit>(())
/// ```
///
/// # Errors
/// [`Misfit`] if the row does not have what the type asks for.
///
/// [`Decimal`]: crate::Decimal
pub fn row<T: DeserializeOwned>(attributes: Attributes) -> Result<T, Misfit> {
    value(&Value::Map(attributes))
}

/// Lets serde read a value without copying it.
#[derive(Clone, Copy)]
struct Borrowed<'a>(&'a Value);

impl IntoDeserializer<'_, Misfit> for Borrowed<'_> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

/// A map's members. An error names the member if the rule's type declares the names; in a free map the names are event data.
struct Members<'a> {
    rest: btree_map::Iter<'a, String, Value>,
    due: Option<(&'a str, &'a Value)>,
    named: bool,
}

impl<'a> Members<'a> {
    fn of(members: &'a BTreeMap<String, Value>, named: bool) -> Self {
        Self { rest: members.iter(), due: None, named }
    }
}

impl<'de> de::MapAccess<'de> for Members<'_> {
    type Error = Misfit;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Misfit> {
        self.due = self.rest.next().map(|(name, member)| (name.as_str(), member));
        self.due.map(|(name, _)| seed.deserialize(name.into_deserializer())).transpose()
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Misfit> {
        let (name, member) = self.due.take().expect("serde reads a value only after its key");
        let read = seed.deserialize(Borrowed(member));
        read.map_err(|misfit| if self.named { Misfit(format!("`{name}`: {misfit}")) } else { misfit })
    }
}

/// An enum's variant: its name and its content.
struct Variant<'a>(&'a str, Borrowed<'a>);

impl<'de, 'a> de::EnumAccess<'de> for Variant<'a> {
    type Error = Misfit;
    type Variant = Borrowed<'a>;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Borrowed<'a>), Misfit> {
        Ok((seed.deserialize(self.0.into_deserializer())?, self.1))
    }
}

impl<'de> de::VariantAccess<'de> for Borrowed<'_> {
    type Error = Misfit;

    fn unit_variant(self) -> Result<(), Misfit> {
        match self.0 {
            Value::Map(members) if members.is_empty() => Ok(()),
            _ => de::Deserialize::deserialize(self),
        }
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Misfit> {
        seed.deserialize(self)
    }

    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, Misfit> {
        self.deserialize_tuple(len, visitor)
    }

    fn struct_variant<V: Visitor<'de>>(self, fields: &'static [&'static str], visitor: V) -> Result<V::Value, Misfit> {
        self.deserialize_struct("", fields, visitor)
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
                _ => Err(Misfit("not a whole number of at most 64 bits: only a `Decimal` field holds it".into())),
            },
            Value::Text(text) => visitor.visit_str(text),
            Value::Bytes(bytes) => visitor.visit_bytes(bytes),
            Value::TextSet(texts) => visitor.visit_seq(value::SeqDeserializer::new(texts.iter().map(|text: &Arc<str>| -> &str { text }))),
            Value::List(elements) => visitor.visit_seq(value::SeqDeserializer::new(elements.iter().map(Borrowed))),
            Value::Map(members) => visitor.visit_map(Members::of(members, false)),
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
            // A string that looks like a number is still a string. The writer of the event has a bug, and accepting it would hide the bug.
            whole if name == crate::value::NEWTYPE => visitor.visit_str(whole.to_json().get()),
            Value::Text(_) if name == NEWTYPE => Err(Misfit("expected an exact number, found a string".into())),
            _ => visitor.visit_newtype_struct(self),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(self, _: &'static str, _: &'static [&'static str], visitor: V) -> Result<V::Value, Misfit> {
        match self.0 {
            Value::Map(members) => visitor.visit_map(Members::of(members, true)),
            _ => self.deserialize_any(visitor),
        }
    }

    /// An attribute that the rule does not name may hold anything, even a number that no primitive type holds.
    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        visitor.visit_unit()
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
                let (name, content) = members.first_key_value().expect("it has one member");
                visitor.visit_enum(Variant(name, Borrowed(content)))
            }
            _ => Err(Misfit(format!("expected one of {}", variants.join(", ")))),
        }
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        self.deserialize_f64(visitor)
    }

    fn deserialize_f64<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Misfit> {
        Err(Misfit("floats are not exact: declare the field as `Decimal`".into()))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 char str string bytes byte_buf unit unit_struct
        seq tuple tuple_struct map identifier
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

    #[derive(Debug, Deserialize, PartialEq)]
    enum Odd {
        Shared { shares: BTreeMap<String, Decimal> },
        Sorted { kind: Kind },
        Strict(Strict),
    }

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Strict {
        times: u32,
    }

    #[derive(Debug, Deserialize, PartialEq)]
    enum Kind {
        Plain,
        Sized(u32),
        Boxed { height: u32, width: u32 },
        Paired(u32, u32),
    }

    #[derive(Debug, Deserialize)]
    enum Floating {
        #[allow(dead_code, reason = "the test expects an error")]
        Paid { amount: f64 },
    }

    #[test]
    fn the_enum_lists_the_event_types_it_handles() {
        assert_eq!(variants_of::<Bank>(), ["AccountOpened", "Counted", "Closed"]);
        assert_eq!(variants_of::<String>(), [""; 0]);
        assert_eq!(fields_of::<Bank>("AccountOpened"), ["initialDeposit", "note"]);
        assert_eq!((fields_of::<Bank>("Closed"), fields_of::<Kind>("Sized")), (&[][..], &[][..]));
    }

    #[test]
    fn an_old_shape_of_an_event_is_read_with_aliases_and_defaults() {
        #[derive(Debug, Deserialize, PartialEq)]
        enum Renamed {
            #[serde(alias = "Rang")]
            Called {
                #[serde(alias = "number")]
                to: u64,
                #[serde(default)]
                seconds: u32,
            },
        }
        assert_eq!(variants_of::<Renamed>(), ["Called", "Rang"]);
        assert_eq!(event("Rang", &data! { number: 7 }), Ok(Renamed::Called { to: 7, seconds: 0 }));
        assert_eq!(event("Called", &data! { to: 7, seconds: 9 }), Ok(Renamed::Called { to: 7, seconds: 9 }));
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
        assert_eq!(
            misfit("AccountOpened", &data! { initialDeposit: "4711" }),
            "`initialDeposit`: expected an exact number, found a string"
        );
        assert_eq!(misfit("AccountOpened", &data! {}), "missing field `initialDeposit`");
        assert_eq!(misfit("Counted", &data! { times: "4711" }), "`times`: expected u32, found a string");
        assert_eq!(
            misfit("Counted", &data! { times: 4711.5 }),
            "`times`: not a whole number of at most 64 bits: only a `Decimal` field holds it"
        );
        assert_eq!(misfit("Counted", &data! { times: 99999999999 }), "`times`: expected u32, found a number with an invalid value");
        assert_eq!(misfit("Secret", &data! {}), "expected one of AccountOpened, Counted, Closed");
    }

    #[test]
    fn an_attribute_that_the_rule_does_not_name_may_hold_anything() {
        let data = data! { times: 3, rate: 0.5, big: 99999999999999999999, list: [1.5, {"x": -0.1}], none: null };
        assert_eq!(event("Counted", &data), Ok(Bank::Counted { times: 3 }));
        assert_eq!(event("Closed", &data), Ok(Bank::Closed {}));
    }

    #[test]
    fn a_misfit_never_repeats_a_name_from_the_event() {
        let misfit = |event_type, data: &Value| event::<Odd>(event_type, data).expect_err("does not fit").to_string();
        assert_eq!(misfit("Shared", &data! { shares: {"4711": "1"} }), "`shares`: expected an exact number, found a string");
        assert_eq!(misfit("Strict", &data! { times: 1, secret: 4711 }), "expected no attribute other than times");
        assert_eq!(misfit("Sorted", &data! { kind: {"secret": 1} }), "`kind`: expected one of Plain, Sized, Boxed, Paired");
        assert_eq!(
            misfit("Sorted", &data! { kind: {"Boxed": {"height": 1, "width": "4711"}} }),
            "`kind`: `width`: expected u32, found a string"
        );
    }

    #[test]
    fn a_row_is_read_exactly_and_a_misfit_names_the_attribute() {
        #[derive(Debug, Deserialize, PartialEq)]
        struct Account {
            balance: Decimal,
            version: u64,
            tags: Option<Vec<String>>,
        }
        #[derive(Debug, Deserialize)]
        struct Rounded {
            #[allow(dead_code, reason = "the test expects an error")]
            balance: f64,
        }
        let attributes = |data: Value| if let Value::Map(attributes) = data { attributes } else { panic!("a map") };
        let of = || attributes(data! { balance: 0.10000000000000000000000000000000000001, version: 7, secret: 0.5 });
        let balance = "0.10000000000000000000000000000000000001".parse().expect("valid");
        assert_eq!(row(of()), Ok(Account { balance, version: 7, tags: None }));
        let rounded = row::<Rounded>(of()).expect_err("floats are not exact").to_string();
        assert_eq!(rounded, "`balance`: floats are not exact: declare the field as `Decimal`");
        let absent = row::<Account>(attributes(data! { version: 7 })).expect_err("no balance").to_string();
        assert_eq!(absent, "missing field `balance`");
        let text = row::<Account>(attributes(data! { balance: "4711", version: 7 })).expect_err("a string").to_string();
        assert_eq!(text, "`balance`: expected an exact number, found a string");
    }

    #[test]
    fn an_enum_inside_the_data_is_read_in_all_its_forms() {
        let kind = |data: &Value| match event("Sorted", data) {
            Ok(Odd::Sorted { kind }) => kind,
            other => panic!("{other:?}"),
        };
        assert_eq!(kind(&data! { kind: "Plain" }), Kind::Plain);
        assert_eq!(kind(&data! { kind: {"Plain": null} }), Kind::Plain);
        assert_eq!(kind(&data! { kind: {"Sized": 4} }), Kind::Sized(4));
        assert_eq!(kind(&data! { kind: {"Boxed": {"height": 1, "width": 2}} }), Kind::Boxed { height: 1, width: 2 });
        assert_eq!(kind(&data! { kind: {"Paired": [1, 2]} }), Kind::Paired(1, 2));
    }

    #[test]
    fn a_float_field_is_refused() {
        let refused = event::<Floating>("Paid", &data! { amount: 1 }).expect_err("floats are refused");
        assert_eq!(refused.to_string(), "`amount`: floats are not exact: declare the field as `Decimal`");
    }
}
