//! An ordinary insert, read from its JSON straight into the event: no item between the two, whose maps and texts would be most of the
//! work. Whatever is not ordinary in any way is left to the types of `aws_lambda_events`, which alone say what a record is; so this
//! module refuses without a reason, and never takes what they would refuse or read in another way.

use std::{borrow::Cow, collections::BTreeMap, fmt, marker::PhantomData};

use projection_vocabulary::{DEPTH_MAX, RecordedEvent, Timestamp, Value};
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, EnumAccess, Error, IgnoredAny, MapAccess, SeqAccess, VariantAccess, Visitor, value::MapAccessDeserializer},
};
use serde_json::value::RawValue;

use super::SequenceNumber;
use crate::store::item;

/// The event that a record reports as appended, with its position in the shard; `None` if the record is not ordinary.
pub fn insert(raw: &RawValue) -> Option<(Option<SequenceNumber>, RecordedEvent)> {
    let Object(Record { event_name, change: Object(change), .. }) = serde_json::from_str(raw.get()).ok()?;
    let Change { keys: Object(keys), new_image: image, sequence_number, .. } = change;
    if event_name.0 != "INSERT" || keys.partition != image.partition? || keys.sort != image.sort? {
        return None;
    }
    let Ok(item::Key::Event(aggregate, version)) = item::key_of_texts(keys.partition.as_str(), keys.sort.as_str()) else { return None };
    let Number::N(Text(stated)) = image.event_version?;
    if image.aggregate_id?.as_str() != aggregate.as_str() || item::whole(&stated)? != version.0 {
        return None;
    }
    let event = RecordedEvent {
        aggregate,
        version,
        event_id: not_empty(&image.event_id?)?.into(),
        event_type: not_empty(&image.event_type?)?.into(),
        data: image.event_data.filter(|data| matches!(data, Value::Map(_)))?,
        timestamp: Timestamp::parse(image.timestamp?.as_str()).ok()?,
        metadata: image.metadata,
    };
    let sequence = sequence_number.filter(|Text(number)| !number.is_empty()).map(|Text(number)| SequenceNumber::from(&*number));
    Some((sequence, event))
}

fn not_empty<'a>(text: &'a Key<'_>) -> Option<&'a str> {
    Some(text.as_str()).filter(|text| !text.is_empty())
}

/// What `aws_lambda_events` reads of a record, and no other members.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "what has no meaning is read all the same, so that a wrong kind of it is noticed")]
struct Record<'a> {
    #[serde(borrow, rename = "awsRegion", default)]
    aws_region: Text<'a>,
    #[serde(borrow, rename = "dynamodb")]
    change: Object<Change<'a>>,
    #[serde(borrow, rename = "eventID", default)]
    event_id: Text<'a>,
    #[serde(borrow, rename = "eventName")]
    event_name: Text<'a>,
    #[serde(borrow, rename = "eventSource", default)]
    event_source: Option<Text<'a>>,
    #[serde(borrow, rename = "eventVersion", default)]
    event_version: Option<Text<'a>>,
    #[serde(borrow, rename = "eventSourceARN", default)]
    event_source_arn: Option<Text<'a>>,
    #[serde(rename = "userIdentity", default)]
    user_identity: (),
    #[serde(borrow, rename = "recordFormat", default)]
    format: Option<Text<'a>>,
    #[serde(borrow, rename = "tableName", default)]
    table_name: Option<Text<'a>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "as above")]
struct Change<'a> {
    #[serde(rename = "ApproximateCreationDateTime", default)]
    approximate_creation_date_time: IgnoredAny,
    #[serde(borrow, rename = "Keys")]
    keys: Object<Keys<'a>>,
    #[serde(borrow, rename = "NewImage")]
    new_image: Image<'a>,
    #[serde(borrow, rename = "SequenceNumber", default)]
    sequence_number: Option<Text<'a>>,
    #[serde(rename = "SizeBytes", default)]
    size_bytes: i64,
    #[serde(rename = "StreamViewType", default)]
    stream_view_type: Option<StreamViewType>,
}

#[derive(Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
enum StreamViewType {
    NewImage,
    OldImage,
    NewAndOldImages,
    KeysOnly,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Keys<'a> {
    #[serde(borrow, rename = "PK")]
    partition: Key<'a>,
    #[serde(borrow, rename = "SK")]
    sort: Key<'a>,
}

/// A JSON object. What is derived alone would also accept a list, by position.
struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ObjectVisitor(PhantomData))
    }
}

struct ObjectVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
    type Value = Object<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, members: A) -> Result<Object<T>, A::Error> {
        T::deserialize(MapAccessDeserializer::new(members)).map(Object)
    }
}

/// A text of the record, without a copy if it has no escapes.
#[derive(Default, Deserialize, PartialEq)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// An attribute value of type S.
#[derive(Deserialize, PartialEq)]
enum Key<'a> {
    #[serde(borrow)]
    S(Text<'a>),
}

/// An attribute value of type N.
#[derive(Deserialize)]
enum Number<'a> {
    #[serde(borrow)]
    N(Text<'a>),
}

impl Key<'_> {
    fn as_str(&self) -> &str {
        let Self::S(Text(text)) = self;
        text
    }
}

/// The item of an event. Its further attributes have no meaning here.
#[derive(Default)]
struct Image<'a> {
    partition: Option<Key<'a>>,
    sort: Option<Key<'a>>,
    event_id: Option<Key<'a>>,
    aggregate_id: Option<Key<'a>>,
    event_type: Option<Key<'a>>,
    event_data: Option<Value>,
    event_version: Option<Number<'a>>,
    timestamp: Option<Key<'a>>,
    metadata: Option<Value>,
}

impl<'de: 'a, 'a> Deserialize<'de> for Image<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ImageVisitor(PhantomData))
    }
}

struct ImageVisitor<'a>(PhantomData<Image<'a>>);

impl<'de: 'a, 'a> Visitor<'de> for ImageVisitor<'a> {
    type Value = Image<'a>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an item")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Image<'a>, A::Error> {
        let mut image = Image::default();
        while let Some(Text(name)) = members.next_key()? {
            match &*name {
                "PK" => once(&mut image.partition, members.next_value()?)?,
                "SK" => once(&mut image.sort, members.next_value()?)?,
                "eventId" => once(&mut image.event_id, members.next_value()?)?,
                "aggregateId" => once(&mut image.aggregate_id, members.next_value()?)?,
                "eventType" => once(&mut image.event_type, members.next_value()?)?,
                "eventVersion" => once(&mut image.event_version, members.next_value()?)?,
                "timestamp" => once(&mut image.timestamp, members.next_value()?)?,
                "eventData" => once(&mut image.event_data, members.next_value_seed(Attribute { depth: 0 })?)?,
                "metadata" => once(&mut image.metadata, members.next_value_seed(Attribute { depth: 0 })?)?,
                "GSI1PK" | "GSI1SK" => drop(members.next_value::<Key<'_>>()?),
                _ => drop(members.next_value_seed(Attribute { depth: 0 })?),
            }
        }
        Ok(image)
    }
}

/// A member that comes twice is not ordinary.
fn once<T, E: Error>(place: &mut Option<T>, value: T) -> Result<(), E> {
    if place.replace(value).is_some() { Err(not_ordinary()) } else { Ok(()) }
}

fn not_ordinary<E: Error>() -> E {
    E::custom("not ordinary")
}

/// Reads an attribute value. Bytes and sets are left to others.
#[derive(Clone, Copy)]
struct Attribute {
    depth: usize,
}

#[derive(Deserialize)]
enum Type {
    S,
    N,
    #[serde(rename = "BOOL")]
    Bool,
    #[serde(rename = "NULL")]
    Null,
    L,
    M,
}

impl<'de> DeserializeSeed<'de> for Attribute {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        // The names are for formats that need them.
        deserializer.deserialize_enum("AttributeValue", &[], self)
    }
}

impl<'de> Visitor<'de> for Attribute {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an attribute value")
    }

    fn visit_enum<A: EnumAccess<'de>>(self, attribute: A) -> Result<Value, A::Error> {
        if self.depth > DEPTH_MAX {
            return Err(not_ordinary());
        }
        let within = Self { depth: self.depth + 1 };
        let (name, content) = attribute.variant()?;
        Ok(match name {
            Type::S => {
                let Text(text) = content.newtype_variant()?;
                Value::Text(text.into())
            }
            Type::N => {
                let Text(text) = content.newtype_variant()?;
                Value::Number(text.parse().map_err(A::Error::custom)?)
            }
            Type::Bool => Value::Bool(content.newtype_variant()?),
            Type::Null => {
                let _: bool = content.newtype_variant()?;
                Value::Null
            }
            Type::L => Value::List(content.newtype_variant_seed(List(within))?),
            Type::M => Value::Map(content.newtype_variant_seed(Map(within))?),
        })
    }
}

struct List(Attribute);

impl<'de> DeserializeSeed<'de> for List {
    type Value = Vec<Value>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Vec<Value>, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for List {
    type Value = Vec<Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Vec<Value>, A::Error> {
        let mut list = Vec::new();
        while let Some(element) = elements.next_element_seed(self.0)? {
            list.push(element);
        }
        Ok(list)
    }
}

struct Map(Attribute);

impl<'de> DeserializeSeed<'de> for Map {
    type Value = BTreeMap<String, Value>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<BTreeMap<String, Value>, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Map {
    type Value = BTreeMap<String, Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<BTreeMap<String, Value>, A::Error> {
        let mut map = BTreeMap::new();
        while let Some(name) = members.next_key()? {
            map.insert(name, members.next_value_seed(self.0)?);
        }
        Ok(map)
    }
}

#[cfg(test)]
mod tests {
    use projection_vocabulary::data;

    use super::*;
    use crate::engine::decode::{Body, decode_any};

    /// As Lambda delivers it.
    const RECORD: &str = r#"{"eventID":"c4ca4238","eventName":"INSERT","eventVersion":"1.1","eventSource":"aws:dynamodb","awsRegion":"eu-west-1","dynamodb":{"ApproximateCreationDateTime":1767225600,"Keys":{"PK":{"S":"AGGREGATE#a"},"SK":{"S":"EVENT#0000000001"}},"NewImage":{"PK":{"S":"AGGREGATE#a"},"SK":{"S":"EVENT#0000000001"},"GSI1PK":{"S":"EVENT#T"},"GSI1SK":{"S":"2026"},"eventId":{"S":"e"},"aggregateId":{"S":"a"},"eventType":{"S":"T"},"eventData":{"M":{"amount":{"N":"0.10"},"name":{"S":"\u00e9"},"tags":{"L":[{"BOOL":true},{"NULL":true}]}}},"eventVersion":{"N":"1"},"timestamp":{"S":"2026-01-01T00:00:00Z"},"metadata":{"M":{}},"other":{"N":"x1"}},"SequenceNumber":"7","SizeBytes":26,"StreamViewType":"NEW_AND_OLD_IMAGES"},"eventSourceARN":"arn:aws:dynamodb:eu-west-1:1:table/e/stream/1"}"#;

    fn raw(json: &str) -> Box<RawValue> {
        RawValue::from_string(json.to_owned()).expect("valid JSON")
    }

    /// What is ordinary here, and what the long way makes of it.
    fn ways(json: &str) -> (Option<RecordedEvent>, Body) {
        (insert(&raw(json)).map(|(_, event)| event), decode_any(&raw(json)).body)
    }

    #[test]
    fn what_lambda_delivers_is_ordinary_and_read_as_on_the_long_way() {
        let json = RECORD.replace(r#","other":{"N":"x1"}"#, "");
        let (sequence, event) = insert(&raw(&json)).expect("it is ordinary");
        assert_eq!(event.data, data! { amount: 0.10, name: "é", tags: [true, null] });
        let long = decode_any(&raw(&json));
        assert_eq!((sequence, Body::Event(event)), (long.sequence, long.body));
    }

    #[test]
    fn what_both_ways_take_is_one_event_and_the_rest_is_left_to_the_long_way() {
        let table = [
            // Taken by the long way alone.
            (r#""other":{"N":"x1"}"#, r#""other":{"B":"AAEC"}"#, false),
            (r#""other":{"N":"x1"}"#, r#""other":{"SS":["a"]}"#, false),
            (r#""name":{"S":"\u00e9"}"#, r#""name":{"NS":["1"]}"#, false),
            (r#""other":{"N":"x1"}"#, r#""eventId":{"S":"f"}"#, false),
            (r#""SizeBytes":26"#, r#""SizeBytes":26,"Unknown":1"#, false),
            (r#""eventID":"c4ca4238""#, r#""eventID":"a","eventID":"b""#, false),
            (r#""awsRegion":"eu-west-1""#, r#""awsRegion":"eu-west-1","userIdentity":{"type":"Service"}"#, false),
            (r#""GSI1PK":{"S":"EVENT#T"}"#, r#""GSI1PK":{"N":"1"}"#, false),
            // Ordinary.
            (r#""ApproximateCreationDateTime":1767225600"#, r#""ApproximateCreationDateTime":"2026-01-01T00:00:00Z""#, true),
            (r#""awsRegion":"eu-west-1""#, r#""userIdentity":null"#, true),
            (r#""SizeBytes":26,"#, "", true),
        ];
        for (before, after, ordinary) in table {
            let json = RECORD.replace(before, after).replace(r#","other":{"N":"x1"}"#, "");
            assert_ne!(json, RECORD);
            let (short, long) = ways(&json);
            let Body::Event(event) = long else { panic!("{after}: the long way takes it") };
            assert_eq!(short, ordinary.then_some(event), "{after}");
        }
    }

    #[test]
    fn what_the_long_way_refuses_is_not_ordinary() {
        let keys = r#""Keys":{"PK":{"S":"AGGREGATE#a"},"SK":{"S":"EVENT#0000000001"}}"#;
        let table = [
            (keys, r#""Keys":[{"S":"AGGREGATE#a"},{"S":"EVENT#0000000001"}]"#),
            (keys, r#""Keys":{"PK":{"S":"AGGREGATE#b"},"SK":{"S":"EVENT#0000000001"}}"#),
            (r#""NewImage":{"PK":{"S":"AGGREGATE#a"}"#, r#""NewImage":{"PK":{"S":"AGGREGATE#b"}"#),
            (r#""SK":{"S":"EVENT#0000000001"},"GSI1PK""#, r#""SK":{"S":"EVENT#0000000002"},"GSI1PK""#),
            (r#""eventName":"INSERT""#, r#""eventName":"MODIFY""#),
            (r#""SizeBytes":26"#, r#""SizeBytes":"26""#),
            (r#""eventID":"c4ca4238""#, r#""eventID":null"#),
            (r#""NEW_AND_OLD_IMAGES""#, r#""ALL""#),
            (r#""aggregateId":{"S":"a"}"#, r#""aggregateId":{"S":"b"}"#),
            (r#""eventVersion":{"N":"1"}"#, r#""eventVersion":{"N":"2"}"#),
            (r#""eventVersion":{"N":"1"}"#, r#""eventVersion":{"S":"1"}"#),
            (r#""eventId":{"S":"e"}"#, r#""eventId":{"S":""}"#),
            (r#""eventType":{"S":"T"}"#, r#""eventType":{"S":"T","N":"1"}"#),
            (r#""timestamp":{"S":"2026-01-01T00:00:00Z"}"#, r#""timestamp":{"S":"now"}"#),
            (r#"{"N":"0.10"}"#, r#"{"N":"ten"}"#),
            (r#"{"N":"0.10"}"#, r#""N""#),
            (r#"{"NULL":true}"#, r#"{"NULL":null}"#),
            (r#""metadata":{"M":{}}"#, r#""metadata":{"X":"1"}"#),
        ];
        let ordinary = RECORD.replace(r#","other":{"N":"x1"}"#, "");
        assert!(insert(&raw(&ordinary)).is_some());
        for (before, after) in table {
            let json = ordinary.replace(before, after);
            assert_ne!(json, ordinary, "{before}");
            let (short, long) = ways(&json);
            assert!(!matches!(long, Body::Event(_)), "{after}");
            assert_eq!(short, None, "{after}");
        }
        assert_eq!(insert(&raw(&format!("[{ordinary}]"))), None);
    }

    #[test]
    fn data_may_be_as_deep_as_on_the_long_way() {
        let nested = |levels: usize| {
            let (before, after) = (r#"{"L":["#.repeat(levels), "]}".repeat(levels));
            let deep = format!(r#""name":{before}{{"BOOL":true}}{after}"#);
            RECORD.replace(r#""name":{"S":"\u00e9"}"#, &deep).replace(r#","other":{"N":"x1"}"#, "")
        };
        // The data itself is the first level.
        let (short, long) = ways(&nested(DEPTH_MAX - 1));
        let Body::Event(event) = long else { panic!("it is not too deep: {long:?}") };
        assert_eq!(short, Some(event));
        let (short, long) = ways(&nested(DEPTH_MAX));
        assert!(matches!(&long, Body::Poison(_)), "{long:?}");
        assert_eq!(short, None);
    }
}
