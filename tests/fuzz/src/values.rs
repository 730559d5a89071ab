//! Numbers, timestamps and values of the vocabulary, and how a rule's own types read them. The input is tried as each of them.

use std::collections::BTreeMap;

use projection_vocabulary::{
    Change, Decimal, DynProjection, Projection, Recorded, RecordedEvent, Refusal, RowId, Rows, Timestamp, Value, Version, fold::Unfolded,
    own,
};
use projection_worker::internals::store::item::{decode_event, encode_event};
use serde_json::value::RawValue;

use crate::tells_no_data;

pub fn check(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let numbers: Vec<Decimal> = text.split_whitespace().filter_map(number).collect();
    numbers.iter().zip(numbers.iter().skip(1)).for_each(|(one, two)| sum(one, two));
    text.lines().for_each(timestamp);
    if let Ok(json) = serde_json::from_str::<&RawValue>(text) {
        value(json);
    }
}

fn number(text: &str) -> Option<Decimal> {
    let number: Decimal = text.parse().map_err(|error| tells_no_data(&error)).ok()?;
    assert_eq!(number.check(), Ok(()), "what is read can be written");
    let printed = number.to_string();
    assert_eq!(printed.parse().as_ref(), Ok(&number), "a number survives its text");
    assert_eq!(-&-&number, number);
    assert_eq!(number.abs() == number, !printed.starts_with('-'));
    let (whole, fraction) = printed.trim_start_matches('-').split_once('.').unwrap_or((printed.trim_start_matches('-'), "1"));
    let plain = [whole, fraction].iter().all(|digits| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()));
    let shortest = (whole == "0" || !whole.starts_with('0')) && !fraction.ends_with('0') && printed != "-0";
    assert!(plain && shortest, "{printed} is not the form that DynamoDB prints");
    if let Some(whole) = number.to_i128() {
        assert_eq!(whole.to_string(), printed);
    }
    Some(number)
}

fn sum(one: &Decimal, two: &Decimal) {
    let mut sum = one.clone();
    sum += two;
    let mut other_way = two.clone();
    other_way += one;
    assert_eq!(sum, other_way);
    assert_eq!(sum.cmp(one), two.cmp(&Decimal::zero()), "adding more makes more");
    if let (Some(one), Some(two)) = (in_millionths(one), in_millionths(two)) {
        assert_eq!(format!("{}e-6", one + two).parse().as_ref(), Ok(&sum), "it is the sum");
    }
    sum -= two;
    assert_eq!(&sum, one, "a sum is exact");
}

/// The number by independent arithmetic, if it has few digits.
fn in_millionths(number: &Decimal) -> Option<i128> {
    let printed = number.to_string();
    let (whole, fraction) = printed.split_once('.').unwrap_or((&printed, ""));
    (whole.len() <= 30 && fraction.len() <= 6).then(|| format!("{whole}{fraction:0<6}").parse().expect("digits"))
}

fn timestamp(text: &str) {
    let Ok(instant) = Timestamp::parse(text).map_err(|error| tells_no_data(&error)) else { return };
    assert_eq!(Timestamp::parse(instant.as_str()), Ok(instant.clone()), "a timestamp survives its text");
    assert_eq!(Timestamp::from_epoch_ms(instant.epoch_ms()).as_ref(), Some(&instant));
    assert_eq!(instant.as_str().len(), "2026-01-05T09:00:00.000Z".len(), "the order of texts is the order of time");
}

fn value(json: &RawValue) {
    let value = match Value::from_json(json) {
        Ok(value) => value,
        Err(error) => return tells_no_data(&error),
    };
    let again = Value::from_json(&value.to_json()).expect("what is printed is JSON");
    assert_eq!(again, value, "a value survives its JSON");
    if !matches!(value, Value::Map(_)) {
        return;
    }
    for event_type in Probe.event_types() {
        let event = RecordedEvent {
            aggregate: "a".into(),
            version: Version(1),
            event_id: "e".into(),
            event_type: (*event_type).into(),
            data: value.clone(),
            timestamp: Timestamp::from_epoch_ms(0).expect("in range"),
            metadata: None,
        };
        assert_eq!(decode_event(&encode_event(&event).into()).as_ref(), Ok(&event), "data survives its item");
        let mut rows = Rows::default();
        match rows.fold(&Probe, &event) {
            Ok(_) => exact(&rows, &value),
            Err(Unfolded::Refused(refusal)) => {
                assert_ne!(refusal, Refusal::Panicked);
                tells_no_data(&refusal);
            }
            Err(Unfolded::Inapplicable(reason)) => tells_no_data(&reason),
        }
    }
}

/// An amount that a rule reads is the number in the data.
fn exact(rows: &Rows, data: &Value) {
    let Value::Map(data) = data else { unreachable!("only maps are read") };
    let rows = rows.visible();
    let row = &rows[&RowId::from("a")];
    if let (Some(amount), Some(stated)) = (row.get("amount"), data.get("amount")) {
        assert_eq!(amount, stated);
    }
}

/// An event with a field of every kind that serde knows.
struct Probe;

#[derive(serde::Deserialize)]
enum Event {
    Exact { amount: Decimal },
    Maybe { amount: Option<Decimal>, note: Option<String> },
    Many { amounts: BTreeMap<String, Decimal>, list: Vec<Decimal> },
    Plain { flag: bool, text: String, small: u8, big: i128, letter: char, pair: (u32, String) },
    Nested { inner: Inner },
    Strict(Strict),
    Nothing {},
    Unit,
}

#[derive(serde::Deserialize)]
enum Inner {
    One,
    Two(Decimal),
    Three { amount: Decimal, flag: bool },
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Strict {
    amount: Decimal,
}

impl Projection for Probe {
    type Event = Event;
    const NAME: &str = "probe";
    const KEY: &str = "id";

    fn project(&self, event: &Recorded<'_, Event>) -> Result<Change, Refusal> {
        let change = match &event.event {
            Event::Exact { amount } | Event::Strict(Strict { amount }) | Event::Maybe { amount: Some(amount), note: None } => {
                own().set("amount", amount)
            }
            Event::Maybe { note, .. } => own().set("note", note.clone().unwrap_or_default()),
            Event::Many { amounts, list } => amounts.values().chain(list).fold(own(), |change, amount| change.add("total", amount)),
            Event::Plain { flag, text, small, big, letter, pair } => {
                own().set("text", format!("{flag}{text}{small}{big}{letter}{}{}", pair.0, pair.1))
            }
            Event::Nested { inner: Inner::Two(amount) | Inner::Three { amount, flag: true } } => own().add("nested", amount),
            Event::Nested { .. } | Event::Nothing {} | Event::Unit => own().set("text", "-"),
        };
        Ok(change.into())
    }
}
