//! Decodes one captured stream record. Only this module uses the record type of `aws_lambda_events`.
//!
//! Records are read one by one, never as a whole batch: the crate's types are strict, and one malformed record must not fail the
//! others.

mod ordinary;
mod tolerance;

use std::{borrow::Cow, collections::BTreeMap, fmt};

use aws_lambda_events::event::dynamodb::EventRecord;
use projection_vocabulary::{AggregateId, RecordedEvent, Version};
use serde::Deserialize;
use serde_dynamo::{AttributeValue as Attribute, Item};
use serde_json::{Value as Json, value::RawValue};

use crate::store::item::{self, Key, Malformed};

/// The position of a record in its shard. Ordered as a number of up to 40 digits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SequenceNumber(String);

impl SequenceNumber {
    /// The number, unchanged from the stream.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for SequenceNumber {
    fn from(number: &str) -> Self {
        Self(number.into())
    }
}

impl Ord for SequenceNumber {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        let digits = |number: &Self| number.0.trim_start_matches('0').len();
        digits(self).cmp(&digits(other)).then_with(|| self.0.trim_start_matches('0').cmp(other.0.trim_start_matches('0')))
    }
}

impl PartialOrd for SequenceNumber {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// One stream record, decoded.
#[derive(Debug, PartialEq)]
pub struct Record {
    /// Its position in the shard, which is reported if the record fails.
    pub sequence: Option<SequenceNumber>,
    /// Its meaning.
    pub body: Body,
}

/// The meaning of a stream record.
#[derive(Debug, PartialEq)]
pub enum Body {
    /// An event was appended.
    Event(RecordedEvent),
    /// An event was appended that cannot be read.
    Poison(Poison),
    /// The record has nothing to project.
    Ignored(Ignored),
    /// An event was changed or deleted after it was appended.
    Rewritten {
        /// The event.
        aggregate: AggregateId,
        /// Its version.
        version: Version,
        /// How.
        how: Ignored,
    },
    /// The stream is not the one that the worker needs, or not configured as it needs it. The record fails, and nothing is parked.
    Unusable(Unusable),
}

/// What is wrong with a stream, as its record shows. The mend is in the deployment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// The stream carries keys only, or old images.
    #[error("the stream carries no new images: set its StreamViewType to NEW_IMAGE")]
    NoImages,
    /// The record's keys are not those of the event store.
    #[error(
        "a record of another table: {}, and the event store's are `PK` (S) and `SK` (S): connect the stream of the event store",
        stated(keys)
    )]
    OtherTable {
        /// The key attributes, each with its type: `pk` (S). Empty if the record states none.
        keys: Vec<String>,
    },
}

fn stated(keys: &[String]) -> String {
    match keys {
        [] => "its item has no such keys".to_owned(),
        [only] => format!("its key is {only}"),
        several => format!("its keys are {}", several.join(" and ")),
    }
}

/// A record that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Poison {
    /// The event that it identifies, if it does.
    pub event: Option<(AggregateId, Version)>,
    /// The event type, if it can be read.
    pub event_type: Option<String>,
    /// Why the record cannot be read.
    pub reason: Malformed,
    /// The record, unchanged.
    pub payload: String,
    /// Identifies the record if it does not identify an event.
    pub record_id: String,
}

/// Why a record has nothing to project.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ignored {
    /// The item is not an event: an aggregate's VERSION item, for example.
    NotAnEvent,
    /// An event of a type that no projection handles.
    UnknownType,
    /// An item of an event was written again and holds the same event. Replication between regions does this.
    Unchanged,
    /// An event was changed. The event store must be append-only. Rows that count it are re-projected.
    Modified,
    /// An event was deleted by a writer. The event store must be append-only.
    Removed,
    /// An event was deleted by DynamoDB's time to live. A rebuild would miss it.
    Expired,
}

impl fmt::Display for Ignored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotAnEvent => "not an event",
            Self::UnknownType => "event type that no projection handles",
            Self::Unchanged => "event written again without a change",
            Self::Modified => "event modified: the store must be append-only",
            Self::Removed => "event removed: the store must be append-only",
            Self::Expired => "event expired by time to live",
        })
    }
}

/// Decodes one record of a stream.
#[must_use]
pub fn decode(raw: &RawValue) -> Record {
    match ordinary::insert(raw) {
        Some((sequence, event)) => Record { sequence, body: Body::Event(event) },
        None => decode_any(raw),
    }
}

/// The same, at the pace of records that are not ordinary inserts. The tests compare the two.
#[must_use]
pub fn decode_any(raw: &RawValue) -> Record {
    match read(raw) {
        Ok(record) => {
            let sequence = record.change.sequence_number.as_deref().filter(|number| !number.is_empty()).map(SequenceNumber::from);
            Record { sequence, body: body(&record, raw) }
        }
        Err((remains, reason)) => {
            let image = |name| remains.pointer(name).and_then(|item| Item::deserialize(item).ok()).unwrap_or_default();
            let event = [image("/dynamodb/Keys"), image("/dynamodb/NewImage")].iter().find_map(event_key);
            let text = |name| remains.pointer(name).and_then(Json::as_str);
            let event_type = text("/dynamodb/NewImage/eventType/S").map(str::to_owned);
            let sequence = text("/dynamodb/SequenceNumber").filter(|number| !number.is_empty()).map(SequenceNumber::from);
            Record { sequence, body: poison(raw, event, event_type, Malformed::Record(reason)) }
        }
    }
}

/// The item that a record reports as appended to the event store, unchanged, with its aggregate and version; `None` if the record has
/// nothing to project.
///
/// # Errors
/// Why the record cannot be read, without event data. An event that cannot be read has an item all the same, as long as its keys can be.
pub fn appended_item(raw: &RawValue) -> Result<Option<(AggregateId, Version, Item)>, String> {
    let record = read(raw).map_err(|(_, reason)| Malformed::Record(reason).to_string())?;
    let body = body(&record, raw);
    if record.event_name == "INSERT"
        && !matches!(body, Body::Unusable(_))
        && let Some((aggregate, version)) = event_key(&record.change.new_image)
    {
        return Ok(Some((aggregate, version, record.change.new_image)));
    }
    match body {
        Body::Event(_) | Body::Ignored(_) | Body::Rewritten { .. } => Ok(None),
        Body::Poison(poison) => Err(poison.reason.to_string()),
        Body::Unusable(unusable) => Err(unusable.to_string()),
    }
}

/// Reads a record, and evens out what has no meaning here.
///
/// # Errors
/// The JSON of a record that cannot be read (`null` if it is not a JSON object), and why.
fn read(raw: &RawValue) -> Result<EventRecord, (Json, Cow<'static, str>)> {
    let no_object = || (Json::Null, "it is not a JSON object, or is nested too deeply".into());
    if !is_object(raw) {
        return Err(no_object());
    }
    if let Ok(record) = serde_json::from_str(raw.get()) {
        return Ok(record);
    }
    let Ok(Json::Object(mut remains)) = serde_json::from_str(raw.get()) else { return Err(no_object()) };
    tolerance::even_out(&mut remains);
    EventRecord::deserialize(&remains).map_err(|_| {
        let reason = tolerance::defect(&remains);
        (remains.into(), reason.into())
    })
}

/// A derived `Deserialize` would also accept a list, by position.
fn is_object(raw: &RawValue) -> bool {
    raw.get().starts_with('{')
}

fn event_key(keys: &Item) -> Option<(AggregateId, Version)> {
    match item::key_of(keys) {
        Ok(Key::Event(aggregate, version)) => Some((aggregate, version)),
        _ => None,
    }
}

fn body(record: &EventRecord, raw: &RawValue) -> Body {
    let change = &record.change;
    let misspelt_or = |reason: &'static str| tolerance::misspelt_images(raw.get()).map_or(reason.into(), Cow::from);
    let keys = if change.keys.is_empty() { &change.new_image } else { &change.keys };
    if keys.is_empty() {
        return poison(raw, None, None, Malformed::Record(misspelt_or("it has no keys")));
    }
    let key = match (text_keys(keys), text_keys(&change.new_image)) {
        ([true, true], _) => item::key_of(keys),
        // One bad record of the right table: a table without the attribute could not hold the image.
        ([true, false] | [false, true], [true, true]) => match item::key_of(&change.new_image) {
            Ok(Key::Other) => Ok(Key::Other),
            _ => Err(Malformed::KeyMismatch("Keys")),
        },
        _ => return Body::Unusable(Unusable::OtherTable { keys: key_names(&change.keys) }),
    };
    if key == Ok(Key::Other) {
        return Body::Ignored(Ignored::NotAnEvent);
    }
    match record.event_name.as_str() {
        "INSERT" => {}
        "MODIFY" if is_same_event(&change.old_image, &change.new_image) => return Body::Ignored(Ignored::Unchanged),
        "MODIFY" => return rewritten(key, Ignored::Modified),
        "REMOVE" => {
            let by_ttl = record.user_identity.as_ref().is_some_and(|user| user.principal_id == "dynamodb.amazonaws.com");
            return rewritten(key, if by_ttl { Ignored::Expired } else { Ignored::Removed });
        }
        _ => return poison(raw, event_key(keys), None, Malformed::Record("its eventName is not INSERT, MODIFY or REMOVE".into())),
    }
    if change.new_image.is_empty() {
        let view = change.stream_view_type.as_ref().and_then(|view| serde_json::to_value(view).ok());
        return match view.as_ref().and_then(Json::as_str) {
            Some("KEYS_ONLY" | "OLD_IMAGE") => Body::Unusable(Unusable::NoImages),
            _ => poison(raw, event_key(keys), None, Malformed::Record(misspelt_or("it is an INSERT without a NewImage"))),
        };
    }
    match item::decode_event(&change.new_image) {
        Ok(event) if key.as_ref() == Ok(&Key::Event(event.aggregate.clone(), event.version)) => Body::Event(event),
        Ok(_) => poison(raw, event_key(keys), None, key.err().unwrap_or(Malformed::KeyMismatch("NewImage"))),
        Err(reason) => poison(raw, event_key(keys), item::event_type_of(&change.new_image).map(str::to_owned), reason),
    }
}

fn rewritten(key: Result<Key, Malformed>, how: Ignored) -> Body {
    match key {
        Ok(Key::Event(aggregate, version)) => Body::Rewritten { aggregate, version, how },
        _ => Body::Ignored(how),
    }
}

/// Whether two images differ at most in the attributes that replication between regions writes.
fn is_same_event(old: &Item, new: &Item) -> bool {
    let of_event = |item: &Item| -> BTreeMap<String, Attribute> {
        let attributes = item.iter().filter(|(name, _)| !name.starts_with("aws:rep:"));
        attributes.map(|(name, value)| (name.clone(), value.clone())).collect()
    };
    !old.is_empty() && of_event(old) == of_event(new)
}

/// Whether the event store's two keys, `PK` and `SK`, are there as texts.
fn text_keys(item: &Item) -> [bool; 2] {
    ["PK", "SK"].map(|name| matches!(item.get(name), Some(Attribute::S(_))))
}

/// A key schema has at most two attributes, of three types. Other members are not shown: they may be data.
const KEYS_MAX: usize = 2;
/// A longer name of a key is not shown.
const KEY_NAME_LEN_MAX: usize = 64;

/// The names and types of a table's keys.
fn key_names(keys: &Item) -> Vec<String> {
    let plain =
        |name: &str| name.len() <= KEY_NAME_LEN_MAX && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.#:".contains(&byte));
    let named = keys.iter().map(|(name, value)| {
        let kind = match value {
            Attribute::S(_) => "S",
            Attribute::N(_) => "N",
            Attribute::B(_) => "B",
            _ => return None,
        };
        plain(name).then(|| format!("`{name}` ({kind})"))
    });
    let named: Option<Vec<_>> = named.collect();
    let mut named = named.filter(|named| named.len() <= KEYS_MAX).unwrap_or_default();
    named.sort();
    named
}

/// DynamoDB Streams' ids have 32 characters. A much longer one is not genuine, and must not exceed a key of the parking table.
const RECORD_ID_LEN_MAX: usize = 256;

fn poison(raw: &RawValue, event: Option<(AggregateId, Version)>, event_type: Option<String>, reason: Malformed) -> Body {
    #[derive(Deserialize)]
    struct Id {
        #[serde(rename = "eventID")]
        event_id: String,
    }
    let id = is_object(raw).then(|| serde_json::from_str::<Id>(raw.get()).ok()).flatten();
    let record_id = id.map(|id| id.event_id).filter(|id| (1..=RECORD_ID_LEN_MAX).contains(&id.len()));
    let record_id = record_id.unwrap_or_else(|| format!("{:016x}", fingerprint(raw.get())));
    Body::Poison(Poison { event, event_type, reason, payload: raw.get().to_owned(), record_id })
}

/// A hash by FNV-1a, which gives the same record the same id in every process and version.
fn fingerprint(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(json: &str) -> Record {
        decode(&RawValue::from_string(json.to_owned()).expect("valid JSON"))
    }

    const IMAGE: &str = r#"{"PK":{"S":"AGGREGATE#a"},"SK":{"S":"EVENT#0000000001"},"eventId":{"S":"e"},"aggregateId":{"S":"a"},"eventType":{"S":"T"},"eventData":{"M":{}},"eventVersion":{"N":"1"},"timestamp":{"S":"2026-01-01T00:00:00Z"}}"#;

    #[test]
    fn a_record_without_region_and_size_and_with_an_iso_date_is_read() {
        let bare = record(&format!(
            r#"{{"eventName":"INSERT","dynamodb":{{"ApproximateCreationDateTime":"2026-01-01T00:00:00+00:00","Keys":{{"PK":{{"S":"AGGREGATE#a"}},"SK":{{"S":"EVENT#0000000001"}}}},"NewImage":{IMAGE},"SequenceNumber":"1"}}}}"#
        ));
        assert!(matches!(bare.body, Body::Event(_)), "{bare:?}");
        assert_eq!(bare.sequence, Some("1".into()));
    }

    #[test]
    fn a_malformed_record_still_identifies_its_event_and_position() {
        let odd = record(&format!(r#"{{"eventName":7,"dynamodb":{{"SequenceNumber":"5","NewImage":{IMAGE}}}}}"#));
        assert_eq!(odd.sequence, Some("5".into()));
        let Body::Poison(poison) = odd.body else { panic!("poison") };
        assert_eq!(poison.event, Some(("a".into(), Version(1))));
        assert_eq!(poison.event_type.as_deref(), Some("T"));
    }

    #[test]
    fn json_that_is_not_a_record_is_poison_with_a_stable_id() {
        for json in ["5", "null", "[]", "{}", r#"{"dynamodb":5}"#] {
            let (Body::Poison(one), Body::Poison(two)) = (record(json).body, record(json).body) else { panic!("{json} is poison") };
            assert_eq!((one.event, one.record_id), (None, two.record_id));
        }
    }

    #[test]
    fn a_list_is_poison_and_does_not_supply_the_record_id() {
        for json in [r#"["secret"]"#, r#"["eu-west-1",{},"secret","INSERT",null,null,null,null,null]"#] {
            let Body::Poison(poison) = record(json).body else { panic!("{json} is poison") };
            assert!(!poison.record_id.contains("secret"), "{poison:?}");
            assert_eq!(poison.reason, Malformed::Record("it is not a JSON object, or is nested too deeply".into()));
        }
    }

    #[test]
    fn a_stream_without_new_images_is_unusable_rather_than_poison() {
        let keys = r#"{"PK":{"S":"AGGREGATE#a"},"SK":{"S":"EVENT#0000000001"}}"#;
        let keys_only = record(&format!(r#"{{"eventName":"INSERT","dynamodb":{{"Keys":{keys},"StreamViewType":"KEYS_ONLY"}}}}"#));
        assert!(matches!(keys_only.body, Body::Unusable(_)), "{keys_only:?}");
    }

    #[test]
    fn a_record_of_a_table_with_other_keys_is_unusable_whatever_happened_to_its_item() {
        for (keys, named) in [
            (r#"{"pk":{"S":"AGGREGATE#a"},"sk":{"S":"EVENT#0000000001"}}"#, "keys are `pk` (S) and `sk` (S)"),
            (r#"{"aggregateId":{"S":"a"},"version":{"N":"1"}}"#, "keys are `aggregateId` (S) and `version` (N)"),
            (r#"{"PK":{"S":"AGGREGATE#a"},"SK":{"N":"1"}}"#, "keys are `PK` (S) and `SK` (N)"),
            (r#"{"PK":{"S":"AGGREGATE#a"}}"#, "key is `PK` (S)"),
            (r#"{"secret key":{"S":"a"}}"#, "its item has no such keys"),
        ] {
            for (name, image) in [("INSERT", keys), ("MODIFY", keys), ("REMOVE", "null"), ("other", keys)] {
                let other = record(&format!(r#"{{"eventName":"{name}","dynamodb":{{"Keys":{keys},"NewImage":{image}}}}}"#));
                let Body::Unusable(unusable) = other.body else { panic!("{keys} is another table's: {other:?}") };
                assert!(unusable.to_string().contains(named), "{unusable}");
                assert!(!unusable.to_string().contains("AGGREGATE"), "{unusable}");
            }
        }
        let keyless = record(r#"{"eventName":"INSERT","dynamodb":{"NewImage":{"pk":{"S":"secret"}}}}"#);
        assert!(matches!(&keyless.body, Body::Unusable(Unusable::OtherTable { keys }) if keys.is_empty()), "{keyless:?}");
    }

    #[test]
    fn other_items_of_the_event_store_are_ignored() {
        for sort in ["VERSION", "PROFILE", "event#1"] {
            let keys = format!(r#"{{"PK":{{"S":"USER#1"}},"SK":{{"S":"{sort}"}}}}"#);
            let other = record(&format!(r#"{{"eventName":"INSERT","dynamodb":{{"Keys":{keys},"NewImage":{keys}}}}}"#));
            assert!(matches!(other.body, Body::Ignored(Ignored::NotAnEvent)), "{other:?}");
        }
    }

    #[test]
    fn one_bad_key_in_a_record_of_the_event_store_is_poison() {
        for keys in [r#"{"PK":{"S":"AGGREGATE#a"}}"#, r#"{"PK":{"S":"AGGREGATE#a"},"SK":{"N":"1"}}"#, r#"{"SK":{"S":"EVENT#0000000001"}}"#]
        {
            let bad = record(&format!(r#"{{"eventName":"INSERT","dynamodb":{{"Keys":{keys},"NewImage":{IMAGE}}}}}"#));
            let Body::Poison(poison) = bad.body else { panic!("{keys}: {bad:?}") };
            assert_eq!(poison.reason, Malformed::KeyMismatch("Keys"));
        }
    }

    #[test]
    fn a_member_in_other_case_is_named() {
        let record = record(&format!(r#"{{"eventName":"INSERT","dynamodb":{{"keys":{{}},"newImage":{IMAGE}}}}}"#));
        let Body::Poison(poison) = record.body else { panic!("poison") };
        assert_eq!(poison.reason, Malformed::Record("`dynamodb` has `keys` and no `Keys`, `newImage` and no `NewImage`".into()));
    }

    #[test]
    fn sequence_numbers_compare_as_numbers() {
        assert!(SequenceNumber::from("9") < SequenceNumber::from("10"));
        assert!(SequenceNumber::from("111000000000000000000002") > SequenceNumber::from("111000000000000000000001"));
    }

    const KEYS: &str = r#"{"PK":{"S":"AGGREGATE#a"},"SK":{"S":"EVENT#0000000001"}}"#;

    /// A change of an event, from one image to another.
    fn changed(name: &str, old: &str, new: &str, more: &str) -> Body {
        record(&format!(r#"{{"eventName":"{name}",{more}"dynamodb":{{"Keys":{KEYS},"OldImage":{old},"NewImage":{new}}}}}"#)).body
    }

    #[test]
    fn an_event_that_was_changed_or_deleted_is_named_with_how() {
        let rewritten = |how| Body::Rewritten { aggregate: "a".into(), version: Version(1), how };
        let other = IMAGE.replace(r#""eventType":{"S":"T"}"#, r#""eventType":{"S":"U"}"#);
        let replicated = IMAGE.replacen('{', r#"{"aws:rep:deleting":{"BOOL":false},"#, 1);
        assert_eq!(changed("MODIFY", IMAGE, &other, ""), rewritten(Ignored::Modified));
        assert_eq!(changed("MODIFY", IMAGE, IMAGE, ""), Body::Ignored(Ignored::Unchanged));
        assert_eq!(changed("MODIFY", IMAGE, &replicated, ""), Body::Ignored(Ignored::Unchanged));
        assert_eq!(changed("MODIFY", "{}", IMAGE, ""), rewritten(Ignored::Modified), "nothing tells what it was");
        assert_eq!(changed("REMOVE", IMAGE, "{}", ""), rewritten(Ignored::Removed));
        let by = |who: &str| format!(r#""userIdentity":{{"type":"Service","principalId":"{who}"}},"#);
        assert_eq!(changed("REMOVE", IMAGE, "{}", &by("dynamodb.amazonaws.com")), rewritten(Ignored::Expired));
        assert_eq!(changed("REMOVE", IMAGE, "{}", &by("somebody")), rewritten(Ignored::Removed));
        let keyless = r#"{"PK":{"S":"USER#1"},"SK":{"S":"EVENT#1"}}"#;
        let removed = record(&format!(r#"{{"eventName":"REMOVE","dynamodb":{{"Keys":{keyless}}}}}"#)).body;
        assert_eq!(removed, Body::Ignored(Ignored::Removed), "it can have been no event");
    }

    #[test]
    fn one_bad_key_of_another_item_is_of_no_interest() {
        let image = r#"{"PK":{"S":"USER#1"},"SK":{"S":"PROFILE"}}"#;
        let other = record(&format!(r#"{{"eventName":"INSERT","dynamodb":{{"Keys":{{"PK":{{"S":"USER#1"}}}},"NewImage":{image}}}}}"#));
        assert_eq!(other.body, Body::Ignored(Ignored::NotAnEvent));
    }

    #[test]
    fn the_item_of_an_appended_event_is_given_as_it_is_even_if_it_cannot_be_read() {
        let appended = |name: &str, keys: &str, image: &str| {
            let json = format!(r#"{{"eventName":"{name}","dynamodb":{{"Keys":{keys},"NewImage":{image}}}}}"#);
            let found = appended_item(&RawValue::from_string(json).expect("valid JSON"));
            found.map(|found| found.map(|(aggregate, version, item)| (aggregate.to_string(), version.0, item.len())))
        };
        let unreadable = IMAGE.replace(r#""eventId":{"S":"e"},"#, "");
        assert_eq!(appended("INSERT", KEYS, IMAGE), Ok(Some(("a".to_owned(), 1, 8))));
        assert_eq!(appended("INSERT", KEYS, &unreadable), Ok(Some(("a".to_owned(), 1, 7))));
        assert_eq!(appended("MODIFY", KEYS, IMAGE), Ok(None));
        let profile = r#"{"PK":{"S":"USER#1"},"SK":{"S":"PROFILE"}}"#;
        assert_eq!(appended("INSERT", profile, profile), Ok(None));
        let other_table = appended("INSERT", r#"{"pk":{"B":"AAEC"}}"#, IMAGE).expect_err("it is of another table");
        assert!(other_table.contains("its key is `pk` (B)"), "{other_table}");
        assert_eq!(
            appended("INSERT", KEYS, "{}"),
            Err("the record is not a DynamoDB stream record: it is an INSERT without a NewImage".to_owned())
        );
    }
}
